"""Tokenizers of published models against the ``tokenizers`` library: same ids, same text, and files that go both ways."""

import functools
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from underhood.base.errors import TokenizerError, UnknownName
from underhood.infer.stream import TextStream
from underhood.text.alphabet import well_formed
from underhood.text.bpe import BPE
from underhood.text.bpe_fast import FastBPE
from underhood.text.hf_tokenizer import HFTokenizer
from underhood.text.tokenizer import Tokenizer, encode_plain, load_tokenizer

from .families import FAMILIES, PIECE_FAMILIES, added, before, document
from .texts import AWKWARD, OLD, TEXTS, random_text

tokenizers = pytest.importorskip("tokenizers")
SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@functools.cache
def our(family: str) -> HFTokenizer:
    return HFTokenizer(json.loads(document(family)))


@functools.cache
def their(family: str) -> Any:
    return tokenizers.Tokenizer.from_str(document(family))


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ours(family: str) -> HFTokenizer:
    return our(family)


@pytest.fixture
def theirs(family: str) -> Any:
    return their(family)


def awkward_text(tokenizer: HFTokenizer, rng: random.Random) -> str:
    """Characters of any kind, added tokens whole and in part, words of the corpus."""
    names = [*tokenizer.added, *(name[: len(name) // 2] for name in tokenizer.added)]
    kinds = (AWKWARD, OLD, [*names, " ", "  ", "▁", "mill", "miller", "the ", "<0x41>", "12", "aaaa"])
    return "".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randrange(40)))


def assert_alike(ours: HFTokenizer, theirs: Any, text: str) -> None:
    """The same ids with special tokens allowed, put around the text, and as plain text; the same text back."""
    theirs.encode_special_tokens = False
    ids = ours.encode(text, ours.special)
    assert theirs.encode(text, add_special_tokens=False).ids == ids
    assert theirs.encode(text).ids == ours.encode(text, ours.special, add_special_tokens=True)
    assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)
    theirs.encode_special_tokens = True
    assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)


def test_texts(ours: HFTokenizer, theirs: Any) -> None:
    rng = random.Random(12)
    names = " ".join(ours.added) + "".join(ours.added)
    long = [
        "",
        " ",
        "   ",
        "a" * 700,
        " " * 700 + "x",
        "the mill " * 200,
        "👍" * 300,
        "é\u0323\u0301" * 200,
        "日本語" * 200,
        names,
        "unreachable unreachable qqq",
    ]
    for text in (*TEXTS, *long, *(awkward_text(ours, rng) for _ in range(150)), "".join(TEXTS) * 3):
        assert_alike(ours, theirs, text)


@pytest.mark.slow
def test_many_texts(ours: HFTokenizer, theirs: Any) -> None:
    rng = random.Random(13)
    for _ in range(10_000):
        assert_alike(ours, theirs, awkward_text(ours, rng))


@SETTINGS
@given(st.sampled_from(sorted(FAMILIES)), st.one_of(st.text(alphabet=OLD + AWKWARD), st.text(alphabet="amiler ▁\n<>s|[INST]")))
def test_any_text(name: str, text: str) -> None:
    assert_alike(our(name), their(name), text)


def loses(name: str, text: str) -> bool:
    """Whether the family cannot give ``text`` back: it has no token for a character, composes characters, or strips a space that was there."""
    first = text.startswith(" ") and name == "mistral3"
    return first or name in ("metaspace", "unfused", "qwen2", "gpt2_with_prefix") or (name in PIECE_FAMILIES and "▁" in text)


@SETTINGS
@given(st.sampled_from(sorted(FAMILIES)), st.text(), st.data())
def test_round_trip_and_stream(name: str, text: str, data: st.DataObject) -> None:
    """Text comes back from its ids; token by token, after other text, it is the same text, whatever the ids."""
    ours = our(name)
    ids = ours.encode(text)
    if not loses(name, text):
        assert ours.decode(ids) == well_formed(text)
    for shown_ids in (ids, data.draw(st.lists(st.sampled_from(sorted(ours.tokens)), max_size=20))):
        stream, start = TextStream(ours), ours.encode("The mill")
        assert ours.decode(start) + "".join(map(stream.add, shown_ids)) + stream.flush() == ours.decode([*start, *shown_ids])


def test_files_go_both_ways(ours: HFTokenizer, theirs: Any, tmp_path: Path) -> None:
    ours.save(tmp_path / "ours.json")
    theirs.save(str(tmp_path / "theirs.json"))
    theirs_back = tokenizers.Tokenizer.from_file(str(tmp_path / "ours.json"))
    ours_back = HFTokenizer(json.loads((tmp_path / "theirs.json").read_text(encoding="utf-8")))
    for text in (*TEXTS, "".join(ours.added)):
        assert_alike(ours, theirs_back, text)
        assert_alike(ours_back, theirs, text)
    assert ours_back.vocab_size == ours.vocab_size == max(theirs.get_vocab().values()) + 1


def test_load_tokenizer_opens_it(family: str, ours: HFTokenizer, tmp_path: Path) -> None:
    """The fast tokenizer where it can serve, with the same ids; else that of the family."""
    (tmp_path / "tokenizer.json").write_text(document(family), encoding="utf-8")
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, Tokenizer)
    assert isinstance(loaded, FastBPE) == (family == "gpt2")
    for text in TEXTS:
        assert loaded.encode(text) == ours.encode(text)
        assert loaded.decode(loaded.encode(text)) == ours.decode(ours.encode(text))
    assert (loaded.vocab_size, loaded.special) == (ours.vocab_size, ours.special)  # type: ignore[attr-defined]
    assert encode_plain(loaded, "".join(ours.added)) == ours.encode("".join(ours.added), plain=True)


RUNS = ["a", " ", "'", "\n", "😀", "\u0301"]


def assert_linear(tokenizer: HFTokenizer, unit: str) -> None:
    """Two seconds for a million characters, and ten times the text takes at most fifteen times as long."""
    tokenizer.encode(unit * 100)
    seconds = []
    for n in (100_000, 1_000_000):
        text = unit * (n // len(unit))
        start = time.process_time()
        ids = tokenizer.encode(text)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 2.0
    assert seconds[1] <= 15 * seconds[0] + 0.5
    assert len(ids) <= 6 * len(text) + 1


@pytest.mark.parametrize("char", RUNS)
@pytest.mark.parametrize("name", ["qwen2", "llama2"])
def test_a_million_of_one_character_in_time(name: str, char: str) -> None:
    assert_linear(our(name), char)


@pytest.mark.slow
@pytest.mark.parametrize("unit", [*RUNS, "日", "▁", "é", "<", "<|", "1", "A", "aA", " a", "mill ", "\u0301\u0323", "\u0f73"])
def test_a_million_of_anything_in_time(ours: HFTokenizer, unit: str) -> None:
    assert_linear(ours, unit)


@pytest.mark.parametrize("more", [{"post_processor": before("<|endoftext|>", 600)}, {"added_tokens": [added(600, "<|endoftext|>", lstrip=True)]}])
def test_what_the_fast_one_cannot_do_is_not_given_to_it(more: dict[str, Any], tmp_path: Path) -> None:
    """A template, or an added token with habits of its own."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(document("gpt2")) | more), encoding="utf-8")
    ours = load_tokenizer(tmp_path)
    assert isinstance(ours, HFTokenizer)
    assert_alike(ours, tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), "the mill  <|endoftext|> x")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "family", "options"),
    [
        ("LlamaTokenizer", "llama2", {}),
        ("LlamaTokenizer", "llama2", {"add_prefix_space": False}),
        ("Qwen2Tokenizer", "qwen2", {}),
        ("GPT2Tokenizer", "gpt2", {}),
        ("GPT2Tokenizer", "gpt2", {"add_prefix_space": True}),
    ],
)
def test_what_transformers_saves(kind: str, family: str, options: dict[str, bool], tmp_path: Path) -> None:
    """The library's own classes, made from a family's vocabulary and merges."""
    transformers = pytest.importorskip("transformers")
    model = json.loads(document(family))["model"]
    merges = [tuple(merge.split(" ")) for merge in model["merges"]]
    theirs = getattr(transformers, kind)(vocab=model["vocab"], merges=merges, **options)
    theirs.save_pretrained(tmp_path)
    ours: Any = load_tokenizer(tmp_path)
    assert isinstance(ours, FastBPE) == (kind == "GPT2Tokenizer" and not options)
    rng = random.Random(16)
    for text in (*TEXTS, *(awkward_text(our(family), rng) for _ in range(300))):
        ids = ours.encode(text, ours.special)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == ours.decode(ids)


def test_gpt2s_own_files(shared_data: Path, tmp_path: Path) -> None:
    """GPT-2's vocabulary in the file that ``tokenizers`` makes of it: the family's tokenizer, the fast one and ``tokenizers`` agree."""
    folder = shared_data / "gpt2"
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    merges = (folder / "vocab.bpe").read_text(encoding="utf-8").strip().split("\n")[1:]
    shape = json.loads(document("gpt2"))
    shape |= {"model": shape["model"] | {"vocab": vocab, "merges": merges}, "added_tokens": [shape["added_tokens"][0] | {"id": 50_256}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(shape), encoding="utf-8")
    theirs, ours = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), HFTokenizer(shape)
    fast = load_tokenizer(tmp_path)
    assert isinstance(fast, FastBPE)
    rng = random.Random(14)
    play = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")[:100_000]
    for text in (*TEXTS, play, *(random_text(rng, 100) for _ in range(50))):
        assert_alike(ours, theirs, text)
        assert fast.encode(text) == ours.encode(text)
    assert ours.encode("Hello world<|endoftext|>", {"<|endoftext|>"}) == [15496, 995, 50256]


class TestSpecialTokens:
    """What somebody writes never becomes a control id, and what the caller allows does."""

    def test_text_unless_allowed(self, ours: HFTokenizer) -> None:
        for text in ("".join(ours.special), " ".join(ours.special), "x".join(ours.special)):
            assert not set(ours.encode(text)) & control(ours)
        for name, number in ours.special.items():
            found = ours.encode(f"{name}{''.join(ours.special)}", {name})
            assert found.count(number) == 2 or number not in control(ours)
            assert not set(found) & (control(ours) - {number})

    def test_parts_of_a_name_stay_text(self, ours: HFTokenizer) -> None:
        """Encoded apart, two halves never make one; encoded together they are text as well."""
        for name in ours.special:
            for cut in range(1, len(name)):
                assert not {*ours.encode(name[:cut]), *ours.encode(name[cut:])} & control(ours)

    @pytest.mark.parametrize("whole", [False, True])
    def test_merges_never_make_one(self, whole: bool) -> None:
        """Files made from sentencepiece may list merges that spell a control token, or find one that is a whole word."""
        shape = json.loads(document("unfused"))
        shape["model"] |= {"vocab": {"<unk>": 0, "<s>": 1, "<": 2, "s": 3, ">": 4, "<s": 5, "<s>s": 6}, "ignore_merges": whole}
        shape["model"]["merges"] = [["<", "s"], ["<s", ">"], ["<s>", "s"]]
        shape["added_tokens"] = shape["added_tokens"][:2]
        ours = HFTokenizer(shape)
        assert ours.encode("<s>") == [5, 4]
        assert ours.encode("<s>", {"<s>"}) == [1]
        assert ours.encode("<s>s<s>") == [5, 4, 3, 5, 4]

    def test_plain_text_has_no_added_token_but_white_space(self) -> None:
        qwen = our("qwen2")
        call = "<tool_call>{}</tool_call><|im_end|>"
        assert (qwen.added["<tool_call>"], qwen.special.get("<tool_call>")) == (653, None)
        assert qwen.encode(call)[0] == 653
        assert not set(qwen.encode(call, plain=True)) & set(qwen.added.values())
        assert qwen.decode(qwen.encode(call, plain=True)) == call

    def test_plain_text_in_every_family(self, ours: HFTokenizer) -> None:
        plain = HFTokenizer(json.loads(document_without_added(ours)))
        for text in ("".join(ours.added), *TEXTS):
            assert ours.encode(text, plain=True) == plain.encode(text)

    def test_names_that_are_no_tokens(self, ours: HFTokenizer) -> None:
        with pytest.raises(UnknownName, match="special token"):
            ours.encode("x", {"<nope>"})

    def test_by_hand(self) -> None:
        llama = our("llama2")
        assert llama.special == {"<unk>": 0, "<s>": 1, "</s>": 2}
        assert (llama.begin_ids, llama.end_ids) == ([1], [])
        mark, a = llama.encode("a")[0], llama.encode("\na")[-1]
        assert llama.encode("<s>a</s>", {"<s>", "</s>"}, add_special_tokens=True) == [1, 1, *llama.encode("a"), 2]
        assert llama.encode("\x07a") == [llama.encode("\x07")[0], 3 + 7, a]
        assert llama.decode([1, mark]) == "<s>" + llama.decode_bytes([mark]).decode()
        assert (llama.decode_bytes([mark])[:1], llama.decode([mark, mark])) == (b" ", llama.decode([mark]) + llama.decode_bytes([mark]).decode())

    def test_matching_stays_within_the_words(self) -> None:
        roberta = our("gpt2_with_prefix")
        mask, mill, r, two = (roberta.added[name] for name in ("<mask>", "mill", "<r>", "  "))
        text = "a   <mask> mill miller <r> \n x"
        found = roberta.encode(text, {"<mask>"})
        assert [i for i in found if i in roberta.added.values()] == [two, mask, mill, r]
        assert_alike(roberta, their("gpt2_with_prefix"), text)


def control(tokenizer: HFTokenizer) -> set[int]:
    """The ids that text must not be able to give: all special ones but that of unknown characters."""
    return set(tokenizer.special.values()) - {tokenizer.special.get("<unk>")}


def document_without_added(tokenizer: HFTokenizer) -> str:
    """But for runs of white space, which are words like others and may stand in no vocabulary."""
    vocab = tokenizer._document["model"]["vocab"]
    blank = [t for t in tokenizer._document["added_tokens"] if t["content"].isspace() and not t["special"]]
    vocab = vocab | {t["content"]: t["id"] for t in blank}
    return json.dumps({**tokenizer._document, "added_tokens": blank, "post_processor": None, "model": {**tokenizer._document["model"], "vocab": vocab}})


@pytest.mark.parametrize("numbers", [(700, 710), (656, 655), (655, 657)])
def test_ids_that_others_would_not_give_are_refused(numbers: tuple[int, int]) -> None:
    """``tokenizers`` counts on from the vocabulary, whatever ids the file says."""
    file = json.loads(document("qwen2"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    file["added_tokens"] += [{"id": number, "content": f"<|{number}|>", **flags} for number in numbers]
    with pytest.raises(TokenizerError, match=r"which others count"):
        HFTokenizer(file)


@pytest.mark.parametrize("place", ["", "model", "added_tokens", "pre_tokenizer"])
def test_a_field_that_is_not_known_is_refused_by_the_fast_one_too(place: str, tmp_path: Path) -> None:
    file = json.loads(document("gpt2"))
    target = file[place] if place else file
    (target[0] if isinstance(target, list) else target)["magic"] = 1
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(TokenizerError, match="unknown field"):
        load_tokenizer(tmp_path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(document("gpt2")) | {"version": "2.0"}))
    with pytest.raises(TokenizerError, match="version"):
        load_tokenizer(tmp_path)


def test_bytes_are_not_made_twice(tmp_path: Path) -> None:
    file = json.loads(document("gpt2"))
    once = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    file["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [once, {**once, "use_regex": False}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(TokenizerError, match="ByteLevel as the last"):
        load_tokenizer(tmp_path)


def test_special_tokens_keep_ids_with_gaps_in_the_file_that_is_written(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = BPE([], special={"<|endoftext|>": 256, "<|im_start|>": 260})
    made.save(tmp_path / "tokenizer.json")
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("<|im_start|>").ids == [260]
    assert load_tokenizer(tmp_path).special == made.special  # type: ignore[attr-defined]


def test_a_token_found_in_normalized_text_keeps_its_space() -> None:
    pytest.importorskip("tokenizers")
    file = json.loads(document("llama2"))
    number = len(file["model"]["vocab"])
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False) | {"normalized": True}
    file["added_tokens"].append({"id": number, "content": "foo", **flags})
    ours, theirs = HFTokenizer(file), tokenizers_of(file)
    ids = ours.encode("the foo the")
    assert ids == theirs.encode("the foo the", add_special_tokens=False).ids
    assert ours.decode(ids) == theirs.decode(ids) == "the foo the"


def test_a_split_at_a_string_merged_with_what_was_before() -> None:
    """Gemma's own, which does nothing where spaces are marks already."""
    pytest.importorskip("tokenizers")
    file = json.loads(document("llama3"))
    file["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]}  # fmt: skip
    for text in ("the mill  by\n the river ", " a", "", "  "):
        assert HFTokenizer(file).encode(text) == tokenizers_of(file).encode(text, add_special_tokens=False).ids


def tokenizers_of(file: dict[str, Any]) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_str(json.dumps(file))


def test_ids_outside_the_vocabulary(ours: HFTokenizer) -> None:
    for wrong in (-1, ours.vocab_size):
        with pytest.raises(TokenizerError, match=f"id {wrong}"):
            ours.decode([wrong])
