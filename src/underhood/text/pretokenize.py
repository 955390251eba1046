"""How the families cut text into words before any merge. Only patterns listed here are used: a regular expression from a file is never compiled.

Sources: the ``tokenizer.json`` of GPT-2, Llama 3, Qwen2, Mistral Nemo (tekken) and SmolLM, GPT-4o's ``o200k_base`` in tiktoken.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import regex  # type: ignore[import-untyped]

from underhood.base.errors import TokenizerError
from underhood.text.fields import FLAG, OBJECT, TEXT, Field, Kinds, read_components, read_pattern, short
from underhood.text.split import GPT2, PATTERNS

ANY_CASE = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CONTRACTION = "(?:'[sSſtTmMdD]|'[rR][eE]|'[vV][eE]|'[lL][lL])"  # the same, as every engine reads it
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT2_AS_RELEASED = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + SPACES
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
O200K = TEKKEN.replace(f"{LOWER}+|", f"{LOWER}+{ANY_CASE}?|").replace(f"{LOWER}*|", f"{LOWER}*{ANY_CASE}?|").replace(r"|\p{N}|", r"|\p{N}{1,3}|")
KNOWN = (*PATTERNS.values(), GPT2_AS_RELEASED, LLAMA3, QWEN2, TEKKEN, O200K)  # each covers any text: nothing lies between two matches

KINDS: Kinds = {
    "Split": {"pattern": OBJECT, "behavior": TEXT, "invert": Field(bool, False)},
    "Digits": {"individual_digits": FLAG},
    "ByteLevel": {"add_prefix_space": FLAG, "trim_offsets": Field(bool, True), "use_regex": Field(bool, True)},
    "Metaspace": {
        "replacement": TEXT, "prepend_scheme": Field(str, "always"), "split": Field(bool, True),
        "add_prefix_space": Field((bool, type(None)), None), "str_rep": Field((str, type(None)), None),
    },
}  # fmt: skip
Cut = Callable[[str, bool | None], list[str]]


class PreTokenizer:
    """Cuts text into words; ``byte_level`` says that the vocabulary spells words in GPT-2's visible characters for bytes."""

    def __init__(self, steps: Sequence[Cut], byte_level: bool) -> None:
        self.steps, self.byte_level = steps, byte_level

    def __call__(self, text: str, *, first: bool | None) -> list[str]:
        """The words of ``text``, which is not empty; ``first`` says that everything to be encoded starts here, None that other text goes on here."""
        words = [text]
        for step in self.steps:
            words = [part for k, word in enumerate(words) for part in step(word, first if k == 0 else False)]
        return words


def read_pre_tokenizer(stage: Any, where: str) -> PreTokenizer:
    """What a ``pre_tokenizer`` stands for. Raises ``TokenizerError`` naming the pattern or component that is not supported."""
    steps: list[Cut] = []
    parts = read_components(stage, where, "pretokenizers", KINDS)
    for here, kind, fields in parts:
        steps.append(MAKERS[kind](here, **fields))
    kinds = [kind for _, kind, _ in parts]
    if "ByteLevel" in kinds[:-1]:
        raise TokenizerError("a step after ByteLevel, which makes characters of bytes", where=where, expected="ByteLevel as the last")
    return PreTokenizer(steps, byte_level=kinds[-1:] == ["ByteLevel"])


def _split(where: str, pattern: dict[str, Any], behavior: str, invert: bool) -> Cut:
    if pattern.keys() == {"String"} and (behavior, invert) == ("MergedWithPrevious", False):
        end = regex.escape(read_pattern(pattern, f"{where}.pattern", "String"))
        return _finder(f"(?s:(?:(?!{end}).)*{end}|(?:(?!{end}).)+)")
    text = read_pattern(pattern, f"{where}.pattern", "Regex")
    if text not in KNOWN:
        raise TokenizerError(f"an unknown pattern {short(text)}", where=f"{where}.pattern", expected="that of GPT-2, GPT-4, Llama 3, Qwen2, tekken or GPT-4o")
    if (behavior, invert) not in (("Isolated", False), ("Removed", True)):  # the second keeps matches and drops what lies between: nothing does
        raise TokenizerError(f"found {short(behavior)} with invert {invert}", where=where, expected="Isolated, or Removed and inverted")
    return _finder(text.replace(ANY_CASE, CONTRACTION))


def _digits(where: str, individual_digits: bool) -> Cut:
    return _finder(r"\p{N}|\P{N}+" if individual_digits else r"\p{N}+|\P{N}+")


def _finder(expression: str) -> Cut:
    return functools.partial(_find, regex.compile(expression).findall)


def _find(findall: Callable[[str], list[str]], text: str, first: bool | None) -> list[str]:
    return findall(text)


def _byte_level(where: str, add_prefix_space: bool, trim_offsets: bool, use_regex: bool) -> Cut:
    words = regex.compile(GPT2).findall

    def cut(text: str, first: bool | None) -> list[str]:
        text = " " + text if add_prefix_space and first is not None and not text.startswith(" ") else text
        return words(text) if use_regex else [text]

    return cut


def _metaspace(where: str, replacement: str, prepend_scheme: str, split: bool, add_prefix_space: bool | None, str_rep: str | None) -> Cut:
    if len(replacement) != 1 or str_rep not in (None, replacement):
        raise TokenizerError(f"found {short(replacement)}", where=f"{where}.replacement", expected="one character")
    if prepend_scheme not in ("always", "first", "never") or (add_prefix_space is False and prepend_scheme != "never"):
        raise TokenizerError(f"found {short(prepend_scheme)}", where=f"{where}.prepend_scheme", expected="always, first or never")
    words = regex.compile(f"{regex.escape(replacement)}?[^{regex.escape(replacement)}]*").findall

    def cut(text: str, first: bool | None) -> list[str]:
        text = text.replace(" ", replacement)
        if not text.startswith(replacement) and (first or (prepend_scheme == "always" and first is not None)) and prepend_scheme != "never":
            text = replacement + text
        return [word for word in words(text) if word] if split else [text]

    return cut


MAKERS: dict[str, Callable[..., Cut]] = {"Split": _split, "Digits": _digits, "ByteLevel": _byte_level, "Metaspace": _metaspace}
