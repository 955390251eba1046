"""Pre-tokenisation: cut text into words before any merge, so that no token ever crosses from one word into the next.

The patterns are the definition. A word carries the space before it, which makes ``" dog"`` one token in a sentence and spares a token for each space.
GPT-4's pattern differs from GPT-2's in four ways: contractions in capitals too, at most three digits in a word, one sign may open a word (``(self``),
and line ends stay with the signs before them.
Sources: GPT-2 (Radford et al. 2019, ``encoder.py``); GPT-4's ``cl100k_base`` as in tiktoken. Both are written here so that Python's ``regex``,
Rust's ``fancy_regex`` (tiktoken) and Oniguruma (tokenizers) read them alike: hence ``[sSſ…]`` for "s in any case" and ``(?![\\s\\S])`` for "the end".
"""

import functools

import regex  # type: ignore[import-untyped]

from underhood.base.errors import UnknownName

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4 = (
    r"'(?:[sSſdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s"
)
PATTERNS = {"gpt2": GPT2, "gpt4": GPT4}


def split(text: str, pattern: str = "gpt2") -> list[str]:
    """``text`` cut into words, nothing lost: joined they are ``text`` again.

    ``pattern`` is ``"gpt2"`` or ``"gpt4"``. Raises ``UnknownName`` for any other.
    """
    words: list[str] = regex.findall(expression(pattern), text)
    return words


def expression(pattern: str) -> str:
    """The regular expression called ``pattern``. Raises ``UnknownName`` with the nearest."""
    if pattern not in PATTERNS:
        raise UnknownName("pattern", pattern, PATTERNS)
    return PATTERNS[pattern]


OTHER, LETTER, NUMBER, SPACE, LINE_END = range(5)


@functools.cache
def character_classes() -> bytes:
    """One byte per code point: what the patterns can tell apart, asked of ``regex`` itself so that the two can never differ.

    A splitter made by hand needs no more than this table; surrogates, which no UTF-8 text holds, are OTHER.
    """
    every = "".join(map(chr, range(0x110000)))
    table = bytearray(len(every))
    for expression, kind in ((r"\p{L}+", LETTER), (r"\p{N}+", NUMBER), (r"\s+", SPACE), (r"[\r\n]+", LINE_END)):
        for found in regex.finditer(expression, every):
            table[found.start() : found.end()] = bytes([kind]) * (found.end() - found.start())
    return bytes(table)
