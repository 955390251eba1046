"""``underhood serve``: a model behind an OpenAI-compatible API, and a page to chat with it."""

import dataclasses
import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from underhood.base.errors import UserError

if TYPE_CHECKING:
    from underhood.serve.house import ServeConfig

TOKEN = "UNDERHOOD_TOKEN"
SPARE = 64  # requests that may be inside besides those that run and wait: being read, or being told to come again


def command(
    model: Annotated[Path, typer.Argument(metavar="RUN_OR_MODEL", help="A run, a checkpoint, a model folder, or a pulled model's name.")] = Path("runs/tales"),
    host: Annotated[str, typer.Option(help="The address to listen on; any but this machine's own needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[str, typer.Option(help=f"What clients must send as their API key; better in the environment, as {TOKEN}.")] = "",
    allow_anyone: Annotated[bool, typer.Option("--allow-anyone", help="Listen on any address without a token.")] = False,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Another name that the server is called by; may be repeated.")] = None,
    name: Annotated[str, typer.Option(help="What the model is called; its folder's name otherwise.")] = "",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    kernels: Annotated[str, typer.Option(help="auto: compiled ones where there are any; torch: none.")] = "auto",
    batch_invariant: Annotated[
        bool,
        typer.Option("--batch-invariant", help="Compiled kernels for every step: an answer's bits do not depend on who shares it. Long prompts take longer."),
    ] = False,
    guesses: Annotated[int, typer.Option(min=0, max=15, help="Guess so many tokens a step from what a text repeats: the same answers, sooner.")] = 0,
    cache_mb: Annotated[float, typer.Option(min=1, help="Memory for keys and values.")] = 512.0,
    max_running: Annotated[int, typer.Option(min=1, max=1024, help="Answers that are written at once.")] = 32,
    max_waiting: Annotated[int, typer.Option(min=1, max=65536, help="Answers that may wait; beyond, clients are told to come again.")] = 256,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds until an answer must be complete.")] = 120.0,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that answers may go on when the server is asked to stop.")] = 10.0,
    mine: Annotated[bool, typer.Option("--mine", help="Serve with every part in my/ whose checks hold.")] = False,
    with_: Annotated[list[str] | None, typer.Option("--with", metavar="PROJECT=FILE", help="Serve with this part of yours; may be repeated.")] = None,
) -> None:
    """Serve a model: OpenAI's /v1/chat/completions and /v1/completions, /metrics, /health, and a chat page at /. Ctrl-C lets answers finish and ends."""
    from underhood.cli.console import note
    from underhood.cli.parts import bound, chosen_parts, note_given
    from underhood.infer.engine import EngineConfig
    from underhood.interop.models import place_of
    from underhood.serve.house import ServeConfig
    from underhood.serve.server import Server, listen, open_house

    if kernels not in ("auto", "torch"):
        raise UserError(f"found {kernels!r}", where="--kernels", expected="auto or torch")
    inside = max_running + max_waiting + SPARE
    limits = ServeConfig(token=token or os.environ.get(TOKEN, ""), deadline=deadline, grace=grace, inside=inside)
    config = doors(limits, host, allow_host or [], allow_anyone)
    engine = EngineConfig(cache_mb=cache_mb, max_running=max_running, max_waiting=max_waiting, guesses=guesses, batch_invariant=batch_invariant)
    engine = dataclasses.replace(engine, tokens_per_step=max(engine.tokens_per_step, max_running))
    parts = chosen_parts(mine, with_ or [])
    with listen(host, port) as listening, bound(parts):
        ways: dict[str, Any] = {"readable": True, "opened": note_given} if parts else {"compiled": kernels == "auto"}
        house = open_house(place_of(model), config, engine, name=name, dtype=dtype, **ways)
        shown = "localhost" if is_own(host) else host
        note(f"{house.name}: {house.dialogue.says}.")
        note(f"http://{shown}:{listening.getsockname()[1]} is the chat page; the API is under /v1, the model is called {house.name!r}. Ctrl-C ends.")
        Server(house, listening).serve_until_stopped()


def doors(config: "ServeConfig", host: str, names: list[str], anyone: bool) -> "ServeConfig":
    """``config`` with the names that the server answers to. Raises ``UserError`` for an address that others can reach, without a token."""
    own = is_own(host)
    if not own and not config.token and not anyone:
        remedy = f"Set {TOKEN} to a secret of your choice, or say --allow-anyone if anyone who reaches this machine may use the model."
        raise UserError(f"{host} can be reached by others", where="--host", expected="a token", remedy=remedy)
    hosts = {*config.hosts, f"[{host}]" if ":" in host else host, *names}
    return dataclasses.replace(config, hosts=tuple(sorted(h.lower() for h in hosts)), any_address=not own)


def is_own(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
