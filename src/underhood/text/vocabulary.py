"""A byte-level BPE vocabulary as plain data: what training produces, files hold, and both the readable and the fast tokenizer are built from."""

import dataclasses
from collections.abc import Mapping, Sequence

from underhood.base.errors import ConfigError, TokenizerError, VocabularyTooLarge
from underhood.text.alphabet import BYTE_OF_ID

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Merges in the order in which they were learned, the pattern's name, and the special tokens with their ids."""

    merges: Sequence[Pair]
    pattern: str = "gpt2"
    special: Mapping[str, int] = dataclasses.field(default_factory=dict)


def token_bytes(merges: Sequence[Pair]) -> list[bytes]:
    """The bytes of every token, by id: 256 single bytes in GPT-2's order, then one token a merge.

    Raises ``TokenizerError`` for a merge that stands twice, or of a token that does not exist yet.
    """
    tokens = [bytes([byte]) for byte in BYTE_OF_ID]
    for left, right in merges:
        if not (0 <= left < len(tokens) and 0 <= right < len(tokens)):
            raise TokenizerError(f"joins the ids {left} and {right}", where=f"merge {len(tokens) - 256}", expected=f"ids below {len(tokens)}")
        tokens.append(tokens[left] + tokens[right])
    if len(set(tokens)) != len(tokens):
        twice = next(k for k, token in enumerate(tokens) if token in tokens[:k])
        raise TokenizerError(f"makes {tokens[twice]!r}, which is a token already", where=f"merge {twice - 256}")
    return tokens


def merges_wanted(vocab_size: int, special: Sequence[str] | Mapping[str, int]) -> int:
    """How many merges fill a vocabulary of ``vocab_size`` ids beside the bytes and the special tokens."""
    least = 256 + (1 if isinstance(special, str) else len(special))
    if vocab_size < least:
        raise ConfigError(f"found {vocab_size}", where="vocab_size", expected=f"at least {least}: 256 bytes and {least - 256} special tokens")
    return vocab_size - least


def require_merges(found: int, wanted: int, vocab_size: int) -> None:
    """Raise ``VocabularyTooLarge`` when the text gave fewer merges than wanted."""
    if found < wanted:
        raise VocabularyTooLarge(vocab_size, vocab_size - (wanted - found))
