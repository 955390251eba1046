"""What the checks of shared heads compare with: torch's own kernel, which shares them itself, DeepSeek's layer out of torch's functions, and stand-ins."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from underhood.lab.alike import alike
from underhood.lab.check import Part, equal
from underhood.lab.oracles import lower, noise, tried
from underhood.nn.attention import AttentionConfig, LatentConfig

WIDTH, HEADS = 12, 6
WIDE = LatentConfig(kv_rank=5, rope_width=4, nope_width=3, value_width=2)
Turn = Callable[[Tensor], Tensor]


def told(settings: Mapping[str, Any]) -> str:
    """The settings of a layer in one line."""
    return ", ".join(f"{name}={value}" for name, value in ({"width": WIDTH, "n_head": HEADS} | dict(settings)).items())


def drawn(module: Any, rng: random.Random) -> Any:
    """``module`` in float64 with random weights, its gains around one."""
    module = module.double()
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(noise(rng, *p.shape) / 2 + (1 if "norm" in name else 0))
    return module


def grouped(part: Part, rng: random.Random, **settings: Any) -> tuple[Any, AttentionConfig]:
    """The part's layer with shared heads, drawn, and its config."""
    config = AttentionConfig(**{"width": WIDTH, "n_head": HEADS, "fused_qkv": False} | settings)
    return drawn(tried("the layer can be built", part.GroupedQueryAttention, config, given=told(settings)), rng), config


def latent(part: Part, rng: random.Random, wide: LatentConfig = WIDE, **settings: Any) -> tuple[Any, AttentionConfig]:
    """The part's latent layer, drawn, and its config."""
    given: dict[str, Any] = {"width": WIDTH, "n_head": 3, "latent": wide}
    config = AttentionConfig(**given | settings)
    return drawn(tried("the layer can be built", part.LatentAttention, config, given=str(wide)), rng), config


def weights(module: Any, shapes: Mapping[str, tuple[int, ...]], given: str) -> dict[str, Tensor]:
    """The module's parameters by name, which must be these and of these shapes."""
    found = {name: p.detach() for name, p in module.named_parameters()}
    equal({n: tuple(found[n].shape) for n in sorted(found)}, {n: shapes[n] for n in sorted(shapes)}, "the parameters' names and shapes", given=given)
    return found


def shapes_of(c: AttentionConfig) -> dict[str, tuple[int, ...]]:
    """What a layer with shared heads must hold."""
    C, D, H, G = c.width, c.head_width, c.n_head, c.kv_heads
    found: dict[str, tuple[int, ...]] = {"query.weight": (H * D, C), "key.weight": (G * D, C), "value.weight": (G * D, C), "output.weight": (C, H * D)}
    if c.bias if c.qkv_bias is None else c.qkv_bias:
        found |= {"query.bias": (H * D,), "key.bias": (G * D,), "value.bias": (G * D,)}
    if c.bias if c.output_bias is None else c.output_bias:
        found |= {"output.bias": (C,)}
    return found | ({"query_norm.weight": (D,), "key_norm.weight": (D,)} if c.qk_gain else {})


def by_torch(
    w: Mapping[str, Tensor], c: AttentionConfig, x: Tensor, *, context: Tensor | None = None, mask: Tensor | None = None, turn: Turn | None = None
) -> Tensor:
    """The layer with shared heads from torch's functions."""
    D = c.head_width

    def heads(name: str, source: Tensor) -> Tensor:
        return F.linear(source, w[f"{name}.weight"], w.get(f"{name}.bias")).view(*source.shape[:2], -1, D).transpose(1, 2)

    source = x if context is None else context
    q, k, v = heads("query", x), heads("key", source), heads("value", source)
    if c.qk_norm or c.qk_gain:
        q, k = (F.rms_norm(h, (D,), w.get(f"{name}_norm.weight"), c.epsilon) for h, name in ((q, "query"), (k, "key")))
    q, k = (q, k) if turn is None else (turn(q), turn(k))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=sight(c, x.shape[1], source.shape[1], mask), enable_gqa=True)
    return F.linear(mixed.transpose(1, 2).flatten(2), w["output.weight"], w.get("output.bias"))


def sight(c: AttentionConfig, T: int, S: int, mask: Tensor | None = None) -> Tensor:
    """What a query may see: the past, the window, and what the caller allows."""
    seen = lower(T, S) if c.causal else torch.ones(T, S, dtype=torch.bool)
    if c.window is not None:
        seen = seen & torch.ones(T, S, dtype=torch.bool).triu(S - T - c.window + 1)
    return seen if mask is None else seen & mask


def latent_shapes(c: AttentionConfig) -> dict[str, tuple[int, ...]]:
    """What a latent layer must hold."""
    assert c.latent is not None
    C, H, n = c.width, c.n_head, c.latent
    inner = c.bias if c.qkv_bias is None else c.qkv_bias
    found: dict[str, tuple[int, ...]] = {
        "query_up.weight": (H * (n.nope_width + n.rope_width), n.q_rank or C),
        "kv_down.weight": (n.kv_rank + n.rope_width, C),
        "kv_norm.weight": (n.kv_rank,),
        "kv_up.weight": (H * (n.nope_width + n.value_width), n.kv_rank),
        "output.weight": (C, H * n.value_width),
    }
    found |= {"kv_down.bias": (n.kv_rank + n.rope_width,)} if inner else {}
    found |= {"output.bias": (C,)} if (c.bias if c.output_bias is None else c.output_bias) else {}
    if n.q_rank:
        found |= {"query_down.weight": (n.q_rank, C), "query_norm.weight": (n.q_rank,)} | ({"query_down.bias": (n.q_rank,)} if inner else {})
    return found


def deepseek(w: Mapping[str, Tensor], c: AttentionConfig, x: Tensor, turn: Turn, mask: Tensor | None = None) -> Tensor:
    """DeepSeek-V2's attention from torch's functions (arXiv 2405.04434, eq. 37 to 47): the whole text at once, nothing cached."""
    assert c.latent is not None
    n, H, T = c.latent, c.n_head, x.shape[1]

    def linear(h: Tensor, name: str) -> Tensor:
        return F.linear(h, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def heads(h: Tensor, name: str) -> Tensor:
        return linear(h, name).view(*h.shape[:2], H, -1).transpose(1, 2)

    asked = x if not n.q_rank else F.rms_norm(linear(x, "query_down"), (n.q_rank,), w["query_norm.weight"], c.epsilon)
    q, q_turned = torch.split(heads(asked, "query_up"), [n.nope_width, n.rope_width], -1)
    low, k_turned = torch.split(linear(x, "kv_down"), [n.kv_rank, n.rope_width], -1)
    low = F.rms_norm(low, (n.kv_rank,), w["kv_norm.weight"], c.epsilon)
    k, v = torch.split(heads(low, "kv_up"), [n.nope_width, n.value_width], -1)
    q = torch.cat([q, turn(q_turned)], -1)
    k = torch.cat([k, turn(k_turned.unsqueeze(1)).repeat(1, H, 1, 1)], -1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=sight(c, T, T, mask))
    return linear(mixed.transpose(1, 2).flatten(2), "output")


def whole(layer: Any, x: Tensor, given: str, **options: Any) -> Tensor:
    """What ``look`` gives, which ``forward`` must give as well."""
    out, _ = tried("look returns (out, weights)", layer.look, x, given=given, **options)
    alike(tried("forward runs", layer, x, given=given, **options), out, "forward gives what look gives", given=given, atol=1e-9)
    found: Tensor = out
    return found


class Pages:
    """A cache that returns no tensors, as a paged one does: it names what it was given."""

    def extend(self, k: Tensor, v: Tensor) -> tuple[str, str]:
        """The shapes, as text."""
        return f"keys {tuple(k.shape)}", f"values {tuple(v.shape)}"


def reader(q: Tensor, k: Any, v: Any, *, causal: bool, mask: Tensor | None, dropout: Any) -> tuple[Tensor, None]:
    """A kernel that reads pages: the mixture is 1 everywhere when it got the pages as they are and no mask, else 0."""
    right = k == f"keys {(q.shape[0], 2, *q.shape[2:])}" and v == f"values {(q.shape[0], 2, *q.shape[2:])}" and mask is None and causal
    return torch.full_like(q, 1.0 if right else 0.0), None


def seeing(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, dropout: Any) -> tuple[Tensor, Tensor | None]:
    """A kernel that returns its mask in the place of the weights."""
    return torch.zeros_like(q), mask


def even(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, dropout: Any) -> tuple[Tensor, None]:
    """A kernel that looks everywhere alike and keeps no weights."""
    return v.mean(2, keepdim=True).expand(*q.shape[:3], v.shape[-1]), None


def halves(start: int) -> Turn:
    """Turns (… T D) by the position, a pair being (i, i + D/2); ``start`` is the position of the first."""

    def rotate(x: Tensor) -> Tensor:
        T, D = x.shape[-2:]
        angle = torch.arange(start, start + T, dtype=x.dtype)[:, None] / torch.arange(1, D // 2 + 1, dtype=x.dtype)
        turned = torch.complex(x[..., : D // 2], x[..., D // 2 :]) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag], -1)

    return rotate
