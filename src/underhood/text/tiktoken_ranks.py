"""tiktoken's rank file: one token a line, its bytes in base64 and its rank. Merges are not in it and are found again from the ranks."""

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path

from underhood.base.errors import TokenizerError
from underhood.base.files import write_atomic
from underhood.text.alphabet import BYTE_OF_ID
from underhood.text.vocabulary import Pair, Vocabulary, token_bytes


def ranks_of(vocabulary: Vocabulary) -> dict[bytes, int]:
    """Every token's bytes with its id, as ``tiktoken.Encoding(mergeable_ranks=…)`` takes them; special tokens are not among them."""
    return {token: rank for rank, token in enumerate(token_bytes(vocabulary.merges))}


def write_ranks(path: str | os.PathLike[str], vocabulary: Vocabulary) -> None:
    """Write a rank file, atomically. Pattern and special tokens have no place in this format."""
    lines = [b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in ranks_of(vocabulary).items()]
    write_atomic(path, b"".join(lines))


def read_ranks(path: str | os.PathLike[str], pattern: str, special: Mapping[str, int] | None = None) -> Vocabulary:
    """The vocabulary of a rank file. Raises ``TokenizerError`` naming file and line."""
    path, ranks = Path(path), dict[bytes, int]()
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TokenizerError(error.strerror or str(error), where=str(path)) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
            if token in ranks or int(rank) != len(ranks) or not token:
                raise ValueError
        except (ValueError, binascii.Error):
            raise TokenizerError(f"found {line[:80]!r}", where=f"{path}, line {number}", expected=f"a new token in base64 and the rank {len(ranks)}") from None
        ranks[token] = len(ranks)
    return Vocabulary(merges=merges_of(ranks, str(path)), pattern=pattern, special=dict(special or {}))


def merges_of(ranks: Mapping[bytes, int], where: str = "ranks") -> list[Pair]:
    """The merges behind ``ranks``, whose ids count from 0: each token is encoded by the ranks below its own and must come out as two.

    Raises ``TokenizerError`` when the bytes are not in GPT-2's order or a token cannot be reached by merges.
    """
    tokens = sorted(ranks, key=lambda token: ranks[token])
    if tokens[:256] != [bytes([byte]) for byte in BYTE_OF_ID]:
        raise TokenizerError("the first 256 tokens are not the bytes in GPT-2's order", where=where)
    merges: list[Pair] = []
    for token in tokens[256:]:
        parts = _encode_below(token, ranks)
        if len(parts) != 2:
            raise TokenizerError(f"{token!r} is not made of two earlier tokens", where=f"{where}, rank {ranks[token]}")
        merges.append((ranks[parts[0]], ranks[parts[1]]))
    return merges


def _encode_below(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """``token`` encoded with the ranks below its own."""
    parts, limit = [bytes([byte]) for byte in token], ranks[token]
    while len(parts) > 1:
        rank, i = min((ranks.get(parts[i] + parts[i + 1], limit), i) for i in range(len(parts) - 1))
        if rank >= limit:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
