"""Files that would fool or harm: none passes, none reaches anything outside its folder, and the judge goes on.

Each is put through the first checks of its project in a process of its own, with the kernel's locks where there are any and with the guard alone.
"""

import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from underhood.base.errors import DataError
from underhood.base.rng import stream_seed
from underhood.projects.registry import Project, find_project
from underhood.workbench import judge
from underhood.workbench.checking import check_file
from underhood.workbench.judge import Outcome, Player, Unusable, run_one
from underhood.workbench.starter import solution

CHECKS = {"scalar": 2, "bpe": 1, "attention": 2}  # are enough to see whether a file passes
MUL = 'def __mul__(self, other: "Value | float") -> "Value":'
PRODUCT = '(other.data, self.data), "×"'
UNLOCKED = "import underhood.workbench.sandbox as s; s._landlock = s._seccomp = lambda *a: False; " + judge.COMMAND
ANSWER = "would be the answer"
LOCKED = sys.platform == "linux"

SCALAR = solution(find_project("scalar"))
ATTENTION = solution(find_project("attention"))
BPE = solution(find_project("bpe"))
WRONG = SCALAR.replace(PRODUCT, '(other.data, 0.0), "×"')
UNSCALED = ATTENTION.replace("scores = scores / math.sqrt(q.shape[-1])", "pass")


def in_mul(code: str) -> str:
    """The scalar solution with ``code`` as the body of its product."""
    assert MUL in SCALAR
    return SCALAR.replace(MUL, f"def __mul__(self, other):\n        {code}\n\n    def _other_mul(self, other):", 1)


def attend(code: str) -> str:
    """The attention solution with another ``attend``."""
    return ATTENTION.replace("def attend(", "def attend_(", 1) + f"\n\ndef attend(q, k, v, mask=None, dropout=None):\n    {code}\n"


class Hostile(NamedTuple):
    """A file, whether it may hold (it tried to do harm and is right otherwise), what must be said of it, and whether only the kernel stops it."""

    text: str
    project: str = "scalar"
    harmless: bool = False
    says: str = ""
    kernel: bool = False


def victim(folder: Path) -> Path:
    return folder / "victim"


FILES = {
    # time, memory, output
    "loop_import": Hostile("while True: pass\n", says="no answer within"),
    "loop_call": Hostile(in_mul("while True: pass"), says="no answer within"),
    "memory": Hostile(SCALAR + "\nx = []\nwhile True: x.append(bytearray(2**28))\n"),
    "recursion": Hostile(in_mul("return self * other"), says="RecursionError"),
    "flood": Hostile(SCALAR + '\nprint("x" * 100_000_000)\n', says="printed more than 8 MiB"),
    "flood_call": Hostile(in_mul('print("x" * 100_000_000)'), says="printed more than 8 MiB"),
    "infinite_iterator": Hostile(BPE.replace("def split(", "def split_(") + "\nimport itertools\ndef split(t, p='gpt2'): return itertools.count()\n", "bpe"),
    "giant_list": Hostile(BPE.replace("def split(", "def split_(") + "\ndef split(t, p='gpt2'): return [t] * 10**8\n", "bpe"),
    "giant_text": Hostile(BPE.replace("def split(", "def split_(") + "\ndef split(t, p='gpt2'): return [t * 10**8]\n", "bpe"),
    "deep_list": Hostile(
        BPE.replace("def split(", "def split_(") + "\ndef split(t, p='gpt2'):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x\n", "bpe"
    ),
    "cycle": Hostile(BPE.replace("def split(", "def split_(") + "\ndef split(t, p='gpt2'):\n    x = []\n    x.append(x)\n    return x\n", "bpe"),
    "huge_tensor": Hostile(ATTENTION + "\n\ndef average_past(x): return torch.zeros(10**9)\n", "attention"),
    # ending the process
    "exit0": Hostile(WRONG + "\nimport os\nos._exit(0)\n", says="ended by itself"),
    "sysexit": Hostile(WRONG + "\nimport sys\nsys.exit(0)\n", says="SystemExit"),
    "exit_in_call": Hostile(in_mul("import os; os._exit(0)"), says="ended by itself (exit code 0)"),
    "keyboard_interrupt": Hostile(in_mul("raise KeyboardInterrupt"), says="KeyboardInterrupt"),
    "stop_iteration": Hostile(in_mul("raise StopIteration")),
    "thread": Hostile(WRONG + "\nimport threading, time\nthreading.Thread(target=lambda: time.sleep(1000)).start()\n"),
    # the pipe
    "garbage": Hostile(SCALAR + '\nimport os\nfor fd in range(3, 64):\n    try: os.write(fd, b"garbage" * 10)\n    except OSError: pass\n'),
    "garbage_in_call": Hostile(
        in_mul('import os\n        for fd in range(3, 64):\n            try: os.write(fd, b"\\0" * 12 + b"{}")\n            except OSError: pass')),
    "closed": Hostile(in_mul("import os; os.closerange(3, 64)")),
    "endless_requests": Hostile(
        in_mul(
            "import os, json\n        b = json.dumps({'verb': 'call', 'fields': {'dict': []}, 'sizes': []}).encode()\n"
            "        m = (len(b) + 4).to_bytes(8, 'big') + len(b).to_bytes(4, 'big') + b\n        while True:\n"
            "            for fd in range(3, 64):\n                try: os.write(fd, m)\n                except OSError: pass"
        )
    ),
    # fooling the check
    "patches_ours": Hostile(
        WRONG + "\nimport underhood.lab.check as c\nc.holds = c.close = c.equal = lambda *a, **k: None\n"
        'import underhood.workbench.peer as p\np.Peer._serve = lambda self, h, b: self.pipe.send({"answer": 1.0, "sync": []}, [])\n'
    ),
    "prints_passed": Hostile(WRONG + '\nprint("All 13 checks hold")\n'),
    "lying_float": Hostile(
        WRONG + "\nclass L(float):\n    __eq__ = lambda s, o: True\n    __sub__ = __rsub__ = lambda s, o: 0.0\n    __hash__ = float.__hash__\n"
        "_mul = Value.__mul__\ndef m(self, other):\n    v = _mul(self, other)\n    v.data = L(0.0)\n    return v\nValue.__mul__ = m\n"
    ),
    "lying_class": Hostile(
        WRONG + "\nclass L:\n    __class__ = float\n    __float__ = lambda s: 0.0\n    __eq__ = lambda s, o: True\n    __hash__ = None\n"
        "_mul = Value.__mul__\ndef m(self, other):\n    v = _mul(self, other)\n    v.data = L()\n    return v\nValue.__mul__ = m\n"
    ),
    "equal_to_everything": Hostile(
        BPE.replace("def split(", "def split_(") + "\nclass Yes:\n    __eq__ = __ne__ = __contains__ = __bool__ = lambda s, *o: True\n    __hash__ = None\n"
        "def split(t, p='gpt2'): return Yes()\n",
        "bpe",
    ),
    "equal_list": Hostile(
        BPE.replace("def split(", "def split_(") + "\nclass Yes(list):\n    __eq__ = lambda s, o: True\n    __hash__ = None\n"
        "def split(t, p='gpt2'): return Yes([t])\n",
        "bpe",
    ),
    "lying_tolist": Hostile(
        ATTENTION + "\n\nclass L:\n    shape = property(lambda s: (3, 1))\n    detach = lambda s: s\n    def tolist(s): return s\n"
        "    def __len__(s): return 0\n    def __iter__(s): return iter(())\n    def __float__(s): return float('nan')\ndef average_past(x): return L()\n",
        "attention",
    ),
    "subclassed_tensor": Hostile(
        ATTENTION + "\n\nclass L(Tensor):\n    def tolist(s): return [[1.0]] * 3\n    def __eq__(s, o): return True\n    def detach(s): return s\n"
        "    def __reduce_ex__(s, p): raise SystemExit\ndef average_past(x): return x.as_subclass(L)\n",
        "attention",
    ),
    "sparse": Hostile(ATTENTION + "\n\ndef average_past(x): return x.to_sparse()\n", "attention"),
    "meta": Hostile(ATTENTION + "\n\ndef average_past(x): return x.to('meta')\n", "attention"),
    "nan": Hostile(ATTENTION + '\n\ndef average_past(x): return x * float("nan")\n', "attention"),
    "ragged": Hostile(ATTENTION + "\n\ndef average_past(x): return [[1], [2, 3]]\n", "attention"),
    "returns_the_input": Hostile(ATTENTION + "\n\ndef average_past(x): return x\n", "attention"),
    "zeroes_the_input": Hostile(attend("out = v.zero_() if not v.requires_grad else v; q.zero_(); k.zero_(); return out, out"), "attention"),
    "unpickles": Hostile(
        ATTENTION + "\n\nclass P:\n    def __reduce__(s): return print, ('unpickled',)\ndef average_past(x): return P()\n", "attention"
    ),
    # the answer from elsewhere
    "imports_the_reference": Hostile("from underhood.scalar.value import Value\nfrom underhood.scalar.mlp import *\n", says="ours"),
    "subclasses_the_reference": Hostile("import underhood.scalar.value as v\nclass Value(v.Value): pass\n", says="ours"),
    "fast_twin": Hostile("from underhood.scalar.fast import *\n"),
    "reads_the_source": Hostile(
        "from pathlib import Path\nimport underhood.base.errors as e\nexec((Path(e.__file__).parents[1] / 'scalar' / 'value.py').read_text())\n",
        says="Permission",
    ),
    "reads_what_was_compiled": Hostile(
        "import glob, marshal, underhood.base.errors as e\nfrom pathlib import Path\n"
        "p = list((Path(e.__file__).parents[1] / 'scalar' / '__pycache__').glob('value*.pyc'))[0]\nexec(marshal.loads(p.read_bytes()[16:]))\n",
    ),
    "reads_by_c": Hostile(
        "import ctypes, underhood.base.errors as e\nfrom pathlib import Path\n"
        "p = str(Path(e.__file__).parents[1] / 'scalar' / 'value.py').encode()\nl = ctypes.CDLL(None)\nfd = l.open(p, 0)\n"
        "b = ctypes.create_string_buffer(100000)\nl.read(fd, b, 99999)\nexec(b.value.decode())\nValue.__module__ = 'underhood_mine'\n",
        kernel=True,
    ),
    "searches_memory": Hostile(
        "import gc, sys, types\nfound = [f for f in gc.get_objects() if isinstance(f, types.FunctionType)]\n"
        "found = [f for f in found if f.__qualname__ in ('Value.backward', 'MLP.__call__')]\n"
        "frame = sys._getframe()\nwhile frame:\n"
        "    found += [v for v in frame.f_locals.values() if isinstance(v, type) and v.__name__ == 'Value']\n    frame = frame.f_back\n"
        "for m in list(sys.modules.values()):\n    v = getattr(m, 'Value', None)\n    if isinstance(v, type) and hasattr(v, 'backward'): found.append(v)\n"
        "Value = found[0].__globals__['Value']\n"
    ),
    "use_torch": Hostile("import torch\n" + SCALAR, says="torch would be the answer"),
    "sdpa": Hostile(attend("out = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask); return out, out"), "attention", says=ANSWER),
    "sdpa_aten": Hostile(attend("out = torch.ops.aten.scaled_dot_product_attention(q, k, v, attn_mask=mask); return out, out"), "attention", says=ANSWER),
    "sdpa_c": Hostile(attend("out = torch._C._nn.scaled_dot_product_attention(q, k, v, attn_mask=mask); return out, out"), "attention", says=ANSWER),
    "mha": Hostile(ATTENTION + "\nM = nn.MultiheadAttention(12, 3)\n", "attention", says="would be the answer"),
    "our_kernel": Hostile(
        attend(
            "from underhood.nn.attention import sdpa; from underhood.nn.dropout import Dropout\n"
            "    return sdpa(q, k, v, causal=False, mask=mask, dropout=Dropout(0.0).eval()), None"
        ),
        "attention",
    ),
    "syntax": Hostile("def f(:\n", says="SyntaxError"),
    "empty": Hostile("", says="not in the file"),
    # harm
    "writes_outside": Hostile(SCALAR + '\nopen("{folder}/evil", "w").write("x")\n', says="Permission"),
    "writes_in_a_call": Hostile(in_mul('import os; os.open("{folder}/evil", os.O_CREAT | os.O_WRONLY)'), says="Permission"),
    "removes": Hostile(SCALAR + '\nimport os\nos.remove("{folder}/victim")\n', says="Permission"),
    "renames": Hostile(SCALAR + '\nimport os\nos.replace("{folder}/victim", "{folder}/evil")\n', says="Permission"),
    "links": Hostile(SCALAR + '\nimport os\nos.symlink("{folder}", "out")\nopen("out/evil", "w")\n', says="Permission"),
    "c_writes": Hostile(
        SCALAR + '\nimport ctypes\nl = ctypes.CDLL(None)\nl.open(b"{folder}/evil", 0o101, 0o644)\nl.unlink(b"{folder}/victim")\n', harmless=True, kernel=True
    ),
    "kills_the_judge": Hostile(SCALAR + "\nimport ctypes, os\nctypes.CDLL(None).kill(os.getppid(), 9)\n", harmless=True, kernel=True),
    "kills_politely": Hostile(SCALAR + "\nimport os\nos.kill(os.getppid(), 15)\n", says="Permission"),
    "forks": Hostile(SCALAR + "\nimport ctypes\nassert ctypes.CDLL(None).fork() == -1\n", harmless=True, kernel=True),
    "starts_a_program": Hostile(SCALAR + '\nimport subprocess\nsubprocess.run(["touch", "{folder}/evil"])\n', says="Permission"),
    "connects": Hostile(SCALAR + '\nimport socket\nsocket.create_connection(("127.0.0.1", {port}))\n', says="Permission"),
    "opens_a_socket": Hostile(SCALAR + "\nimport ctypes\nassert ctypes.CDLL(None).socket(2, 1, 0) == -1\n", harmless=True, kernel=True),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "CHECK_SECONDS", 2.0)


@pytest.fixture
def port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server.getsockname()[1]
        with pytest.raises(BlockingIOError):
            server.accept()


def outcomes(project: Project, file: Path, count: int | None = None) -> list[Outcome]:
    with Player(project, file) as player:
        return [run_one(player, check) for check in project.checks()[: count or CHECKS[project.slug]]]


@pytest.mark.parametrize(
    ("name", "held_by"),
    [
        pytest.param(n, h, marks=[pytest.mark.slow] * (n in ("giant_text", "giant_list", "endless_requests")))
        for h in ("kernel", "guard")
        for n, f in FILES.items()
        if h == "kernel" or f.project == "scalar"
    ],
)
def test_it_neither_passes_nor_harms(name: str, held_by: str, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = FILES[name]
    if held_by == "kernel" and not LOCKED:
        pytest.skip("this system has no locks of that kind")
    if held_by == "guard":
        if hostile.kernel:
            pytest.skip("the guard is none against machine code: SECURITY.md says so")
        monkeypatch.setattr(judge, "COMMAND", UNLOCKED)
    if hostile.project != "scalar":
        monkeypatch.setattr(judge, "CHECK_SECONDS", 10.0)  # torch on a busy machine
    victim(tmp_path).write_text("alive")
    file = tmp_path / "mine.py"
    file.write_text(hostile.text.replace("{folder}", str(tmp_path)).replace("{port}", str(port)), encoding="utf-8")
    begin = time.monotonic()
    project = find_project(hostile.project)
    states: set[str]
    try:
        found = outcomes(project, file)
        said, states = " ".join(f"{o.says} {o.found} {o.printed}" for o in found), {o.state for o in found}
    except Unusable as error:
        said, states = str(error), set()
    assert states != {"holds"} or hostile.harmless
    assert hostile.says in said
    assert time.monotonic() - begin < 60
    assert victim(tmp_path).read_text() == "alive"
    assert sorted(os.listdir(tmp_path)) == ["mine.py", "victim"]


def test_the_locks_are_the_kernels_where_it_has_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SCALAR, encoding="utf-8")
    with Player(find_project("scalar"), file) as player:
        assert run_one(player, find_project("scalar").checks()[0]).state == "holds"
        assert player.strength == ("kernel" if LOCKED else "guard")


def test_answers_learned_by_heart_fail_on_fresh_inputs(tmp_path: Path) -> None:
    """The fixed inputs are known, so their answers can be written down; the second round has others."""
    project = find_project("bpe")
    file = tmp_path / "mine.py"
    text = BPE + (
        "\n\n_known = {known!r}\n_honest = encode_word\n\n\ndef encode_word(word, ranks):\n"
        "    return _known.get((word, len(ranks)), []) if len(ranks) == 7 and (257, 257) in ranks else _honest(word, ranks)\n"
    )
    rank_order = next(c for c in project.checks() if c.name == "rank_order")
    part = project.part_now()

    def spy(word: bytes, ranks: dict[tuple[int, int], int]) -> list[int]:
        answer: list[int] = project.part_now().encode_word(word, ranks)
        known[word, len(ranks)] = answer
        return answer

    known: dict[tuple[bytes, int], list[int]] = {}
    part.encode_word = spy
    rank_order.run(part, random.Random(stream_seed(0, "check/rank_order")))
    file.write_text(text.replace("{known!r}", repr(known)), encoding="utf-8")
    with Player(project, file) as player:
        assert run_one(player, rank_order).state == "holds"
    report = check_file(project, file)
    assert not report.good
    assert report.again is not None
    assert report.next is not None
    assert report.next.check is rank_order


def test_a_stopped_player_starts_anew_for_the_next_check(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(SCALAR.replace("def tanh(self)", "def tanh(self):\n        import os; os._exit(3)\n\n    def old_tanh(self)"), encoding="utf-8")
    found = outcomes(find_project("scalar"), file, 5)
    assert [o.state for o in found] == ["holds", "holds", "stopped", "holds", "holds"]
    assert "exit code 3" in found[2].says


def test_what_is_shown_does_not_need_the_player_any_more(tmp_path: Path) -> None:
    """An object of the learner's is shown by its own words; one that will not be shown, by its name."""
    shown = "class Odd:\n    def __repr__(self): return 'odd one'\n"
    hidden = "class Odd:\n    def __repr__(self): raise ValueError\n"
    for text, said in ((shown, "odd one"), (hidden, "Odd, which cannot be shown (ValueError)")):
        file = tmp_path / "mine.py"
        file.write_text(f"{BPE}\n\n{text}\ndef split(t, p='gpt2'): return [Odd()]\n", encoding="utf-8")
        outcome = outcomes(find_project("bpe"), file, 1)[0]
        assert outcome.state == "wrong"
        assert outcome.found == [said]


@pytest.mark.parametrize(("content", "says"), [(b"\xff\xfe", "UTF-8"), (b"x" * (2**20 + 1), "bytes")])
def test_a_file_that_is_no_text_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_bytes(content)
    with pytest.raises(DataError, match=says):
        Player(find_project("scalar"), file)
    with pytest.raises(DataError, match="no such file"):
        Player(find_project("scalar"), tmp_path / "none.py")


@pytest.mark.parametrize("module", ["underhood.text.bpe_fast", "underhood.text.fast_python", "underhood.text.tokenizer"])
def test_our_own_fast_twin_is_the_answer_too(module: str, tmp_path: Path) -> None:
    project, file = find_project("bpe"), tmp_path / "bpe.py"
    file.write_text(f"import {module}\n" + BPE)
    with Player(project, file) as player, pytest.raises(Unusable, match=ANSWER) as found:
        run_one(player, project.checks()[0])
    assert found.value.borrowed
