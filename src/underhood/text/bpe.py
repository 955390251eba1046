"""Byte-level byte-pair encoding, the readable version: it defines what is correct, and ``bpe_fast`` must agree with it.

Training starts from single bytes and, again and again, makes the most frequent pair of neighbours into a new token. Encoding replays those merges in
the order in which they were learned. Every byte has a token, so any text can be encoded and nothing is ever unknown.
Sources: Gage 1994 (the algorithm); Sennrich, Haddow & Birch 2016, arXiv 1508.07909 (for text); Radford et al. 2019 (bytes, words first).
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise

from underhood.base.errors import TokenizerError
from underhood.text.alphabet import byte_ids, utf8, well_formed
from underhood.text.special import number_special, split_special
from underhood.text.split import split
from underhood.text.tokenizer_json import read_tokenizer_json, write_tokenizer_json
from underhood.text.vocabulary import Pair, Vocabulary, merges_wanted, require_merges, token_bytes


def count_words(texts: Iterable[str], pattern: str = "gpt2") -> Counter[tuple[int, ...]]:
    """How often each word stands in ``texts``, as the ids of its bytes. Merges need no more than this: they never cross words."""
    words = Counter(word for text in texts for word in split(well_formed(text), pattern))
    return Counter({tuple(byte_ids(utf8(word))): count for word, count in words.items()})


def count_pairs(words: Mapping[tuple[int, ...], int]) -> Counter[Pair]:
    """How often each pair of neighbouring ids stands in ``words``, a word counting as often as it occurs."""
    pairs: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            pairs[pair] += count
    return pairs


def merge(word: Sequence[int], pair: Pair, new: int) -> tuple[int, ...]:
    """``word`` with every occurrence of ``pair`` replaced by the id ``new``, from left to right: in a a a the first two merge."""
    merged, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return tuple(merged)


def learn_merges(words: Mapping[tuple[int, ...], int], n: int) -> list[Pair]:
    """The first ``n`` merges: each time the most frequent pair; of equals, the smaller (left id, right id).

    Returns fewer where every word has become a single token.
    """
    merges: list[Pair] = []
    while len(merges) < n:
        pairs = count_pairs(words)
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        words = {merge(word, best, 256 + len(merges)): count for word, count in words.items()}
        merges.append(best)
    return merges


def encode_word(word: bytes, ranks: Mapping[Pair, int]) -> list[int]:
    """The ids of one word: of all pairs present the one learned first is merged, until none is left that was learned.

    ``ranks`` maps each merge to its place in the order of learning; the merge of rank r makes id 256 + r.
    """
    ids = tuple(byte_ids(word))
    while True:
        known = [pair for pair in pairwise(ids) if pair in ranks]
        if not known:
            return list(ids)
        first = min(known, key=lambda pair: ranks[pair])
        ids = merge(ids, first, 256 + ranks[first])


class BPE:
    """A tokenizer: text to ids and back.

    ``merges`` in the order learned; ``pattern`` names how text is cut into words; ``special`` tokens get the ids after the merges, or those given.
    """

    def __init__(self, merges: Sequence[Pair], pattern: str = "gpt2", special: Mapping[str, int] | Sequence[str] = ()) -> None:
        self.merges, self.pattern = list(merges), pattern
        self.ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self.special = number_special(special, 256 + len(self.merges))
        self.tokens = dict(enumerate(token_bytes(self.merges))) | {number: name.encode() for name, number in self.special.items()}

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, pattern: str = "gpt2", special: Sequence[str] = ()) -> "BPE":
        """Learn a vocabulary of ``vocab_size`` ids, bytes and special tokens included. Raises ``DataError`` when the text cannot fill it."""
        wanted = merges_wanted(vocab_size, special)
        merges = learn_merges(count_words(texts, pattern), wanted)
        require_merges(len(merges), wanted, vocab_size)
        return cls(merges, pattern, special)

    @property
    def vocab_size(self) -> int:
        """One more than the highest id."""
        return max(self.tokens) + 1

    def encode(self, text: str, allowed_special: Collection[str] = frozenset()) -> list[int]:
        """The ids of ``text``. A special token inside it is plain text unless ``allowed_special`` names it."""
        ids: list[int] = []
        for piece in split_special(well_formed(text), self.special, allowed_special):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                for word in split(piece, self.pattern):
                    ids.extend(encode_word(utf8(word), self.ranks))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``: their bytes are joined first, for a token may end in the middle of a character.

        Bytes that are not UTF-8 (ids cut off in the middle, or never made from text) become U+FFFD; ``decode_bytes`` keeps them.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of ``ids``. Raises ``TokenizerError`` for an id outside the vocabulary."""
        try:
            return b"".join([self.tokens[i] for i in ids])
        except KeyError as error:
            raise TokenizerError(f"no token has the id {error.args[0]}", expected=f"0 … {self.vocab_size - 1}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a ``tokenizer.json`` that the ``tokenizers`` library loads too."""
        write_tokenizer_json(path, Vocabulary(merges=self.merges, pattern=self.pattern, special=self.special))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "BPE":
        """Read a ``tokenizer.json``. Raises ``TokenizerError`` naming what is damaged."""
        vocabulary = read_tokenizer_json(path)
        return cls(vocabulary.merges, vocabulary.pattern, vocabulary.special)
