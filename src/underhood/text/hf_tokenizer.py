"""Tokenizers of published models, read from their ``tokenizer.json``: text to the ids that the ``tokenizers`` library gives, and back.

The families of GPT-2, Llama 3, Qwen, SmolLM and Mistral's tekken spell words in bytes; Llama 2 and Mistral before it spell them in characters, with
bytes for those they lack, as sentencepiece does. Both are one machine whose parts the file names: added tokens, normalizer, pre-tokenizer, merges,
template, decoder. A part or a field that is not known here is refused by name, for it might change the ids.

Three things differ from that library on purpose. A special token inside a text is plain text unless the caller allows it (see ``special``). An id
or a character outside the vocabulary is an error instead of nothing. Bytes that are not UTF-8 are decoded as ``bytes.decode`` does for all
families, where that library turns the whole run of them into U+FFFD for sentencepiece: only so is text that comes token by token the same text.
"""

import dataclasses
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from underhood.base.errors import TokenizerError, UnknownName
from underhood.base.files import write_atomic
from underhood.text.added import AddedToken, Matcher, read_added
from underhood.text.alphabet import CHAR_OF_BYTE, utf8, well_formed
from underhood.text.decoding import read_decoder
from underhood.text.fields import is_count, read_model, require_text, short
from underhood.text.merging import Merges
from underhood.text.normalize import read_normalizer
from underhood.text.pretokenize import read_pre_tokenizer
from underhood.text.template import read_template
from underhood.text.vocabulary import Pair
from underhood.text.words import Memory, WordEncoder

VISIBLE = dict(enumerate(CHAR_OF_BYTE))
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
MATCHERS_KEPT = 64
NOTHING: Mapping[int, str] = MappingProxyType({})


class HFTokenizer:
    """The tokenizer that a parsed ``tokenizer.json`` describes; ``where`` names the file in errors.

    ``special`` and ``added`` give the id of each special, and of each added token; ``begin_ids`` and ``end_ids`` are what the model expects around a
    text. The file's ``truncation`` and ``padding`` are settings of batches and play no part.
    """

    def __init__(self, document: Mapping[str, Any], where: str = "tokenizer.json") -> None:
        self._document = document
        model = read_model(document, where)
        vocab = _vocab(model["vocab"], f"{where}: model.vocab")
        self._words = Memory(self._encode_word)
        self._normalize = read_normalizer(document.get("normalizer"), f"{where}: normalizer")
        self._pre_tokenize = read_pre_tokenizer(document.get("pre_tokenizer"), f"{where}: pre_tokenizer")
        self._decoder = read_decoder(document.get("decoder"), f"{where}: decoder")
        self._added = {token.content: token for token in read_added(document, vocab, where)}
        self.added = {name: token.id for name, token in self._added.items()}
        self.special = {name: token.id for name, token in self._added.items() if token.special}
        self._encoder = _encoder(model, vocab, self.special, f"{where}: model")
        self._names = {number: name for name, number in (vocab | self.added).items()}
        self._names |= {token.id: self._as_found(token) for token in self._added.values()}
        self.tokens = {number: self._decoder.token(name) for number, name in self._names.items()}
        if not self.tokens:
            raise TokenizerError("is empty", where=f"{where}: model.vocab")
        self.begin_ids, self.end_ids = read_template(document.get("post_processor"), f"{where}: post_processor", self.tokens)
        self._matchers: dict[tuple[frozenset[str], bool, tuple[tuple[int, str], ...]], tuple[Matcher, Matcher]] = {}

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self.tokens) + 1

    def encode(self, text: str, allowed_special: Collection[str] = frozenset(), *, add_special_tokens: bool = False, plain: bool = False) -> list[int]:
        """The ids of ``text``, with ``add_special_tokens`` between ``begin_ids`` and ``end_ids``.

        A special token inside the text is plain text unless ``allowed_special`` names it; added tokens that are not special are always found, unless
        ``plain`` is set, which makes plain text of all but runs of white space. Raises ``UnknownName`` for an allowed name that is no added token.
        """
        ids = self._pieces(text, frozenset(allowed_special), plain)[0]
        return [*self.begin_ids, *ids, *self.end_ids] if add_special_tokens else ids

    def encode_pieces(self, pieces: Sequence[str], allowed_special: Collection[str], hidden: Mapping[int, str], border: str) -> list[list[int]]:
        """The ids of each of the pieces that make one text; no token reaches over a border, and no piece but the first begins the text.

        A character in ``hidden`` stands for the one that it is given there, and begins none of ``allowed_special``. ``border`` is a character that occurs
        nowhere. Raises ``TokenizerError`` where the normalizer makes one of them of other characters.
        """
        return self._pieces(border.join(pieces), frozenset(allowed_special), False, hidden, border)

    def _pieces(self, text: str, allowed: frozenset[str], plain: bool, hidden: Mapping[int, str] = NOTHING, border: str = "") -> list[list[int]]:
        """The ids of the pieces between borders."""
        ids: list[list[int]] = [[]]
        raw, normalized = self._matchers_for(allowed, plain, hidden)
        for at, piece in raw.cut(well_formed(text)):
            if isinstance(piece, AddedToken):
                ids[-1].append(piece.id)
                continue
            bare = piece.lstrip(border) if border else piece
            ids += [[] for _ in range(len(piece) - len(bare))]
            parts = normalized.cut(self._normalize(bare) if self._normalize else bare)
            if hidden:
                _require_own([part.content for _, part in parts if isinstance(part, AddedToken)], bare, allowed)
            for inner, part in parts:
                if isinstance(part, AddedToken):
                    ids[-1].append(part.id)
                    continue
                for k, stretch in enumerate(part.split(border) if border else [part]):
                    if k:
                        ids.append([])
                    for word in self._pre_tokenize(stretch.translate(hidden) if hidden else stretch, first=None if k else at + inner == 0) if stretch else ():
                        ids[-1] += self._words[word]
        return ids

    def _matchers_for(self, allowed: frozenset[str], plain: bool, hidden: Mapping[int, str]) -> tuple[Matcher, Matcher]:
        """What finds added tokens in raw and in normalized text; those that need not be allowed are found in their hidden form too."""
        key = allowed, plain, tuple(hidden.items())
        if key not in self._matchers:
            for name in allowed - self.added.keys():
                raise UnknownName("special token", name, self.added)
            if len(self._matchers) >= MATCHERS_KEPT:
                self._matchers.clear()
            always = [token for name, token in self._added.items() if not token.special and name not in allowed and (not plain or name.isspace())]
            hide = {ord(shown): private for private, shown in hidden.items()}
            disguised = [dataclasses.replace(token, content=token.content.translate(hide)) for token in always] if hide else []
            wanted = [*(self._added[name] for name in allowed), *always, *disguised]
            raw = Matcher(token for token in wanted if not token.normalized)
            self._matchers[key] = raw, Matcher((token for token in wanted if token.normalized), self._normalize)
        return self._matchers[key]

    def _as_found(self, token: AddedToken) -> str:
        """An added token as the text from which it is read: one that is looked for in normalized text has sentencepiece's space before it."""
        return self._normalize(token.content) if token.normalized and self._normalize and not self._pre_tokenize.byte_level else token.content

    def _encode_word(self, word: str) -> list[int]:
        return self._encoder.encode(utf8(word).decode("latin-1").translate(VISIBLE) if self._pre_tokenize.byte_level else word)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``. The space that a sentencepiece tokenizer puts before a text is taken away again; bytes that are not UTF-8 become U+FFFD."""
        ids = list(ids)
        data = self.decode_bytes(ids)
        if ids and self._decoder.first:
            data = self._decoder.first(self._names[ids[0]]) + data[len(self.tokens[ids[0]]) :]
        spaces = len(data) - len(data.lstrip(b" "))
        return data[min(spaces, self._decoder.strip) :].decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Each id's own bytes, joined: text that goes on after other text keeps its first space. Raises ``TokenizerError`` for an unknown id."""
        try:
            return b"".join([self.tokens[i] for i in ids])
        except KeyError as error:
            raise TokenizerError(f"no token has the id {error.args[0]}", expected=f"0 … {self.vocab_size - 1}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ``tokenizer.json`` that was read."""
        write_atomic(path, utf8(json.dumps(self._document, ensure_ascii=False, indent=1) + "\n"))


def _require_own(found: Sequence[str], text: str, allowed: Collection[str]) -> None:
    """Normalized text must not hold more control tokens than the text did."""
    made = next((name for name in set(found) & set(allowed) if found.count(name) > text.count(name)), None)
    if made is not None:
        raise TokenizerError(f"the normalizer makes {short(made)} of other text", where="text")


def _vocab(vocab: Mapping[str, Any], where: str) -> dict[str, int]:
    seen: dict[int, str] = {}
    for token, number in vocab.items():
        if not is_count(number):
            raise TokenizerError(f"{short(token)} has {short(number)}", where=where, expected="an id from 0 on")
        if seen.setdefault(number, token) != token:
            raise TokenizerError(f"{short(seen[number])} and {short(token)} have the same id {number}", where=where)
    require_text("".join(vocab), where)
    return dict(vocab)


def _encoder(model: Mapping[str, Any], vocab: Mapping[str, int], special: Collection[str], where: str) -> WordEncoder:
    """What encodes words. It knows no special token, lest text that spells one become a control id by merges."""
    for field, nothing in {"type": "BPE", "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}.items():
        if model[field] != nothing and model[field] not in ("", 0):
            raise TokenizerError(f"found {short(model[field])}, which is not supported", where=f"{where}.{field}", expected=repr(nothing))
    unknown, byte_fallback = model["unk_token"], model["byte_fallback"]
    if unknown is not None and unknown not in vocab:
        raise TokenizerError(f"{short(unknown)} is not in the vocabulary", where=f"{where}.unk_token")
    if byte_fallback and (missing := [token for token in BYTE_TOKENS if token not in vocab]):
        raise TokenizerError(f"{missing[0]!r} is not in the vocabulary", where=f"{where}.byte_fallback", expected="a token for every byte")
    merges = _merges(model["merges"], vocab, special, f"{where}.merges")
    spelling = {token: number for token, number in vocab.items() if token not in special}
    return WordEncoder(
        spelling,
        merges,
        bytes_of=[vocab[token] for token in BYTE_TOKENS] if byte_fallback else None,
        unknown=None if unknown is None else vocab[unknown],
        fuse=model["fuse_unk"],
        whole=model["ignore_merges"],
    )


def _merges(listed: list[Any], vocab: Mapping[str, int], special: Collection[str], where: str) -> Merges:
    pairs: dict[Pair, int] = {}
    for rank, entry in enumerate(listed):
        parts = entry.split(" ") if isinstance(entry, str) else entry
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise TokenizerError(f"found {short(entry)}", where=f"{where}[{rank}]", expected="two tokens")
        for part in (*parts, parts[0] + parts[1]):
            if part not in vocab:
                raise TokenizerError(f"uses {short(part)}, which is not in the vocabulary", where=f"{where}[{rank}]")
        pair = vocab[parts[0]], vocab[parts[1]]
        if pair in pairs:
            raise TokenizerError(f"{short(entry)} stands twice", where=f"{where}[{rank}]")
        pairs[pair] = vocab[parts[0] + parts[1]]
    control = {vocab[name] for name in special if name in vocab}
    kept = {pair: made for pair, made in pairs.items() if made not in control}
    return Merges(list(kept), list(kept.values()))
