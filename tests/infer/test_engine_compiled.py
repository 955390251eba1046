"""The engine with compiled kernels: whole steps in them, attention of single tokens alone, or each as the step's size asks for."""

import dataclasses
import importlib.util

import pytest

from tests.infer.small import TOKENIZER, alone, generations, model, tokens
from tests.infer.test_engine import TIGHT, drain, require_nothing_held, with_guesses
from underhood.infer.engine import Engine, EngineConfig

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed: pip install numba")


@pytest.mark.parametrize("up_to", [0, 4, 64])
@pytest.mark.parametrize("name", ["gpt2", "qwen"])
def test_each_request_gets_what_it_gets_alone(name: str, up_to: int) -> None:
    from underhood.kernels.decode import CompiledDecoder

    made, asked = model(name), generations(14)
    config = dataclasses.replace(TIGHT, compiled_up_to=up_to)
    engine = Engine(made, TOKENIZER, config, compiled=CompiledDecoder(made))
    choices = [engine.submit(a)[0] for a in asked]
    drain(engine)
    assert [tokens(c) for c in choices] == [alone(made, a) for a in asked]
    require_nothing_held(engine)


def test_guesses_change_nothing() -> None:
    from underhood.kernels.decode import CompiledDecoder

    made, asked = model("qwen"), generations(6)
    engine, choices = with_guesses(made, asked, EngineConfig(block_size=4, guesses=5, compiled_up_to=24), compiled=CompiledDecoder(made))
    drain(engine)
    assert [tokens(c) for c in choices] == [alone(made, a) for a in asked]
    assert engine.scheduler.batch.counts.right > 20


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bits_of_an_answer_are_its_own(dtype: str) -> None:
    """Always in bfloat16, and in float32 where it is asked for: log-probabilities are equal to the last bit, alone and in company."""
    import torch

    from underhood.kernels.decode import CompiledDecoder

    made = model("llama").to(getattr(torch, dtype))
    config = EngineConfig(block_size=4, compiled_up_to=2, batch_invariant=dtype == "float32")
    asked = [dataclasses.replace(a, logprobs=0) for a in generations(6)]
    compiled = CompiledDecoder(made, dtype)  # type: ignore[arg-type]
    found = []
    for groups in ([asked], [[a] for a in asked]):
        choices = []
        for group in groups:
            engine = Engine(made, TOKENIZER, config, compiled=compiled)
            choices += [engine.submit(a)[0] for a in group]
            drain(engine)
        found.append([[(info.id, info.logprob) for piece in c.pieces for info in piece.tokens] for c in choices])
    assert found[0] == found[1]
