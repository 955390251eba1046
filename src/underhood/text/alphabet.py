"""The 256 byte tokens in GPT-2's order, and the visible character that stands for each byte in vocabulary files.

GPT-2 wanted vocabularies that can be read and edited as text. Bytes that are visible characters of Latin-1 stand for themselves; the other 68
(control characters, the space, the soft hyphen) borrow the characters from U+0100 on, which is why a space is written ``Ġ`` there.
Ids of bytes follow the order of those characters: ``!`` is 0, and the space, byte 32, is 220.
Source: OpenAI's GPT-2 release (``encoder.py``), 2019.
"""

VISIBLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
BYTE_OF_ID: tuple[int, ...] = (*VISIBLE, *(byte for byte in range(256) if byte not in VISIBLE))
ID_OF_BYTE: tuple[int, ...] = tuple(BYTE_OF_ID.index(byte) for byte in range(256))
CHAR_OF_BYTE: tuple[str, ...] = tuple(chr(byte) if byte in VISIBLE else chr(256 + ID_OF_BYTE[byte] - len(VISIBLE)) for byte in range(256))
BYTE_OF_CHAR: dict[str, int] = {char: byte for byte, char in enumerate(CHAR_OF_BYTE)}


def byte_ids(word: bytes) -> list[int]:
    """The token id of each byte of ``word``: where every encoding starts."""
    return [ID_OF_BYTE[byte] for byte in word]


def to_chars(token: bytes) -> str:
    """``token`` as vocabulary files write it: ``b" the"`` is ``"Ġthe"``."""
    return "".join(CHAR_OF_BYTE[byte] for byte in token)


def to_bytes(chars: str) -> bytes:
    """The bytes that a vocabulary file's ``chars`` stand for. Raises ``KeyError`` on a character that stands for none."""
    return bytes(BYTE_OF_CHAR[char] for char in chars)


def well_formed(text: str) -> str:
    """``text`` as UTF-8 can hold it: halves of surrogate pairs are joined where they fit and become U+FFFD where they are alone."""
    return utf8(text).decode()


def utf8(text: str) -> bytes:
    """``well_formed(text)`` in UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
