"""What any correct byte-level BPE satisfies. The oracles are merges worked out by hand, merges stored from the ``tokenizers`` library,
and the definition itself, replayed without cleverness."""

import contextlib
import random
import tempfile
from functools import partial
from typing import Any

from underhood.base.errors import DataError, TokenizerError, UnknownName
from underhood.lab.check import Check, Part, check, equal, holds, refuses, runs

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
DAMAGED = "a\ud800"  # half of a surrogate pair, which UTF-8 cannot hold
VISIBLE = (*range(33, 127), *range(161, 173), *range(174, 256))
ID_OF = {byte: number for number, byte in enumerate((*VISIBLE, *(byte for byte in range(256) if byte not in VISIBLE)))}
ONE_TO_FOUR = [(16, 17), (256, 18), (257, 19)]  # merges that make 12, 123 and 1234


def _ids(text: str) -> tuple[int, ...]:
    """The ids of the bytes of ``text``: visible bytes first, so ``!`` is 0 and the space is 220."""
    return tuple(ID_OF[byte] for byte in text.encode())


def _same_text(found: Any, expected: str, says: str, *, given: Any) -> None:
    """``equal`` for texts that a terminal may not be able to show."""
    holds(found == expected, says, given=ascii(given), expected=ascii(expected), found=ascii(found))


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
        "regex.findall(expression(pattern), text) with the module `regex`, not `re`: `re` does not know \\p{L}. `expression` refuses what it does not know.",
    ),
)
def check_words(part: Part, rng: random.Random) -> None:
    """Both patterns cut a text with contractions, numbers, code and white space as GPT-2 and GPT-4 do; GPT-2's is the default, and there is no third."""
    for pattern, words in WORDS.items():
        text = "".join(words)
        found = runs(partial(part.split, text, pattern), "split does not run", given=text)
        equal(list(found), words, f"the {pattern} pattern cuts this text into other words", given=text)
    found = runs(partial(part.split, "".join(WORDS["gpt2"])), "split does not run without a pattern")
    equal(list(found), WORDS["gpt2"], "without a pattern, a text is cut by gpt2's")
    refuses(lambda: part.split("a", "gpt3"), UnknownName, "a pattern that is neither gpt2 nor gpt4 must be an error", given={"pattern": "gpt3"})


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
            found = runs(partial(part.split, text, pattern), "split does not run", given=ascii(text))
            _same_text("".join(found), text, "joined words are not the text", given=text)


@check(
    "Counting pairs",
    hints=(
        "Training looks at distinct words only. What does it have to know of each?",
        "Cut every text into words by the pattern, and count them over all texts; a word is the tuple of the ids of its bytes.",
        "Counter(word for text in texts for word in split(well_formed(text), pattern)), then tuple(byte_ids(utf8(word))) in place of each word.",
    ),
)
def check_word_counts(part: Part, rng: random.Random) -> None:
    """The words of all texts together, each as the ids of its bytes; by the pattern that is named, and of any text that Python can hold."""
    texts = ["a mill, a mill", "a mill"]
    found = dict(runs(lambda: part.count_words(texts), "count_words does not run", given=texts))
    expected = {_ids("a"): 2, _ids(" mill"): 3, _ids(","): 1, _ids(" a"): 1}
    equal(found, expected, "a word's count is the number of times that it stands in all texts; two texts are not joined", given=texts)
    found = dict(runs(lambda: part.count_words(["1234"], "gpt4"), "count_words does not take a pattern", given=["1234"]))
    equal(found, {_ids("123"): 1, _ids("4"): 1}, "count_words cuts by the pattern that it is given", given={"texts": ["1234"], "pattern": "gpt4"})
    found = dict(runs(lambda: part.count_words([DAMAGED]), "count_words stops at half a surrogate pair", given=ascii([DAMAGED])))
    equal(found, {_ids("a"): 1, _ids("\ufffd"): 1}, "half a surrogate pair counts as U+FFFD, the bytes ef bf bd", given=ascii([DAMAGED]))


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
    """Equally frequent pairs merge in the order of their ids; learning stops after n merges, or when no pair is left."""
    words = {(5, 1): 2, (3, 8): 2, (3, 4): 2, (7, 7): 1}
    found = list(runs(lambda: part.learn_merges(words, 10), "learn_merges does not run", given=words))
    equal(found, [(3, 4), (3, 8), (5, 1), (7, 7)], "merges stand in another order, or go on after every word has become one token", given=words)
    found = list(runs(lambda: part.learn_merges(words, 2), "learn_merges does not run", given=words))
    equal(found, [(3, 4), (3, 8)], "learn_merges(words, 2) gives two merges", given=words)


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
    text = "(a\n(a"
    tokenizer = runs(lambda: part.BPE.train([text], 257, "gpt4"), "train cuts by another pattern than it is given", given={"text": text, "pattern": "gpt4"})
    equal([tuple(pair) for pair in tokenizer.merges], [_ids("(a")], "GPT-4's pattern makes «(a» one word", given=text)


@check(
    "Learning merges",
    hints=(
        "A vocabulary holds 256 bytes, the merges and the special tokens. How many merges are left for a given size?",
        "merges_wanted counts them; require_merges refuses a text that gives fewer. Special tokens stand behind the merges, or where a mapping puts them.",
        "wanted = merges_wanted(vocab_size, special); learn; require_merges(len(merges), wanted, vocab_size). vocab_size is max(self.tokens) + 1.",
    ),
)
def check_vocabulary_size(part: Part, rng: random.Random) -> None:
    """A trained vocabulary has the size that was asked for, special tokens included, or there is none; the size is one more than the highest id."""
    given = {"texts": ["aab aab"], "special": [END]}
    tokenizer = runs(lambda: part.BPE.train(["aab aab"], 260, special=[END]), "training with a special token does not run", given=given)
    found = {"merges": len(tokenizer.merges), "vocab_size": runs(lambda: tokenizer.vocab_size, "there is no vocab_size")}
    equal(found, {"merges": 3, "vocab_size": 260}, "260 ids are 256 bytes, 3 merges and the special token", given=given)
    says = "this text allows three merges: a vocabulary that it cannot fill must be an error, not a smaller vocabulary"
    refuses(lambda: part.BPE.train(["aab aab"], 261, special=[END]), DataError, says, given={**given, "vocab_size": 261})
    for special, size in ((["<|a|>", "<|b|>"], 259), ({"<|a|>": 300, "<|b|>": 280}, 301)):
        tokenizer = runs(partial(part.BPE, [_ids("ab")], special=special), "BPE(merges, special=…) does not run", given={"special": special})
        found = runs(partial(getattr, tokenizer, "vocab_size"), "there is no vocab_size")
        equal(found, size, "vocab_size is one more than the highest id, special tokens included", given={"one merge, and special": special})


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
    "Encoding",
    hints=(
        "The same merges give other ids when the text is cut into other words. Who knows how this tokenizer cuts?",
        "encode cuts by the pattern that the tokenizer was made with, after what UTF-8 cannot hold has been put right.",
        "for word in split(well_formed(text), self.pattern): ids.extend(encode_word(utf8(word), self.ranks))",
    ),
)
def check_own_pattern(part: Part, rng: random.Random) -> None:
    """A tokenizer cuts by its own pattern, and encodes any text that Python can hold."""
    for pattern, expected in (("gpt2", [258]), ("gpt4", [257, 19])):
        tokenizer = runs(partial(part.BPE, ONE_TO_FOUR, pattern), "BPE(merges, pattern) does not run", given={"pattern": pattern})
        given = {"text": "1234", "pattern": pattern, "tokens": "12, 123 and 1234 beside the bytes"}
        found = list(runs(partial(tokenizer.encode, "1234"), "encoding does not run", given=given))
        equal(found, expected, "encode does not cut words by the pattern that the tokenizer was made with", given=given)
    asked: dict[str, object] = {"texts": ["(a\n(a"], "vocab_size": 257, "pattern": "gpt4"}
    trained = runs(lambda: part.BPE.train(["(a\n(a"], 257, "gpt4"), "training does not run", given=asked)
    found = list(runs(lambda: trained.encode("(a"), "encoding does not run", given=asked))
    equal(found, [256], "a trained tokenizer does not cut words by the pattern that it was trained with", given={**asked, "text": "(a"})
    found = list(runs(lambda: part.BPE([]).encode(DAMAGED), "encode stops at half a surrogate pair", given=ascii(DAMAGED)))
    equal(found, [*_ids("a\ufffd")], "half a surrogate pair is encoded as U+FFFD, the bytes ef bf bd", given=ascii(DAMAGED))


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
        found = runs(partial(_back_and_forth, tokenizer, text), "encoding and decoding do not run", given=ascii(text))
        _same_text(found, text, "decode(encode(text)) is another text", given=text)


def _back_and_forth(tokenizer: object, text: str) -> str:
    decoded: str = tokenizer.decode(tokenizer.encode(text))  # type: ignore[attr-defined]
    return decoded


@check(
    "Decoding",
    hints=(
        "Ids come from a model as well, and a model may write anything. What if the bytes are no text, or the id is none of yours?",
        "Join the bytes of all ids, then read UTF-8 once, with U+FFFD for what is not UTF-8. An id that has no token is an error that names it.",
        "decode_bytes: look up every id in self.tokens and raise TokenizerError where one is missing; decode: decode_bytes(ids).decode(errors='replace').",
    ),
)
def check_bytes_first(part: Part, rng: random.Random) -> None:
    """Bytes are joined and then read; what is no UTF-8 becomes U+FFFD, a special id its name, and an id without a token an error."""
    tokenizer = runs(lambda: part.BPE([_ids("ab")], special={END: 300}), "BPE(merges, special={…}) does not run")
    first, second = _ids("é")
    for ids, text in (([64, first, second], "aé"), ([64, first, 65], "a\ufffdb"), ([second], "\ufffd"), ([256, 300, 64], f"ab{END}a")):
        found = runs(partial(tokenizer.decode, ids), "decoding does not run", given=ids)
        _same_text(found, text, "decode joins the bytes of all ids, and puts U+FFFD where they are no UTF-8", given=ids)
    found = runs(lambda: tokenizer.decode_bytes([256, first]), "decode_bytes does not run", given=[256, first])
    equal(found, b"ab\xc3", "decode_bytes gives the bytes as they are", given=[256, first])
    for wrong in (257, 301, -1):
        for name in ("decode_bytes", "decode"):
            refuses(partial(getattr(tokenizer, name), [64, wrong]), TokenizerError, f"{name} must refuse an id that has no token", given=[64, wrong])


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


@check(
    "Special tokens",
    hints=(
        "Two special tokens may begin alike, a caller may allow one and not the other, and may mistype a third.",
        "Look at every allowed name before you cut: one that is unknown is an error even if the text does not hold it. Try longer names before shorter ones.",
        "names = sorted(set(allowed), key=len, reverse=True); UnknownName for one not in special; re.split(f\"({'|'.join(map(re.escape, names))})\", text).",
    ),
)
def check_allowed_names(part: Part, rng: random.Random) -> None:
    """Text is cut at the allowed names and at no other, the longest first; an allowed name that is no special token is an error."""
    special, text = {"<|a|>": 300, "<|a|><|b|>": 301}, "x<|a|><|b|>y<|a|>"
    cases: tuple[tuple[list[str], list[str | int]], ...] = (
        (["<|a|>", "<|a|><|b|>"], ["x", 301, "y", 300]),
        (["<|a|>"], ["x", 300, "<|b|>y", 300]),
        ([], [text]),
    )
    for allowed, expected in cases:
        given = {"text": text, "special": special, "allowed": allowed}
        found = [piece for piece in runs(partial(part.split_special, text, special, allowed), "split_special does not run", given=given) if piece != ""]
        equal(found, expected, "a text is cut at the allowed special tokens only, and the longest wins where two start at the same place", given=given)
    tokenizer = runs(lambda: part.BPE([], special=special), "BPE(merges, special={…}) does not run", given={"special": special})
    found = list(runs(lambda: tokenizer.encode(text, allowed_special={"<|a|>"}), "encoding does not run", given=text))
    ids = [*_ids("x"), 300, *_ids("<|b|>y"), 300]
    equal(found, ids, "encode must recognise the special token that is allowed, with its own id, and no other", given={"text": text, "allowed": ["<|a|>"]})
    given = {"text": "plain", "special": special, "allowed": ["<|c|>"]}
    says = "an allowed name that is no special token must be an error"
    refuses(lambda: part.split_special("plain", special, ["<|c|>"]), UnknownName, f"split_special: {says}", given=given)
    refuses(lambda: tokenizer.encode("plain", allowed_special={"<|c|>"}), UnknownName, f"encode: {says}", given=given)


@check(
    "Special tokens",
    hints=(
        "What must a file hold so that a tokenizer read from it gives the same ids to every text?",
        "Merges, the pattern's name, the special tokens with their ids: write_tokenizer_json takes the three as a Vocabulary, read_tokenizer_json gives one.",
        "save: write_tokenizer_json(path, Vocabulary(merges=…, pattern=…, special=…)). load: cls(v.merges, v.pattern, v.special) of what was read.",
    ),
)
def check_saved_and_loaded(part: Part, rng: random.Random) -> None:
    """What was saved is the same tokenizer when it is loaded: merges, pattern and special tokens. What is no tokenizer.json is an error."""
    text, given = f"1234{END}", {"pattern": "gpt4", "special": {END: 300}, "tokens": "12, 123 and 1234 beside the bytes"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # a learner's process has a folder of its own, and so the path is short
        tokenizer = runs(lambda: part.BPE(ONE_TO_FOUR, "gpt4", {END: 300}), "BPE(merges, pattern, special) does not run", given=given)
        runs(lambda: tokenizer.save("tokenizer.json"), "save does not run", given=given)
        loaded = runs(lambda: part.BPE.load("tokenizer.json"), "load does not read what save wrote", given=given)
        for allowed, expected in (((), [257, 19, *_ids(END)]), ((END,), [257, 19, 300])):
            found = list(runs(partial(loaded.encode, text, allowed_special=allowed), "encoding with the loaded tokenizer does not run", given=given))
            equal(found, expected, "saved and loaded, the tokenizer gives other ids", given={**given, "text": text, "allowed": list(allowed)})
        found = runs(lambda: (loaded.vocab_size, loaded.decode([258, 300])), "vocab_size and decode of the loaded tokenizer do not run", given=given)
        equal(found, (301, text), "saved and loaded, the tokenizer has another size or other tokens", given=given)
        for path, what in (("no-such-file.json", "a file that is not there"), (__file__, "a file that is no tokenizer.json")):
            refuses(partial(part.BPE.load, path), TokenizerError, f"{what} must be an error that says so", given=path.rpartition("/")[2])


CHECKS: tuple[Check, ...] = (
    check_words,
    check_nothing_lost,
    check_word_counts,
    check_pair_counts,
    check_merge,
    check_ties,
    check_training,
    check_vocabulary_size,
    check_rank_order,
    check_tokens_stay_in_words,
    check_own_pattern,
    check_round_trip,
    check_bytes_first,
    check_specials,
    check_allowed_names,
    check_saved_and_loaded,
)
