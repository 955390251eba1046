"""The fast tokenizer gives the ids of the readable one, whatever its engine, and stays linear where a text is one endless word."""

import random
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from underhood.base.errors import ConfigError, DataError, TokenizerError, UnknownName
from underhood.text import bpe_fast, fast_python
from underhood.text.bpe import BPE, count_words, learn_merges
from underhood.text.bpe_fast import FastBPE
from underhood.text.vocabulary import Pair

from .texts import TEXTS, random_text


@pytest.fixture(params=["python", "compiled"])
def engine(request: pytest.FixtureRequest) -> bpe_fast.Engine:
    if request.param == "compiled":
        pytest.importorskip("numba")
    return request.param  # type: ignore[no-any-return]


def test_same_merges(engine: bpe_fast.Engine, pattern: str) -> None:
    rng = random.Random(5)
    texts = [*TEXTS, *(random_text(rng, 300) for _ in range(8)), "a" * 50, "ab" * 40]
    assert FastBPE.train(texts, 800, pattern, engine=engine).merges == BPE.train(texts, 800, pattern).merges


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(alphabet="ab c", max_size=40), min_size=1, max_size=6))
def test_same_merges_down_to_the_last(engine: bpe_fast.Engine, texts: list[str]) -> None:
    """Few letters make ties, overlaps and runs; learning goes on until no pair is left."""
    module = bpe_fast.compiled_engine() if engine == "compiled" else fast_python
    assert module
    assert module.learn(texts, "gpt2", 1000) == learn_merges(count_words(texts), 1000)


def test_same_ids(engine: bpe_fast.Engine, pattern: str, merges: list[Pair]) -> None:
    slow, fast, rng = BPE(merges, pattern), FastBPE(merges, pattern, engine=engine), random.Random(6)
    long = ["e" * 200, "the" * 60, " " * 100 + "x", "miller" * 30, "\n" * 50, "ab" * 500]
    for text in ("", *TEXTS, *long, *(random_text(rng, rng.randrange(120)) for _ in range(200))):
        assert fast.encode(text) == slow.encode(text)
        assert fast.encode_array(text).tolist() == slow.encode(text)
        assert fast.decode(fast.encode(text)) == text


def test_the_memory_of_words_may_overflow(engine: bpe_fast.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    merges = BPE.train(TEXTS, 400).merges
    monkeypatch.setattr(fast_python, "REMEMBERED", 8)
    if module := bpe_fast.compiled_engine():
        monkeypatch.setattr(module, "REMEMBERED", 8)
    fast, slow = FastBPE(merges, engine=engine), BPE(merges)
    text = "".join(TEXTS) + " ".join(f"word{k}" for k in range(100)) + "x" * 200
    for _ in range(2):
        assert fast.encode(text) == slow.encode(text)


def test_special_tokens(engine: bpe_fast.Engine) -> None:
    fast, slow = (kind([(0, 1)], special=["<|end|>"], **extra) for kind, extra in ((FastBPE, {"engine": engine}), (BPE, {})))  # type: ignore[operator]
    text = "a<|end|>b"
    assert fast.encode(text) == slow.encode(text)
    assert fast.encode(text, {"<|end|>"}) == slow.encode(text, {"<|end|>"})
    with pytest.raises(UnknownName):
        fast.encode(text, {"<|fim|>"})


def test_too_large_a_vocabulary_names_the_largest(engine: bpe_fast.Engine) -> None:
    with pytest.raises(DataError, match="at most 258"):
        FastBPE.train(["abc"], 300, engine=engine)
    with pytest.raises(DataError, match="at most 256"):
        FastBPE.train([], 300, engine=engine)
    assert FastBPE.train([], 256, engine=engine).vocab_size == 256


def test_unknown_ids(engine: bpe_fast.Engine) -> None:
    with pytest.raises(TokenizerError, match="id -1"):
        FastBPE([], engine=engine).decode([-1])


def test_auto_works_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("fast_compiled", "compiled_encode", "compiled_train"):
        monkeypatch.delitem(sys.modules, f"underhood.text.{name}", raising=False)
        monkeypatch.delattr(f"underhood.text.{name}", raising=False)
    monkeypatch.setattr(bpe_fast, "WORTH_COMPILING", 1)
    assert bpe_fast.compiled_engine() is None
    fast, slow = FastBPE.train(TEXTS, 300), BPE.train(TEXTS, 300)
    assert fast.merges == slow.merges
    assert fast.encode(TEXTS[0]) == slow.encode(TEXTS[0])
    with pytest.raises(ConfigError, match="pip install"):
        FastBPE([], engine="compiled")


def test_auto_compiles_for_long_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(bpe_fast, "WORTH_COMPILING", 100)
    fast = FastBPE.train(iter(TEXTS), 300)
    assert fast._compiled is None
    assert fast.encode(TEXTS[0]) == BPE(fast.merges).encode(TEXTS[0])
    assert fast._compiled is not None


def test_progress_reaches_the_end(engine: bpe_fast.Engine) -> None:
    seen: list[tuple[int, int]] = []
    FastBPE.train(TEXTS, 256 + 200, engine=engine, progress=lambda done, wanted: seen.append((done, wanted)))
    assert all(wanted == 200 for _, wanted in seen)
    assert seen[-1] == (200, 200)


RUNS = ["a", " ", "'", "\n", "😀", "\u0301", "日"]


@pytest.mark.parametrize("char", RUNS)
def test_a_million_of_one_character_in_time(engine: bpe_fast.Engine, char: str) -> None:
    """The worst word there is. Two seconds for a million characters, and ten times the run takes at most fifteen times as long."""
    fast = FastBPE(BPE.train([char * 64, "the mill"], 256 + 6).merges, engine=engine)
    fast.encode(char * 100)
    seconds = []
    for n in (100_000, 1_000_000):
        start = time.process_time()
        ids = fast.encode(char * n)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 2.0
    assert seconds[1] <= 15 * seconds[0] + 0.5
    assert fast.decode(ids) == char * 1_000_000


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="abc", min_size=513, max_size=700), st.integers(0, 60))
def test_endless_words_of_few_letters(text: str, n: int) -> None:
    """Longer than is scanned: places of one rank that overlap, touch, and arise from each other."""
    merges = BPE.train(["abcacbaab" * 3, text[:200]], 256 + n).merges if n else []
    slow = BPE(merges).encode(text)
    assert FastBPE(merges, engine="python").encode(text) == slow
    if bpe_fast.compiled_engine():
        assert FastBPE(merges, engine="compiled").encode(text) == slow


def test_compiled_code_is_kept_in_memory_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    numba = pytest.importorskip("numba")
    from underhood.text import compiled_encode

    def refuse(*, cache: bool = False, **options: bool) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(compiled_encode, "njit", refuse)

    def double(x):  # type: ignore[no-untyped-def]
        return 2 * x

    assert compiled_encode.compiled(double)(21) == 42


def test_save_and_load(tmp_path: Path, pattern: str, merges: list[Pair]) -> None:
    FastBPE(merges, pattern, ["<a>"]).save(tmp_path / "t.json")
    back = FastBPE.load(tmp_path / "t.json")
    assert (back.merges, back.pattern, back.special) == (merges, pattern, {"<a>": 480})
