"""What any correct byte-level BPE satisfies. The oracles are merges worked out by hand, merges stored from the ``tokenizers`` library,
and the definition itself, replayed without cleverness."""

import random
from functools import partial

from underhood.lab.check import Check, Part, check, equal, holds, runs

WORDS = {
    "gpt2": [
        "I", "'ve", " seen", " 3", " dogs", ",", " they", "'re", " here", ":", "\n  ", " x", " =", " 1234", "\t", "end", "  "
    ],
    "gpt4": [
        "I", "'ve", " seen", " ", "3", " dogs", ",", " they", "'re", " here", ":\n", "  ", " x", " =", " ", "123", "4", "\tend", "  "
    ],
}  # fmt: skip
MILL = (
    "The miller had a mill by the river. The miller's mill ground meal, and the miller's meal was the best meal by the river: 12 sacks a day, 84 a week.\n"
    '  "More meal!" said the miller. The river ran, the mill ran,\n\tand the miller ran too.'
)
MILL_MERGES = [
    (220, 76), (71, 68), (68, 81), (72, 75), (220, 83), (256, 259), (261, 75), (260, 257), (220, 81), (64, 77), (262, 258), (64, 75),
    (68, 267), (256, 268), (51, 257), (72, 85), (220, 64), (220, 65), (264, 265), (264, 271), (275, 258), (6, 82), (82, 64), (220, 86),
]  # fmt: skip
END = "<|end|>"


def _ids(text: str) -> tuple[int, ...]:
    """The ids of visible ASCII characters, a space among them: ``!`` is 0."""
    return tuple(220 if char == " " else ord(char) - ord("!") for char in text)


def _spelled(token: int, merges: list[tuple[int, int]]) -> str:
    """The visible ASCII characters of a token, read from the merges."""
    if token >= 256:
        return "".join(_spelled(part, merges) for part in merges[token - 256])
    return " " if token == 220 else chr(token + ord("!"))


def _text(rng: random.Random, length: int = 60) -> str:
    """Letters of many scripts, digits, signs, white space, emoji: everything but surrogates."""
    ranges = (
        (32, 127),
        (32, 127),
        (9, 14),
        (160, 0x250),
        (0x370, 0x400),
        (0x400, 0x530),
        (0x900, 0x980),
        (0x2000, 0x2070),
        (0x4E00, 0x4F00),
        (0x1F600, 0x1F650),
    )
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(length))


def _replayed(word: tuple[int, ...], merges: list[tuple[int, int]]) -> list[int]:
    """Every merge tried once, in the order of learning, from left to right: the definition of encoding."""
    ids = list(word)
    for rank, pair in enumerate(merges):
        i = 0
        while i + 1 < len(ids):
            if (ids[i], ids[i + 1]) == pair:
                ids[i : i + 2] = [256 + rank]
            i += 1
    return ids


@check(
    "Words",
    hints=(
        "A word takes one space before it along; where two words could claim a character, the alternatives of the pattern are tried in their order.",
        "White space before a word: all but its last space is a piece of its own, and the last goes with the word.",
        "regex.findall(pattern, text) with the module `regex`, not `re`: `re` does not know \\p{L}.",
    ),
)
def check_words(part: Part, rng: random.Random) -> None:
    """Both patterns cut a text with contractions, numbers, code and white space as GPT-2 and GPT-4 do."""
    for pattern, words in WORDS.items():
        text = "".join(words)
        found = runs(partial(part.split, text, pattern), "split does not run", given=text)
        equal(found, words, f"the {pattern} pattern cuts this text into other words", given=text)


@check(
    "Words",
    hints=(
        "What does a tokenizer do that has lost a line break? It can never give it back.",
        "Every character belongs to exactly one word, white space too.",
        "The last alternative of the pattern, \\s+, takes what no other took; nothing is stripped and nothing skipped.",
    ),
)
def check_nothing_lost(part: Part, rng: random.Random) -> None:
    """The words of a text, joined, are the text."""
    for _ in range(30):
        text = _text(rng)
        for pattern in WORDS:
            found = runs(partial(part.split, text, pattern), "split does not run", given=repr(text))
            equal("".join(found), text, "joined words are not the text", given=repr(text))


@check(
    "Counting pairs",
    hints=(
        "A word that stands a hundred times in the text says a hundred times which letters are neighbours.",
        "words maps each distinct word to its count; each of its neighbouring pairs gains that count.",
        "for word, count in words.items(): for pair in zip(word, word[1:]): pairs[pair] += count",
    ),
)
def check_pair_counts(part: Part, rng: random.Random) -> None:
    """Pairs are weighted by how often their word occurs."""
    words = {(1, 2, 3): 5, (2, 3): 2, (1, 2, 1, 2): 3, (4,): 9}
    found = dict(runs(lambda: part.count_pairs(words), "count_pairs does not run", given=words))
    expected = {(1, 2): 5 + 3 + 3, (2, 3): 5 + 2, (2, 1): 3}
    equal({pair: n for pair, n in found.items() if n}, expected, "a pair's count is the number of times that it stands in the text", given=words)


@check(
    "Merging",
    hints=(
        "In a a a, which two of the three merge?",
        "Walk from left to right; after a match go on behind it, so that no id is used twice.",
        "On a match append the new id and move two places; else append the id and move one.",
    ),
)
def check_merge(part: Part, rng: random.Random) -> None:
    """Occurrences are replaced from left to right, and each id is used once."""
    for word, expected in (((1, 2, 3, 1, 2), [9, 3, 9]), ((2, 1, 1), [2, 1, 1]), ((1, 2), [9]), ((), [])):
        found = list(runs(partial(part.merge, word, (1, 2), 9), "merge does not run", given=word))
        equal(found, expected, "merging (1, 2) into 9 gives something else", given=word)
    for n in range(1, 8):
        found = list(runs(partial(part.merge, (1,) * n, (1, 1), 9), "merge does not run", given=(1,) * n))
        equal(found, [9] * (n // 2) + [1] * (n % 2), "equal neighbours merge two by two from the left", given=(1,) * n)


@check(
    "Learning merges",
    hints=(
        "The most frequent pair first. And when two are equally frequent?",
        "Of equals, the smaller left id; of those, the smaller right id. Then everybody who trains on a text gets the same ids.",
        "best = min(pairs, key=lambda pair: (-pairs[pair], pair))",
    ),
)
def check_ties(part: Part, rng: random.Random) -> None:
    """Equally frequent pairs merge in the order of their ids, and learning stops when no pair is left."""
    words = {(5, 1): 2, (3, 8): 2, (3, 4): 2, (7, 7): 1}
    found = list(runs(lambda: part.learn_merges(words, 10), "learn_merges does not run", given=words))
    equal(found, [(3, 4), (3, 8), (5, 1), (7, 7)], "merges stand in another order, or go on after every word has become one token", given=words)


@check(
    "Learning merges",
    hints=(
        "Count words, learn merges; the first merges of this text are worth doing by hand.",
        "After each merge the pairs are counted anew, in the merged words. The new token's id is 256 plus the number of merges so far.",
        "BPE.train: split every text, count the words as tuples of byte ids in GPT-2's order, learn vocab_size − 256 − len(special) merges.",
    ),
)
def check_training(part: Part, rng: random.Random) -> None:
    """The merges of a small text are those that the ``tokenizers`` library learned from it."""
    tokenizer = runs(lambda: part.BPE.train([MILL], 256 + len(MILL_MERGES)), "training does not run", given=MILL)
    equal([tuple(pair) for pair in tokenizer.merges], MILL_MERGES, "training learns other merges than an independent trainer", given=MILL)


@check(
    "Encoding",
    hints=(
        "A pair that comes early in the word is not the one that was learned early.",
        "Of all pairs present that were learned, merge the one of the lowest rank; then look again.",
        "first = min((pair for pair in zip(ids, ids[1:]) if pair in ranks), key=ranks.get)",
    ),
)
def check_rank_order(part: Part, rng: random.Random) -> None:
    """Encoding equals replaying the merges in the order in which they were learned."""
    merges = [(1, 2), (0, 1), (2, 3), (256, 3), (0, 256), (258, 258), (257, 257)]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for _ in range(60):
        word = bytes(rng.choice(b'!"#$') for _ in range(rng.randrange(1, 12)))
        expected = _replayed(tuple(byte - ord("!") for byte in word), merges)
        found = list(runs(partial(part.encode_word, word, ranks), "encode_word does not run", given=word))
        equal(found, expected, "the merges were not applied in the order in which they were learned", given={"word": word, "merges": merges})


@check(
    "Encoding",
    hints=(
        "Would you want one token for «. The»?",
        "Merges happen inside words only, both when they are learned and when they are used.",
        "Split first; count pairs in words and encode word by word. A space is the first byte of its word and never stands inside a token.",
    ),
)
def check_tokens_stay_in_words(part: Part, rng: random.Random) -> None:
    """However often two words follow each other, no token holds both; and a frequent word is one token together with its space."""
    text = "say it now, say it now, say it now"
    tokenizer = runs(lambda: part.BPE.train([text], 256 + 7), "training does not run", given=text)
    ids = runs(lambda: list(tokenizer.encode(text)), "encoding does not run")
    pieces = runs(lambda: [_spelled(i, tokenizer.merges) for i in ids], "an id is not in the vocabulary", given=ids)
    glued = [piece for piece in pieces if " " in piece[1:] or ("," in piece and len(piece) > 1)]
    holds(not glued, "a token crosses from one word into the next", given=text, found=pieces)
    holds(" it" in pieces and " now" in pieces, "a word and the space before it are not one token", given=text, found=pieces)


@check(
    "Decoding",
    hints=(
        "How many bytes has 語, and must they be in one token?",
        "A token may end in the middle of a character; only all the bytes together are text.",
        'b"".join(bytes of each id).decode("utf-8", errors="replace")',
    ),
)
def check_round_trip(part: Part, rng: random.Random) -> None:
    """decode(encode(text)) is the text, for any text."""
    tokenizer = runs(lambda: part.BPE.train([MILL], 270), "training does not run")
    for text in ("", "naïve 日本語 👩‍🚀", *(_text(rng) for _ in range(20))):
        found = runs(partial(_back_and_forth, tokenizer, text), "encoding and decoding do not run", given=repr(text))
        equal(found, text, "decode(encode(text)) is another text", given=repr(text))


def _back_and_forth(tokenizer: object, text: str) -> str:
    decoded: str = tokenizer.decode(tokenizer.encode(text))  # type: ignore[attr-defined]
    return decoded


@check(
    "Special tokens",
    hints=(
        "Who decides that a document ends here: your program, or anyone who can type?",
        "Unless the caller allows a special token by name, its characters are characters like any others.",
        "encode cuts the text at the allowed special tokens only; the default allows none.",
    ),
)
def check_specials(part: Part, rng: random.Random) -> None:
    """A special token in a text is text, unless it is allowed; then it is one id, and so it decodes."""
    tokenizer = runs(lambda: part.BPE([(32, 33)], special=[END]), "BPE(merges, special=[…]) does not run")
    text = f"a{END}b"
    found = runs(lambda: tokenizer.encode(text), "encoding does not run", given=text)
    holds(257 not in found, "a user's text produced a control id", given=text, found=found)
    equal(runs(lambda: tokenizer.decode(found), "decoding does not run"), text, "the text of the special token is changed", given=text)
    found = runs(lambda: tokenizer.encode(text, allowed_special={END}), "encoding with allowed_special does not run", given=text)
    equal(list(found), [*_ids("a"), 257, *_ids("b")], "an allowed special token is one id, the first after the merges", given=text)


CHECKS: tuple[Check, ...] = (
    check_words,
    check_nothing_lost,
    check_pair_counts,
    check_merge,
    check_ties,
    check_training,
    check_rank_order,
    check_tokens_stay_in_words,
    check_round_trip,
    check_specials,
)
