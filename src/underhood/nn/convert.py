"""A trained model whose heads each have keys and values of their own, as one whose heads share them (Ainslie et al. 2023, arXiv 2305.13245, §2.1)."""

import dataclasses
from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor, nn

from underhood.base.errors import CheckpointError, ConfigError
from underhood.nn.gpt import GPT
from underhood.nn.grouped import pool_heads

GROUPED = "underhood.nn.grouped:GroupedQueryAttention"
Pool = Callable[[Tensor, int, int], Tensor]  # (matrix or bias, heads that it has, heads wanted) → the same with fewer heads


def to_groups(model: GPT, n_kv_head: int, pool: Pool = pool_heads) -> GPT:
    """A new model with ``n_kv_head`` heads of keys and values, each made by ``pool`` of those of ``model`` that will share it; all else is copied.

    Mode, dtype and device are those of ``model``; its dropout has no generator yet. Raises ``ConfigError`` where the heads cannot share equally, and for
    latent attention, which has no heads to pool.

    How: build the smaller model first. Take each tensor of ``model`` (``apart`` cuts one matrix for q, k and v into three), pool keys and values, weights and
    biases alike, and hand all to ``load_exact``.
    """
    old = model.config
    if old.latent is not None:
        raise ConfigError("latent attention keeps no heads of keys and values", where="latent", expected="none")
    config = dataclasses.replace(old, attention=GROUPED, fused_qkv=False, n_kv_head=n_kv_head)
    grouped = GPT(config).to(model.head_weight)
    heads = old.n_kv_head or old.n_head
    state = {name: pool(t, heads, n_kv_head) if is_shared(name) else t for name, t in apart(model.state_dict()).items()}
    load_exact(grouped, state)
    return grouped.train(model.training)


def load_exact(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy ``state`` into ``model``. Raises ``CheckpointError`` naming the first tensor that is missing, unknown or of another shape; then nothing is copied.

    How: compare the shapes under all names before you copy anything. Never view, cut or repeat a tensor until it fits.
    """
    wanted, found = ({name: tuple(t.shape) for name, t in s.items()} for s in (model.state_dict(), state))
    for name in (*wanted, *found):
        if wanted.get(name) != found.get(name):
            remedy = "Fewer heads of keys and values are made with to_groups." if is_shared(name) else "Load it into a model of its own config."
            raise CheckpointError(f"found {found.get(name, 'nothing')}", where=name, expected=str(wanted.get(name, "no such tensor")), remedy=remedy)
    model.load_state_dict(state)


def is_shared(name: str) -> bool:
    """Whether the tensor called ``name`` belongs to keys or values."""
    return ".attention.key." in name or ".attention.value." in name


def apart(state: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "..."]]:
    """``state`` with each matrix (or bias) for q, k and v cut into ``query``, ``key`` and ``value``."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".attention.qkv." in name:
            found |= {name.replace(".qkv.", f".{part}."): piece for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True)}
        else:
            found[name] = tensor
    return found
