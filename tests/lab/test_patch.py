"""Patches: what can be edited and bound, what is refused, and that everything is put back."""

import importlib.util
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from underhood.base.errors import NotReached, PatchError, UnknownName
from underhood.lab import patch
from underhood.lab.patch import Bind, Edit, Set, applied, configure, diff

HOME = "underhood.victim_of_tests"
SOURCE = '''
import functools
from contextlib import contextmanager

SHARED = []

def double(x, by=2, *, plus=0, into=SHARED):
    """Doubles."""
    into.append(x)
    return x * by + plus

def twice(x):
    return x + x + 1 + 1

def calls(x):
    return double(x) + 1

def counts(n):
    for i in range(n):
        yield i

def maker(k):
    def inner(x):
        return x + k
    return inner

add_three = maker(3)

@functools.lru_cache
def cached(x):
    return x + 1

def loud(f):
    @functools.wraps(f)
    def wrapper(*args):
        return f(*args) * 10
    return wrapper

@loud
def decorated(x):
    return x + 1

@contextmanager
def scope(x):
    yield x + 1

class Base:
    def __init__(self, x):
        self.x = x

    def area(self):
        return self.x

class Square(Base):
    def area(self):
        return super().area() * self.x

    @staticmethod
    def zero():
        return 0

    @classmethod
    def unit(cls):
        return cls(1)

    @property
    def side(self):
        return self.x

class Circle:
    def __init__(self, r):
        self.r = r

    def area(self):
        return 3 * self.r

class Plain:
    def __init__(self, r):
        self.r = r

    def area(self):
        return 0

def build(r):
    return Circle(r)
'''
IMPORTER = "from {home} import double, Circle\n\ndef uses(x):\n    return double(x)\n\ndef makes(r):\n    return Circle(r)\n"


def load(name: str, path: Path, text: str) -> types.ModuleType:
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def home(tmp_path: Path) -> Iterator[types.ModuleType]:
    yield load(HOME, tmp_path / "victim.py", SOURCE)
    del sys.modules[HOME]


@pytest.fixture
def importer(tmp_path: Path, home: types.ModuleType) -> Iterator[types.ModuleType]:
    """A module that imported the seams by name before anything was patched."""
    name = f"{HOME}_importer"
    yield load(name, tmp_path / "importer.py", IMPORTER.format(home=HOME))
    del sys.modules[name]


def at(name: str) -> str:
    return f"{HOME}:{name}"


# ── Edit ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("edit", "call", "healthy", "broken"),
    [
        (("double", "x * by", "x + by"), lambda m: m.double(5), 10, 7),
        (("double", "by=2", "by=7"), lambda m: m.double(5), 10, 35),
        (("double", "plus=0", "plus=1"), lambda m: m.double(5), 10, 11),
        (("counts", "yield i", "yield -i"), lambda m: list(m.counts(3)), [0, 1, 2], [0, -1, -2]),
        (("decorated", "x + 1", "x + 2"), lambda m: m.decorated(1), 20, 30),
        (("Square.area", "* self.x", "* 100"), lambda m: m.Square(3).area(), 9, 300),
        (("Square.zero", "return 0", "return 9"), lambda m: m.Square.zero(), 0, 9),
        (("Square.unit", "cls(1)", "cls(5)"), lambda m: m.Square.unit().x, 1, 5),
        (("Square.side", "self.x", "-self.x"), lambda m: m.Square(3).side, 3, -3),
        (("Base.__init__", "= x", "= x + 1"), lambda m: m.Square(3).area(), 9, 16),
    ],
    ids=lambda v: v[0] + " " + v[2] if isinstance(v, tuple) else "",
)
def test_an_edit_acts_inside_the_scope_and_nowhere_else(home: types.ModuleType, edit: tuple[str, str, str], call, healthy, broken) -> None:  # type: ignore[no-untyped-def]
    change = Edit(at(edit[0]), edit[1], edit[2])
    assert call(home) == healthy
    with applied([change]) as reached:
        assert call(home) == broken
        reached.require()
    assert call(home) == healthy


def test_a_context_manager_is_edited_through_its_decorator(home: types.ModuleType) -> None:
    with applied([Edit(at("scope"), "x + 1", "x + 2")]), home.scope(1) as found:
        assert found == 3


def test_an_importer_that_took_the_name_earlier_sees_the_edit(home: types.ModuleType, importer: types.ModuleType) -> None:
    with applied([Edit(at("double"), "x * by", "x + by")]):
        assert importer.uses(5) == 7
        assert home.calls(5) == 8
    assert importer.uses(5) == 10


def test_unchanged_defaults_keep_their_very_objects(home: types.ModuleType) -> None:
    shared = home.SHARED
    with applied([Edit(at("double"), "by=2", "by=3")]):
        assert home.double.__kwdefaults__["into"] is shared
    with applied([Edit(at("double"), "plus=0", "plus=3")]):
        assert home.double.__kwdefaults__ == {"plus": 3, "into": shared}
        assert home.double.__kwdefaults__["into"] is shared


def test_everything_is_put_back_exactly_even_when_the_body_raises(home: types.ModuleType) -> None:
    before = dict(vars(home))
    code, defaults, kwdefaults = home.double.__code__, home.double.__defaults__, home.double.__kwdefaults__
    with (
        pytest.raises(ZeroDivisionError),
        applied([Edit(at("double"), "x * by", "x + by"), Edit(at("counts"), "yield i", "yield 0"), Bind(at("twice"), at("calls"))]),
    ):
        1 / 0  # noqa: B018
    assert home.double.__code__ is code
    assert home.double.__defaults__ is defaults
    assert home.double.__kwdefaults__ is kwdefaults
    assert dict(vars(home)) == before


@pytest.mark.parametrize(
    ("target", "old", "new", "says"),
    [
        ("double", "x / by", "x", "is not there"),
        ("twice", "+ 1", "+ 2", "occurs 2 times"),
        ("double", "x * by", "x * (by)", "changes nothing"),
        ("double", '"""Doubles."""', '"""Triples."""', "changes nothing"),
        ("double", "x * by", "x * (by", "does not parse"),
        ("cached", "x + 1", "x + 2", "cached function"),
        ("Circle", "3", "4", "type cannot be edited"),
        ("SHARED", "a", "b", "list cannot be edited"),
        ("add_three", "x + k", "x - k", "cannot be read"),
        ("Square.area", "super().area()", "1", "outer variables"),
    ],
)
def test_what_cannot_be_edited_is_refused(home: types.ModuleType, target: str, old: str, new: str, says: str) -> None:
    code = getattr(home.double, "__code__", None)
    with pytest.raises(PatchError, match=says), applied([Edit(at(target), old, new)]):
        pass
    assert home.double.__code__ is code


def test_a_builtin_and_a_missing_name_are_refused() -> None:
    with pytest.raises(PatchError, match="cannot be edited"), applied([Edit("math:sqrt", "a", "b")]):
        pass
    with pytest.raises(UnknownName, match="attend"), applied([Edit("underhood.nn.attention:atend", "a", "b")]):
        pass


@pytest.mark.parametrize(("one", "other"), [("double", "double"), ("Square.area", "Square")])
def test_overlapping_patches_are_refused(home: types.ModuleType, one: str, other: str) -> None:
    with pytest.raises(PatchError, match="overlap"), applied([Edit(at(one), "x", "y"), Bind(at(other), at("calls"))]):
        pass


def test_two_edits_of_one_module_are_noted_apart(home: types.ModuleType) -> None:
    edits = [Edit(at("double"), "x * by", "x + by"), Edit(at("twice"), "x + x", "x - x")]
    with applied(edits) as reached:
        home.double(1)
        with pytest.raises(NotReached, match=r"twice"):
            reached.require()
        assert reached.ran == {at("double")}


def test_a_source_that_changed_on_disk_is_refused(home: types.ModuleType) -> None:
    path = Path(home.__file__ or "")
    path.write_text("# a line more\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(PatchError, match="not the code that was loaded"), applied([Edit(at("double"), "x * by", "x + by")]):
        pass


def test_the_diff_has_the_file_s_line_numbers(home: types.ModuleType) -> None:
    text = diff(Edit(at("calls"), "+ 1", "+ 2"))
    line = next(i for i, row in enumerate(SOURCE.splitlines(), 1) if row.startswith("def calls"))
    assert f"@@ -{line},2 +{line},2 @@" in text
    assert "-    return double(x) + 1" in text
    assert "+    return double(x) + 2" in text


# ── Set ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Config:
    rate: float = 0.1


def test_set_changes_a_field_and_refuses_to_change_nothing() -> None:
    assert configure(Config(), [Set("rate", 0.3)]).rate == 0.3
    with pytest.raises(PatchError, match="changes nothing"):
        configure(Config(), [Set("rate", 0.1)])
    with pytest.raises(UnknownName, match="rate"):
        configure(Config(), [Set("rat", 1.0)])


@pytest.mark.parametrize("value", [Set("rate", 0.3), Edit("a:b", "c", "d"), Bind("a:b", "c.py:d")])
def test_patches_are_plain_data(value: patch.Patch) -> None:
    assert patch.from_plain(patch.to_plain(value)) == value


# ── Bind ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def mine(tmp_path: Path, text: str, name: str) -> str:
    path = tmp_path / f"mine_{name}.py"
    path.write_text(text, encoding="utf-8")
    return f"{path}:{name}"


def test_a_function_is_bound_for_every_importer(tmp_path: Path, home: types.ModuleType, importer: types.ModuleType) -> None:
    source = mine(tmp_path, "def double(x, by=2, *, plus=0, into=()):\n    return -x\n", "double")
    with applied([Bind(at("double"), source)]) as reached:
        assert importer.uses(5) == -5
        assert home.calls(5) == -4
        reached.require()
    assert importer.uses(5) == 10


def test_a_part_that_calls_the_healthy_seam_gets_the_healthy_one(tmp_path: Path, home: types.ModuleType) -> None:
    text = f"from {HOME} import double as healthy\n\ndef double(x, by=2, *, plus=0, into=()):\n    return healthy(x) + 100\n"
    with applied([Bind(at("double"), mine(tmp_path, text, "double"))]):
        assert home.double(5) == 110


def test_a_class_is_bound_in_every_module_and_put_back(tmp_path: Path, home: types.ModuleType, importer: types.ModuleType) -> None:
    healthy = home.Circle
    source = mine(tmp_path, "class Circle:\n    def __init__(self, r):\n        self.r = r\n    def area(self):\n        return 7\n", "Circle")
    with applied([Bind(at("Circle"), source)]) as reached:
        assert home.build(1).area() == 7
        assert importer.makes(1).area() == 7
        reached.require()
    assert home.Circle is healthy
    assert importer.Circle is healthy
    assert home.build(1).area() == 3


def test_a_class_of_the_seam_s_own_module_can_be_bound(home: types.ModuleType, importer: types.ModuleType) -> None:
    plain = home.Plain
    importer.Plain = plain  # an honest reference to the other class
    with applied([Bind(at("Circle"), at("Plain"))]):
        assert home.build(1).area() == 0
    assert home.build(1).area() == 3
    assert importer.Plain is plain


def test_a_bound_class_without_its_own_init_is_left_as_it_was(tmp_path: Path, home: types.ModuleType) -> None:
    text = f"from {HOME} import Circle as Healthy\n\nclass Circle(Healthy):\n    def area(self):\n        return super().area() + 1\n"
    source = mine(tmp_path, text, "Circle")
    with applied([Bind(at("Circle"), source)]) as reached:
        assert home.build(1).area() == 4
        reached.require()
    assert "__init__" not in vars(patch.load_source(source))


@pytest.mark.parametrize(
    "leftover",
    [
        "KINDS = {'circle': Circle}",
        "KINDS = [Circle]",
        "def make(kind=Circle):\n    return kind(1)",
        "class Ring(Circle):\n    pass",
        "class Box:\n    kind = Circle",
    ],
)
def test_a_leftover_reference_to_the_healthy_class_is_an_error(tmp_path: Path, home: types.ModuleType, leftover: str) -> None:
    name = f"{HOME}_leftover"
    load(name, tmp_path / "leftover.py", f"from {HOME} import Circle\n{leftover}\n")
    healthy = home.Circle
    try:
        with pytest.raises(PatchError, match="still holds the healthy class"), applied([Bind(at("Circle"), at("Plain"))]):
            pass
    finally:
        del sys.modules[name]
    assert home.Circle is healthy


@pytest.mark.parametrize(
    ("target", "text", "says"),
    [
        ("double", "def double(x): return x", "signature"),
        ("double", "double = 3", "plain function"),
        ("double", "class double: pass", "a function"),
        ("Circle", "def Circle(r): return r", "a class"),
        ("Circle", "class Circle:\n    def __init__(self, r): pass", "no method 'area'"),
        ("Circle", "class Circle:\n    def __init__(self): pass\n    def area(self): pass", "signature"),
        ("double", "other = 1", "defines no 'double'"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(tmp_path: Path, home: types.ModuleType, target: str, text: str, says: str) -> None:
    with pytest.raises(PatchError, match=says), applied([Bind(at(target), mine(tmp_path, text, target))]):
        pass


def test_binding_a_seam_to_itself_or_to_no_file_is_refused(tmp_path: Path, home: types.ModuleType) -> None:
    for source, says in ((at("double"), "changes nothing"), (f"{tmp_path}/none.py:double", "no such file")):
        with pytest.raises(PatchError, match=says), applied([Bind(at("double"), source)]):
            pass


def test_the_healthy_stack_gives_the_same_bits_before_and_after() -> None:
    import torch

    from underhood.nn.attention import attend, causal_mask

    q = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    before = attend(q, q, q, causal_mask(8))[0]
    with applied([Edit("underhood.nn.attention:attend", "math.sqrt(q.shape[-1])", "1.0")]):
        broken = attend(q, q, q, causal_mask(8))[0]
    assert not torch.equal(before, broken)
    assert torch.equal(before, attend(q, q, q, causal_mask(8))[0])
