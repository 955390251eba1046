"""Constrained decoding: whatever the logits, the text is valid; the mask is exactly the tokens whose bytes lead on; and there is always one."""

import itertools
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from underhood.base.errors import ConfigError
from underhood.infer import grammar_tokens
from underhood.infer.grammar import SchemaError
from underhood.infer.grammar_tokens import ANY_JSON, Constraint, ConstraintError, TokenTree
from underhood.text.bpe import BPE
from underhood.text.bpe_fast import FastBPE
from underhood.text.chars import CharTokenizer
from underhood.text.gpt2_files import read_gpt2_files
from underhood.text.special import END_OF_TEXT
from underhood.text.tokenizer import Tokenizer

SAMPLE = [
    '{"name": "Zoë", "age": 12, "tags": ["a", "b"], "ok": true, "none": null}, {"name": "日本語 😀", "x": -1.5e3}',
    "Some words of prose, as in any string: more or less.",
]
FINITE = {
    "properties": {"a": {"enum": ["x", "xy", "é"]}, "b": {"type": "boolean"}, "n": {"type": "array", "items": {"const": 1}, "maxItems": 2}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def bpe() -> BPE:
    """300 tokens and more, among them ``": "``, ``", "`` and halves of characters; two special ones."""
    return BPE.train(SAMPLE, 330, special=[END_OF_TEXT, "aaa"])


def constraint(schema: Any, tokenizer: Any) -> Constraint:
    return Constraint(schema, tokenizer, [tokenizer.special[END_OF_TEXT]])


def write(c: Constraint, rng: random.Random, budget: int) -> list[int]:
    """Tokens drawn uniformly out of those allowed, until the end."""
    state, ids = c.start, []
    while True:
        choices = c.allowed(state, budget - len(ids)).nonzero().squeeze(1)
        token = int(choices[rng.randrange(len(choices))])
        if token in c.end_ids:
            return ids
        ids.append(token)
        state = c.advance(state, token)


# ── random schemas ────────────────────────────────────────────────────────────────────────────────────────────────────

WORDS = ["a", "ab", "name", "é", "日本", 'q"', "", "\n", "😀x", "a b"]


def random_schema(rng: random.Random, depth: int = 3) -> Any:
    """A schema of every supported kind, which has a value."""
    kind = rng.choice(["string", "number", "integer", "boolean", "null", "enum", "const", "any"] + (["object", "array", "anyOf", "types"] * 2 if depth else []))
    if kind == "object":
        names = rng.sample(WORDS, rng.randrange(4))
        schema: dict[str, Any] = {"type": "object", "properties": {name: random_schema(rng, depth - 1) for name in names}}
        schema["required"] = [name for name in names if rng.random() < 0.5] + ["more"] * (rng.random() < 0.2)
        return schema | {"additionalProperties": rng.choice([True, random_schema(rng, depth - 1)])}
    if kind == "array":
        low = rng.randrange(3)
        schema = {"type": "array", "items": random_schema(rng, depth - 1), "minItems": low, "maxItems": low + rng.randrange(3)}
        return schema | rng.choice([{}, {"prefixItems": [random_schema(rng, depth - 1) for _ in range(2)]}])
    if kind == "anyOf":
        return {"anyOf": [random_schema(rng, depth - 1) for _ in range(rng.randrange(1, 4))]}
    if kind == "types":
        return {"type": rng.sample(["string", "number", "boolean", "null", "array", "object"], 2)}
    if kind == "string":
        low = rng.randrange(4)
        return rng.choice([{"type": "string"}, {"type": "string", "minLength": low, "maxLength": low + rng.randrange(4)}])
    if kind == "integer":
        low = rng.randrange(-2000, 2000)
        return {
            "type": "integer",
            rng.choice(["minimum", "exclusiveMinimum"]): low,
            rng.choice(["maximum", "exclusiveMaximum"]): low + rng.choice([2, 3, 77, 5000]),
        }
    if kind == "number":
        low = rng.choice([-5, -0.5, 0, 2.5, 1000])
        return rng.choice([{"type": "number"}, {"type": "number", "exclusiveMinimum": low}, {"type": "number", "minimum": low, "exclusiveMaximum": low + 2}])
    if kind == "enum":
        return {"enum": rng.sample([*WORDS, 1, 2.5, True, None, {"a": [1, "é"]}], 3)}
    return {"const": rng.choice(WORDS)} if kind == "const" else {} if kind == "any" else {"type": kind}


FIXED = [
    {
        "$defs": {"t": {"properties": {"v": {"type": "integer"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "required": ["kids"]}},
        "$ref": "#/$defs/t",
    },
    {"oneOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {"type": "string"}]},
    ANY_JSON,
    FINITE,
]


def outputs(tokenizer: Any, count: int, each: int) -> Iterator[tuple[Any, str]]:
    """``count`` random texts, ``each`` for a schema."""
    rng = random.Random(0)
    schemas = itertools.chain(FIXED, iter(lambda: random_schema(rng), None))
    for schema in itertools.islice(schemas, count // each):
        c = constraint(schema, tokenizer)
        for _ in range(each):
            ids = write(c, rng, c.remaining(c.start) + 1 + rng.randrange(40))
            yield schema, tokenizer.decode_bytes(ids).decode()


def check(texts: Iterator[tuple[Any, str]]) -> int:
    last, judge, lengths = None, None, []
    for schema, text in texts:
        if schema is not last:
            jsonschema.Draft202012Validator.check_schema(schema)
            last, judge = schema, jsonschema.Draft202012Validator(schema)
        judge.validate(json.loads(text))
        lengths.append(len(text))
    assert max(lengths) > 60
    return len(lengths)


def test_two_thousand_random_outputs_are_valid(bpe: BPE) -> None:
    assert check(outputs(bpe, 2000, 10)) == 2000


@pytest.mark.slow
def test_ten_thousand_random_outputs_of_gpt2s_vocabulary_are_valid() -> None:
    folder = os.environ.get("UNDERHOOD_DATA")
    if not folder:
        pytest.skip("UNDERHOOD_DATA is not set: no GPT-2 vocabulary")
    vocabulary = read_gpt2_files(Path(folder) / "gpt2")
    assert check(outputs(FastBPE(vocabulary.merges, vocabulary.pattern, vocabulary.special), 10_000, 20)) == 10_000


def test_without_the_mask_they_are_not(bpe: BPE) -> None:
    """Negative control."""
    rng = random.Random(0)
    texts = [bpe.decode([rng.randrange(256) for _ in range(20)]) for _ in range(50)]
    for text in texts:
        with pytest.raises(ValueError):  # noqa: PT011 (JSON's own)
            json.loads(text)


# ── the mask ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def finite_texts() -> set[str]:
    """All texts of ``FINITE``, with and without the space after commas and colons, put together by hand."""
    colon, comma = [":", ": "], [",", ", "]
    a = [f'"a"{c}"{v}"' for c in colon for v in ("x", "xy", "é")]
    b = [""] + [f'{k}"b"{c}{v}' for k in comma for c in colon for v in ("true", "false")]
    n = [""] + [f'{k}"n"{c}[{v}]' for k in comma for c in colon for v in ("", "1", "1,1", "1, 1")]
    return {"{" + "".join(parts) + "}" for parts in itertools.product(a, b, n)}


def test_every_text_of_a_finite_grammar_is_reached_by_tokens(bpe: BPE) -> None:
    c = constraint(FINITE, bpe)
    found, queue, seen = set(), [(b"", c.start)], set()
    while queue:
        text, state = queue.pop()
        if text in seen:
            continue
        seen.add(text)
        if c.finished(state):
            found.add(text.decode())
        for token in c.allowed(state).nonzero().squeeze(1).tolist():
            if token not in c.end_ids:
                queue.append((text + bpe.tokens[token], c.advance(state, token)))
    assert found == finite_texts()


def test_the_mask_is_what_the_bytes_say(bpe: BPE) -> None:
    """Each token's bytes followed one by one through the automaton, at the states of random texts."""
    rng = random.Random(3)
    for schema in (ANY_JSON, FINITE, {"type": "string", "maxLength": 3}, {"type": "integer", "minimum": 17, "maximum": 1234}):
        c = constraint(schema, bpe)
        state = c.start
        for token in [*write(c, rng, 16), None]:
            expected = {number for number, text in bpe.tokens.items() if number not in bpe.special.values() and leads_on(c, state, text)}
            expected |= set(c.end_ids) if c.finished(state) else set()
            assert set(c.allowed(state).nonzero().squeeze(1).tolist()) == expected
            assert expected, "never nothing"
            state = c.advance(state, token) if token is not None else state


def leads_on(c: Constraint, state: Any, text: bytes) -> bool:
    for byte in text:
        following = c.automaton.after(state)
        if byte not in following:
            return False
        state = following[byte]
    return True


def test_characters_may_be_cut_by_tokens(bpe: BPE) -> None:
    """A token that ends within a character is followed by one that goes on with it, and by nothing else."""
    c = constraint({"type": "string", "maxLength": 1}, bpe)
    byte = {text[0]: number for number, text in bpe.tokens.items() if len(text) == 1}
    state = c.advance(c.start, byte[ord('"')])
    for part in "😀".encode()[:3]:
        state = c.advance(state, byte[part])
        assert {bpe.tokens[number][0] for number in c.allowed(state).nonzero().squeeze(1).tolist()} <= set(range(0x80, 0xC0))
    state = c.advance(state, byte["😀".encode()[3]])
    assert c.allowed(state).nonzero().squeeze(1).tolist() == [byte[ord('"')]]


def test_special_tokens_are_never_allowed_but_the_end(bpe: BPE) -> None:
    """``aaa`` would fit into a string; its id stands for no text."""
    c = constraint({"type": "string"}, bpe)
    quote = bpe.encode('"')[0]
    inside = c.advance(c.start, quote)
    letter = bpe.encode("a")[0]
    assert c.allowed(inside)[letter]
    assert not c.allowed(inside)[bpe.special["aaa"]]
    assert not c.allowed(inside)[bpe.special[END_OF_TEXT]]
    with pytest.raises(ConstraintError):
        c.advance(inside, bpe.special["aaa"])
    done = c.advance(inside, quote)
    assert c.finished(done)
    assert c.allowed(done).nonzero().squeeze(1).tolist() == [bpe.special[END_OF_TEXT]]
    assert c.advance(done, bpe.special[END_OF_TEXT]) == done


def test_added_tokens_are_never_allowed(bpe: BPE) -> None:
    """As Qwen's ``<tool_call>``, which is not called special and marks something nevertheless."""

    class Added(BPE):
        added = {"ab": 256}  # noqa: RUF012

    tokenizer = Added(bpe.merges, special=bpe.special)
    inside = [c.allowed(c.advance(c.start, bpe.encode('"')[0])) for c in (constraint({"type": "string"}, made) for made in (bpe, tokenizer))]
    assert inside[0][256]
    assert not inside[1][256]
    assert torch.equal(inside[0][257:], inside[1][257:])


def test_the_end_is_allowed_where_the_text_may_also_go_on(bpe: BPE) -> None:
    c = constraint({"type": "integer"}, bpe)
    state = c.advance(c.start, bpe.encode("1")[0])
    assert c.allowed(state)[c.end_ids[0]]
    assert c.allowed(state)[bpe.encode("2")[0]]
    assert not c.allowed(c.start)[c.end_ids[0]]


@pytest.mark.parametrize("token", [-1, 10**9, 330, "special"])
def test_advance_refuses_what_is_not_allowed(bpe: BPE, token: Any) -> None:
    c = constraint({"type": "null"}, bpe)
    with pytest.raises(ConstraintError, match="does not lead on"):
        c.advance(c.start, bpe.special["aaa"] if token == "special" else token)
    with pytest.raises(ConstraintError):
        c.advance(c.start, bpe.encode("x")[0])
    with pytest.raises(ConstraintError):
        c.advance(c.start, c.end_ids[0])


def test_a_budget_is_always_kept(bpe: BPE) -> None:
    rng = random.Random(5)
    for schema in (ANY_JSON, FIXED[0], {"type": "array", "items": {"type": "string", "minLength": 2}, "minItems": 3}):
        c = constraint(schema, bpe)
        for extra in range(12):
            budget = c.remaining(c.start) + 1 + extra
            ids = write(c, rng, budget)
            assert len(ids) + 1 <= budget
            json.loads(bpe.decode(ids))


def test_a_budget_too_small_takes_the_shortest_way(bpe: BPE) -> None:
    c = constraint({"type": "array", "items": {"const": 1}, "minItems": 3}, bpe)
    texts = {bpe.decode(write(c, random.Random(k), 1)) for k in range(10)}
    assert texts == {"[1,1,1]"}


def test_forgetting_changes_no_mask(bpe: BPE, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = constraint(ANY_JSON, bpe)
    texts = [write(kept, random.Random(k), 40) for k in range(5)]
    monkeypatch.setattr(grammar_tokens, "MOST_STATES", 4)
    monkeypatch.setattr(grammar_tokens, "MOST_MASKS", 1)
    forgets, forget = [], Constraint._forget
    monkeypatch.setattr(Constraint, "_forget", lambda self: (forgets.append(self), forget(self))[1])
    forgetful = constraint(ANY_JSON, bpe)
    assert [write(forgetful, random.Random(k), 40) for k in range(5)] == texts
    assert len(forgets) > 50
    assert len(forgetful._kept) == 1
    state, old = forgetful.start, kept.start
    for token in texts[0]:
        assert torch.equal(forgetful.allowed(state), kept.allowed(old))
        forgetful._forget()
        state, old = forgetful.advance(state, token), kept.advance(old, token)


def test_the_work_for_a_mask_is_bounded_and_the_mask_the_same_at_any_time(bpe: BPE, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk that ends early leaves out long tokens, never the single bytes, and does so whatever was asked before."""
    schema = {"anyOf": [{"type": "string", "maxLength": 20 + k} for k in range(100)]}
    full = constraint(schema, bpe)
    everything = full.allowed(full.advance(full.start, bpe.encode('"')[0]))
    monkeypatch.setattr(grammar_tokens, "MOST_WORK", 350)
    busy, fresh = constraint(schema, bpe), constraint(schema, bpe)
    rng = random.Random(0)
    texts = [write(busy, rng, 30) for _ in range(20)]
    assert all(len(json.loads(bpe.decode(ids))) < 120 for ids in texts)
    inside, again = (c.advance(c.start, bpe.encode('"')[0]) for c in (busy, fresh))
    mask = busy.allowed(inside)
    assert torch.equal(mask, fresh.allowed(again))
    lengths = {len(bpe.tokens[number]) for number in mask.nonzero().squeeze(1).tolist()}
    assert max(lengths) < max(len(bpe.tokens[number]) for number in everything.nonzero().squeeze(1).tolist())
    assert {k for k in everything.nonzero().squeeze(1).tolist() if len(bpe.tokens[k]) == 1} <= set(mask.nonzero().squeeze(1).tolist())


def test_of_many_readings_few_are_followed_for_a_mask(bpe: BPE) -> None:
    ambiguous = constraint({"anyOf": [{"type": "string", "maxLength": k} for k in range(100, 1990)]}, bpe)
    inside = ambiguous.advance(ambiguous.start, bpe.encode('"')[0])
    assert len(inside) > 1800
    assert ambiguous.allowed(inside).sum() > 64
    followed = [len(ambiguous._states[number]) for number in np.flatnonzero(ambiguous._filled)]
    assert sum(followed) < 10_000


# ── vocabularies ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_beyond_the_tokenizer_are_never_allowed(bpe: BPE) -> None:
    c = Constraint(ANY_JSON, bpe, [340], vocab_size=400)
    mask = c.allowed(c.start)
    assert mask.shape == (400,)
    assert not mask[bpe.vocab_size :].any()


@pytest.mark.parametrize(("ends", "size"), [([], None), ([330], None), ([-1], None), ([0], 10)])
def test_ids_that_do_not_fit_are_refused(bpe: BPE, ends: list[int], size: int | None) -> None:
    with pytest.raises(ConfigError):
        Constraint(ANY_JSON, bpe, ends, size)


def test_characters_as_tokens() -> None:
    """A vocabulary without bytes: strings hold its characters, and what it cannot write is left out or refused at once."""
    chars = CharTokenizer('\n{}[]":, abcé01')
    ends = chars.encode("\n")
    c = Constraint({"properties": {"é": {"type": "string", "maxLength": 4}}, "required": ["é"]}, chars, ends)
    found = set()
    for k in range(200):
        text = chars.decode(write(c, random.Random(k), 30))
        found |= set(json.loads(text)["é"])
    assert found == set("{}[]:, abcé01")
    assert set(
        chars.decode(Constraint({"enum": ["a", "b", "ü"]}, chars, ends).allowed(Constraint({"enum": ["a"]}, chars, ends).start).nonzero().squeeze(1).tolist())
    ) == {'"'}
    for schema in ({"type": "boolean"}, {"enum": ["ü"]}, {"required": ["z"]}):
        with pytest.raises(SchemaError, match="that the tokenizer's vocabulary can write"):
            Constraint(schema, chars, ends)


def test_the_tree_holds_every_token(bpe: BPE) -> None:
    tree = TokenTree.of(bpe)
    assert TokenTree.of(bpe) is tree
    texts: list[bytes] = [b""]
    for parents, bytes_ in tree.levels:
        texts += [texts[parent] + bytes([byte]) for parent, byte in zip(parents.tolist(), bytes_.tolist(), strict=True)]
    assert len(texts) == len(set(texts)) == tree.nodes
    special = set(bpe.special.values())
    assert [texts[node] for node in tree.node.tolist()] == [b"" if number in special else bpe.tokens[number] for number in range(bpe.vocab_size)]


def test_halves_of_characters_that_nothing_might_finish_are_left_out() -> None:
    tree = TokenTree([b'"', b"a", b"\xc3", b'"\xc3', b"\xc3\xa9", "ü!".encode(), None])
    assert tree.node.astype(bool).tolist() == [True, True, False, False, True, True, False]
    assert tree.writable == set(b'"a')
    assert tree.characters == {"é"}


def test_an_empty_vocabulary_is_refused() -> None:
    class Empty:
        vocab_size = 1

        def decode(self, ids: Any) -> str:
            return ""

    tokenizer: Tokenizer = Empty()  # type: ignore[assignment]
    with pytest.raises(SchemaError):
        Constraint(ANY_JSON, tokenizer, [0])
