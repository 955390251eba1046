"""Load, faults and ends: who leaves, who is slow, who comes too late, and a server that stops."""

import contextlib
import dataclasses
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.infer.small import TOKENIZER, alone, generations, model
from tests.serve.server import CONFIG, ENGINE, NAME, Running, events, running
from underhood.infer.engine import EngineConfig
from underhood.infer.generation import Piece
from underhood.infer.grammar_tokens import Constraint
from underhood.interop.export import save_model
from underhood.serve import insight
from underhood.serve.answers import require_fine
from underhood.serve.errors import ApiError
from underhood.serve.house import ServeConfig, line_of
from underhood.serve.insight import score
from underhood.serve.worker import STOPPING

LONG = {"max_tokens": 90, "logit_bias": {"256": -100}}


def test_requests_at_once_each_get_what_the_engine_gives_alone(served: Running) -> None:
    made, asked = model(), generations(24, most=30)

    def ask(i: int) -> tuple[int, str]:
        g = asked[i]
        fields = {"prompt": list(g.prompt), "temperature": g.sample.temperature, "top_p": g.sample.top_p, "max_tokens": g.sample.max_tokens, "seed": g.seed}
        answer = served.complete(**fields, logit_bias={}, user=g.client, logprobs=0, stream=bool(i % 2))
        assert answer.status_code == 200, answer.text
        chunks = [e for e in events(answer.text) if e != "[DONE]"] if i % 2 else [answer.json()]
        return i, "".join(c["choices"][0]["text"] for c in chunks)

    with ThreadPoolExecutor(24) as threads:
        for i, text in threads.map(ask, range(24)):
            ids = alone(made, asked[i])
            ids = ids[: ids.index(256)] if 256 in ids else ids
            assert text == TOKENIZER.decode(ids)


# ── those who leave ───────────────────────────────────────────────────────────────────────────────────────────────────


def leave(served: Running, draw: random.Random, stream: bool) -> None:
    """Ask for much, read a little of it or nothing, and hang up."""
    body = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "stream": stream, "n": draw.choice([1, 3]), "seed": 1}).encode()
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[: draw.choice([5, len(body), len(body), len(body)])])
        if stream and draw.random() < 0.7:
            connection.settimeout(draw.random() * 0.2)
            with contextlib.suppress(TimeoutError):
                connection.recv(draw.randrange(1, 2000))
        else:
            time.sleep(draw.random() * 0.05)


def many_leave(count: int) -> None:
    with running(engine=dataclasses.replace(ENGINE, max_waiting=500)) as served, ThreadPoolExecutor(20) as threads:
        draws = [random.Random(i) for i in range(count)]
        list(threads.map(lambda i: leave(served, draws[i], bool(i % 2)), range(count)))
        served.require_nothing_held(20)
        assert served.house.metrics.cancelled > count / 10
        assert served.complete().status_code == 200


def test_clients_that_vanish_leave_nothing_behind() -> None:
    many_leave(200)


@pytest.mark.slow
def test_two_thousand_clients_that_vanish() -> None:
    many_leave(2000)


def test_without_the_cancellation_blocks_stay_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: what nobody waits for goes on."""
    with running() as served:
        monkeypatch.setattr(served.house.worker, "_cancel", lambda answer, reason="": None)
        slow_down(served, 0.03)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(served.url + "/v1/completions", json={"model": NAME, "prompt": "a", **LONG}, timeout=0.3)
        with pytest.raises(AssertionError):
            served.require_nothing_held(0.5)
        while served.house.worker.engine.busy:
            time.sleep(0.01)


def slow_down(served: Running, seconds: float) -> None:
    """Let each step of the engine take so long."""
    engine = served.house.worker.engine
    step = engine.step

    def slow() -> int:
        time.sleep(seconds)
        return step()

    engine.step = slow  # type: ignore[method-assign]


# ── those who are slow, and those who are too many ────────────────────────────────────────────────────────────────────


def test_a_reader_who_takes_nothing_is_given_up() -> None:
    """What a reader does not take is held up to a bound, and only so long."""
    big = dataclasses.replace(ENGINE, n_blocks=2000, max_running=64, max_waiting=200)
    with running(engine=big, config=dataclasses.replace(CONFIG, send_seconds=0.5, body_seconds=1)) as served:
        body = json.dumps({"model": NAME, "prompt": "a", "n": 128, "stream": True, "logprobs": 20, **LONG}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", served.port))
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            while not served.house.inside:
                time.sleep(0.01)
            served.require_nothing_held(30)
            assert served.house.metrics.cancelled > 0
            end = time.monotonic() + 10
            while served.server.server_state.connections and time.monotonic() < end:
                time.sleep(0.05)
            assert not served.server.server_state.connections  # nor does what was not sent stay in memory


def test_beyond_the_queue_clients_are_told_to_come_again() -> None:
    with running(engine=dataclasses.replace(ENGINE, max_running=1, max_waiting=3)) as served:
        slow_down(served, 0.02)
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(lambda i: served.complete(max_tokens=20, stream=bool(i % 2)), range(12)))
        late = [a for a in answers if a.status_code == 429]
        assert {a.status_code for a in answers} == {200, 429}
        assert len(late) >= 12 - 5
        for answer in late:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "queue_full"
        served.require_nothing_held()


def test_one_address_has_one_line_whomever_it_names() -> None:
    """Fairness is between addresses: 20 names are 20 requests of one, and each of another address would go before them."""
    with running(engine=dataclasses.replace(ENGINE, max_running=1)) as served, ThreadPoolExecutor(20) as threads:
        slow_down(served, 0.02)
        asked = [threads.submit(served.complete, user=f"user {i}", max_tokens=8) for i in range(20)]
        queue, most = served.house.worker.engine.scheduler.batch.queue, (0, 0)
        while not all(a.done() for a in asked):
            most = max(most, (len(queue), len(queue.lines)))
            time.sleep(0.005)
        assert most[0] >= 10
        assert most[1] == 1


def test_lines_of_addresses() -> None:
    assert line_of("10.0.0.1") != line_of("10.0.0.2")
    assert line_of("2001:db8::1") == line_of("2001:db8::ffff:1") != line_of("2001:db8:0:1::1")
    assert line_of("::ffff:10.0.0.1") != line_of("::ffff:10.0.0.2")
    assert line_of("fe80::1%eth0") == line_of("fe80::2")
    assert line_of("") == line_of("")


def test_no_more_are_let_inside_than_may_be() -> None:
    with running(config=dataclasses.replace(CONFIG, inside=2)) as served:
        slow_down(served, 0.1)
        with ThreadPoolExecutor(6) as threads:
            codes = list(threads.map(lambda i: served.complete(max_tokens=20).status_code, range(6)))
        assert codes.count(200) == 2
        assert codes.count(429) == 4


def test_a_flood_from_one_address_shuts_out_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where the queue is full nor where as many are inside as may be."""
    with running(engine=dataclasses.replace(ENGINE, max_running=1, max_waiting=2), config=dataclasses.replace(CONFIG, inside=6)) as served:
        slow_down(served, 0.02)
        monkeypatch.setattr(served.house, "client", lambda request: request.headers.get("x-from", "flood"))
        done = threading.Event()

        def flood(_: int) -> int:
            codes = [served.complete(max_tokens=8).status_code]
            while not done.is_set():
                codes.append(served.complete(max_tokens=8).status_code)
            return codes.count(429)

        with ThreadPoolExecutor(10) as threads:
            floods = [threads.submit(flood, i) for i in range(10)]
            while served.house.metrics.answers["/v1/completions", 429] < 10:
                time.sleep(0.01)
            body = {"model": NAME, "prompt": "ab", "max_tokens": 1}
            codes = [served.post("/v1/completions", body, headers={"x-from": "guest"}).status_code for _ in range(5)]
            done.set()
        assert codes == [200] * 5
        assert sum(f.result() for f in floods) >= 10
        assert not +served.house.inside_of


def test_five_hundred_connections(served: Running) -> None:
    idle = [socket.create_connection(("127.0.0.1", served.port), 5) for _ in range(500)]
    try:
        assert served.get("/health").status_code == 200
        assert served.complete().status_code == 200
    finally:
        for connection in idle:
            connection.close()


def test_silent_connections_of_one_address_shut_out_nobody() -> None:
    """The server looks ten times a second; then there is room again."""
    with running(config=dataclasses.replace(CONFIG, connections=16)) as served, contextlib.ExitStack() as closing:
        for _ in range(40):
            closing.enter_context(socket.create_connection(("127.0.0.1", served.port), 10))
        end = time.monotonic() + 10
        while served.get("/health").status_code != 200 and time.monotonic() < end:
            time.sleep(0.05)
        assert len(served.server.server_state.connections) <= 16
        assert served.get("/health").status_code == 200
        assert served.complete().status_code == 200


def test_with_too_many_connections_requests_are_told_to_come_again(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served.house, "connections", lambda: CONFIG.connections + 1)
    answer = served.get("/health")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1


def test_an_answer_that_the_servers_end_cuts_off_says_when_to_come_again() -> None:
    with pytest.raises(ApiError) as caught:
        require_fine(Piece("", (), "error", STOPPING))
    assert caught.value.status == 503
    assert int(caught.value.headers["retry-after"]) >= 1


def test_health_and_metrics_answer_under_load(served: Running) -> None:
    with ThreadPoolExecutor(8) as threads:
        busy = [threads.submit(served.complete, n=8, **{**LONG, "max_tokens": 60}) for _ in range(8)]
        slowest = 0.0
        while not all(b.done() for b in busy):
            start = time.monotonic()
            assert served.get("/health").status_code == 200
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < 2
        assert {b.result().status_code for b in busy} <= {200, 429}
    text = served.get("/metrics").text
    values = {line.split(" ")[0]: float(line.split(" ")[1]) for line in text.splitlines() if not line.startswith("#")}
    assert values["underhood_blocks"] == 64
    assert values["underhood_running"] == values["underhood_waiting"] == values["underhood_blocks_used"] == 0
    assert values["underhood_generated_total"] >= 60
    assert values['underhood_first_token_seconds_bucket{le="+Inf"}'] == values["underhood_first_token_seconds_count"] > 0
    assert values['underhood_answers_total{path="/v1/completions",status="200"}'] >= 1


def test_a_prompt_is_scored_between_the_steps_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once, in turn: never two pieces of scoring without a step between them while an answer is under way."""
    happened: list[str] = []

    def noted(*given: Any) -> Any:
        happened.append("piece")
        return score(*given)

    monkeypatch.setattr(insight, "PIECE", 4)
    monkeypatch.setattr(insight, "score", noted)
    with running() as served, ThreadPoolExecutor(3) as threads:
        engine = served.house.worker.engine
        step = engine.step

        def slow() -> int:
            happened.append("step")
            time.sleep(0.02)
            return step()

        engine.step = slow  # type: ignore[method-assign]
        other = threads.submit(served.complete, **LONG)
        while len(happened) < 3:
            time.sleep(0.01)
        scored = [threads.submit(served.complete, prompt="abcdefgh" * 5, echo=True, logprobs=1, max_tokens=0) for _ in range(2)]
        assert all(s.result().status_code == 200 for s in scored)
        assert not other.done()
        assert happened.count("piece") == 20
        assert ("piece", "piece") not in itertools.pairwise(happened)


def test_scoring_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*given: Any) -> Any:
        time.sleep(0.1)
        return score(*given)

    monkeypatch.setattr(insight, "PIECE", 4)
    monkeypatch.setattr(insight, "score", slow)
    with running(config=ServeConfig(deadline=0.5)) as served:
        begin = time.monotonic()
        answer = served.complete(prompt=["abcdefgh" * 5] * 20, echo=True, logprobs=1, max_tokens=0)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert time.monotonic() - begin < 5
        assert served.complete(echo=True, logprobs=1).status_code == 200
        served.require_nothing_held()


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline(stream: bool) -> None:
    with running(config=ServeConfig(deadline=0.3)) as served:
        slow_down(served, 0.05)
        answer = served.complete(stream=stream, **LONG)
        error = (events(answer.text)[-1] if stream else answer.json())["error"]
        assert error["code"] == "deadline_exceeded"
        assert stream or answer.status_code == 504
        served.require_nothing_held()


SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}


def test_a_schema_that_takes_long_meets_the_deadline_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def slow(*given: Any) -> Any:
        go.wait(20)
        return Constraint(*given)

    with running(config=ServeConfig(deadline=3)) as served, ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr("underhood.serve.asking.Constraint", slow)
        held = threads.submit(served.chat, response_format=SCHEMA)
        while not served.house.inside:
            time.sleep(0.01)
        assert served.chat().status_code == served.complete().status_code == 200
        assert not held.done()
        assert (held.result().status_code, held.result().json()["error"]["code"]) == (504, "deadline_exceeded")
        served.require_nothing_held()
        go.set()
        assert served.chat(response_format=SCHEMA, max_tokens=30).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_that_takes_long_to_read_meets_the_deadline(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    with running(config=ServeConfig(deadline=0.3)) as served:
        go, plain = threading.Event(), served.house.spoken.encode

        def slow(text: str) -> list[int]:
            go.wait(20)
            return plain(text)

        monkeypatch.setattr(served.house.spoken, "encode", slow)
        answer = served.complete(stream=stream)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        go.set()


def test_a_text_that_cannot_fit_is_not_read_at_all(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> list[int]:
        raise AssertionError("encoded")

    monkeypatch.setattr(served.house.spoken, "encode", fail)
    monkeypatch.setattr(served.house.dialogue, "encode", fail)
    longest = max(len(served.house.spoken.bytes_of(i)) for i in range(TOKENIZER.vocab_size))
    much = "é" * (served.house.limit * longest // 2 + 1)
    for answer in (served.complete(prompt=["a", much]), served.chat(messages=[{"role": "user", "content": much[:-9]}, {"role": "user", "content": much[-9:]}])):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert "bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_numbers_that_are_none_are_an_error_and_never_a_token(stream: bool) -> None:
    made = model()
    bad = TOKENIZER.encode("!")[0]
    with torch.no_grad():
        made.tokens.weight[bad] = torch.nan
    with running(made) as served:
        answer = served.complete(prompt="a!", stream=stream)
        found = events(answer.text) if stream else [answer.json()]
        assert "[DONE]" not in found
        assert found[-1]["error"]["code"] == "generation_failed"
        assert "not finite" in found[-1]["error"]["message"]
        assert not any(c["text"] for e in found[:-1] for c in e["choices"])
        assert served.complete(prompt="!a", echo=True, logprobs=1, max_tokens=0).status_code == 500
        served.require_nothing_held()


def test_a_step_that_fails_ends_what_runs_and_nothing_else(served: Running, caplog: pytest.LogCaptureFixture) -> None:
    engine = served.house.worker.engine
    step = engine.step

    def fail() -> int:
        engine.step = step  # type: ignore[method-assign]
        raise RuntimeError("out of memory")

    engine.step = fail  # type: ignore[method-assign]
    answer = served.complete()
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")
    assert "out of memory" not in answer.text
    assert served.complete().status_code == 200
    served.require_nothing_held()


def test_an_answer_that_the_engine_lost_in_a_fault_ends_too() -> None:
    """A step may fail after it has let go of a request and before it has ended it."""
    with running(config=ServeConfig(deadline=5)) as served:
        engine = served.house.worker.engine
        step = engine.step

        def lose() -> int:
            engine.step = step  # type: ignore[method-assign]
            for request in list(engine.choices):
                engine.scheduler.cancel(request)
                del engine.choices[request]
            raise RuntimeError("lost")

        engine.step = lose  # type: ignore[method-assign]
        answer = served.client.post(served.url + "/v1/completions", json={"model": NAME, "prompt": "a"}, timeout=5)
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")
        assert served.complete().status_code == 200
        served.require_nothing_held()


def test_an_engine_that_cannot_go_on_says_so() -> None:
    with running() as served:
        engine = served.house.worker.engine

        def fail(*given: Any) -> int:
            raise RuntimeError("broken")

        engine.step, engine.cancel = fail, fail  # type: ignore[assignment, method-assign]
        assert served.complete().status_code == 500
        assert served.get("/health").status_code == 503
        assert served.complete().status_code == 503


# ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_while_draining_nothing_new_is_taken_and_what_runs_ends() -> None:
    with running(config=ServeConfig(grace=20)) as served:
        slow_down(served, 0.02)
        other = served.client
        with ThreadPoolExecutor(1) as threads:
            runs = threads.submit(served.complete, max_tokens=40, logit_bias={"256": -100})
            while not served.house.inside:
                time.sleep(0.01)
            served.server.handle_exit(signal.SIGTERM, None)
            answer = other.post(served.url + "/v1/completions", json={"model": NAME, "prompt": "a"})
            assert (answer.status_code, other.get(served.url + "/health").status_code) == (503, 503)
            assert "retry-after" in answer.headers
            assert runs.result().json()["usage"]["completion_tokens"] == 40


def test_beyond_the_grace_answers_end_with_an_error() -> None:
    with running(config=ServeConfig(grace=0.2)) as served:
        slow_down(served, 0.05)
        with ThreadPoolExecutor(2) as threads:
            runs = [threads.submit(served.complete, stream=stream, **LONG) for stream in (False, True)]
            while served.house.inside < 2:
                time.sleep(0.01)
            served.server.handle_exit(signal.SIGTERM, None)
            whole, stream = (r.result() for r in runs)
        assert (whole.status_code, whole.json()["error"]["code"]) == (503, "unavailable")
        assert events(stream.text)[-1]["error"]["code"] == "unavailable"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(model("gpt2"), tmp_path_factory.mktemp("models") / "small", TOKENIZER)


def start(folder: Path, *words: str) -> "tuple[subprocess.Popen[str], str]":
    """The command in a process of its own, and where it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "underhood", "serve", str(folder), "--port", str(port), "--kernels", "torch", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(url + "/health").status_code == 200:
                return process, url
        except httpx.TransportError:
            time.sleep(0.1)
    process.kill()
    raise AssertionError(process.communicate()[1])


SLOW = pytest.mark.slow
SIGNALS = [[signal.SIGTERM], [signal.SIGTERM, signal.SIGINT], pytest.param([signal.SIGINT], marks=SLOW), pytest.param([signal.SIGHUP], marks=SLOW)]


@pytest.mark.parametrize("signals", SIGNALS)
def test_the_command_serves_and_stops_on_signals(folder: Path, signals: Sequence[signal.Signals]) -> None:
    process, url = start(folder, "--grace", "5" if len(signals) == 1 else "60")
    asked = {"model": "small", "prompt": "a", "max_tokens": 90, "n": 60, "logit_bias": {"256": -100}}
    background = threading.Thread(target=lambda: ask_anyhow(url, asked))
    background.start()
    while "underhood_running 0" in httpx.get(url + "/metrics").text:
        time.sleep(0.01)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.3)
    stderr = process.communicate(timeout=15)[1]
    background.join(10)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    assert "small: plain text" in stderr


def ask_anyhow(url: str, asked: dict[str, Any]) -> None:
    with contextlib.suppress(httpx.TransportError):
        httpx.post(url + "/v1/completions", json=asked, timeout=20)


def test_a_soak(served: Running) -> None:
    """Many small requests in turn leave nothing that grows."""
    for i in range(60):
        assert served.complete(seed=i, user=str(i), stream=bool(i % 2)).status_code == 200
    served.require_nothing_held()
    assert len(served.house.worker.engine.scheduler.batch.queue.served) <= 1


@pytest.mark.slow
def test_a_long_soak() -> None:
    import psutil

    with running(engine=EngineConfig(n_blocks=256)) as served:
        sizes = []
        for _ in range(6):
            with ThreadPoolExecutor(8) as threads:
                codes = set(threads.map(lambda i: served.complete(seed=i, max_tokens=20, user=str(i), stream=bool(i % 2)).status_code, range(400)))
            assert codes == {200}
            sizes.append(psutil.Process().memory_info().rss)
        assert sizes[-1] < sizes[1] + 20 * 2**20
        served.require_nothing_held()
