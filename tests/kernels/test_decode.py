"""The compiled decoder: the plain model's logits and tokens, bit for bit the same in any company, and a refusal of what it does not know."""

import copy
import importlib.util
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from underhood.base.errors import ConfigError, DataError, NonFinite, ShapeError
from underhood.infer.sample import SampleConfig, generate
from underhood.lab.patch import Bind, applied
from underhood.nn.attention import MultiHeadAttention
from underhood.nn.fast import fast
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.llama import llama
from underhood.nn.rope import RopeConfig

pytestmark = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed: pip install numba")
GROUPED = "underhood.nn.grouped:GroupedQueryAttention"
SIZE: dict[str, Any] = {"vocab_size": 99, "context": 160, "width": 96, "n_head": 6, "n_layer": 2}
LLAMA = llama(**SIZE, hidden=200)
YARN = RopeConfig(kind="yarn", factor=4.0, original_context=40)
CONFIGS = {
    "gpt2": GPTConfig(**SIZE),
    "gpt2, fast": fast(GPTConfig(**SIZE)),
    "gpt2, other parts": GPTConfig(**SIZE, positions="Sinusoidal", activation="gelu", bias=False, fused_qkv=False, logit_cap=2.0, qk_norm=True),
    "llama": LLAMA,
    "llama, fast": fast(llama(**SIZE, hidden=200, activation="relu_squared", block="Block", norm="BareRMSNorm")),
    "grouped": llama(**SIZE, attention=GROUPED, n_kv_head=2, head_dim=24, qkv_bias=True, qk_gain=True),
    "window": llama(**SIZE, attention=GROUPED, n_kv_head=1, window=20, window_from=1, positions="underhood.nn.rope:ScaledRotary", rope=YARN),
}
GREEDY = SampleConfig(temperature=0, max_tokens=120)


def decoder(model: GPT, *arguments: Any, **options: Any) -> Any:
    return importlib.import_module("underhood.kernels.decode").CompiledDecoder(model, *arguments, **options)


def model_of(name: str) -> GPT:
    """A model whose every number matters: norms and biases away from 1 and 0, matrices large enough to give clear winners."""
    model = build_gpt(CONFIGS[name], 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name_, p in model.named_parameters():
            if p.ndim == 1:
                p.add_(0.2 * torch.randn(p.shape, generator=generator))
            else:
                p.mul_(40 if name_.startswith("positions") else 6)
    return model.eval()


def ids(*shape: int) -> Tensor:
    return torch.randint(99, shape, generator=torch.Generator().manual_seed(2))


def stepped(found: Any, text: Tensor, prompt: int) -> Tensor:
    """Logits after each of the last tokens, the first ``prompt`` read at once and the rest one by one."""
    logits = [found.prefill(text[:, :prompt])]
    return torch.stack(logits + [found.step(text[:, i]) for i in range(prompt, text.shape[1])], dim=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_the_model(name: str) -> None:
    model, text = model_of(name), ids(3, 60)
    with torch.no_grad():
        reference = model(text)[:, 6:]
    torch.testing.assert_close(stepped(decoder(model), text, 7), reference, rtol=0, atol=1e-5 * max(1.0, float(reference.abs().max())))


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_text_is_that_of_the_plain_path(name: str) -> None:
    model, prompt = model_of(name), ids(11).tolist()
    expected = list(generate(model, prompt, GREEDY, torch.Generator()))
    assert list(decoder(model).generate(prompt, GREEDY, torch.Generator())) == expected
    assert len(set(expected)) > 5, "a text that repeats itself would prove little"


@pytest.mark.parametrize("name", ["gpt2", "grouped"])
def test_bfloat16_is_no_worse_than_torch(name: str) -> None:
    model, text = model_of(name), ids(3, 40)
    half = copy.deepcopy(model).bfloat16()
    with torch.no_grad():
        true, theirs = copy.deepcopy(half).double()(text)[:, 6:], half(text)[:, 6:].double()
    limit = 1.5 * float((theirs - true).abs().max())
    assert float((stepped(decoder(model, "bfloat16"), text, 7).double() - true).abs().max()) <= limit
    assert float((stepped(decoder(half, "bfloat16"), text, 7).double() - true).abs().max()) <= limit


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_has_the_same_bits_in_any_company(dtype: str) -> None:
    """Five requests in pages of 16, in one flat list, first as chunks of a prompt and then token by token: each has the bits that it has alone."""
    found, texts = decoder(model_of("grouped"), dtype), ids(5, 33)
    at, pages = np.arange(33), np.random.default_rng(0).permutation(20)[:15].reshape(5, 3)
    shared = found.new_pools(20, 16)

    def hidden(rows: Any, positions: Any, table: Any, pools: Any) -> Any:
        return found.hidden(texts.numpy()[rows, positions], positions, np.ascontiguousarray(table), pools)

    rows = np.repeat(np.arange(5), 20)
    parts = [hidden(rows, np.tile(at[:20], 5), pages[rows], shared).reshape(5, 20, -1)]
    parts += [hidden(np.arange(5), np.full(5, i), pages, shared).reshape(5, 1, -1) for i in range(20, 33)]
    together = np.concatenate(parts, axis=1)
    for row in range(5):
        pools = found.new_pools(1, 40)
        alone = [hidden(np.array([row]), at[i : i + 1], np.zeros((1, 1), np.int64), pools) for i in range(33)]
        np.testing.assert_array_equal(np.concatenate(alone), together[row])


def test_two_threads_give_the_same_bits() -> None:
    found, text = decoder(model_of("llama")), ids(3, 20)
    one = stepped(found, text, 1)
    torch.set_num_threads(2)
    tokens = text.numpy()
    found.reset(3, 20)
    for i in range(20):  # not ``prefill``: torch's own products may depend on its threads
        logits = found.step(tokens[:, i])
    torch.set_num_threads(1)
    found.reset(3, 20)
    for i in range(20):
        again = found.step(tokens[:, i])
    np.testing.assert_array_equal(logits.numpy(), again.numpy())
    torch.testing.assert_close(again, one[:, -1], rtol=0, atol=1e-5)


def test_sampling_draws_as_the_plain_path_does() -> None:
    model, config = model_of("gpt2"), SampleConfig(temperature=0.8, top_k=20, repetition_penalty=1.1, max_tokens=40)
    plain, compiled = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    assert list(decoder(model).generate([1, 2, 3], config, compiled)) == list(generate(model, [1, 2, 3], config, plain))


def test_the_oldest_tokens_fall_out_of_sight_beyond_the_context() -> None:
    model, prompt = model_of("llama"), ids(155).tolist()
    config = SampleConfig(temperature=0, max_tokens=12)
    assert list(decoder(model).generate(prompt, config, torch.Generator())) == list(generate(model, prompt, config, torch.Generator()))


def test_it_ends_before_an_end_token() -> None:
    model, prompt = model_of("gpt2"), [1, 2, 3]
    text = list(generate(model, prompt, GREEDY, torch.Generator()))
    config = SampleConfig(temperature=0, max_tokens=120, end_ids=(text[7],))
    assert list(decoder(model).generate(prompt, config, torch.Generator())) == text[: text.index(text[7])]


def test_float32_weights_are_the_models_own() -> None:
    model = model_of("gpt2")
    found = decoder(model)
    with torch.no_grad():
        model.blocks[0].feedforward.up.weight.zero_()
        model.tokens.weight[3] = 7.0
    assert not found.layers[0].up.weight.any()
    assert (found.head[3] == 7).all()
    half = model_of("gpt2").bfloat16()
    assert decoder(half, "bfloat16").head.ctypes.data == half.tokens.weight.data_ptr()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_token(bad: float) -> None:
    model = model_of("gpt2")
    with torch.no_grad():
        model.blocks[1].feedforward.down.weight[0, 0] = bad
    found = decoder(model)
    with pytest.raises(NonFinite):
        list(found.generate([1, 2, 3], GREEDY, torch.Generator()))
    found.reset(1, 8)
    assert not torch.isfinite(found.step(np.array([1]))).all()


class OwnNorm(torch.nn.LayerNorm):
    """A norm of somebody else's."""

    def __init__(self, width: int, *, epsilon: float = 1e-5, bias: bool = True) -> None:
        super().__init__(width, eps=epsilon, bias=bias)


@pytest.mark.parametrize(
    ("field", "config"),
    [
        ("norm", GPTConfig(**SIZE, norm=f"{__name__}:OwnNorm")),
        ("block", GPTConfig(**SIZE, block="PostNormBlock")),
        ("rope.kind", llama(**SIZE, positions="underhood.nn.rope:ScaledRotary", rope=RopeConfig(kind="dynamic", factor=2.0, original_context=80))),
    ],
)
def test_a_part_that_is_not_compiled_is_refused(field: str, config: GPTConfig) -> None:
    with pytest.raises(ConfigError, match=rf"^{field}.*not compiled"):
        decoder(GPT(config))


def test_a_subclass_is_not_taken_for_its_parent() -> None:
    from underhood.nn.feedforward import FeedForward

    class Broken(FeedForward):
        pass

    model = model_of("gpt2")
    model.blocks[1].feedforward = Broken(96, 384)
    with pytest.raises(ConfigError, match=r"^feedforward.*Broken"):
        decoder(model)


def test_what_would_read_other_memory_is_refused() -> None:
    found = decoder(model_of("gpt2"))
    pools, zero = found.new_pools(2, 16), np.zeros(1, np.int64)
    table = np.array([[0, 1]])
    for tokens, at, pages in (
        (np.array([99]), zero, table),
        (np.array([-1]), zero, table),
        (zero, np.array([-1]), table),
        (zero, np.array([32]), table),
        (zero, np.array([160]), np.zeros((1, 20), np.int64)),
        (zero, np.array([16]), np.array([[0, 2]])),
        (zero, zero, np.array([[-1, 0]])),
        (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2), np.int64)),
        (np.zeros(2, np.int64), zero, table),
    ):
        with pytest.raises(ShapeError):
            found.hidden(tokens, at, pages, pools)
    found.hidden(zero, zero, np.array([[1, -1]]), pools)  # a page that is not reached may be anything
    with pytest.raises(ShapeError):
        found.hidden(zero, zero, table, pools[:1])
    with pytest.raises(ShapeError):
        found.prefill(ids(1, 20), capacity=19)
    with pytest.raises(DataError):
        next(found.generate([], GREEDY, torch.Generator()))
    with pytest.raises(ConfigError):
        decoder(found.model, "int8")


def test_weights_in_huge_pages_are_the_same_weights() -> None:
    from underhood.kernels.huge import HUGE, use_huge_pages

    numbers = np.arange(3 * HUGE // 4, dtype=np.float32)
    before = numbers.copy()
    assert use_huge_pages([numbers[:1000], numbers[1000:]]) in range(0, 3 * HUGE + 1, HUGE)
    np.testing.assert_array_equal(numbers, before)
    assert use_huge_pages([numbers[:100]]) == use_huge_pages([]) == 0


def test_arrays_side_by_side_are_one_stretch() -> None:
    from underhood.kernels.huge import NEAR, stretches

    numbers = np.zeros(4 * NEAR, np.uint8)
    start = numbers.ctypes.data
    assert stretches([numbers[100:200], numbers[:90], numbers[3 * NEAR :], numbers[:0]]) == [(start, start + 200), (start + 3 * NEAR, start + 4 * NEAR)]


def test_torch_keeps_its_number_of_threads() -> None:
    """In a process of its own, for numba's threads start once. One that has more cores than threads would see the difference."""
    code = """
import torch
torch.set_num_threads(1)
from underhood.kernels.decode import CompiledDecoder
from underhood.nn.gpt import GPTConfig, build_gpt
CompiledDecoder(build_gpt(GPTConfig(vocab_size=8, context=8, n_layer=1), 0))
print(torch.get_num_threads())
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_a_part_can_be_bound_while_kernels_are_loaded_and_none_is_compiled_for_it() -> None:
    """Kernels know the healthy classes; another in their place is refused, and the model itself computes."""
    from underhood.kernels.decode import CompiledDecoder

    with applied([Bind("underhood.nn.attention:MultiHeadAttention", f"{__name__}:Other")]):
        made = build_gpt(GPTConfig(vocab_size=9, context=8, n_layer=1, n_head=2, width=8), 0).eval()
        with pytest.raises(ConfigError, match="attention"):
            CompiledDecoder(made)


class Other(MultiHeadAttention):
    """A learner's."""
