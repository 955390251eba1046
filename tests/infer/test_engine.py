"""Each request gets what it would get alone, whoever comes, goes, fails or is pre-empted beside it."""

import dataclasses
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.infer.small import CONFIGS, TOKENIZER, V, alone, generations, model, text, tokens
from underhood.base.errors import ConfigError, UnderhoodError
from underhood.infer.engine import Compiled, Engine, EngineConfig
from underhood.infer.generation import Choice, Generation
from underhood.infer.lookup import Lookup
from underhood.infer.request import QueueFull, Request, RequestRefused
from underhood.infer.sample import SampleConfig, context_of
from underhood.nn.gpt import GPT, build_gpt
from underhood.nn.llama import llama
from underhood.nn.rope import RopeConfig

TIGHT = EngineConfig(n_blocks=24, block_size=4, tokens_per_step=32, max_running=6)


def drain(engine: Engine) -> None:
    while engine.busy:
        engine.step()


def require_nothing_held(engine: Engine) -> None:
    assert engine.pool.users == {}
    assert not engine.choices
    assert not engine.later


@pytest.mark.parametrize("name", CONFIGS)
def test_each_request_gets_what_it_gets_alone(name: str) -> None:
    made = model(name)
    engine = Engine(made, TOKENIZER, TIGHT)
    asked = generations(14)
    choices = [engine.submit(a)[0] for a in asked]
    drain(engine)
    assert [tokens(c) for c in choices] == [alone(made, a) for a in asked]
    assert engine.scheduler.batch.counts.preempted > 0
    require_nothing_held(engine)


class Knows(Lookup):
    """Guesses what will be written, wrongly one time in four."""

    def __init__(self, whole: list[int]) -> None:
        self.whole, self.draw = whole, random.Random(len(whole))

    def guesses(self, text: Sequence[int], count: int) -> list[int]:
        return [t if self.draw.random() < 0.75 else (t + 1) % V for t in self.whole[len(text) : len(text) + count]]


def with_guesses(made: GPT, asked: list[Generation], config: EngineConfig, compiled: Compiled | None = None) -> tuple[Engine, list[Choice]]:
    engine = Engine(made, TOKENIZER, config, compiled=compiled)
    choices = [engine.submit(a)[0] for a in asked]
    for choice, a in zip(choices, asked, strict=True):
        choice.lookup = Knows([*a.prompt, *alone(made, a)])
    return engine, choices


@pytest.mark.parametrize("name", CONFIGS)
def test_guesses_change_nothing_but_the_number_of_steps(name: str) -> None:
    made, steps = model(name), []
    asked = generations(14)
    for guesses in (0, 5):
        engine, choices = with_guesses(made, asked, dataclasses.replace(TIGHT, n_blocks=48, guesses=guesses))
        steps.append(0)
        while engine.busy:
            engine.step()
            steps[-1] += 1
        assert [tokens(c) for c in choices] == [alone(made, a) for a in asked]
        require_nothing_held(engine)
    counts = engine.scheduler.batch.counts
    assert 20 < counts.right < counts.guessed
    assert counts.generated == sum(len(tokens(c)) for c in choices)
    assert steps[1] < steps[0]


def test_a_text_in_a_loop_comes_in_a_fraction_of_the_steps() -> None:
    engine = Engine(model(), TOKENIZER, EngineConfig(guesses=4))
    choice = engine.submit(Generation(prompt=(1, 2), sample=SampleConfig(temperature=0, max_tokens=40), logit_bias={77: 100.0}))[0]
    steps = 0
    while engine.busy:
        engine.step()
        steps += 1
    assert tokens(choice) == [77] * 40
    assert steps == 11  # the prompt and one of the loop; three until two have followed two alike; then five a step


def test_an_answer_ends_inside_its_guesses() -> None:
    made = model()
    asked = Generation(prompt=(65, 66, 67) * 10, sample=SampleConfig(temperature=0, max_tokens=30))
    whole = alone(made, asked)
    for end in sorted(set(whole), key=whole.index):
        engine = Engine(made, TOKENIZER, EngineConfig(guesses=5))
        choice = engine.submit(dataclasses.replace(asked, sample=dataclasses.replace(asked.sample, end_ids=(end,))))[0]
        drain(engine)
        assert (choice.finish, tokens(choice)) == ("stop", whole[: whole.index(end) + 1])
        require_nothing_held(engine)


def test_nothing_is_guessed_where_a_token_hangs_on_those_before() -> None:
    made = model()
    for change in ({"presence_penalty": 1.0}, {"frequency_penalty": 1.0}, {"sample": SampleConfig(temperature=0, max_tokens=30, repetition_penalty=1.3)}):
        asked = dataclasses.replace(Generation(prompt=(65, 66, 67) * 10, sample=SampleConfig(temperature=0, max_tokens=30)), **change)  # type: ignore[arg-type]
        found = []
        for guesses in (0, 5):
            engine = Engine(made, TOKENIZER, EngineConfig(guesses=guesses))
            found.append(engine.submit(asked)[0])
            drain(engine)
        assert tokens(found[0]) == tokens(found[1])
        assert engine.scheduler.batch.counts.guessed == 0


def test_a_wide_step_carries_no_guesses() -> None:
    loops = Generation(prompt=(1, 2), sample=SampleConfig(temperature=0, max_tokens=20), logit_bias={77: 100.0})
    for running, guessed in ((3, True), (8, False)):
        engine = Engine(model(), TOKENIZER, EngineConfig(guesses=4, compiled_up_to=8))
        for _ in range(running):
            engine.submit(loops)
        drain(engine)
        assert (engine.scheduler.batch.counts.guessed > 0) == guessed


def test_guesses_take_no_block_that_another_needs() -> None:
    made = model()
    asked = generations(14)
    engine, choices = with_guesses(made, asked, dataclasses.replace(TIGHT, guesses=5))
    drain(engine)
    assert [tokens(c) for c in choices] == [alone(made, a) for a in asked]
    require_nothing_held(engine)


def survive(count: int, guesses: int = 0) -> None:
    """Random requests under random cancellation: those that are left get what they get alone."""
    made, draw = model(), random.Random(1)
    engine = Engine(made, TOKENIZER, dataclasses.replace(TIGHT, guesses=guesses))
    waiting, choices = generations(count, seed=2, most=16), []
    asked = list(waiting)
    while waiting or engine.busy:
        for _ in range(draw.randrange(3)):
            if waiting and len(engine.scheduler.batch.queue) < 20:
                choices.append(engine.submit(waiting.pop(0))[0])
        if choices and draw.random() < 0.1:
            engine.cancel(draw.choice(choices))
        engine.step()
    for choice, a in zip(choices, asked, strict=True):
        expected = alone(made, a)
        assert tokens(choice) == (expected if choice.finish != "cancelled" else expected[: len(tokens(choice))])
    assert {c.finish for c in choices} == {"length", "cancelled"}
    require_nothing_held(engine)


@pytest.mark.parametrize("guesses", [0, 5])
def test_survivors_get_what_they_get_alone(guesses: int) -> None:
    survive(60, guesses)


@pytest.mark.slow
@pytest.mark.parametrize("guesses", [0, 5])
def test_a_thousand_requests(guesses: int) -> None:
    survive(1000, guesses)


def test_the_choices_of_one_generation_share_the_prompt() -> None:
    engine = Engine(model(), TOKENIZER, EngineConfig(n_blocks=40, block_size=4))
    asked = Generation(prompt=tuple(range(30)), n=3, sample=SampleConfig(max_tokens=8), seed=5)
    choices = engine.submit(asked)
    drain(engine)
    assert len({tuple(tokens(c)) for c in choices}) == 3
    assert tokens(choices[0]) == alone(model(), asked)
    assert engine.scheduler.batch.counts.cached == 2 * 28
    require_nothing_held(engine)


def test_the_same_seed_is_the_same_text_and_another_is_another() -> None:
    asked = generations(1)[0]
    warm = Generation(prompt=asked.prompt, sample=SampleConfig(max_tokens=20), seed=3)
    engine = Engine(model(), TOKENIZER)
    found = []
    for seed in (3, 3, 4):
        choice = engine.submit(Generation(prompt=warm.prompt, sample=warm.sample, seed=seed))[0]
        drain(engine)
        found.append(tokens(choice))
    assert found[0] == found[1] != found[2]


def test_prefixes_are_shared_or_not() -> None:
    for share, cached in ((True, 28), (False, 0)):
        engine = Engine(model(), TOKENIZER, EngineConfig(block_size=4, share_prefixes=share))
        for _ in range(2):
            engine.submit(Generation(prompt=tuple(range(30)), sample=SampleConfig(max_tokens=2)))
            drain(engine)
        assert engine.scheduler.batch.counts.cached == cached


def test_stop_strings_and_end_tokens() -> None:
    made = model()
    asked = Generation(prompt=(65, 66, 67), sample=SampleConfig(temperature=0, max_tokens=30))
    whole = alone(made, asked)
    engine = Engine(made, TOKENIZER)
    end = engine.submit(Generation(prompt=asked.prompt, sample=SampleConfig(temperature=0, max_tokens=30, end_ids=(whole[4],))))[0]
    letters = [i for i, t in enumerate(whole) if 32 <= t < 127]
    stop = engine.submit(Generation(prompt=asked.prompt, sample=SampleConfig(temperature=0, max_tokens=30, stop=(TOKENIZER.decode([whole[letters[1]]]),))))[0]
    drain(engine)
    assert (end.finish, tokens(end)) == ("stop", whole[: whole.index(whole[4]) + 1])
    assert text(end) == TOKENIZER.decode(whole[: whole.index(whole[4])])
    assert [info.ends for piece in end.pieces for info in piece.tokens][-2:] == [False, True]
    assert stop.finish == "stop"
    assert TOKENIZER.decode([whole[letters[1]]]) not in text(stop)
    require_nothing_held(engine)


def test_log_probabilities_are_the_models() -> None:
    made = model()
    asked = Generation(prompt=(1, 2, 3), sample=SampleConfig(temperature=0, max_tokens=3), logprobs=4)
    choice = Engine(made, TOKENIZER).submit(asked)[0]
    engine = Engine(made, TOKENIZER)
    choice = engine.submit(asked)[0]
    drain(engine)
    first = choice.pieces[0].tokens[0]
    expected = made(torch.tensor([[1, 2, 3]])).detach()[0, -1].double().log_softmax(-1)
    assert first.logprob == pytest.approx(float(expected.max()), abs=1e-5)
    assert [t for t, _ in first.top] == expected.topk(4).indices.tolist()


def test_a_bias_decides() -> None:
    engine = Engine(model(), TOKENIZER)
    choice = engine.submit(Generation(prompt=(1,), sample=SampleConfig(max_tokens=4), logit_bias={77: 100.0}))[0]
    drain(engine)
    assert tokens(choice) == [77] * 4


def test_a_guide_is_kept_to() -> None:
    class Digits:
        start = 0

        def allowed(self, state: int, budget: int | None = None) -> torch.Tensor:
            mask = torch.zeros(V, dtype=torch.bool)
            mask[48 + state % 10] = True
            return mask

        def advance(self, state: int, token: int) -> int:
            return state + 1

    engine = Engine(model(), TOKENIZER)
    choice = engine.submit(Generation(prompt=(1,), sample=SampleConfig(max_tokens=5), guide=Digits()))[0]
    drain(engine)
    assert text(choice) == '!"#$%'[:0] + TOKENIZER.decode(range(48, 53))


def test_a_number_that_is_none_never_becomes_a_token() -> None:
    """One poisoned row ends its own request with an error; the others go on."""
    made = model()
    asked = Generation(prompt=(1, 2), sample=SampleConfig(temperature=0, max_tokens=5))
    expected = alone(made, asked)
    assert 7 not in expected
    with torch.no_grad():
        made.tokens.weight[7] = torch.nan
    engine = Engine(made, TOKENIZER)
    good, bad = engine.submit(asked)[0], engine.submit(Generation(prompt=(7, 2), sample=SampleConfig(max_tokens=5)))[0]
    drain(engine)
    assert (bad.finish, tokens(bad)) == ("error", [])
    assert "not finite" in bad.pieces[-1].error
    assert tokens(good) == expected
    require_nothing_held(engine)


@pytest.mark.parametrize("temperature", [1e-39, 1e-300, 1e-6])
def test_a_temperature_near_zero_is_zero(temperature: float) -> None:
    made, found = model(), []
    for t in (0.0, temperature):
        engine = Engine(made, TOKENIZER)
        found.append(engine.submit(Generation(prompt=(1, 2, 3), sample=SampleConfig(temperature=t, max_tokens=12)))[0])
        drain(engine)
    assert tokens(found[0]) == tokens(found[1])


class Refuses:
    """A guide that allows nothing after the second token, or fails there."""

    start = 0

    def __init__(self, fails: bool) -> None:
        self.fails = fails

    def allowed(self, state: int, budget: int | None = None) -> Tensor:
        return torch.full((V,), self.fails or state < 2)

    def advance(self, state: int, token: int) -> int:
        if state == 2:
            raise UnderhoodError("the grammar has no such place")
        return state + 1


@pytest.mark.parametrize("fails", [True, False])
def test_what_fails_in_one_answer_ends_that_answer_alone(fails: bool) -> None:
    made = model()
    engine, asked = Engine(made, TOKENIZER), generations(1)[0]
    bad = engine.submit(Generation(prompt=(1, 2), sample=SampleConfig(max_tokens=9), guide=Refuses(fails)))[0]
    good = engine.submit(asked)[0]
    drain(engine)
    assert (bad.finish, len(tokens(bad))) == ("error", 2)
    assert tokens(good) == alone(made, asked)
    require_nothing_held(engine)


def test_a_full_queue_never_stops_choices_that_were_let_in() -> None:
    """Their places were counted when they came; who is pushed out meanwhile may fill the queue beyond its end."""
    engine = Engine(model(), TOKENIZER, EngineConfig(n_blocks=16, block_size=4, max_running=2, tokens_per_step=64, max_waiting=4))
    sample = SampleConfig(max_tokens=20)
    first = engine.submit(Generation(prompt=tuple(range(20)), sample=sample))
    engine.step()
    several = engine.submit(Generation(prompt=tuple(range(50, 58)), n=4, sample=sample))
    for place in range(4):  # as if those who were pushed out had filled the queue
        engine.scheduler.batch.add(Request([1, 2, place], 5), reserved=True)
    for request in list(engine.scheduler.batch.queue.lines[""])[-4:]:
        engine.choices[request] = Choice(Generation(prompt=tuple(request.tokens), sample=SampleConfig(max_tokens=5)), 0, TOKENIZER)
        engine.choices[request].request = request
    drain(engine)
    assert {c.finish for c in [*first, *several]} == {"length"}
    require_nothing_held(engine)


def test_a_deadline_ends_what_waits_and_what_runs() -> None:
    engine = Engine(model(), TOKENIZER, EngineConfig(max_running=1))
    now = [0.0]
    engine.clock = lambda: now[0]
    runs, waits = (engine.submit(Generation(prompt=(1,), sample=SampleConfig(max_tokens=50), deadline=10))[0] for _ in range(2))
    several = engine.submit(Generation(prompt=(1,), n=3, sample=SampleConfig(max_tokens=50), deadline=10))
    engine.step()
    now[0] = 11
    engine.step()
    assert [c.finish for c in (runs, waits, *several)] == ["error"] * 5
    assert all("deadline" in c.pieces[-1].error for c in (runs, waits, *several))
    require_nothing_held(engine)


def test_cancelling_one_choice_lets_the_others_come() -> None:
    engine = Engine(model(), TOKENIZER)
    first, second = engine.submit(Generation(prompt=(1, 2), n=2, sample=SampleConfig(max_tokens=3)))
    engine.cancel(first)
    drain(engine)
    assert (first.finish, second.finish) == ("cancelled", "length")
    third, fourth = engine.submit(Generation(prompt=(1, 2), n=2, sample=SampleConfig(max_tokens=3)))
    engine.cancel(fourth)
    drain(engine)
    assert (third.finish, fourth.finish) == ("length", "cancelled")
    fifth, sixth = engine.submit(Generation(prompt=(1, 2), n=2, sample=SampleConfig(max_tokens=3)))
    engine.cancel(sixth)
    assert not engine.later
    engine.cancel(fifth)
    require_nothing_held(engine)


def test_what_can_never_run_is_refused_and_the_queue_has_an_end() -> None:
    engine = Engine(model(), TOKENIZER, EngineConfig(max_waiting=2, max_running=1))
    for prompt, most in (((), 1), ((1,) * 90, 20), ((V,), 1), ((-1,), 1)):
        with pytest.raises(RequestRefused):
            engine.submit(Generation(prompt=prompt, sample=SampleConfig(max_tokens=most)))
    for _ in range(2):
        engine.submit(Generation(prompt=(1,), sample=SampleConfig(max_tokens=1)))
    with pytest.raises(QueueFull, match="Try again later"):
        engine.submit(Generation(prompt=(1,), sample=SampleConfig(max_tokens=1)))
    drain(engine)
    require_nothing_held(engine)


def test_a_full_queue_has_a_place_for_each_client_of_whom_nobody_waits() -> None:
    engine = Engine(model(), TOKENIZER, EngineConfig(max_waiting=3, max_running=1))
    asked = Generation(prompt=(1,), sample=SampleConfig(max_tokens=2), client="flood")
    for _ in range(3):
        engine.submit(asked)
    guests = [engine.submit(dataclasses.replace(asked, client=name))[0] for name in "abc"]
    for refused in ("flood", "a", "d"):  # who waits already, and one more than twice as many as may
        with pytest.raises(QueueFull):
            engine.submit(dataclasses.replace(asked, client=refused))
    drain(engine)
    assert {c.finish for c in guests} == {"length"}
    require_nothing_held(engine)
    engine.submit(dataclasses.replace(asked, n=3))
    for refused in (asked, dataclasses.replace(asked, client="a", n=2)):  # its other choices wait for the prompt; a place is for one choice
        with pytest.raises(QueueFull):
            engine.submit(refused)
    engine.submit(dataclasses.replace(asked, client="a"))
    drain(engine)
    require_nothing_held(engine)


@pytest.mark.parametrize("n", [1, 3])
def test_nothing_to_write_is_an_answer(n: int) -> None:
    engine = Engine(model(), TOKENIZER)
    choices = engine.submit(Generation(prompt=(1,), n=n, sample=SampleConfig(max_tokens=0)))
    assert [choice.finish for choice in choices] == ["length"] * n
    require_nothing_held(engine)


def test_who_is_refused_leaves_no_choices_behind() -> None:
    engine = Engine(model(), TOKENIZER)
    with pytest.raises(RequestRefused):
        engine.submit(Generation(prompt=(1,) * 90, n=3, sample=SampleConfig(max_tokens=20)))
    require_nothing_held(engine)


@pytest.mark.parametrize(("field", "value"), [("n", 0), ("n", 10**9), ("logprobs", 21), ("logit_bias", {1: 1e9}), ("logit_bias", {1: float("nan")})])
def test_what_is_out_of_bounds_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        Generation(prompt=(1,), **{field: value})  # type: ignore[arg-type]


def test_a_dynamic_rotation_is_served_up_to_the_trained_context() -> None:
    config = llama(
        vocab_size=V,
        context=64,
        n_layer=1,
        n_head=2,
        width=16,
        positions="underhood.nn.rope:ScaledRotary",
        attention="underhood.nn.grouped:GroupedQueryAttention",
        rope=RopeConfig(kind="dynamic", factor=2, original_context=32),
    )
    assert context_of(build_gpt(config, 0)) == 32


def test_invariance_needs_compiled_kernels() -> None:
    with pytest.raises(ConfigError, match="batch_invariant"):
        Engine(model(), TOKENIZER, EngineConfig(batch_invariant=True))
