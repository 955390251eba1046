"""The next token of each row of a batch whose rows were asked for differently: other temperatures, other penalties, other grammars.

A row's token depends on its own logits and its own random number; rows that are asked for alike are only handled together.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from underhood.infer.filters import penalise_repeats
from underhood.infer.generation import Choice, TokenInfo
from underhood.infer.sample import SampleConfig, pick


def pick_rows(logits: Float[Tensor, "B V"], choices: Sequence[Choice]) -> list[TokenInfo | None]:
    """Each row's token with what was asked to be told of it.

    None for a row with a NaN or an infinity, and for one in which nothing is allowed: neither must become a token.
    """
    least, most = torch.aminmax(logits, dim=-1)  # NaN comes through
    finite = (least.isfinite() & most.isfinite()).tolist()
    shaped = {i: shape(logits[i], choices[i]) for i, fine in enumerate(finite) if fine}
    shaped = {i: row for i, row in shaped.items() if choices[i].asked.guide is None or float(row.max()) > -math.inf}
    chosen: dict[int, int] = {}
    for config, members in _alike(list(shaped), choices).items():
        uniform = torch.tensor([choices[i].uniform() for i in members], dtype=torch.float64)
        rows, nothing = torch.stack([shaped[i] for i in members]), torch.empty(len(members), 0, dtype=torch.long)
        chosen |= dict(zip(members, pick(rows, nothing, config, uniform).tolist(), strict=True))
    return [info(logits[i], chosen[i], choices[i]) if i in chosen else None for i in range(len(choices))]


def _alike(rows: Sequence[int], choices: Sequence[Choice]) -> dict[SampleConfig, list[int]]:
    """Rows by what matters once their logits are shaped."""
    groups: dict[SampleConfig, list[int]] = defaultdict(list)
    for i in rows:
        sample = choices[i].asked.sample
        groups[dataclasses.replace(sample, repetition_penalty=1.0, max_tokens=0, stop=(), end_ids=())].append(i)
    return groups


def shape(logits: Float[Tensor, "V"], choice: Choice) -> Float[Tensor, "V"]:
    """One row's logits with its biases, its penalties for repetition, and -inf where its grammar allows nothing."""
    asked, request = choice.asked, choice.request
    if asked.logit_bias:
        logits = logits.clone()
        for token, bias in asked.logit_bias.items():
            logits[token] += bias
    if asked.sample.repetition_penalty != 1:
        logits = penalise_repeats(logits.unsqueeze(0), torch.tensor([request.tokens]), asked.sample.repetition_penalty)[0]
    if asked.presence_penalty or asked.frequency_penalty:
        written = torch.tensor(request.generated, dtype=torch.long).bincount(minlength=len(logits))
        logits = logits - asked.presence_penalty * (written > 0) - asked.frequency_penalty * written
    if asked.guide:
        logits = logits.masked_fill(~asked.guide.allowed(choice.state, request.room), -math.inf)
    return logits


def info(logits: Float[Tensor, "V"], token: int, choice: Choice) -> TokenInfo:
    """The token, and its log-probability where that was asked for."""
    wanted = choice.asked.logprobs
    if wanted is None:
        return TokenInfo(token)
    likely = logits.double().log_softmax(dim=-1)
    best = likely.topk(min(wanted, len(likely))) if wanted else None
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best is not None else ()
    return TokenInfo(token, float(likely[token]), top)
