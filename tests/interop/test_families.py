"""Every family beside transformers: logits, gradients, cached steps, greedy text, filler on both sides, and back again.

Identical for these families means within 1e-4 · max(1, max |reference|) in float32.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interop.families import CASES, V, case, reference, saved, transformers
from underhood.base.errors import CheckpointError
from underhood.infer.cache import KVCache
from underhood.infer.forward import hidden_padded
from underhood.infer.sample import SampleConfig, generate
from underhood.interop.export import save_model
from underhood.interop.models import load_weights

__all__ = ["case"]
T = 24
IDS = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(0))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert float((ours - theirs).abs().max()) <= 1e-4 * max(1.0, float(theirs.abs().max()))


@torch.no_grad()
def test_logits(tmp_path: Path, case: str) -> None:
    theirs = saved(tmp_path, case)
    expected = theirs(IDS).logits
    assert float(expected.std()) > 0.5
    for kernel in ("plain", "sdpa"):
        close(load_weights(tmp_path, kernel=kernel)(IDS), expected)


@torch.no_grad()
def test_beyond_the_trained_context(tmp_path: Path) -> None:
    """A dynamic rotation changes with the length."""
    theirs = saved(tmp_path, "llama, dynamic")
    longer = torch.randint(V, (1, 40), generator=torch.Generator().manual_seed(3))
    close(load_weights(tmp_path)(longer), theirs(longer).logits)


def test_gradients(tmp_path: Path, case: str) -> None:
    theirs = saved(tmp_path, case)
    ours = load_weights(tmp_path)
    for logits in (ours(IDS), theirs(IDS).logits):
        logits.square().mean().backward()
    embedding = theirs.get_input_embeddings().weight.grad
    close(ours.tokens.weight.grad, embedding)


@torch.no_grad()
def test_cached_steps(tmp_path: Path, case: str) -> None:
    theirs = saved(tmp_path, case)
    ours, cache, past = load_weights(tmp_path), KVCache(3, T), None
    for begin, end in [(0, 7), *((t, t + 1) for t in range(7, T))]:
        out = theirs(IDS[:, begin:end], past_key_values=past, use_cache=True)
        past = out.past_key_values
        close(ours(IDS[:, begin:end], cache), out.logits)


@torch.no_grad()
def test_greedy_text(tmp_path: Path, case: str) -> None:
    theirs = saved(tmp_path, case)
    prompt = IDS[:1, :5]
    limit = 20 if "dynamic" not in case else 15  # beyond the trained context a cached and an uncached text differ by definition
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=limit, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 5:]
    found = list(generate(load_weights(tmp_path), prompt[0].tolist(), SampleConfig(temperature=0, max_tokens=limit), torch.Generator()))
    assert found == expected.tolist()


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_filler(tmp_path: Path, case: str, side: str) -> None:
    theirs = saved(tmp_path, case)
    ours = load_weights(tmp_path)
    real = torch.ones(2, T, dtype=torch.bool)
    real[1, : T - 9] = False
    real = real if side == "left" else real.flip(-1)
    at = (real.long().cumsum(-1) - 1).clamp(min=0)
    expected = theirs(IDS, attention_mask=real.long(), position_ids=at).logits
    close(ours.logits(hidden_padded(ours, IDS, real))[real], expected[real])


@torch.no_grad()
def test_what_we_save_is_what_transformers_loads(tmp_path: Path, case: str) -> None:
    saved(tmp_path / "theirs", case)
    ours = load_weights(tmp_path / "theirs")
    save_model(ours, tmp_path / "ours", shard_bytes=20_000)
    again, loading = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True, attn_implementation="eager")
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    close(ours(IDS), again.eval()(IDS).logits)
    assert torch.equal(load_weights(tmp_path / "ours")(IDS), ours(IDS))


@torch.no_grad()
def test_half_precision_is_as_exact_as_theirs(tmp_path: Path, case: str) -> None:
    """Against the same weights in float64, our error is at most 1.5 times transformers' own."""
    theirs = saved(tmp_path, case).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "half")
    ours = load_weights(tmp_path / "half", torch.bfloat16)
    truth = load_weights(tmp_path / "half", torch.float64)(IDS)
    error, reference_error = ((x.double() - truth).square().mean().sqrt() for x in (ours(IDS), theirs(IDS).logits))
    assert float(error) <= 1.5 * float(reference_error)


def test_an_unknown_field_is_an_error(tmp_path: Path, case: str) -> None:
    model: Any = reference(case)
    model.config.speed_of_light = 3e8
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="speed_of_light"):
        load_weights(tmp_path)


def test_every_family_is_covered() -> None:
    from underhood.interop.models import KNOWN

    kinds = {getattr(transformers, f"{kind}Config").model_type for kind, _ in CASES.values()}
    assert kinds == set(KNOWN)
