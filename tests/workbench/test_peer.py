"""The judge's side of the pipe: whatever the player writes, only ``Lost`` comes out, and nothing of the judge's can be reached that was not given."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from underhood.workbench import wire
from underhood.workbench.peer import Peer
from underhood.workbench.remote import DUNDERS, Remote
from underhood.workbench.wire import Lost, Pipe

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
KINDS = (
    *("tuple", "set", "dict", "iterator", "slice", "range", "int", "float", "bytes", "ellipsis", "yours", "handle", "array", "numpy.dtype", "dtype"),
    *("device", "tensor", "generator", "named", "config", "module", "first"),
)
words = st.sampled_from(["j1", "p1", "torch", "python", "numpy", "float32", "load", "ops", "Value", "__eq__", "os:system", "builtins:eval"])
values = st.recursive(
    plain | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KINDS), inner, min_size=1, max_size=2),
    max_leaves=8,
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Ends:
    """A judge's peer, and the raw ends that a player would have."""

    def __init__(self) -> None:
        (self.player_reads, mine_out), (mine_in, self.player_writes) = os.pipe(), os.pipe()
        self.pipe = Pipe(mine_in, mine_out)
        self.pipe.deadline = time.monotonic() + 5
        self.judge = Peer(self.pipe, trusting=False)

    def says(self, *frames: bytes) -> None:
        for frame in frames:
            os.write(self.player_writes, frame)

    def close(self) -> None:
        for fd in (self.pipe.read, self.pipe.write, self.player_reads, self.player_writes):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def frame(header: Any, blobs: bytes = b"") -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = len(head).to_bytes(4, "big") + head + blobs
    return len(body).to_bytes(8, "big") + body


@quick
@given(data=st.binary(max_size=60))
def test_bytes_of_any_kind(data: bytes) -> None:
    ends = Ends()
    ends.says(data)
    os.close(ends.player_writes)
    with pytest.raises(Lost):
        ends.pipe.receive()
    ends.close()


@quick
@given(header=plain, blobs=st.binary(max_size=20))
def test_headers_of_any_kind(header: Any, blobs: bytes) -> None:
    ends = Ends()
    ends.says(frame(header, blobs))
    os.close(ends.player_writes)
    with pytest.raises(Lost):
        ends.judge.request("mine", thing=None, name="f")
    ends.close()


@quick
@given(answer=values, sync=values | st.just([]), blobs=st.binary(max_size=16))
def test_answers_of_any_kind(answer: Any, sync: Any, blobs: bytes) -> None:
    """An answer is plain data, something of the player's, or ``Lost``: never an exception of ours, a type, a function or a module."""
    ends = Ends()
    ends.says(frame({"answer": answer, "sync": sync, "sizes": [len(blobs)]}, blobs))
    os.close(ends.player_writes)
    try:
        found = ends.judge.request("mine", thing=None, name="f")
    except Lost:
        found = None
    assert not isinstance(found, type)
    assert isinstance(found, Remote) or not callable(found)
    ends.close()


@quick
@given(verb=st.sampled_from(["mine", "get", "set", "operate", "call", "backward", "reset", "load"]) | plain, fields=values)
def test_requests_of_any_kind(verb: Any, fields: Any) -> None:
    """What the player asks of a judge that gave it one function is refused, or is that function's answer."""
    ends = Ends()
    called: list[tuple[Any, ...]] = []
    ends.says(frame({"verb": verb, "fields": fields, "sizes": []}), frame({"answer": 1, "sync": [], "sizes": []}))
    os.close(ends.player_writes)
    with contextlib.suppress(Lost):
        assert ends.judge.request("call", thing=None, name="f", args=[lambda *args: called.append(args)]) == 1
    assert len(called) <= 1
    ends.close()


class Given:
    """An object that a check hands over."""

    secret = "expected"

    def extend(self, x: int) -> int:
        return x + 1

    def _private(self) -> str:
        return self.secret


@pytest.mark.parametrize(
    ("verb", "fields", "allowed"),
    [
        ("call", {"thing": {"yours": "j1"}, "name": "extend", "args": [1], "options": {"dict": []}}, True),
        ("call", {"thing": {"yours": "j1"}, "name": "_private", "args": [], "options": {"dict": []}}, False),
        ("call", {"thing": {"yours": "j1"}, "name": "__getattribute__", "args": ["secret"], "options": {"dict": []}}, False),
        ("call", {"thing": {"yours": "j1"}, "name": "__class__", "args": [], "options": {"dict": []}}, False),
        ("call", {"thing": {"yours": "j1"}, "name": "secret", "args": [], "options": {"dict": []}}, False),
        ("call", {"thing": {"yours": "j1"}, "name": "", "args": [], "options": {"dict": []}}, False),
        ("call", {"thing": {"yours": "j2"}, "name": "extend", "args": [1], "options": {"dict": []}}, False),
        ("call", {"thing": "text", "name": "upper", "args": [], "options": {"dict": []}}, False),
        ("call", {"thing": {"dtype": "load"}, "name": "", "args": ["x"], "options": {"dict": []}}, False),
        ("get", {"thing": {"yours": "j1"}, "name": "secret"}, False),
        ("set", {"thing": {"yours": "j1"}, "name": "secret", "value": 1}, False),
        ("operate", {"thing": {"yours": "j1"}, "name": "__eq__", "args": [1]}, False),
        ("mine", {"name": "main"}, False),
        ("backward", {"key": "j1", "gradient": None, "leaves": []}, False),
    ],
)
def test_of_the_judge_only_what_was_given(verb: str, fields: dict[str, Any], allowed: bool, ends: Ends) -> None:
    wrapped = {"dict": [[k, v] for k, v in fields.items()]}
    ends.says(frame({"verb": verb, "fields": wrapped, "sizes": []}), frame({"answer": 7, "sync": [], "sizes": []}))
    try:
        assert ends.judge.request("call", thing=None, name="f", args=[Given()]) == 7
    except Lost:
        assert not allowed
    told = os.read(ends.player_reads, 100_000)
    assert (b'"answer": 2' in told) == allowed
    assert b"expected" not in told


def test_comparisons_are_never_asked_of_the_player() -> None:
    assert not {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__bool__", "__contains__", "__hash__"} & set(DUNDERS)


def test_a_stop_does_not_end_a_loop_of_the_judges(ends: Ends) -> None:
    def ask(name: str) -> Any:
        return ends.judge.request("mine", thing=None, name=name)

    ends.says(frame({"error": {"kinds": ["StopIteration"], "says": ""}, "sync": [], "sizes": []}))
    with pytest.raises(RuntimeError):
        all(map(ask, "ab"))


@pytest.mark.parametrize(
    "first",
    [{"dtype": "float32", "shape": [10**9], "blob": 0}, {"dtype": "float32", "shape": [-1], "blob": 0}, {"dtype": "load", "shape": [0], "blob": 0}],
)
def test_a_tensor_is_no_larger_than_its_bytes(first: dict[str, Any], ends: Ends) -> None:
    ends.says(frame({"answer": {"tensor": "p1", "first": first, "learns": ""}, "sync": [], "sizes": [0]}))
    with pytest.raises(Lost):
        ends.judge.request("mine", thing=None, name="f")


def test_deep_and_large_headers_are_no_message(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.says(frame(b"[" * 30_000))
    with pytest.raises(Lost, match="no message"):
        ends.pipe.receive()
    monkeypatch.setattr(wire, "LARGEST_HEADER", 20)
    ends.says(frame({"sizes": [], "text": "x" * 30}))
    with pytest.raises(Lost, match="no message"):
        ends.pipe.receive()
    with pytest.raises(Lost, match="at most"):
        ends.pipe.send({"text": "x" * 30}, [])


def test_sizes_are_counted_from_nought(ends: Ends) -> None:
    ends.says(frame({"sizes": [-2, 4]}, b"ab"))
    with pytest.raises(Lost):
        ends.pipe.receive()


def test_silence_and_chatter_both_end_at_the_deadline(ends: Ends) -> None:
    ends.pipe.deadline = time.monotonic() + 0.05
    with pytest.raises(Lost, match="in time"):
        ends.pipe.receive()
    ends.says(frame({"sizes": []}))
    with pytest.raises(Lost, match="in time"):
        ends.pipe.receive()


def test_blobs_come_back_as_they_went() -> None:
    a, b = os.pipe(), os.pipe()
    left, right = Pipe(a[0], b[1]), Pipe(b[0], a[1])
    left.send({"x": 1}, [b"one", b"", b"three"])
    assert right.receive() == ({"x": 1}, [b"one", b"", b"three"])
    for fd in (*a, *b):
        os.close(fd)
