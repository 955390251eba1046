"""What OpenAI's own client and plain HTTP get: forms, usage, log-probabilities, seeds, ends, errors."""

import json
import math
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import ValidationError

from tests.infer.small import TOKENIZER, V, alone, model
from tests.serve.server import NAME, Running, events, running
from underhood.base.rng import stream_seed
from underhood.infer.generation import Generation
from underhood.infer.sample import SampleConfig
from underhood.serve.insight import PIECE
from underhood.serve.protocol import ChatRequest, CompletionRequest, Sampling

M, N, B, C = (TOKENIZER.encode(letter)[0] for letter in "MNbc")
HI = [{"role": "user", "content": "Hi"}]


def greedy(prompt: str, count: int) -> str:
    """What the model itself goes on with."""
    ids = TOKENIZER.encode(prompt)
    return TOKENIZER.decode(alone(model(), Generation(prompt=tuple(ids), sample=SampleConfig(temperature=0, max_tokens=count, end_ids=(256,)))))


# ── the official client ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_client_chats(served: Running) -> None:
    answer = served.openai.chat.completions.create(model=NAME, messages=HI, max_completion_tokens=6, seed=1, n=2, logprobs=True, top_logprobs=3)
    assert [c.index for c in answer.choices] == [0, 1]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    for choice in answer.choices:
        assert choice.finish_reason == "length"
        assert choice.logprobs is not None
        content = choice.logprobs.content or []
        assert bytes(b for token in content for b in token.bytes or []).decode(errors="replace").removeprefix(" ") == choice.message.content
        assert all(len(token.top_logprobs) == 3 for token in content)
    assert answer.system_fingerprint is not None


def test_the_clients_stream_is_the_whole(served: Running) -> None:
    asked: dict[str, Any] = {"model": NAME, "messages": HI, "max_completion_tokens": 20, "seed": 3, "n": 2}
    whole = served.openai.chat.completions.create(**asked)
    texts, ends, usage = ["", ""], ["", ""], None
    for chunk in served.openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [c.message.content for c in whole.choices]
    assert ends == [c.finish_reason for c in whole.choices]
    assert usage == whole.usage


def test_the_client_completes_and_streams(served: Running) -> None:
    asked: dict[str, Any] = {"model": NAME, "prompt": ["ab", "cd"], "max_tokens": 5, "temperature": 0}
    whole = served.openai.completions.create(**asked)
    assert [c.text for c in whole.choices] == [greedy("ab", 5), greedy("cd", 5)]
    texts = ["", ""]
    for chunk in served.openai.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [c.text for c in whole.choices]


def test_the_client_lists_models_and_gets_typed_errors(served: Running) -> None:
    client = served.openai
    assert [m.id for m in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "underhood"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="not trained to embed"):
        client.embeddings.create(model=NAME, input="text")
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=NAME, prompt="x" * 500)
    assert long.value.code == "context_length_exceeded"


# ── completions ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_prompts_of_every_kind(served: Running) -> None:
    expected = greedy("ab", 4)
    for prompt in ("ab", ["ab"], TOKENIZER.encode("ab"), [TOKENIZER.encode("ab")]):
        assert served.complete(prompt=prompt, temperature=0).json()["choices"][0]["text"] == expected
    assert served.complete(prompt="", temperature=0).json()["usage"]["prompt_tokens"] == 1  # begins a document


def test_n_of_several_prompts_is_numbered_prompt_by_prompt(served: Running) -> None:
    together = served.complete(prompt=["ab", "cd"], n=2, seed=5).json()
    seeds = {"ab": 5, "cd": stream_seed(5, "prompt/1")}
    apart = [c for p, seed in seeds.items() for c in served.complete(prompt=p, n=2, seed=seed).json()["choices"]]
    assert [c["index"] for c in together["choices"]] == [0, 1, 2, 3]
    assert [c["text"] for c in together["choices"]] == [c["text"] for c in apart]
    assert together["usage"] == {"prompt_tokens": 4, "completion_tokens": 16, "total_tokens": 20}


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_log_probabilities(served: Running, stream: bool) -> None:
    answer = served.complete(prompt="abc", echo=True, logprobs=2, max_tokens=3, temperature=0, stream=stream)
    chunks = [e for e in events(answer.text) if e != "[DONE]"] if stream else [answer.json()]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(c["text"] for c in choices) == "abc" + greedy("abc", 3)
    logprobs = {field: [x for c in choices if c["logprobs"] for x in c["logprobs"][field]] for field in ("tokens", "token_logprobs", "top_logprobs")}
    assert logprobs["tokens"][:3] == ["a", "b", "c"]
    assert len(logprobs["tokens"]) == 6
    import torch

    rows = model()(torch.tensor([TOKENIZER.encode("abc")])).detach()[0].double().log_softmax(-1)
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:3] == pytest.approx([float(rows[0, B]), float(rows[1, C])], abs=1e-5)
    assert logprobs["token_logprobs"][3] == pytest.approx(float(rows[2].max()), abs=1e-5)
    for token, top in zip(logprobs["tokens"][1:], logprobs["top_logprobs"][1:], strict=True):
        assert token in top  # OpenAI: "always the sampled token, so there may be up to logprobs+1 elements"
        assert 2 <= len(top) <= 3
    assert max(map(len, logprobs["top_logprobs"][1:])) == 3


def test_options_of_a_stream_need_one(served: Running) -> None:
    for ask in (served.complete, served.chat):
        answer = ask(stream_options={"include_usage": True})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream_options")
        assert ask(stream_options=None).status_code == ask(stream=True, stream_options={}).status_code == 200


def test_the_token_itself_stands_among_its_likeliest(served: Running) -> None:
    for count in (0, 2):
        found = served.complete(logprobs=count, temperature=2, seed=3, max_tokens=8).json()["choices"][0]["logprobs"]
        for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
            assert top[token] == logprob
            assert count <= len(top) <= count + 1


def test_a_long_prompt_is_scored_in_pieces_as_in_one(served: Running) -> None:
    import torch

    ids = TOKENIZER.encode("abcdefghij" * 8)
    assert len(ids) > PIECE
    found = served.complete(prompt=ids, echo=True, logprobs=3, max_tokens=0).json()["choices"][0]["logprobs"]
    rows = model()(torch.tensor([ids])).detach()[0].double().log_softmax(-1)
    assert found["token_logprobs"][1:] == pytest.approx([float(row[i]) for row, i in zip(rows, ids[1:], strict=False)], abs=1e-5)
    assert [max(top.values()) for top in found["top_logprobs"][1:]] == pytest.approx(rows.max(-1).values[:-1].tolist(), abs=1e-5)


def test_equal_prompts_of_one_request_have_answers_of_their_own(served: Running) -> None:
    fields = {"max_tokens": 12, "temperature": 1, "logit_bias": {"256": -100}}
    for seed in (None, 5):
        several, again = (served.complete(prompt=["ab"] * 4, seed=seed, **fields).json()["choices"] for _ in range(2))
        assert len({c["text"] for c in several}) == 4
        assert (several == again) == (seed is not None)
    assert several[0]["text"] == served.complete(prompt="ab", seed=5, **fields).json()["choices"][0]["text"]


@pytest.mark.parametrize("stream", [False, True])
def test_echoes_alone_of_several_choices_are_answered_and_counted(served: Running, stream: bool) -> None:
    counted = served.house.metrics.finished["length"]
    answer = served.complete(prompt="abc", echo=True, max_tokens=0, n=3, stream=stream)
    chunks = [e for e in events(answer.text) if e != "[DONE]"] if stream else [answer.json()]
    choices = [c for chunk in chunks for c in chunk["choices"]]
    assert ["".join(c["text"] for c in choices if c["index"] == i) for i in range(3)] == ["abc"] * 3
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] == ["length"] * 3
    assert served.house.metrics.finished["length"] == counted + 3


def test_an_echo_alone(served: Running) -> None:
    answer = served.complete(prompt="abc", echo=True, max_tokens=0).json()
    assert answer["choices"][0] == {"index": 0, "text": "abc", "logprobs": None, "finish_reason": "length"}
    assert answer["usage"]["completion_tokens"] == 0
    assert served.complete(max_tokens=0).status_code == 400


def test_text_offsets_point_into_the_text(served: Running) -> None:
    choice = served.complete(prompt="abc", echo=True, logprobs=0, max_tokens=0).json()["choices"][0]
    assert [choice["text"][at] for at in choice["logprobs"]["text_offset"]] == ["a", "b", "c"]


# ── sampling ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_seed_is_repeatable_and_none_is_not(served: Running) -> None:
    def text(**fields: Any) -> str:
        return str(served.complete(max_tokens=12, **fields).json()["choices"][0]["text"])

    assert text(seed=7) == text(seed=7) != text(seed=8)
    assert len({text() for _ in range(4)}) > 1
    assert text(seed=-(2**63)) == text(seed=-(2**63))


def test_settings_reach_the_sampler(served: Running) -> None:
    likeliest = greedy("ab", 8)
    for fields in ({"temperature": 0}, {"top_p": 0}, {"top_k": 1}, {"min_p": 1}):
        assert served.complete(max_tokens=8, seed=1, **fields).json()["choices"][0]["text"] == likeliest
    assert served.complete(max_tokens=8, seed=1).json()["choices"][0]["text"] != likeliest
    assert served.complete(logit_bias={str(M): 100}).json()["choices"][0]["text"] == "MMMM"


@pytest.mark.parametrize("field", ["presence_penalty", "frequency_penalty"])
def test_penalties_count_what_was_written_and_not_the_prompt(served: Running, field: str) -> None:
    """Two tokens are pushed far above the others, one by 1.5 more."""
    asked = {"prompt": "MMMMMM", "logit_bias": {str(M): 81.5, str(N): 80}, "temperature": 0, "max_tokens": 6}
    plain = served.complete(**asked).json()["choices"][0]["text"]
    punished = served.complete(**asked, **{field: 2.0}).json()["choices"][0]["text"]
    assert punished != plain
    assert punished[0] == plain[0]
    assert set(punished) == {"M", "N"}


def test_stop_strings_end_an_answer_before_them(served: Running) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "one", "schema": {"const": "abcdefg"}}}
    for stop in ("def", ["def"], ["never there", "def", "nor this"]):
        cut = served.chat(response_format=wanted, max_tokens=30, stop=stop).json()
        assert cut["choices"][0]["message"]["content"] == '"abc'
        assert cut["choices"][0]["finish_reason"] == "stop"
        assert cut["usage"]["completion_tokens"] == len('"abcdef')  # what was written counts, shown or not


def test_json_by_a_schema(served: Running) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"], "additionalProperties": False}
    for stream in (False, True):
        wanted = {"type": "json_schema", "json_schema": {"name": "ab", "schema": schema, "strict": True}}
        answer = served.chat(response_format=wanted, max_tokens=60, seed=2, stream=stream)
        if stream:
            text = "".join(c["delta"].get("content") or "" for e in events(answer.text) if e != "[DONE]" for c in e["choices"])
        else:
            text = answer.json()["choices"][0]["message"]["content"]
        found = json.loads(text)
        assert set(found) == {"a", "b"}
        assert isinstance(found["a"], int)
        assert found["b"] in ("x", "y")
    assert isinstance(json.loads(served.chat(response_format={"type": "json_object"}, max_tokens=40).json()["choices"][0]["message"]["content"]), dict)


def test_options_reach_the_chat_template(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{% if enable_thinking is false %}<no>{% endif %}{{ messages[0]['content'] }}")
    with running(folder=tmp_path) as served:
        counts = [
            served.chat(chat_template_kwargs=options).json()["usage"]["prompt_tokens"]
            for options in (None, {"enable_thinking": True}, {"enable_thinking": False})
        ]
    assert counts == [2, 2, 6]


def test_logprobs_of_a_chat_are_log_probabilities(served: Running) -> None:
    content = served.chat(logprobs=True, top_logprobs=20, seed=1).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 4
    for token in content:
        tops = [top["logprob"] for top in token["top_logprobs"]]
        assert tops == sorted(tops, reverse=True)
        assert sum(map(math.exp, tops)) <= 1
        assert token["logprob"] <= 0


# ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_form_of_a_stream(served: Running) -> None:
    answer = served.chat(stream=True, stream_options={"include_usage": True}, n=2)
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = events(answer.text)
    assert found.count("[DONE]") == 1
    assert found[-1] == "[DONE]"
    assert found[-2]["choices"] == []
    assert found[-2]["usage"]["completion_tokens"] == 8
    assert len({e["id"] for e in found[:-1]}) == 1
    assert all(e["usage"] is None for e in found[:-2])
    for index in (0, 1):
        mine = [c for e in found[:-1] for c in e["choices"] if c["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
        assert [c["finish_reason"] for c in mine].count("length") == 1
        assert mine[-1] == {"index": index, "delta": {}, "logprobs": None, "finish_reason": "length"}


def test_no_usage_unless_asked_for(served: Running) -> None:
    assert all("usage" not in e for e in events(served.chat(stream=True).text)[:-1])


def test_an_error_before_the_first_event_has_a_status(served: Running) -> None:
    answer = served.chat(stream=True, messages=[{"role": "user", "content": "x" * 200}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize("text", ["é", "→", "🙂", "\N{REPLACEMENT CHARACTER}"])
def test_characters_of_many_tokens_are_never_cut(served: Running, text: str) -> None:
    """A text whose every byte is a token: pushed by biases one after the other, through the schema of a constant."""
    wanted = {"type": "json_schema", "json_schema": {"name": "one", "schema": {"const": f"a{text}b"}}}
    chunks = [c["delta"].get("content") or "" for e in events(served.chat(stream=True, response_format=wanted, max_tokens=30).text)[:-1] for c in e["choices"]]
    assert json.loads("".join(chunks)) == f"a{text}b"
    assert text == "\N{REPLACEMENT CHARACTER}" or not any("\N{REPLACEMENT CHARACTER}" in chunk for chunk in chunks)


@pytest.mark.parametrize("stops", [["cde"], ["cdx", "cde"], ["bcdex", "cd"], ["abcdz", "bcz", "cz", "ef"]])
def test_no_chunk_shows_the_beginning_of_a_stop_string(served: Running, stops: list[str]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "one", "schema": {"const": "abcdefg"}}}
    found = events(served.chat(stream=True, response_format=wanted, max_tokens=30, stop=stops).text)[:-1]
    chunks = [c["delta"].get("content") or "" for e in found for c in e["choices"]]
    whole = '"abcdefg"'
    end = min(whole.index(stop) for stop in stops if stop in whole)
    assert "".join(chunks) == whole[:end]
    assert found[-1]["choices"][0]["finish_reason"] == "stop"


# ── what is refused, and what is ignored ──────────────────────────────────────────────────────────────────────────────

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n": 10**9}, "n"),
    ({"n": 0}, "n"),
    ({"n": 1.5}, "n"),
    ({"n": True}, "n"),
    ({"n": "2"}, "n"),
    ({"max_tokens": 10**9}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": 0}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": "x" * 257}, "stop"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    ({"logit_bias": {"1": 101}}, "logit_bias"),
    ({"logit_bias": {str(V): 1}}, None),  # type: ignore[list-item]
    ({"logit_bias": [1]}, "logit_bias"),
    ({"stream_options": {"x": 1}}, "stream_options.x"),
    ({"user": "x" * 257}, "user"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"functions": []}, "functions"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"chat_template": "{{ 7 * 7 }}"}, "chat_template"),
    ({"guided_regex": "(a+)+$"}, "guided_regex"),
    ({"chat_template_kwargs": {f"x{i}": 1 for i in range(17)}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"x" * 65: 1}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"x": []}}, "chat_template_kwargs.x"),
    ({"chat_template_kwargs": {"x": "y" * 1025}}, "chat_template_kwargs.x"),
    ({"chat_template_kwargs": {"x": 10**30}}, "chat_template_kwargs.x"),
    ({"chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs.messages"),
    ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"pattern": "(a+)+$"}}}}, "schema"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]}, "messages.0.content.0.type"),
    ({"messages": "Hi"}, "messages"),
    ({"model": 5}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED)
def test_a_chat_is_refused(served: Running, fields: dict[str, Any], param: str) -> None:
    answer = served.chat(**fields)
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    if param:
        assert str(error["param"]).startswith(param), error
    assert len(error["message"]) < 600


@pytest.mark.parametrize(
    "fields",
    [
        {"suffix": "x"},
        {"best_of": 3},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": ["a"] * 129},
        {"prompt": [V]},
        {"prompt": [-1]},
        {"prompt": [1, "a"]},
        {"logprobs": 21},
    ],
)
def test_a_completion_is_refused(served: Running, fields: dict[str, Any]) -> None:
    assert served.complete(**fields).status_code == 400


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me"},
        {"metadata": {"a": 1}},
        {"store": False},
        {"service_tier": "auto"},
        {"stop": None},
        {"tools": []},
        {"tool_choice": "none"},
        {"modalities": ["text"]},
        {"chat_template_kwargs": None},
        {"chat_template_kwargs": {"enable_thinking": False, "effort": "high", "k": 1, "x": 0.5}},
        {"response_format": {"type": "text"}},
        {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "ann"}]},
        {"messages": [*HI, {"role": "assistant", "content": "ho", "refusal": None, "tool_calls": None}, *HI]},
    ],
)
def test_what_changes_nothing_is_taken(served: Running, fields: dict[str, Any]) -> None:
    answer = served.chat(**fields)
    assert answer.status_code == 200, answer.text


MANY = 20_000
WRONG: list[tuple[type[Sampling], dict[str, Any]]] = [  # fields with very many faults
    (CompletionRequest, {"prompt": [""] * MANY}),
    (CompletionRequest, {"prompt": [-1] * MANY}),
    (CompletionRequest, {"prompt": [[-1] * MANY] * 3}),
    (CompletionRequest, {"prompt": [{}] * MANY}),
    (CompletionRequest, {"prompt": "a", "logit_bias": {f"x{i}": 1 for i in range(MANY)}}),
    (CompletionRequest, {"prompt": "a", "stop": [""] * MANY}),
    (CompletionRequest, {"prompt": "a", **{f"x{i}": 1 for i in range(MANY)}}),
    (CompletionRequest, {"prompt": "a", "stream_options": {f"x{i}": 1 for i in range(MANY)}}),
    (ChatRequest, {"messages": [{}] * 2048}),
    (ChatRequest, {"messages": [{"role": "user", "content": [{}] * MANY}] * 2048}),
    (ChatRequest, {"messages": HI, "modalities": ["x"] * MANY}),
    (ChatRequest, {"messages": HI, "chat_template_kwargs": {f"x{i}": [] for i in range(MANY)}}),
    (ChatRequest, {"messages": HI, "tools": [1] * MANY}),
]


@pytest.mark.parametrize(("kind", "fields"), WRONG, ids=range(len(WRONG)))
def test_what_is_said_of_a_wrong_request_does_not_grow_with_it(kind: type[Sampling], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"model": NAME, **fields})
    assert caught.value.error_count() <= 12


def test_the_first_unknown_field_is_named(served: Running) -> None:
    error = served.complete(temperature=0, first=1, second=2).json()["error"]
    assert (error["code"], error["param"]) == ("unknown_parameter", "first")
    assert served.complete(logit_bias={str(i): 0 for i in range(1025)}).json()["error"]["param"] == "logit_bias"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b'{"model": NaN}', "application/json"),
        (b'{"model": "tiny", "prompt": "a", "temperature": NaN}', "application/json"),
        (b'{"model": "tiny", "prompt": "a", "temperature": 1e999}', "application/json"),
        (b'{"model": "tiny", "prompt": "a", "seed": ' + b"9" * 5000 + b"}", "application/json"),
        (b'{"model": "tiny", "prompt": "a", "\\ud800": 1}', "application/json"),
        (b'{"model": "tiny", "prompt": "a", "logit_bias": {"\\ud800": 1}}', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"model=tiny", "application/x-www-form-urlencoded"),
        (b'{"model": "tiny", "prompt": "a"}', "text/plain"),
    ],
)
def test_bodies_that_are_no_request(served: Running, content: bytes, kind: str) -> None:
    answer = served.post("/v1/completions", content=content, headers={"content-type": kind})
    assert answer.status_code in (400, 415), answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("field", ["prompt", "stop", "user", "model"])
def test_half_a_surrogate_pair_is_no_fault(served: Running, field: str) -> None:
    answer = served.post("/v1/completions", content=json.dumps({"model": NAME, "prompt": "a", field: "a\ud800"}), headers={"content-type": "application/json"})
    assert answer.status_code == (200 if field == "prompt" else 400)
    assert served.post("/v1/embeddings", content='{"a": "\\ud800"}', headers={"content-type": "application/json"}).status_code == 404


def test_paths_and_methods_that_there_are_not(served: Running) -> None:
    for answer, status in ((served.get("/v1/nothing"), 404), (served.get("/v1/completions"), 405), (served.get("/v1/models/other"), 404)):
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_attention_maps(served: Running) -> None:
    asked = {"model": NAME, "text": "abcd" * 50, "layer": 1}
    found = served.post("/v1/underhood/attention", asked).json()
    assert len(found["weights"]) == found["n_head"] == 4
    assert len(found["tokens"]) == 96
    assert found["cut"] == 104
    for head in found["weights"]:
        for t, row in enumerate(head):
            assert len(row) == t + 1
            assert sum(row) == pytest.approx(1, abs=0.01)
    assert all(row[:-20] == [0.0] * len(row[:-20]) for head in found["weights"] for row in head)  # the window of the model
    assert served.post("/v1/underhood/attention", {**asked, "layer": 2}).status_code == 400
