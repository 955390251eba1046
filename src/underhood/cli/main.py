"""The command ``underhood``: finds the verb, loads that verb alone, and turns every failure into one clear message and an exit code.

Help and the bare command are plain text, so that they answer before anything heavy is imported. A verb is a module of this folder with
``command`` (one function) or ``app`` (a ``typer.Typer`` with verbs of its own).
"""

import importlib
import importlib.util
import io
import keyword
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from underhood import __version__
from underhood.base.errors import UnderhoodError, UnknownName, UserError

if TYPE_CHECKING:
    from typer.exceptions import TyperException

INTERRUPTED = 130  # 128 + SIGINT, as shells count
CLOSED_PIPE = 141  # 128 + SIGPIPE
HELP_COLUMNS = 100  # longer lines of help are hard to read
VERBS = {
    "Learn": {
        "demo": "train, sample, break, report: the whole thing in four minutes, offline",
        "init": "make a course folder",
        "read": "a chapter in the terminal",
        "start": "the blank file of a project: signatures, shapes, no bodies",
        "check": "does what you wrote hold? where not, and why",
        "hint": "three steps from a nudge to nearly the answer",
        "plug": "put your part into the real stack, beside the reference",
        "break": "sabotage a layer over paired seeds and judge the predictions",
        "incident": "a break in secret: diagnose it from what can be measured",
        "progress": "the projects at a glance",
    },
    "Use": {
        "tokenizer": "train a tokenizer, encode, decode, see what merges glue",
        "train": "train a GPT on tales, on Python's own texts, or on yours",
        "sample": "write text with a trained model",
        "info": "what a model is and what memory it needs",
        "verify": "every path through a model ends at the same logits",
        "export": "a model in the layout of transformers",
        "import": "a model of transformers' as a run of ours",
        "serve": "an OpenAI-compatible API and a chat page over a model",
        "eval": "loss, perplexity, bits per byte, scores of tales",
        "pull": "fetch a data set or weights: the one command that uses the network",
    },
    "More": {
        "map": "the floors of the house and what each holds",
        "list": "the projects; one project's layer, checks and breaks",
        "run": "build, verify, break and measure one project",
        "reset": "begin a project anew; the old file is kept",
        "solution": "the whole answer; asks twice",
        "notebook": "a chapter as an executed notebook, or a notebook to work in",
        "report": "an experiment as one HTML page",
        "records": "the committed measurements: which hold, which are stale",
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    arguments, debug = _take_debug(list(sys.argv[1:] if argv is None else argv))
    _never_fail_to_print()
    try:
        code = dispatch(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, debug=debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
        return CLOSED_PIPE
    except UnderhoodError as error:
        return _fail(str(error), error.exit_code, debug=debug)
    except ModuleNotFoundError as error:
        return _fail(_missing(error), 2 if _extra_of(error.name) else 1, debug=debug)
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error}. This is a fault of ours; run again with --debug to see where.", 1, debug=debug)
    return code


def dispatch(arguments: list[str]) -> int:
    """Answer ``arguments``, or hand them to the verb that they begin with."""
    if not arguments:
        from underhood.cli.console import paragraph
        from underhood.workbench.course import where

        print(paragraph(where()))
        return 0
    first, *rest = arguments
    if first in ("-h", "--help"):
        print(help_text())
        return 0
    if first == "--version":
        print(f"underhood {__version__}")
        return 0
    if first.startswith("-"):
        raise UnknownName("option", first, ["--help", "--version", "--debug"])
    if first not in verbs():
        raise UnknownName("command", first, verbs())
    return run_verb(first, rest)


def verbs() -> list[str]:
    """The verbs whose module exists, in the order of the help."""
    return [verb for group in VERBS.values() for verb in group if importlib.util.find_spec(module_of(verb))]


def module_of(verb: str) -> str:
    """Where the verb is written; ``break`` is a word of Python's, so its file has an underscore."""
    return f"underhood.cli.{verb}_" if keyword.iskeyword(verb) else f"underhood.cli.{verb}"


def help_text() -> str:
    """The help of ``underhood`` itself, as wide as the terminal."""
    from underhood.cli.console import GAP, columns, paragraph

    known = verbs()
    lines = ["Usage: underhood [--debug] COMMAND …", "", paragraph("Build every layer of a large language model, break it, measure it."), ""]
    for group, entries in VERBS.items():
        rows = [(verb, says) for verb, says in entries.items() if verb in known]
        if rows:
            lines += [group, columns(rows, indent=GAP), ""]
    lines.append(paragraph("`underhood COMMAND --help` says more. --debug shows where an error came from, --version the version."))
    return "\n".join(lines)


def run_verb(verb: str, arguments: list[str]) -> int:
    """Load the verb's module and run it; what Typer refuses becomes a ``UserError`` that names the nearest option."""
    import typer
    from typer.exceptions import TyperException

    from underhood.cli import console

    command = load_verb(verb)
    try:
        with command.make_context(f"underhood {verb}", arguments, terminal_width=min(console.width(), HELP_COLUMNS)) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except TyperException as error:
        raise _refusal(error, verb) from error
    return 0


def load_verb(verb: str) -> Any:
    """The verb as a Typer command; its help is plain text like ours."""
    import typer

    module = importlib.import_module(module_of(verb))
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command(verb)(module.command)
    app.rich_markup_mode = None
    app._add_completion = False
    return typer.main.get_command(app)


def _refusal(error: "TyperException", verb: str) -> UserError:
    """Typer's complaint about a command line in our words."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else f"underhood {verb}"
    wrong = getattr(error, "option_name", None)
    if context and wrong and hasattr(error, "possibilities"):
        return UnknownName("option", wrong, [name for p in context.command.params for name in p.opts if name.startswith("-")], where=path)
    message = error.format_message().rstrip(".")
    return UserError(message[:1].lower() + message[1:], where=path, remedy="" if message.endswith("?") else f"See: {path} --help")


def _take_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """``arguments`` without ``--debug``, which may stand anywhere before a bare ``--``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    before = [a for a in arguments[:end] if a != "--debug"]
    return before + arguments[end:], len(before) < end


def _never_fail_to_print() -> None:
    """A terminal that cannot show a letter gets a question mark, not an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"underhood: {message}", file=sys.stderr)
    return code


def _missing(error: ModuleNotFoundError) -> str:
    extra = _extra_of(error.name)
    return f"this needs {error.name}, which is not installed. Run: pip install -e '.[{extra}]'" if extra else f"{error}: the installation is incomplete"


def _extra_of(module: str | None) -> str | None:
    """The extra of ours that brings ``module``, if one does."""
    from importlib.metadata import PackageNotFoundError, requires

    wanted = (module or "").partition(".")[0].replace("_", "-")
    try:
        lines = requires("underhood-llm") or []
    except PackageNotFoundError:
        return None
    brought = re.compile(rf"""{re.escape(wanted)}\b[^-].*extra == ["'](\w+)["']""")
    return next((found[1] for line in lines if wanted and (found := brought.match(line))), None)
