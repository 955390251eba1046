"""What any correct layer with shared heads satisfies, and conversion to one. The oracles are torch's kernel, closed forms, and ``oracles``."""

import random
from typing import Any

import torch
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, equal, holds
from underhood.lab.oracles import Ends, noise, refused, tried
from underhood.nn.attention import AttentionConfig
from underhood.projects.gqa.convert_checks import CONVERT_CHECKS
from underhood.projects.gqa.latent_checks import LATENT_CHECKS
from underhood.projects.gqa.oracles import HEADS, WIDTH, Pages, by_torch, grouped, halves, shapes_of, told, weights, whole

ORACLES = "underhood.projects.gqa.oracles"


@check(
    "1 · Heads of any width",
    hints=(
        "Must the last axis be the model's width? What else may a matrix give?",
        "H heads of D numbers, whatever H · D is. Head h holds the numbers hD … (h+1)D − 1 of each position.",
        "`B, T, W = x.shape`; `x.view(B, T, count, W // count).transpose(1, 2)`.",
    ),
)
def check_heads_have_any_width(part: Part, rng: random.Random) -> None:
    for W, count in ((20, 4), (6, 1), (6, 6)):
        x, given = noise(rng, 2, 3, W), f"B 2, T 3, W {W}, {count} heads"
        expected = torch.stack(torch.split(x, W // count, dim=-1), dim=1)
        alike(tried("cut_heads runs", part.cut_heads, x, count, given=given), expected, "head h is columns hD … (h+1)D − 1", given=given)


@check(
    "2 · Shared heads",
    hints=(
        "Six heads of queries, three of keys. With which head of keys is query head 1 to be compared?",
        "With head 0: neighbours share, h // (H/G). Is your row of heads 0 0 1 1 2 2, or 0 1 2 0 1 2?",
        "`x.repeat_interleave(n_head // x.shape[1], dim=1)`; `repeat` would lay the row of heads down again.",
    ),
)
def check_neighbours_share(part: Part, rng: random.Random) -> None:
    for G in (1, 2, 3, 6):
        given = f"{G} heads of keys for 6 of queries"
        x = noise(rng, 2, G, 5, 4).requires_grad_()
        shared = tried("share_heads runs", part.share_heads, x, HEADS, given=given)
        expected = torch.stack([x[:, h * G // HEADS] for h in range(HEADS)], dim=1)
        alike(shared, expected, "query head h reads head h // (H/G)", given=given)
        upstream = noise(rng, *expected.shape)
        mine, theirs = (tried("the gradient reaches x", torch.autograd.grad, y, x, upstream)[0] for y in (shared, expected))
        alike(mine, theirs, "a shared head gets the sum of its readers' gradients", given=given)


@check(
    "3 · The sliding window",
    hints=(
        "A window of 1: what does a query see?",
        "Itself, at distance 0. With a window of w the distances 0 … w − 1 are seen, and w is not.",
        "`queries - keys < window`, strictly; the future, where the distance is negative, is left to the causal mask.",
    ),
)
def check_window_counts_itself(part: Part, rng: random.Random) -> None:
    for T, window in ((5, 1), (5, 3), (5, 5), (5, 9)):
        found = tried("window_mask runs", part.window_mask, T, T, window, given=f"T = S = {T}, window {window}")
        equal(str(getattr(found, "dtype", type(found).__name__)), "torch.bool", "the mask is boolean, True where a query may look")
        expected = [[t - s < window for s in range(T)] for t in range(T)]
        equal(
            found.tolist(), expected, "distances below the window are seen, and the future is not this mask's business", given=f"T = S = {T}, window {window}"
        )


@check(
    "3 · The sliding window",
    hints=(
        "A cache holds seven positions and one token comes. At which position does the query stand?",
        "At the last: queries and keys end together, so with S keys the T queries stand at S − T … S − 1.",
        "`torch.arange(S - T, S, device=device).unsqueeze(-1)`.",
    ),
)
def check_window_ends_with_the_keys(part: Part, rng: random.Random) -> None:
    for T, S, window in ((1, 8, 3), (3, 5, 2), (2, 4, 1)):
        given = f"{T} queries at the end of {S} keys, window {window}"
        expected = [[t - s < window for s in range(S)] for t in range(S - T, S)]
        equal(tried("window_mask runs", part.window_mask, T, S, window, given=given).tolist(), expected, "query t stands at position S − T + t", given=given)
    made = tried("window_mask takes a device", part.window_mask, 2, 3, 2, device="cpu")
    equal(made.tolist(), [[True, True, True], [False, True, True]], "with a device it is the same mask", given="device=cpu")
    says = "the mask is made on the device that is given, so there is none where torch knows no such device"
    refused(lambda: part.window_mask(2, 3, 2, device="nowhere"), RuntimeError, says, given="device=nowhere")


# ── the layer ─────────────────────────────────────────────────────────────────────────────────────────────────────────

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"n_kv_head": 2},
    {"n_kv_head": 1, "bias": False},
    {"n_kv_head": 3, "head_dim": 4},
    {"n_kv_head": 2, "bias": False, "qkv_bias": True},
    {"n_kv_head": 2, "bias": True, "output_bias": False},
    {"n_kv_head": 2, "causal": False},
)


@check(
    "4 · The layer",
    hints=(
        "How many rows has the matrix of keys?",
        "G · D: fewer heads, each as wide as a head of queries. The output's matrix takes H · D numbers. D is `config.head_width`.",
        "`(Linear(C, n * D, bias=config.inner_bias) for n in (H, G, G))`, `Linear(H * D, C, bias=config.outer_bias)`; cut q into H heads, k and v into G.",
    ),
)
def check_layer_equals_torch(part: Part, rng: random.Random) -> None:
    for settings in KINDS:
        layer, config = grouped(part, rng, **settings)
        w, x, given = weights(layer, shapes_of(config), told(settings)), noise(rng, 2, 5, WIDTH).requires_grad_(), told(settings)
        expected = by_torch(w, config, x)
        found = whole(layer, x, given)
        alike(found, expected, "the layer is torch's kernel with enable_gqa between four linear layers", given=given, atol=1e-9)
        upstream = noise(rng, *expected.shape)
        mine, theirs = (tried("the gradient reaches x", torch.autograd.grad, y, x, upstream)[0] for y in (found, expected))
        alike(mine, theirs, "the gradient at the input is torch's", given=given, atol=1e-9)
    _, maps = tried("look returns (out, weights)", layer.look, x)
    alike(maps.sum(-1), torch.ones(2, HEADS, 5), "look returns the weights of each of the H heads", given=told(settings), atol=1e-9)
    fused = AttentionConfig(width=WIDTH, n_head=HEADS, n_kv_head=2)
    refused(lambda: part.GroupedQueryAttention(fused), ConfigError, "one matrix for q, k and v is a ConfigError", given="fused_qkv=True")


@check(
    "4 · The layer",
    hints=(
        "The layer hides the future, the window hides what is far, the caller hides padding. What is left?",
        "What all of them allow. The window must be joined with the caller's mask; the causal mask is the kernel's business.",
        "`near = window_mask(T, S, window, device=…)`; `near if mask is None else near & mask`; with no window, the caller's mask as it is.",
    ),
)
@torch.no_grad()
def check_layer_narrows_what_is_seen(part: Part, rng: random.Random) -> None:
    real = torch.tensor([[True, True, False, True, True, True, True], [True, False, True, True, True, True, True]])[:, None, None]
    real = real | torch.eye(7, dtype=torch.bool)
    x = noise(rng, 2, 7, WIDTH)
    for settings in ({"window": 3}, {"window": 1}, {"window": 6}, {"window": 7}, {}, {"window": 3, "causal": False}):
        layer, config = grouped(part, rng, n_kv_head=2, **settings)
        w = weights(layer, shapes_of(config), told(settings))
        for mask in (None, real):
            given = f"{told(settings)}, n_kv_head=2, {'no mask' if mask is None else 'a mask of padding (B 1 T S)'} from the caller"
            says = "a query sees what causality, window and the caller's mask all allow"
            alike(whole(layer, x, given, mask=mask), by_torch(w, config, x, mask=mask), says, given=given, atol=1e-9)
    for window in (7, 9):
        layer, _ = grouped(part, rng, n_kv_head=2, window=window, kernel=f"{ORACLES}:seeing")
        _, seen = tried("look returns (out, weights)", layer.look, x)
        says, given = "a window that reaches over all keys makes no mask at all", f"window={window}, 7 keys, no mask from the caller"
        holds(seen is None, says, given=given, expected="mask=None for the kernel", found="a mask")


@check(
    "4 · The layer",
    hints=(
        "Two settings bound the size of queries and keys. One of them has something to learn.",
        "`qk_norm` divides by the root mean square of the head; `qk_gain` does so with a gain, by `RMSNorm(D, epsilon=config.epsilon)`. Before turning.",
        "`self.query_norm = RMSNorm(D, epsilon=config.epsilon) if config.qk_gain else None`, and the same for keys; without it `rms_norm(q)` where `qk_norm`.",
    ),
)
@torch.no_grad()
def check_layer_norms_queries_and_keys(part: Part, rng: random.Random) -> None:
    x, turn = noise(rng, 2, 5, WIDTH), halves(0)
    for settings in ({"qk_norm": True}, {"qk_gain": True, "epsilon": 0.1}):
        layer, config = grouped(part, rng, n_kv_head=2, **settings)
        w, given = weights(layer, shapes_of(config), told(settings)), f"{told(settings)}, n_kv_head=2, with rotate"
        says = "queries and keys of each head are normalised before they are turned, and values are not"
        alike(whole(layer, x, given, rotate=turn), by_torch(w, config, x, turn=turn), says, given=given, atol=1e-9)


@check(
    "4 · The layer",
    hints=(
        "At which moment should two heads of keys become six: before they are kept, or after?",
        "After. The cache gets G heads, turned already; what it returns is shared out.",
        "`q, k, v = placed(q, k, v, rotate, cache)`, and only then `k, v = share_heads(k, H), share_heads(v, H)`.",
    ),
)
@torch.no_grad()
def check_cache_holds_the_groups(part: Part, rng: random.Random) -> None:
    for settings in ({"n_kv_head": 2}, {"n_kv_head": 1, "window": 3}):
        layer, config = grouped(part, rng, **settings)
        w, x, given = weights(layer, shapes_of(config), told(settings)), noise(rng, 2, 7, WIDTH), f"{told(settings)}; pieces of 3, 1 and 3 positions"
        expected = by_torch(w, config, x, turn=halves(0))
        alike(whole(layer, x, given, rotate=halves(0)), expected, "rotate turns the queries and keys of each head", given=given, atol=1e-9)
        cache = Ends()
        cuts = ((0, 3), (3, 4), (4, 7))
        pieces = [tried("the layer takes a cache", layer, x[:, a:b], cache=cache, rotate=halves(a), given=given) for a, b in cuts]
        alike(torch.cat(pieces, 1), expected, "with a cache, in pieces, it gives what all at once gives", given=given, atol=1e-9)
        found = [tuple(t.shape[:2]) for t in (*cache.keys, *cache.values)]
        equal(found, [(2, config.kv_heads)] * 6, "the cache is given G heads of keys and of values", given=given)


@check(
    "4 · The layer",
    hints=(
        "Which kernel does the layer call, and with what, when a cache returns no tensors? And what does it drop while training?",
        "The config's. It gets pages as they are, without a mask, for it reads them itself; and the layer's `Dropout`, which acts on the weights.",
        "`get_part(config, 'kernel')`; `if isinstance(k, Tensor):` around window and `share_heads`; `self.dropout = Dropout(config.dropout)` is passed on.",
    ),
)
@torch.no_grad()
def check_kernel_gets_what_it_needs(part: Part, rng: random.Random) -> None:
    settings = {"n_kv_head": 2, "window": 2, "kernel": f"{ORACLES}:reader"}
    layer, config = grouped(part, rng, **settings)
    w, x = weights(layer, shapes_of(config), told(settings)), noise(rng, 2, 4, WIDTH)
    expected = (w["output.weight"].sum(-1) + w["output.bias"]).expand(2, 4, WIDTH)
    says = "what a cache returns that is no tensor goes to the config's kernel as it is, without a mask"
    alike(tried("the layer runs", layer, x, cache=Pages(), given=told(settings)), expected, says, given=told(settings), atol=1e-9)
    dropped, _ = grouped(part, rng, n_kv_head=2, dropout=0.5)
    drops(dropped, noise(rng, 40, 1, WIDTH), told({"n_kv_head": 2, "dropout": 0.5}), HEADS)


@check(
    "4 · The layer",
    hints=(
        "When looking at another sequence, who asks and who answers?",
        "Queries come from x; keys *and* values come from the context.",
        "`source = x if context is None else context`.",
    ),
)
@torch.no_grad()
def check_layer_looks_across(part: Part, rng: random.Random) -> None:
    layer, config = grouped(part, rng, n_kv_head=2, causal=False)
    x, context, given = noise(rng, 2, 5, WIDTH), noise(rng, 2, 3, WIDTH), "5 queries, a context of 3, causal=False, n_kv_head=2"
    w = weights(layer, shapes_of(config), given)
    found = whole(layer, x, given, context=context)
    alike(found, by_torch(w, config, x, context=context), "keys and values come from the context", given=given, atol=1e-9)


def drops(layer: Any, x: Tensor, given: str, heads: int) -> None:
    """Whether each head's only weight is dropped, or doubled, while training, and kept while evaluating."""
    state = dict(layer.named_parameters())
    state["output.weight"].copy_(torch.eye(*state["output.weight"].shape, dtype=torch.float64))
    state["output.bias"].zero_()
    layer.eval()
    value = tried("the layer runs", layer, x, given=given)[..., : state["output.weight"].shape[1]]
    layer.train()
    layer.dropout.generator = torch.Generator().manual_seed(1)
    out = tried("the layer runs while training", layer, x, given=given)[..., : value.shape[-1]]
    found, kept = (t.unflatten(-1, (heads, -1)) for t in (out, value))
    gone = (found == 0).all(-1, keepdim=True)
    holds(bool(gone.any()) and not bool(gone.all()), "while training, some looks of a head are dropped, and not all", given=given)
    alike(found, torch.where(gone, 0.0, 2 * kept), "a weight is dropped, or it is doubled", given=given, atol=1e-9)


CHECKS: tuple[Check, ...] = (
    check_heads_have_any_width,
    check_neighbours_share,
    check_window_counts_itself,
    check_window_ends_with_the_keys,
    check_layer_equals_torch,
    check_layer_narrows_what_is_seen,
    check_layer_norms_queries_and_keys,
    check_cache_holds_the_groups,
    check_kernel_gets_what_it_needs,
    check_layer_looks_across,
    *CONVERT_CHECKS,
    *LATENT_CHECKS,
)
