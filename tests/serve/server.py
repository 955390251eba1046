"""A small model behind a real server on a free port of this machine, in a thread."""

import contextlib
import dataclasses
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.infer.small import TOKENIZER, model
from underhood.infer.engine import EngineConfig
from underhood.nn.gpt import GPT
from underhood.serve.house import House, ServeConfig
from underhood.serve.server import Server, furnish, listen
from underhood.text.tokenizer import Tokenizer

NAME = "tiny"
CONFIG = ServeConfig()
ENGINE = EngineConfig(n_blocks=64, block_size=4, tokens_per_step=64, max_running=8, max_waiting=64)


@dataclasses.dataclass
class Running:
    """A server, and ways to ask it."""

    server: Server
    house: House
    port: int
    url: str
    client: httpx.Client

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.house.config.token or "none", max_retries=0, http_client=self.client)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.client.post(self.url + path, **({} if body is None else {"json": body}), **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.client.get(self.url + path, **more)

    def complete(self, **fields: Any) -> httpx.Response:
        return self.post("/v1/completions", {"model": NAME, "prompt": "ab", "max_tokens": 4, **fields})

    def chat(self, **fields: Any) -> httpx.Response:
        return self.post("/v1/chat/completions", {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, **fields})

    def require_nothing_held(self, seconds: float = 5.0) -> None:
        """Within a moment nobody is inside and no block is in use."""
        engine, end = self.house.worker.engine, time.monotonic() + seconds
        while time.monotonic() < end and (self.house.inside or engine.pool.users or engine.choices or engine.later):
            time.sleep(0.01)
        assert (self.house.inside, engine.pool.users, engine.choices, engine.later) == (0, {}, {}, {})
        assert not self.house.worker.answers


@contextlib.contextmanager
def running(
    made: GPT | None = None, tokenizer: Tokenizer = TOKENIZER, engine: EngineConfig = ENGINE, config: ServeConfig = CONFIG, folder: Path | None = None
) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as empty:
        house = furnish(made or model(), tokenizer, folder or Path(empty), config, engine, name=NAME)
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = Server(house, listening)
    thread = threading.Thread(target=server.serve_until_stopped)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        with httpx.Client(timeout=60) as client:
            yield Running(server, house, port, f"http://127.0.0.1:{port}", client)
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
        assert not thread.is_alive()


def events(text: str) -> list[Any]:
    """What a stream's events hold; ``"[DONE]"`` as it is."""
    found = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [one if one == "[DONE]" else json.loads(one) for one in found]
