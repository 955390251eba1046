"""The process in which chat templates run: a template is somebody else's program, written in Jinja.

What holds it, from the inside out: Jinja's sandbox (no attribute that begins with an underscore, nothing that changes a list or a dictionary);
values that are plain data; an audit hook that refuses every file, socket, program and import once the templates' own needs are loaded; a limit on memory
where the system has one; an empty environment. Time is kept by the process that asks (``chat_process``), which kills this one.
Incident: CVE-2024-34359, where a template out of a model file ran commands in the server that had loaded it.
"""

import contextlib
import datetime
import functools
import json
import signal
import sys
import time
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from underhood.text.chat_process import receive, send

MEMORY = 512 * 2**20  # bytes of address space
PROCESSOR = 3  # seconds of one rendering: ends this process where the one that asks is gone and can end nothing
OUTPUT = 4 * 2**20  # characters of a rendered chat, four times what the longest contexts hold
SAID = 2000  # characters of an error that are passed on
ALLOWED = {
    *(
        "compile",
        "exec",
        "object.__getattr__",
        "object.__setattr__",
        "object.__delattr__",
        "sys._getframe",
        "code.__new__",
        "builtins.id",
    ),  # compiling and running a template
    *("resource.setrlimit", "sys.unraisablehook"),  # this module and Python itself
}

WARMING = (
    "{{ strftime_now('%Y') }}{{ [1]|tojson(indent=1) }}{{ lipsum(n=1) }}{{ 'a'|wordwrap }}{{ 1|pprint }}",
    "{{ 1 // 0 }}",
    "{% for",
)  # makes Jinja import what it imports late


class Refused(TemplateError):
    """The template does not take this conversation and said so with ``raise_exception``."""


class TooLong(TemplateError):
    """The rendered chat passes ``OUTPUT``."""


class Generation(Extension):
    """``{% generation %}`` … ``{% endgeneration %}`` around what the assistant wrote; between the two ``marks`` of the request, when it gives any."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)
    marks = ("", "")

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Macro) -> str:
        return self.marks[0] + str(caller()) + self.marks[1]


class PlainDict:
    """``dict`` in a template: it makes dictionaries, and is no class to climb from."""

    def __call__(self, *args: Any, **fields: Any) -> dict[Any, Any]:
        return dict(*args, **fields)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class PlainNamespace(Namespace):
    """``namespace`` in a template, without names that begin with an underscore."""

    def __init__(*args: Any, **fields: Any) -> None:
        self, *rest = args
        Namespace.__init__(self)
        for name, value in dict(*rest, **fields).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace takes no name like {name!r}")
        super().__setitem__(name, value)


def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False) -> str:
    """JSON as ``json.dumps`` writes it, where Jinja's own filter would write ``<`` as ``\\u003c``."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def refuse(message: Any) -> None:
    """``raise_exception`` in a template."""
    raise Refused(str(message))


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja as chat templates expect it: what transformers' ``apply_chat_template`` offers them."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "dict": PlainDict(),
        "namespace": PlainNamespace,
    }
    return made


ENVIRONMENT = environment()
compiled = functools.lru_cache(maxsize=8)(ENVIRONMENT.from_string)


def render(source: str, variables: dict[str, Any], marks: tuple[str, str]) -> str:
    """The chat as text. Raises whatever the template raises, and ``TooLong``."""
    Generation.marks = marks
    pieces, size = [], 0
    for piece in compiled(source).generate(variables):
        pieces.append(piece)
        size += len(piece)
        if size > OUTPUT:
            raise TooLong(f"it writes more than {OUTPUT:,} characters")
    return "".join(pieces)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What is sent back for a request: the ``text``, or the ``error`` with its kind and, in a template that cannot be read, the line."""
    try:
        return {"text": render(request["source"], request["variables"], tuple(request["marks"]))}
    except Refused as error:
        return _error("refused", str(error))
    except TemplateSyntaxError as error:
        return _error("syntax", f"line {error.lineno}: {error.message}")
    except (TooLong, MemoryError, RecursionError, OverflowError) as error:
        return _error("limit", str(error) or type(error).__name__)
    except Exception as error:
        return _error("failed", f"{type(error).__name__}: {error}")


def _error(kind: str, says: str) -> dict[str, Any]:
    return {"error": kind, "says": says[:SAID]}


def main(largest: int) -> None:
    """Answer requests of at most ``largest`` bytes until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    for source in WARMING:
        answer({"source": source, "variables": {}, "marks": ("", "")})
    lock()
    send(answers, {"ready": True})
    with contextlib.suppress(EOFError):
        while True:
            request = receive(requests, largest)
            _limit_processor()
            send(answers, answer(request))


def lock() -> None:
    """From here on: no file, socket, program or import, and bounded memory."""
    with contextlib.suppress(ImportError):  # Windows has no such limits
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        with contextlib.suppress(ValueError, OSError):  # nor has macOS this one
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if event not in ALLOWED:
        raise PermissionError(f"{event} is not for a template")


def _limit_processor() -> None:
    if "resource" in sys.modules:
        resource = sys.modules["resource"]
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + PROCESSOR, hard))
