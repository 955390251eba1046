"""A conversation's cache is right whatever was said before."""

import random
from pathlib import Path

import pytest
import torch

from tests.infer.small import CONFIGS, model
from tests.interop.families import saved
from underhood.base.errors import DataError, ShapeError
from underhood.infer.cache import KVCache
from underhood.infer.session import Session, continue_greedily, decode, in_common, prefill, weights_version
from underhood.interop.models import load_weights


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_every_prompt_gets_what_it_gets_alone(name: str) -> None:
    """Prompts that go on, go back, and go another way."""
    made, draw, text = model(name), random.Random(0), list[int]()
    session = Session(made)
    for _ in range(25):
        text = text[: draw.randrange(len(text) + 1)] + [draw.randrange(256) for _ in range(draw.randrange(1, 6))]
        text = text[:60]
        torch.testing.assert_close(session.logits(text), made(torch.tensor([text]))[0, -1], rtol=1e-4, atol=1e-5)


def test_only_what_is_new_is_computed() -> None:
    session = Session(model())
    session.logits([1, 2, 3, 4])
    session.logits([1, 2, 3, 4, 5, 6])
    assert session.computed == 6
    session.logits([1, 2, 9])
    assert session.computed == 7
    session.logits([1, 2])
    assert session.computed == 8, "the last token's logits are not kept"


@torch.no_grad()
def test_new_weights_make_the_cache_stale() -> None:
    made, other = model(), model()
    session, before = Session(made), weights_version(made)
    session.logits([1, 2, 3])
    other.blocks[0].attention.key.weight.mul_(2)  # type: ignore[union-attr,operator]
    made.load_state_dict(other.state_dict())
    assert weights_version(made) != before
    torch.testing.assert_close(session.logits([1, 2, 3, 4]), other(torch.tensor([[1, 2, 3, 4]]))[0, -1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_thousand_tokens_are_those_of_recomputation() -> None:
    import dataclasses

    from underhood.nn.gpt import build_gpt

    made = build_gpt(dataclasses.replace(CONFIGS["llama"], context=1010), 0).eval().double()
    ids = torch.tensor([[5, 6, 7]])
    written = torch.stack(list(continue_greedily(made, ids, 1000)), dim=1)
    whole = torch.cat([ids, written], dim=1)
    assert torch.equal(made(whole)[0, 2:-1].argmax(-1), written[0])


@torch.no_grad()
def test_prefill_then_decode() -> None:
    made, cache, ids = model(), KVCache(2, 8), torch.randint(250, (3, 7))
    first = prefill(made, ids[:, :5], cache)
    second = decode(made, ids[:, 5], cache)
    whole = made(ids[:, :6])
    torch.testing.assert_close(torch.stack([first, second], 1), whole[:, 4:], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("case", ["llama 2", "gpt2"])
def test_the_text_is_that_of_transformers_cached_generation(tmp_path: Path, case: str) -> None:
    theirs = saved(tmp_path, case)
    prompt = torch.randint(200, (2, 5), generator=torch.Generator().manual_seed(0)) % theirs.config.vocab_size
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, use_cache=True, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    found = torch.stack(list(continue_greedily(load_weights(tmp_path), prompt, 20)), dim=1)
    assert torch.equal(found, expected[:, 5:])


def test_in_common() -> None:
    assert [in_common(a, b) for a, b in (([1, 2], [1, 2, 3]), ([1, 2], [1, 3]), ([], [1]), ([1], [1]))] == [2, 1, 0, 1]


@torch.no_grad()
def test_a_prompt_that_was_refused_leaves_nothing_behind() -> None:
    made = model()
    session, text = Session(made), [i % 250 for i in range(made.config.context + 1)]
    session.logits(text[:3])
    with pytest.raises(ShapeError):
        session.logits(text)
    torch.testing.assert_close(session.logits(text[:20]), made(torch.tensor([text[:20]]))[0, -1], rtol=1e-4, atol=1e-5)


def test_nothing_to_continue() -> None:
    with pytest.raises(DataError, match="no token"):
        Session(model()).logits([])
