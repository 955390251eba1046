"""What may be drawn: each filter turns logits (B V) into logits in which the tokens it rules out are -inf. They compose in the order of ``SampleConfig``."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def penalise_repeats(logits: Float[Tensor, "B V"], past: Int[Tensor, "B T"], penalty: float) -> Float[Tensor, "B V"]:
    """Tokens that occur in ``past`` are made less likely: a positive logit is divided by ``penalty``, a negative one multiplied
    (Keskar et al. 2019, arXiv 1909.05858, §4.1)."""
    seen = logits.gather(-1, past)
    return logits.scatter(-1, past, torch.where(seen < 0, seen * penalty, seen / penalty))


def keep_top_k(logits: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    """The ``k`` most likely tokens, and those that tie with the last of them (Fan, Lewis, Dauphin 2018, arXiv 1805.04833, §5.4)."""
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """The smallest set of most likely tokens whose probabilities reach ``p`` (Holtzman et al. 2020, arXiv 1904.09751, §3.1)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    likely = ordered.softmax(dim=-1)
    before = likely.cumsum(dim=-1) - likely
    beyond = (before >= p).scatter(-1, order, before >= p)
    return logits.masked_fill(beyond & (logits < ordered[..., :1]), -math.inf)


def keep_min_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """Tokens at least ``p`` times as likely as the likeliest (Nguyen et al. 2024, arXiv 2407.01082, §3)."""
    least = logits.amax(dim=-1, keepdim=True) + math.log(p)
    return logits.masked_fill(logits < least, -math.inf)


def draw(logits: Float[Tensor, "B V"], uniform: Float[Tensor, "B"]) -> Int[Tensor, "B"]:
    """One token per row from softmax(logits): the first whose cumulative probability exceeds the row's number from [0, 1).

    A row's token depends on its own number alone, not on who shares the batch. Tokens at -inf are never drawn.
    """
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    reach = uniform.double().unsqueeze(-1) * cumulative[..., -1:]
    return (cumulative <= reach).sum(dim=-1)
