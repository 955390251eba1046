"""The corpora by name, and any file or folder of a person's own: documents to train on and documents held out.

How a text is split, always the same way: generated stories, the last tenth; a single long document, the last tenth of its characters;
several documents, by the hash of each one's content (about a tenth is held out), so that adding a file moves no other one and two
copies of a document fall on the same side.
"""

import ast
import contextlib
import dataclasses
import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from underhood.base.errors import DataError, FileSystemError, NetworkError, UnknownName
from underhood.base.files import write_atomic
from underhood.data import tales
from underhood.data.files import MAX_BYTES, Texts, read_texts
from underhood.data.places import cache_folder, find

HELD_OUT = 0.1
STORIES = 6000  # 2.2 million characters
MIN_CHARACTERS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents to train on and to validate on. ``sha256`` is of all of them; ``floor`` is the best reachable bits per byte of ``val``, where known."""

    name: str
    source: str
    sha256: str
    train: list[str]
    val: list[str]
    floor: float | None = None
    report: str = ""  # what was read and what was left out


def load_corpus(name_or_path: str, *, max_bytes: int = MAX_BYTES) -> Corpus:
    """``"tales"`` (or ``"tales:2000"``, so many stories), ``"pydoc"``, ``"stdlib"``, ``"shakespeare"``, a file, or a folder.

    A name comes before a file that is called the same (``./tales`` is the file).
    Raises ``DataError`` for a text that cannot be used, ``NetworkError`` for a corpus that was never fetched, ``UnknownName`` for neither.
    """
    name, _, size = name_or_path.partition(":")
    if name in GENERATED and (not size or size.isdecimal()):
        return GENERATED[name](int(size or STORIES))
    if name_or_path in READ:
        return READ[name_or_path]()
    if Path(name_or_path).exists() or "/" in name_or_path or "." in name_or_path or "\\" in name_or_path:
        return from_path(name_or_path, max_bytes)
    raise UnknownName("corpus", name_or_path, names())


def names() -> list[str]:
    """The corpora that have a name."""
    return [*GENERATED, *READ]


def from_path(path: str, max_bytes: int = MAX_BYTES) -> Corpus:
    """A person's own file or folder."""
    texts = read_texts(path, max_bytes)
    return from_documents(Path(path).resolve().name, str(path), texts)


def from_documents(name: str, source: str, texts: Texts) -> Corpus:
    """A corpus of these documents, split as the module says. Raises ``DataError`` when there is too little text to hold any out."""
    total = sum(map(len, texts.documents))
    if total < MIN_CHARACTERS:
        remedy = "Add text, or practise on `tales`, which needs no file."
        raise DataError(f"{total} characters of text", where=source, expected=f"at least {MIN_CHARACTERS}", remedy=remedy)
    train, val = split(texts.documents)
    return Corpus(name=name, source=source, sha256=checksum(train, val), train=train, val=val, report=texts.report())


def split(documents: Iterable[str]) -> tuple[list[str], list[str]]:
    """(train, val), both with at least one document."""
    documents = list(documents)
    if len(set(documents)) == 1:
        cut = len(documents[0]) * 9 // 10
        return [documents[0][:cut]], [documents[0][cut:]]
    ranks = [_rank(text) for text in documents]
    held_out = {rank for rank in ranks if rank < HELD_OUT} or {min(ranks)}
    if held_out == set(ranks):
        held_out.remove(max(ranks))
    sides = [[text for text, rank in zip(documents, ranks, strict=True) if (rank in held_out) is out] for out in (False, True)]
    return sides[0], sides[1]


def _rank(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") / 2**64


def checksum(*parts: Iterable[str]) -> str:
    """sha256 of documents, each ended by a zero byte."""
    digest = hashlib.sha256()
    for part in parts:
        for text in part:
            digest.update(text.encode() + b"\0")
    return digest.hexdigest()


# --- by name ---------------------------------------------------------------------------------------------------------


def load_tales(stories: int = STORIES, seed: int = 0) -> Corpus:
    """Generated stories; the last tenth is held out, and its entropy is the floor."""
    if stories < 10:
        raise DataError(f"{stories} stories", where="tales", expected="at least 10")
    texts, bits = _kept(f"tales-{_grammar_hash()}-{seed}-{stories}", lambda: _tales(stories, seed))
    cut = stories * 9 // 10
    train, val = texts[:cut], texts[cut:]
    floor = sum(bits[cut:]) / sum(len(t.encode()) + tales.END_BYTES for t in val)
    source = f"tales version {tales.VERSION}, seed {seed}, {stories} stories"
    return Corpus(name="tales", source=source, sha256=checksum(train, val), train=train, val=val, floor=floor)


def _tales(stories: int, seed: int) -> tuple[list[str], list[float]]:
    """Texts and bits."""
    made = tales.generate(stories, seed)
    return [story.text for story in made], [story.bits for story in made]


def _kept(name: str, make: Callable[[], tuple[list[str], list[float]]]) -> tuple[list[str], list[float]]:
    """What ``make`` gives, from the cache where an earlier process left it whole; a cache that cannot be written is done without."""
    path = cache_folder() / f"{name}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(path.read_bytes())
        if checksum(kept["texts"]) == kept["sha256"]:
            return kept["texts"], kept["figures"]
    texts, figures = make()
    with contextlib.suppress(FileSystemError):
        write_atomic(path, json.dumps({"sha256": checksum(texts), "texts": texts, "figures": figures}))
    return texts, figures


def _grammar_hash() -> str:
    """A hash of the source of the grammar, so that no cache outlives a change of it."""
    digest = hashlib.sha256()
    for module in sorted(name for name in sys.modules if name.startswith("underhood.data.tales")):
        digest.update(Path(str(sys.modules[module].__file__)).read_bytes())
    return digest.hexdigest()[:16]


def load_pydoc() -> Corpus:
    """English as programmers write it: the topics of Python's own help, and the docstrings of the standard library, a document a module."""
    version = sys.version.split()[0]
    texts, _ = _kept(f"pydoc-{version}-{PYDOC_VERSION}", lambda: (_pydoc(), []))
    return from_documents("pydoc", f"docstrings and help topics of Python {version}", Texts(tuple(texts)))


PYDOC_VERSION = 1  # of what is taken from it


def _pydoc() -> list[str]:
    from pydoc_data.topics import topics

    return [text for _, text in sorted(topics.items())] + [text for path in _modules() if (text := "\n\n".join(_docstrings(path)))]


def load_stdlib() -> Corpus:
    """Python source: the modules of the standard library."""
    texts = tuple(path.read_text(encoding="utf-8") for path in _modules())
    return from_documents("stdlib", f"standard library of Python {sys.version.split()[0]}", Texts(tuple(t for t in texts if t.strip())))


NOT_ENGLISH = frozenset(
    ["test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "turtledemo", "encodings", "pydoc_data", "ensurepip", "__pycache__", "tkinter"]
)


def _modules() -> Iterator[Path]:
    """The standard library's source files, without its tests and tables."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not NOT_ENGLISH.intersection(parts) and not parts[0].startswith(("config-", "_sysconfigdata")):
            yield path


def _docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module, in order; those of one line are left out."""
    source = path.read_text(encoding="utf-8")
    if '"""' not in source and "'''" not in source:
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False)
            if text and "\n" in text:
                yield inspect.cleandoc(text)


def _fetched(name: str, file: str) -> Path:
    """A file that `underhood pull` brought, or that lies in ``$UNDERHOOD_DATA``."""
    path = find(file)
    if path is None:
        raise NetworkError("not fetched yet", where=name, remedy=f"Run `underhood pull {name}`.")
    return path


def load_shakespeare() -> Corpus:
    """1.1 million characters of Shakespeare."""
    path = _fetched("shakespeare", "tinyshakespeare.txt")
    return from_documents("shakespeare", str(path), read_texts(path))


def load_the_verdict() -> Corpus:
    """A short story by Edith Wharton."""
    path = _fetched("the-verdict", "the-verdict.txt")
    return from_documents("the-verdict", str(path), read_texts(path))


def load_fineweb_edu() -> Corpus:
    """A thousand educational web pages."""
    path = _fetched("fineweb-edu", "fineweb-edu.jsonl")
    try:
        documents = tuple(str(json.loads(line)["text"]) for line in read_texts(path).documents[0].splitlines())
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"not JSON lines with a text each ({error})", where=str(path), remedy="Remove it and pull it again.") from error
    return from_documents("fineweb-edu", str(path), Texts(documents))


GENERATED: dict[str, Callable[[int], Corpus]] = {"tales": load_tales}
READ: dict[str, Callable[[], Corpus]] = {
    "pydoc": load_pydoc,
    "stdlib": load_stdlib,
    "shakespeare": load_shakespeare,
    "the-verdict": load_the_verdict,
    "fineweb-edu": load_fineweb_edu,
}
