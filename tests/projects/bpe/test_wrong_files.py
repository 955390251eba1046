"""Wrong tokenizers that run: each fails by the check that is meant for it, and every check before that holds."""

from pathlib import Path
from typing import NamedTuple

import pytest

from underhood.lab.kills import run_check
from underhood.lab.patch import Edit, applied
from underhood.projects.registry import find_project
from underhood.workbench.checking import check_file
from underhood.workbench.starter import solution

PROJECT = find_project("bpe")
BPE = "underhood.text.bpe"
SPLIT, SPECIAL = "underhood.text.split:split", "underhood.text.special:split_special"
COUNTS, TRAIN, INIT = f"{BPE}:count_words", f"{BPE}:BPE.train", f"{BPE}:BPE.__init__"
ENCODE, BYTES, DECODE = f"{BPE}:BPE.encode", f"{BPE}:BPE.decode_bytes", f"{BPE}:BPE.decode"
SAVE, LOAD = f"{BPE}:BPE.save", f"{BPE}:BPE.load"


class Wrong(NamedTuple):
    """What is changed, the check that must fail first, and words of its message."""

    target: str
    old: str
    new: str
    check: str
    says: str


WRONG = {
    "any pattern is gpt2": Wrong(SPLIT, "expression(pattern)", 'expression(pattern if pattern == "gpt4" else "gpt2")', "words", "neither gpt2 nor gpt4"),
    "gpt4 by default": Wrong(SPLIT, '= "gpt2"', '= "gpt4"', "words", "without a pattern"),
    "counts ignore the pattern": Wrong(COUNTS, "(well_formed(text), pattern)", "(well_formed(text))", "word_counts", "by the pattern"),
    "texts are joined": Wrong(
        COUNTS,
        "for text in texts for word in split(well_formed(text), pattern)",
        'for word in split(well_formed("".join(texts)), pattern)',
        "word_counts",
        "two texts are not joined",
    ),
    "surrogates stop the count": Wrong(
        COUNTS,
        "well_formed(text), pattern))\n    return Counter({tuple(byte_ids(utf8(word)))",
        "text, pattern))\n    return Counter({tuple(byte_ids(word.encode()))",
        "word_counts",
        "half a surrogate pair",
    ),
    "n is ignored": Wrong(f"{BPE}:learn_merges", "len(merges) < n", "True", "ties", "gives two merges"),
    "training ignores the pattern": Wrong(TRAIN, "count_words(texts, pattern)", "count_words(texts)", "training", "another pattern than it is given"),
    "special tokens on top": Wrong(TRAIN, "merges_wanted(vocab_size, special)", "vocab_size - 256", "vocabulary_size", "special token does not run"),
    "too small a vocabulary": Wrong(TRAIN, "    require_merges(len(merges), wanted, vocab_size)\n", "", "vocabulary_size", "must be an error"),
    "another error": Wrong(TRAIN, "require_merges(len(merges), wanted, vocab_size)", "assert len(merges) == wanted", "vocabulary_size", "must be an error"),
    "training forgets special": Wrong(TRAIN, "cls(merges, pattern, special)", "cls(merges, pattern)", "vocabulary_size", "3 merges and the special token"),
    "training forgets the pattern": Wrong(TRAIN, "cls(merges, pattern, special)", "cls(merges, special=special)", "own_pattern", "it was trained with"),
    "no mapping": Wrong(INIT, "number_special(special,", "number_special(list(special),", "vocabulary_size", "one more than the highest id"),
    "special from 256": Wrong(INIT, "256 + len(self.merges)", "256", "vocabulary_size", "3 merges and the special token"),
    "tokens are counted": Wrong(f"{BPE}:BPE.vocab_size", "max(self.tokens) + 1", "len(self.tokens)", "vocabulary_size", "one more than the highest id"),
    "special left out": Wrong(f"{BPE}:BPE.vocab_size", "max(self.tokens) + 1", "256 + len(self.merges)", "vocabulary_size", "3 merges and the special token"),
    "highest id": Wrong(f"{BPE}:BPE.vocab_size", "max(self.tokens) + 1", "max(self.tokens)", "vocabulary_size", "3 merges and the special token"),
    "encode ignores the pattern": Wrong(ENCODE, "split(piece, self.pattern)", "split(piece)", "own_pattern", "the tokenizer was made with"),
    "surrogates stop encode": Wrong(ENCODE, "well_formed(text)", "text.encode().decode()", "own_pattern", "half a surrogate pair"),
    "strict": Wrong(DECODE, 'errors="replace"', 'errors="strict"', "bytes_first", "decoding does not run"),
    "what is damaged is left out": Wrong(DECODE, 'errors="replace"', 'errors="ignore"', "bytes_first", "U+FFFD"),
    "unknown ids are left out": Wrong(BYTES, "self.tokens[i] for i in ids", 'self.tokens.get(i, b"") for i in ids', "bytes_first", "must refuse"),
    "ids from the end": Wrong(BYTES, "self.tokens[i] for i in ids", "self.tokens[i % 257 if i < 0 else i] for i in ids", "bytes_first", "must refuse"),
    "a bare KeyError": Wrong(BYTES, "except KeyError as error:", "except ZeroDivisionError as error:", "bytes_first", "must refuse"),
    "special ids say nothing": Wrong(INIT, "number: name.encode()", 'number: b""', "bytes_first", "bytes of all ids"),
    "decode guesses": Wrong(DECODE, "self.decode_bytes(ids)", "self.decode_bytes([i for i in ids if i in self.tokens])", "bytes_first", "decode must refuse"),
    "everything is allowed": Wrong(SPECIAL, "set(allowed)", "set(special)", "specials", "control id"),
    "names are patterns": Wrong(SPECIAL, "map(re.escape, names)", "names", "specials", "allowed_special does not run"),
    "the shortest wins": Wrong(SPECIAL, "reverse=True", "reverse=False", "allowed_names", "the longest wins"),
    "unknown names are left out": Wrong(SPECIAL, "set(allowed)", "set(allowed) & set(special)", "allowed_names", "must be an error"),
    "names are looked for late": Wrong(
        SPECIAL,
        "        if name not in special:\n",
        "        if name not in special and name in text:\n",
        "allowed_names",
        "must be an error",
    ),
    "all or nothing is allowed": Wrong(ENCODE, "self.special, allowed", "self.special, allowed_special and self.special or allowed", "allowed_names", "other"),
    "saved without pattern": Wrong(SAVE, "pattern=self.pattern, ", "", "saved_and_loaded", "other ids"),
    "saved without special": Wrong(SAVE, ", special=self.special", "", "saved_and_loaded", "loaded tokenizer does not run"),
    "loaded without pattern": Wrong(LOAD, "vocabulary.pattern", '"gpt2"', "saved_and_loaded", "other ids"),
    "loaded with other special ids": Wrong(LOAD, "vocabulary.special)", "list(vocabulary.special))", "saved_and_loaded", "other ids"),
    "the system's own error": Wrong(
        LOAD,
        "vocabulary = read_tokenizer_json(path)",
        "os.stat(path)\n    vocabulary = read_tokenizer_json(path)",
        "saved_and_loaded",
        "a file that is not there must be an error",
    ),
    "any file is empty": Wrong(
        LOAD,
        "vocabulary = read_tokenizer_json(path)",
        "try:\n        vocabulary = read_tokenizer_json(path)\n    except TokenizerError:\n        return cls([])",
        "saved_and_loaded",
        "a file that is not there must be an error",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_tokenizer_fails_by_its_check(name: str) -> None:
    wrong = WRONG[name]
    with applied((Edit(wrong.target, wrong.old, wrong.new),)):
        part = PROJECT.part_now()
        failed = next(((check.name, text) for check in PROJECT.checks() if (text := run_check(check, part)) is not None), None)
    assert failed is not None, "no check sees it"
    assert failed[0] == wrong.check, failed
    assert wrong.says in failed[1].splitlines()[0]


@pytest.mark.parametrize(("method", "check"), [("vocab_size", "vocabulary_size"), ("save", "saved_and_loaded"), ("load", "saved_and_loaded")])
def test_what_is_not_written_is_not_done(method: str, check: str, tmp_path: Path) -> None:
    text = solution(PROJECT)
    start = text.index(f"    def {method}(")
    end = min((i for i in (text.find("\n    def ", start + 1), text.find("\n    @", start + 1), text.find("\n\n\n", start + 1)) if i > 0), default=len(text))
    body = text[start:end]
    last = body.rindex('"""') + 3
    file = tmp_path / "mine.py"
    imported = "from underhood.base.errors import NotWritten\n"
    file.write_text(text.replace(body, body[:last] + f'\n        raise NotWritten("BPE.{method}")').replace("import os\n", "import os\n" + imported, 1))
    report = check_file(PROJECT, file)
    assert report.next is not None
    assert (report.next.check.name, report.next.state) == (check, "not written")
