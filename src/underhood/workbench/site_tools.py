"""The tool manual: what every command says of itself, and a transcript of a real run from ``docs/transcripts``."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COLUMNS = "96"
SUBCOMMAND = re.compile(r"^Commands:\n((?:  .*\n?)+)", re.MULTILINE)


def help_of(*words: str) -> str:
    """What ``underhood WORDS --help`` prints; the commands stand a floor above, so they are asked as a reader would ask."""
    command = [sys.executable, "-m", "underhood", *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": COLUMNS})
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def groups(text: str) -> dict[str, dict[str, str]]:
    """Group → verb → what it is for, read from the help of ``underhood`` itself."""
    found: dict[str, dict[str, str]] = {}
    verbs: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        row = re.fullmatch(r"  (\w+)  +(\S.*)", line)
        if re.fullmatch(r"[A-Z]\w+", line):
            verbs = found.setdefault(line, {})
        elif row:
            last = row[1]
            verbs[last] = row[2]
        elif last and line.startswith("   "):
            verbs[last] += " " + line.strip()
        else:
            last = ""
    return found


def subcommands(text: str) -> list[str]:
    """The verbs that a verb has of its own, read from its help."""
    found = SUBCOMMAND.search(text + "\n")
    return re.findall(r"^  (\w+)  ", found[1], re.MULTILINE) if found else []


def transcripts(root: Path) -> dict[str, str]:
    """Verb → what was typed and printed."""
    found = {p.stem: p.read_text(encoding="utf-8").strip("\n") for p in sorted((root / "docs" / "transcripts").glob("*.txt"))}
    shown = re.search(r"<!-- demo:begin -->.*?```text\n(.*?)\n```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return found | ({"demo": f"$ underhood demo\n{shown[1]}"} if shown else {})


def manual(root: Path) -> str:
    """Every command with its help and its transcript."""
    printed, known = transcripts(root), groups(help_of())
    with ThreadPoolExecutor(max_workers=2) as pool:
        helps = dict(zip((v for g in known.values() for v in g), pool.map(help_of, (v for g in known.values() for v in g)), strict=True))
    parts = []
    for group, entries in known.items():
        parts.append(f"## {group}\n")
        for verb, says in entries.items():
            parts += [f"### {verb}\n", f"{says[:1].upper()}{says[1:]}.\n"]
            if verb in printed:
                parts.append(f"```console\n{printed[verb]}\n```\n")
            parts.append(_folded(verb, helps[verb]))
    return "\n".join(parts)


def _folded(verb: str, text: str) -> str:
    inner = [f"```text\n{text}\n```", *(f"```text\n{help_of(verb, name)}\n```" for name in subcommands(text))]
    body = "\n\n".join(inner)
    return f'<details markdown="1">\n<summary>underhood {verb} --help</summary>\n\n{body}\n\n</details>\n'


__all__ = ["groups", "help_of", "manual", "subcommands", "transcripts"]
