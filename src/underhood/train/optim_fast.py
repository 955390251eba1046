"""The quick twins of ``optim``: the same updates on lists of tensors, cut into pieces that stay in the cache. Equal to the plain ones by test.

An update reads and writes four tensors of the model's size several times over. Done tensor by tensor on a large model, each of those passes goes
through main memory; done on a piece of 256 Ki elements at a time, only the first does. On a small model the lists save the calls instead.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from underhood.train import optim
from underhood.train.groups import Group
from underhood.train.optim import Slots

PIECE = 1 << 18  # elements worked on at a time: 4 tensors of fp32 are 4 MiB, a slice of the last-level cache


class _Listwise(optim.Optimizer):
    """Runs ``update_list`` on groups of tensors that are at the same count, instead of ``update`` on each."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.groups:
            by_count: dict[int, list[tuple[Tensor, Tensor, Slots]]] = {}
            for name, p in group.parameters.items():
                if p.grad is not None:
                    state = self.remember(name, p)
                    by_count.setdefault(self.counts[name], []).append((p, p.grad, state))
            for t, rows in by_count.items():
                for columns in _pieces(rows, self.slots):
                    self.update_list(columns, t=t, lr=group.lr * self.scale, weight_decay=group.weight_decay)

    @abstractmethod
    def update_list(self, columns: list[list[Tensor]], *, t: int, lr: float, weight_decay: float) -> None:
        """Update in place: ``columns`` are parameters, gradients, then one list per slot."""

    def update(self, p: Tensor, g: Tensor, state: Slots, *, t: int, lr: float, weight_decay: float) -> None:
        """One tensor, by way of the list."""
        self.update_list([[p], [g], *([state[s]] for s in self.slots)], t=t, lr=lr, weight_decay=weight_decay)


def _pieces(rows: Sequence[tuple[Tensor, Tensor, Slots]], slots: tuple[str, ...]) -> Iterator[list[list[Tensor]]]:
    """Lists of tensors of about ``PIECE`` elements together: small tensors side by side, a large one in flat slices."""
    columns: list[list[Tensor]] = [[] for _ in range(2 + len(slots))]
    held = 0
    for p, g, state in rows:
        tensors = (p, g, *(state[s] for s in slots))
        if p.numel() > PIECE and all(t.is_contiguous() for t in tensors):
            yield from ([list(c) for c in zip(part, strict=True)] for part in zip(*(torch.split(t.view(-1), PIECE) for t in tensors), strict=True))
            continue
        for column, tensor in zip(columns, tensors, strict=True):
            column.append(tensor)
        held += p.numel()
        if held >= PIECE:
            yield columns
            columns, held = [[] for _ in range(2 + len(slots))], 0
    if columns[0]:
        yield columns


class SGD(_Listwise):
    """``optim.SGD``, listwise."""

    slots = ("velocity",)

    def __init__(self, groups: Sequence[Group], *, momentum: float = 0.0) -> None:
        super().__init__(groups)
        self.momentum = momentum

    def update_list(self, columns: list[list[Tensor]], *, t: int, lr: float, weight_decay: float) -> None:
        p, g, velocity = columns
        torch._foreach_mul_(velocity, self.momentum)
        torch._foreach_add_(velocity, g)
        if weight_decay:
            torch._foreach_add_(velocity, p, alpha=weight_decay)
        torch._foreach_add_(p, velocity, alpha=-lr)


class AdamW(_Listwise):
    """``optim.AdamW`` through torch's fused kernel: one pass over the weights, the gradients and both moments."""

    slots = ("m", "v")

    def __init__(self, groups: Sequence[Group], *, beta1: float = 0.9, beta2: float = 0.95, eps: float = 1e-8) -> None:
        super().__init__(groups)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def update_list(self, columns: list[list[Tensor]], *, t: int, lr: float, weight_decay: float) -> None:
        p, g, m, v = columns
        counts = [torch.tensor(float(t), device=p[0].device)] * len(p)
        torch._fused_adamw_(
            p,
            g,
            m,
            v,
            max_exp_avg_sqs=[],
            state_steps=counts,
            lr=lr,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


class Lion(_Listwise):
    """``optim.Lion``, listwise."""

    slots = ("m",)

    def __init__(self, groups: Sequence[Group], *, beta1: float = 0.9, beta2: float = 0.99) -> None:
        super().__init__(groups)
        self.beta1, self.beta2 = beta1, beta2

    def update_list(self, columns: list[list[Tensor]], *, t: int, lr: float, weight_decay: float) -> None:
        p, g, m = columns
        direction = torch._foreach_lerp(m, g, 1 - self.beta1)
        torch._foreach_sign_(direction)
        torch._foreach_mul_(p, 1 - lr * weight_decay)
        torch._foreach_add_(p, direction, alpha=-lr)
        torch._foreach_lerp_(m, g, 1 - self.beta2)


class Muon(optim.Optimizer):
    """``optim.Muon`` with the matrices orthogonalized side by side, as batches of products; ``dtype`` as in ``inverse_roots``."""

    slots = ("momentum",)
    matrices_only = True
    plain = optim.Muon

    def __init__(self, groups: Sequence[Group], *, momentum: float = 0.95, nesterov: bool = True, dtype: torch.dtype | None = None) -> None:
        super().__init__(groups)
        self.momentum, self.nesterov, self.dtype = momentum, nesterov, dtype
        self._plain = self.plain(groups, momentum=momentum, nesterov=nesterov)  # refuses what is not a matrix

    def update(self, p: Tensor, g: Tensor, state: Slots, *, t: int, lr: float, weight_decay: float) -> None:
        """One tensor, as the plain version."""
        self._plain.update(p, g, state, t=t, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.groups:
            rows = [(p, p.grad, self.remember(name, p)["momentum"]) for name, p in group.parameters.items() if p.grad is not None]
            if not rows:
                continue
            weights, g, momentum = (list(column) for column in zip(*rows, strict=True))
            torch._foreach_lerp_(momentum, g, 1 - self.momentum)
            steps = torch._foreach_lerp(g, momentum, self.momentum) if self.nesterov else momentum
            lr = group.lr * self.scale
            if group.weight_decay:
                torch._foreach_mul_(weights, 1 - lr * group.weight_decay)
            for p, x, root in zip(weights, steps, inverse_roots(steps, self.dtype, self.plain.quintics), strict=True):
                tall = x.shape[0] > x.shape[1]
                rate = lr * math.sqrt(max(1, x.shape[0] / x.shape[1]))
                p.addmm_(*((x, root) if tall else (root, x)), alpha=-rate)


class MuonMinimax(Muon):
    """``optim.MuonMinimax``, side by side as well."""

    plain = optim.MuonMinimax


def inverse_roots(matrices: Sequence[Tensor], dtype: torch.dtype | None = None, quintics: optim.Quintics = optim.NEWTON_SCHULZ) -> list[Tensor]:
    """About (x xᵀ)^(-1/2) of each matrix x, or (xᵀ x)^(-1/2) of a tall one, so that its product with x is ``optim.orthogonalize`` of x.

    Every round of Newton–Schulz multiplies x by a polynomial of its Gram matrix, and all of these commute. So the rounds are run on the Gram matrix
    alone, which is square and as small as the shorter side, for all matrices of that side at once; the long side enters in the first product and the last.

    ``dtype`` None: float32, or float64 where that is given. Not bfloat16: its rounding makes the smallest eigenvalues of a Gram matrix negative, and the
    rounds blow those up.
    """
    result = list(matrices)
    by_side: dict[int, list[int]] = {}
    for i, matrix in enumerate(matrices):
        by_side.setdefault(min(matrix.shape), []).append(i)
    for chosen in by_side.values():
        given = matrices[chosen[0]]
        work = dtype or torch.promote_types(given.dtype, torch.float32)
        grams = torch.stack([_gram(matrices[i].to(work)) for i in chosen])
        squares = grams.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp_(min=1e-14)  # of the norms: the traces
        roots = newton_schulz_factor(grams.div_(squares), quintics).mul_(squares.rsqrt_()).to(given.dtype)
        for i, root in zip(chosen, roots, strict=True):
            result[i] = root
    return result


def newton_schulz_factor(gram: Float[Tensor, "N R R"], quintics: optim.Quintics = optim.NEWTON_SCHULZ) -> Float[Tensor, "N R R"]:
    """What the rounds multiply x by, given G = x xᵀ: each round's factor is A = aI + bG + cG², and the next round's G is A G A."""
    total = torch.empty(0)
    for i, (a, b, c) in enumerate(quintics):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        total = factor if i == 0 else factor @ total
        if i < len(quintics) - 1:
            gram = factor @ gram @ factor
    return total


def _gram(x: Float[Tensor, "R C"]) -> Tensor:
    """The smaller of x xᵀ and xᵀ x."""
    return x.T @ x if x.shape[0] > x.shape[1] else x @ x.T
