"""What hashes see and what they do not."""

import dataclasses

from underhood.lab import identity
from underhood.lab.baseline import Baseline
from underhood.lab.patch import Edit, Set
from underhood.lab.sabotage import Above, Rises, Sabotage

BREAK = Sabotage(
    name="b", says="…", kind="part", patch=Edit("arms_of_tests:lifted", "x + lift", "x"), baseline="arms_of_tests:TINY", expect=(Rises("loss", by=1),), look=""
)


def test_comments_layout_docstrings_and_annotations_do_not_count() -> None:
    bare = "def f(x):\n    return x + 1\n"
    dressed = '"""A module."""\n\n# a comment\ndef f(x: int) -> int:\n    """Adds."""\n\n    return (x\n        + 1)\n'
    assert identity.syntax_hash(bare) == identity.syntax_hash(dressed)
    assert identity.syntax_hash(bare) != identity.syntax_hash(bare.replace("1", "2"))
    assert identity.syntax_hash("x = 1") != identity.syntax_hash("x = 1.0")
    assert identity.syntax_hash("class A:\n    x: int = 1") != identity.syntax_hash("class A:\n    x: int = 2")


def test_the_declaration_is_everything_decided_before_the_run(tiny: Baseline) -> None:
    known = identity.declaration_hash(BREAK, tiny)
    changes = [
        dataclasses.replace(BREAK, patch=Set("lift", 1.0)),
        dataclasses.replace(BREAK, expect=(Rises("loss", by=2),)),
        dataclasses.replace(BREAK, probe=Above("loss", 1)),
    ]
    others = [identity.declaration_hash(b, tiny) for b in changes]
    others += [identity.declaration_hash(BREAK, dataclasses.replace(tiny, corpus="tales 2"))]
    others += [identity.declaration_hash(BREAK, dataclasses.replace(tiny, config=dataclasses.replace(tiny.config, lift=2.0)))]
    assert len({known, *others}) == 6
    assert identity.declaration_hash(dataclasses.replace(BREAK, says="other words", look="…", cites=("x",)), tiny) == known


def test_the_prediction_is_known_without_the_probe(tiny: Baseline) -> None:
    assert identity.prediction_hash(dataclasses.replace(BREAK, probe=Above("loss", 1))) == identity.prediction_hash(BREAK)
    assert identity.prediction_hash(dataclasses.replace(BREAK, expect=(Rises("loss", by=1.5),))) != identity.prediction_hash(BREAK)


def test_the_target_of_a_setting_is_the_value_or_the_part_it_names(tiny: Baseline) -> None:
    one, other = (identity.target_hash(dataclasses.replace(BREAK, patch=Set("lift", v)), tiny) for v in (1.0, 2.0))
    assert one != other


def test_the_context_names_what_was_loaded_and_notices_what_changed() -> None:
    found = identity.loaded_context()
    assert "underhood.lab.identity" in found
    assert all(name.startswith("underhood.") for name in found)
    assert identity.changed_modules(found) == []
    assert identity.changed_modules({**found, "underhood.lab.identity": "0", "underhood.gone": "1"}) == ["underhood.lab.identity", "underhood.gone"]


def test_nothing_personal_is_kept() -> None:
    import getpass
    import platform

    text = str({**identity.machine(), **identity.versions()})
    assert platform.node() not in text or not platform.node()
    assert getpass.getuser() not in text or len(getpass.getuser()) < 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = Inner()
    added_later: int | None = None


def test_only_what_was_chosen_counts() -> None:
    assert identity.chosen(Outer(name="x")) == {"name": "x", "inner": {}}
    assert identity.chosen(Outer(name="x", inner=Inner(width=5), added_later=0)) == {"name": "x", "inner": {"width": 5}, "added_later": 0}
