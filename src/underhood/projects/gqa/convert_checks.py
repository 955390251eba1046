"""What any correct conversion from many heads to few satisfies. The oracles are means by hand, and the model before it was converted."""

import dataclasses
import random
from typing import Any

import torch
from torch import Tensor

from underhood.base.errors import CheckpointError, ConfigError
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, equal, holds
from underhood.lab.oracles import noise, refused, tried
from underhood.nn.attention import LatentConfig
from underhood.nn.gpt import GPT, GPTConfig
from underhood.nn.llama import llama
from underhood.projects.gqa.oracles import drawn

STEP = "5 · From many heads to few"
SIZES: dict[str, Any] = {"vocab_size": 11, "context": 8, "n_layer": 2, "n_head": 4, "width": 8}
LLAMA = llama(**SIZES)
GPT2 = GPTConfig(**SIZES)
LATENT = LatentConfig(kv_rank=4, rope_width=2, nope_width=2, value_width=2)


def mean_by_hand(t: Tensor, heads: int, wanted: int) -> Tensor:
    """Head by head, in a loop."""
    rows = list(torch.split(t, len(t) // heads))
    share = heads // wanted
    return torch.cat([torch.stack(rows[g * share : (g + 1) * share]).mean(0) for g in range(wanted)])


def model_of(rng: random.Random, config: GPTConfig) -> GPT:
    """A model with random weights in float64."""
    made: GPT = drawn(GPT(config), rng)
    return made.eval()


def separate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with one matrix for q, k and v cut into three."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".qkv." in name:
            found |= dict(zip((name.replace("qkv", part) for part in ("query", "key", "value")), tensor.tensor_split(3), strict=True))
        else:
            found[name] = tensor
    return found


@check(
    STEP,
    hints=(
        "Which heads are pooled: those that stand side by side, or those that are G apart?",
        "Those that will share, and neighbours share. A matrix has rows (group, member, D) in that order; a bias has the same rows and no columns.",
        "`weight.view(G, H // G, rows // H, *weight.shape[1:]).mean(1).flatten(0, 1)`.",
    ),
)
def check_pooled_heads_are_means(part: Part, rng: random.Random) -> None:
    for heads, wanted in ((6, 2), (6, 1), (4, 4)):
        for shape in ((12, 5), (12,)):
            t, given = noise(rng, *shape), f"{'weight' if len(shape) == 2 else 'bias'} of {heads} heads, {wanted} wanted"
            found = tried("pool_heads runs", part.pool_heads, t, heads, wanted, given=given)
            alike(found, mean_by_hand(t, heads, wanted), "each head is the mean of the neighbours that will share it", given=given)
    t = noise(rng, 12, 5)
    refused(lambda: part.pool_heads(t, 6, 4), ConfigError, "6 heads cannot become 4 equally: a ConfigError", given="6 heads, 4 wanted")


@check(
    STEP,
    hints=(
        "A matrix has the right number of numbers and another shape. What should loading do?",
        "Refuse, by name, before anything is copied: whoever catches the error must not be left with half a model.",
        "Compare `tuple(t.shape)` under all names of both sides; `CheckpointError(…, where=name, expected=…)`; only then `model.load_state_dict(state)`.",
    ),
)
@torch.no_grad()
def check_loading_is_exact(part: Part, rng: random.Random) -> None:
    def fresh() -> torch.nn.Module:
        return torch.nn.ModuleDict({"first": torch.nn.Linear(3, 2), "second": torch.nn.Linear(2, 4)}).double()

    model, right = fresh(), {name: noise(rng, *t.shape) for name, t in fresh().state_dict().items()}
    tried("load_exact runs", part.load_exact, model, right)
    for name, tensor in model.state_dict().items():
        alike(tensor, right[name], "weights of the right names and shapes are copied", given=name)
    wrong = {
        "a tensor of another shape": (right | {"second.weight": noise(rng, 2, 4)}, "second.weight"),
        "more rows than wanted": (right | {"second.bias": noise(rng, 8)}, "second.bias"),
        "one number for many": (right | {"second.bias": noise(rng, 1)}, "second.bias"),
        "a tensor missing": ({n: t for n, t in right.items() if n != "second.bias"}, "second.bias"),
        "a tensor too many": (right | {"third.weight": noise(rng, 2, 2)}, "third.weight"),
    }
    for given, (state, name) in wrong.items():
        model = fresh()
        before = {n: t.clone() for n, t in model.state_dict().items()}
        error = refused(lambda m=model, s=state: part.load_exact(m, s), CheckpointError, "weights that do not fit are a CheckpointError", given=given)  # type: ignore[misc]
        holds(name in str(error), "the error names the tensor", given=given, expected=name, found=str(error))
        for n, t in model.state_dict().items():
            alike(t, before[n], "after a refusal the model is as it was", given=f"{given}; {n}")


@check(
    STEP,
    hints=(
        "Which tensors of a model change when heads are to share, and which are copied?",
        "The matrices of keys and values of every layer, and their biases. Where one matrix makes q, k and v, it has to be cut first.",
        "A config with `attention=GROUPED, fused_qkv=False, n_kv_head=n_kv_head`; `pool(t, heads, n_kv_head) if is_shared(name) else t` for `apart(state)`.",
    ),
)
@torch.no_grad()
def check_conversion_pools_keys_and_values(part: Part, rng: random.Random) -> None:
    for what, config in (("llama", LLAMA), ("GPT-2", GPT2)):
        model = model_of(rng, config)
        state = {name: t.clone() for name, t in separate(model.state_dict()).items()}
        for wanted in (2, 1):
            given = f"{what}, 4 heads become {wanted}"
            few = tried("to_groups runs", part.to_groups, model, wanted, given=given)
            found = {name: t.detach() for name, t in few.state_dict().items()}
            pooled = {n: mean_by_hand(t, 4, wanted) if ".key." in n or ".value." in n else t for n, t in state.items()}
            equal(sorted(found), sorted(pooled), "the tensors' names", given=given)
            for name, expected in pooled.items():
                alike(found[name], expected, "keys and values are pooled, all else is copied", given=f"{given}; {name}")
        again = tried("to_groups runs", part.to_groups, tried("to_groups runs", part.to_groups, model, 2), 1)
        alike(again.state_dict()["blocks.1.attention.key.weight"], mean_by_hand(state["blocks.1.attention.key.weight"], 4, 1), "2 heads become 1", given=what)
        says = "the model that was given stays as it is, and shares no weights with the new one"
        for p in again.parameters():
            p.zero_()
        for name, t in separate(model.state_dict()).items():
            alike(t, state[name], says, given=f"{what}; {name}")


@check(
    STEP,
    hints=(
        "When can a conversion lose nothing at all?",
        "When the heads that will share are equal: their mean is each of them. Then no logit may move. If one does, which heads were pooled?",
        "`share_heads` gives neighbours to neighbours, so `pool_heads` must pool neighbours.",
    ),
)
@torch.no_grad()
def check_equal_heads_survive(part: Part, rng: random.Random) -> None:
    ids = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(rng.getrandbits(63)))
    for what, config in (("llama", LLAMA), ("GPT-2", GPT2)):
        model = model_of(rng, config)
        for name, t in separate(model.state_dict()).items():
            if ".key." in name or ".value." in name:
                heads = t.view(2, 2, 2, *t.shape[1:])
                heads.copy_(heads[:, :1].clone().expand_as(heads))
        few = tried("to_groups runs", part.to_groups, model, 2, given=what)
        alike(tried("the new model runs", few, ids, given=what), model(ids), "where the heads that will share are equal, no logit moves", given=what, atol=1e-5)


@check(
    STEP,
    hints=(
        "What besides weights does a model have, that its copy must have too?",
        "Its dtype, its device, and whether it is training. And who calls may want another way to pool.",
        "`GPT(config).to(model.head_weight)`, `pool(t, …)` and not `pool_heads(t, …)`, `grouped.train(model.training)`.",
    ),
)
@torch.no_grad()
def check_conversion_keeps_the_rest(part: Part, rng: random.Random) -> None:
    model = model_of(rng, LLAMA)
    for training in (True, False):
        few = tried("to_groups runs", part.to_groups, model.train(training), 2)
        equal(few.training, training, "the new model trains or evaluates as the old one does", given=f"training={training}")
    equal(str(few.head_weight.dtype), "torch.float64", "the new model has the dtype of the old one", given="float64")
    equal(few.config.n_kv_head, 2, "its config says how many heads of keys and values there are")
    last = tried("to_groups takes pool", part.to_groups, model, 2, lambda t, heads, wanted: t[: len(t) * wanted // heads] * 3)
    expected = model.state_dict()["blocks.0.attention.value.weight"][:4] * 3
    alike(last.state_dict()["blocks.0.attention.value.weight"], expected, "pool is the way to pool that is asked for", given="another pool")
    refused(lambda: part.to_groups(model, 3), ConfigError, "4 heads cannot share 3 equally: a ConfigError", given="4 heads, 3 wanted")
    hidden = model_of(rng, LLAMA)
    hidden.config = dataclasses.replace(LLAMA, attention="underhood.nn.latent:LatentAttention", latent=LATENT)
    refused(lambda: part.to_groups(hidden, 2), ConfigError, "latent attention has no heads to pool: a ConfigError", given="a model with latent attention")


CONVERT_CHECKS: tuple[Check, ...] = (
    check_pooled_heads_are_means,
    check_loading_is_exact,
    check_conversion_pools_keys_and_values,
    check_equal_heads_survive,
    check_conversion_keeps_the_rest,
)
