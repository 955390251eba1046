"""Added tokens: strings that are found in a text before anything else is done to it, each with an id of its own.

Most are special (the end of a text, the start of a message) and are found only where the caller allows it. Some are not, such as Qwen's
``<tool_call>``: they are found in any text, unless it is encoded as ``plain``.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import regex  # type: ignore[import-untyped]

from underhood.base.errors import TokenizerError
from underhood.text.fields import COUNT, FLAG, TEXT, is_count, read_fields, short
from underhood.text.normalize import Step

FIELDS = {"id": COUNT, "content": TEXT, "single_word": FLAG, "lstrip": FLAG, "rstrip": FLAG, "normalized": FLAG, "special": FLAG}
WORD = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]")
SPACES, SPACES_BEFORE = regex.compile(r"\s*"), regex.compile(r"(?r)\s*")
END = ""  # in a trie: the token that ends here


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddedToken:
    """``lstrip`` and ``rstrip`` take in the white space beside it; ``single_word`` finds it only where no letter or digit touches it;
    ``normalized`` looks for it in the text after the normalizer and not before."""

    id: int
    content: str
    special: bool
    normalized: bool
    lstrip: bool
    rstrip: bool
    single_word: bool


def read_added(document: Mapping[str, Any], vocab: Mapping[str, int], where: str) -> list[AddedToken]:
    """The ``added_tokens``. Raises ``TokenizerError`` for an id that is not the one which ``tokenizers`` gives, whatever the file says."""
    listed = document.get("added_tokens") or []
    if not isinstance(listed, list):
        raise TokenizerError(f"found {short(listed)}", where=f"{where}: added_tokens", expected="a list")
    taken = {number: name for name, number in vocab.items()}
    found: dict[str, AddedToken] = {}
    for k, entry in enumerate(listed):
        here = f"{where}: added_tokens[{k}]"
        token = AddedToken(**read_fields(entry, here, FIELDS))
        if not token.content or token.content in found:
            raise TokenizerError(f"{token.content!r} is empty or stands twice", where=here)
        if not is_count(token.id) or vocab.get(token.content, token.id) != token.id or taken.setdefault(token.id, token.content) != token.content:
            has = taken.get(token.id) or f"the id {vocab.get(token.content)} in the vocabulary"
            raise TokenizerError(f"{token.content!r} has the id {token.id}, which is not its own", where=here, expected=f"one that is free (found {has!r})")
        if token.id != (given := next_id(token.content, vocab, found)):
            raise TokenizerError(f"{token.content!r} has the id {token.id}, to which others count {given}", where=here, expected="ids in order, without gaps")
        found[token.content] = token
    return list(found.values())


def next_id(content: str, vocab: Mapping[str, int], before: Iterable[str]) -> int:
    """The id that ``tokenizers`` gives an added token: the vocabulary's, else as many as the vocabulary has entries and new tokens came ``before``."""
    return vocab.get(content, len(vocab) + sum(name not in vocab for name in before))


class Matcher:
    """Finds tokens in a text: the leftmost first, of several at one place the longest."""

    def __init__(self, tokens: Iterable[AddedToken], normalizer: Step | None = None) -> None:
        self.trie: dict[str, Any] = {}
        for token in tokens:
            node = self.trie
            for char in normalizer(token.content) if normalizer else token.content:
                node = node.setdefault(char, {})
            node.setdefault(END, token)
        self.first = regex.compile("|".join(_beginning(char, node) for char, node in self.trie.items() if char)) if self.trie.keys() - {END} else None

    def cut(self, text: str) -> list[tuple[int, str | AddedToken]]:
        """``text`` as tokens and the text between them, each with its place."""
        if self.first is None or not self.first.search(text):
            return [(0, text)] if text else []
        pieces: list[tuple[int, str | AddedToken]] = []
        at = 0
        for start, stop, token in self._matches(text):
            if token.single_word and (WORD.match(text[start - 1 : start]) or WORD.match(text, stop)):
                continue
            begin = max(at, SPACES_BEFORE.match(text, at, start).start()) if token.lstrip else start
            if at < begin:
                pieces.append((at, text[at:begin]))
            pieces.append((begin, token))
            at = SPACES.match(text, stop).end() if token.rstrip else stop
        return [*pieces, (at, text[at:])] if at < len(text) else pieces

    def _matches(self, text: str) -> Iterator[tuple[int, int, AddedToken]]:
        assert self.first
        at, n = 0, len(text)
        while found := self.first.search(text, at):
            at = i = found.start()
            node: Any = self.trie
            longest = None
            while i < n and (node := node.get(text[i])):
                i += 1
                if END in node:
                    longest = at, i, node[END]
            if longest:
                yield longest
            at = longest[1] if longest else at + 1


def _beginning(char: str, node: dict[str, Any]) -> str:
    """An expression for the first character of some tokens, followed by the second of one of them."""
    return regex.escape(char) + ("" if END in node else f"(?=[{''.join(map(regex.escape, node))}])")  # type: ignore[no-any-return]
