"""Medusa: a model that guesses its own next tokens, by a few small heads beside its own (Cai et al. 2024, arXiv 2401.10774, §2.1).

Head i looks at the hidden vector of the last token and guesses the token i + 1 places after the next one. One pass of the model gives the next token's
distribution and the guesses for those behind it at once; they are judged as any draft's. The paper's tree of candidates is not built: one chain.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from underhood.infer.speculate import Draft
from underhood.nn.activation import silu
from underhood.nn.gpt import GPT
from underhood.nn.linear import Linear


class MedusaHeads(nn.Module):
    """``count`` heads: h + SiLU(W h), then the model's own head matrix. W starts at zero, so that every head starts as the model's own."""

    def __init__(self, model: GPT, count: int) -> None:
        super().__init__()
        C = model.config.width
        self.steps = nn.ModuleList(Linear(C, C, bias=False) for _ in range(count))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: Float[Tensor, "... C"], head: Float[Tensor, "V C"]) -> Float[Tensor, "K ... V"]:
        """Logits of each head."""
        return torch.stack([(hidden + silu(step(hidden))) @ head.T for step in self.steps])


def medusa_loss(
    heads: MedusaHeads, hidden: Float[Tensor, "B T C"], head: Float[Tensor, "V C"], ids: Int[Tensor, "B T"], decay: float = 0.8
) -> Float[Tensor, ""]:
    """Σ decay^i · cross-entropy of head i against the token i + 2 places after each position (ibid., eq. 1; the model itself stays as it is)."""
    total = hidden.new_zeros(())
    for i, logits in enumerate(heads(hidden, head)):
        ahead = i + 2
        if ids.shape[1] > ahead:
            total = total + decay**i * F.cross_entropy(logits[:, :-ahead].flatten(0, 1), ids[:, ahead:].flatten())
    return total


class MedusaDraft(Draft):
    """The heads as a draft: certain of their likeliest tokens, and free, since the model's last pass has given the vector that they look at."""

    def __init__(self, model: GPT, heads: MedusaHeads) -> None:
        self.model, self.heads, self.hidden = model, heads, torch.empty(0)

    def observe(self, hidden: Float[Tensor, "C"]) -> None:
        """The vector that gave the newest token; the heads look beyond it."""
        self.hidden = hidden

    @torch.no_grad()
    def propose(self, text: Sequence[int], count: int, uniform: Float[Tensor, "K"]) -> tuple[list[int], Float[Tensor, "K V"]]:
        """As many guesses as there are heads; none before the model's first pass."""
        V = self.model.config.vocab_size
        if not len(self.hidden) or count == 0:
            return [], torch.zeros(0, V, dtype=torch.float64)
        guesses = self.heads(self.hidden, self.model.head_weight).argmax(-1)[:count]
        return guesses.tolist(), F.one_hot(guesses, V).double()
