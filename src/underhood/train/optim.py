"""Optimizers by hand: from a gradient to an update of the weights. The plain versions, one tensor at a time; ``optim_fast`` holds the quick ones.

All keep their state by parameter *name*, so that a checkpoint outlives the objects. ``scale`` is what the schedule turns: a group's learning rate is
its peak ``lr`` times ``scale``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from underhood.base.errors import CheckpointError, ShapeError
from underhood.train.groups import Group, check_groups

Slots = dict[str, Tensor]


class Optimizer(ABC):
    """What all optimizers share: groups, state by name, one ``update`` per tensor."""

    slots: tuple[str, ...] = ()  # the tensors kept for each parameter, of its shape, zero at the start
    matrices_only = False  # then ``build_optimizer`` gives it the blocks' matrices alone

    def __init__(self, groups: Sequence[Group]) -> None:
        check_groups(groups)
        self.groups = list(groups)
        self.scale = 1.0
        self.state: dict[str, Slots] = {}  # parameter name → slot → tensor
        self.counts: dict[str, int] = {}  # parameter name → updates made so far

    @abstractmethod
    def update(self, p: Tensor, g: Tensor, state: Slots, *, t: int, lr: float, weight_decay: float) -> None:
        """Change the parameter ``p`` in place, given its gradient ``g``, its state and the number ``t`` = 1, 2, … of this update."""

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient; one without is left alone, decay included."""
        for group in self.groups:
            for name, p in group.parameters.items():
                if p.grad is not None:
                    state = self.remember(name, p)
                    self.update(p, p.grad, state, t=self.counts[name], lr=group.lr * self.scale, weight_decay=group.weight_decay)

    def remember(self, name: str, p: Tensor) -> Slots:
        """The state of ``p`` for one more update, made on the first."""
        if name not in self.state:
            self.state[name] = {slot: torch.zeros_like(p, memory_format=torch.preserve_format).detach() for slot in self.slots}
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.state[name]

    def zero_grad(self) -> None:
        """Forget the gradients (their memory too)."""
        for group in self.groups:
            for p in group.parameters.values():
                p.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """The whole state as tensors: ``"<slot>/<parameter>"`` and ``"count/<parameter>"``."""
        tensors = {f"{slot}/{name}": t for name, slots in self.state.items() for slot, t in slots.items()}
        return tensors | {f"count/{name}": torch.tensor(n) for name, n in self.counts.items()}

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state that ``state_dict`` gave. Raises ``CheckpointError`` naming the tensor that is missing, unknown or of another shape."""
        parameters = {name: p for group in self.groups for name, p in group.parameters.items()}
        known = {f"{slot}/{name}" for name in parameters for slot in ("count", *self.slots)}
        if unknown := sorted(set(tensors) - known):
            raise CheckpointError(f"the optimizer state {unknown[0]!r} belongs to no parameter of this {type(self).__name__}")
        names = [name for name in parameters if f"count/{name}" in tensors]
        self.state, self.counts = {}, {}
        for name in names:
            for slot in self.slots:
                found = tensors.get(f"{slot}/{name}")
                if found is None or found.shape != parameters[name].shape:
                    shape = "nothing" if found is None else list(found.shape)
                    raise CheckpointError(f"{shape} found", where=f"optimizer state {slot}/{name}", expected=str(list(parameters[name].shape)))
            self.state[name] = {slot: tensors[f"{slot}/{name}"].to(parameters[name], copy=True) for slot in self.slots}
            self.counts[name] = int(tensors[f"count/{name}"])


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v ← μv + g, w ← w − lr·v. Decay is added to the gradient, as ``torch.optim.SGD`` does."""

    slots = ("velocity",)

    def __init__(self, groups: Sequence[Group], *, momentum: float = 0.0) -> None:
        super().__init__(groups)
        self.momentum = momentum

    def update(self, p: Tensor, g: Tensor, state: Slots, *, t: int, lr: float, weight_decay: float) -> None:
        """Equation in the class."""
        velocity = state["velocity"]
        velocity.mul_(self.momentum).add_(g + weight_decay * p if weight_decay else g)
        p.add_(velocity, alpha=-lr)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1): each weight moves by its mean gradient over the root of its mean squared gradient.

    Decay is added to the gradient (so it is divided by the root as well; AdamW exists because of that), as ``torch.optim.Adam`` does.
    """

    slots = ("m", "v")

    def __init__(self, groups: Sequence[Group], *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__(groups)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def update(self, p: Tensor, g: Tensor, state: Slots, *, t: int, lr: float, weight_decay: float) -> None:
        """Equation in the class."""
        g = g + weight_decay * p if weight_decay else g
        p.add_(adam_direction(g, state, t, betas=(self.beta1, self.beta2), eps=self.eps), alpha=-lr)


def adam_direction(g: Tensor, state: Slots, t: int, *, betas: tuple[float, float], eps: float) -> Tensor:
    """m̂ / (√v̂ + ε) after one more gradient: the running means, corrected for having started at zero."""
    m, v, (beta1, beta2) = state["m"], state["v"], betas
    m.mul_(beta1).add_(g, alpha=1 - beta1)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return m_hat / (v_hat.sqrt() + eps)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2): w ← w − lr·λ·w − lr·m̂ / (√v̂ + ε).

    m and v are running means of the gradient and of its square, m̂ and v̂ the same corrected for their start at zero; the decay λ touches
    the weight alone and never enters m or v. State: ``m`` and ``v``, each of the parameter's shape. Equal to ``torch.optim.AdamW``.
    """

    slots = ("m", "v")

    def __init__(self, groups: Sequence[Group], *, beta1: float = 0.9, beta2: float = 0.95, eps: float = 1e-8) -> None:
        super().__init__(groups)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def update(self, p: Tensor, g: Tensor, state: Slots, *, t: int, lr: float, weight_decay: float) -> None:
        """One update of ``p`` in place; ``state["m"]`` and ``state["v"]`` are changed in place too; ``t`` is 1 at the first update.

        How: update m and v, divide each by 1 − β**t, shrink the weight by 1 − lr·λ, then step by lr·m̂ / (√v̂ + ε).
        """
        m, v = state["m"], state["v"]
        m.mul_(self.beta1).add_(g, alpha=1 - self.beta1)
        v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        m_hat = m / (1 - self.beta1**t)
        v_hat = v / (1 - self.beta2**t)
        p.mul_(1 - lr * weight_decay)
        p.addcdiv_(m_hat, v_hat.sqrt() + self.eps, value=-lr)


class Lion(Optimizer):
    """Lion (Chen et al. 2023, algorithm 2): step by the *sign* of a mix of momentum and gradient, so every weight moves by exactly lr.

    c = β₁m + (1−β₁)g; w ← w − lr·(sign(c) + λw); m ← β₂m + (1−β₂)g. Half of Adam's state; wants a learning rate 3–10 times smaller.
    """

    slots = ("m",)

    def __init__(self, groups: Sequence[Group], *, beta1: float = 0.9, beta2: float = 0.99) -> None:
        super().__init__(groups)
        self.beta1, self.beta2 = beta1, beta2

    def update(self, p: Tensor, g: Tensor, state: Slots, *, t: int, lr: float, weight_decay: float) -> None:
        """Equation in the class."""
        m = state["m"]
        direction = (self.beta1 * m + (1 - self.beta1) * g).sign_()
        p.mul_(1 - lr * weight_decay).add_(direction, alpha=-lr)
        m.mul_(self.beta2).add_(g, alpha=1 - self.beta2)


Quintics = Sequence[tuple[float, float, float]]  # a round each: x ← ax + b(xxᵀ)x + c(xxᵀ)²x, so that a singular value s becomes as + bs³ + cs⁵
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315),) * 5  # Jordan et al. 2024: the largest slope at zero while singular values stay within 0.7…1.2
MINIMAX = (  # see ``MuonMinimax``; the largest distance from one after each round, for singular values from 0.001 to 1:
    (8.386893, -24.371311, 17.726412),  # 0.99
    (4.143012, -3.018618, 0.552650),  # 0.97
    (3.931188, -2.874113, 0.536722),  # 0.86
    (3.282798, -2.416554, 0.486531),  # 0.56
)


class Muon(Optimizer):
    """Muon (Jordan et al. 2024): momentum for matrices, with every singular value of the step pulled towards one.

    B ← μB + g; with Nesterov g + μB; w ← w(1 − lr·λ) − lr·√max(1, rows/columns) · orthogonalize(·). For the matrices inside the blocks;
    embeddings, the head, gains and biases go to AdamW (``build_optimizer`` splits them). A parameter that is not a matrix is a ``ShapeError``.
    """

    slots = ("momentum",)
    matrices_only = True
    quintics: Quintics = NEWTON_SCHULZ

    def __init__(self, groups: Sequence[Group], *, momentum: float = 0.95, nesterov: bool = True, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__(groups)
        self.momentum, self.nesterov, self.dtype = momentum, nesterov, dtype
        for name, p in ((n, p) for group in groups for n, p in group.parameters.items()):
            if p.ndim != 2:
                raise ShapeError(f"Muon takes matrices only; {name!r} has shape {list(p.shape)}")

    def update(self, p: Tensor, g: Tensor, state: Slots, *, t: int, lr: float, weight_decay: float) -> None:
        """Equation in the class."""
        momentum = state["momentum"]
        momentum.lerp_(g, 1 - self.momentum)
        step = g.lerp(momentum, self.momentum) if self.nesterov else momentum
        p.mul_(1 - lr * weight_decay)
        p.add_(orthogonalize(step, self.dtype, self.quintics).to(p.dtype), alpha=-lr * math.sqrt(max(1, p.shape[0] / p.shape[1])))


class MuonMinimax(Muon):
    """``Muon`` with four rounds instead of five, each with the quintic that is best for what the round before it leaves (Amsel et al. 2025, Polar Express).

    Best: of all odd quintics p on the singular values [l, u], the one whose largest |1 − p| = E is smallest; the next round then works on [1 − E, 1 + E].
    By their theorem no other choice of quintics for the rounds comes closer to one. Here the first interval is [0.001, 1], and every upper end is widened
    by 1 %, or else a singular value that bfloat16 rounds up past it would grow. ``tests/train/test_optim.py`` computes the table anew by Remez's
    algorithm. After four rounds singular values of at least 0.001 of the matrix's norm lie within 1 ± 0.56, smaller ones have grown 448 times.
    """

    quintics: Quintics = MINIMAX


def orthogonalize(g: Float[Tensor, "R C"], dtype: torch.dtype = torch.bfloat16, quintics: Quintics = NEWTON_SCHULZ) -> Float[Tensor, "R C"]:
    """About U·Vᵀ of g = U·S·Vᵀ: the directions kept, the singular values all near one (0.7…1.2), by Newton–Schulz rounds; in ``dtype``."""
    x = g.to(dtype)
    x = x.T if g.shape[0] > g.shape[1] else x  # the smaller Gram matrix
    x = x / x.norm().clamp(min=1e-7)  # singular values at most one, where the polynomial converges
    for a, b, c in quintics:
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if g.shape[0] > g.shape[1] else x


class Together:
    """Several optimizers, each for its own parameters, used as one."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        check_groups([group for part in parts for group in part.groups])
        self.parts = list(parts)

    @property
    def groups(self) -> list[Group]:
        """The groups of all."""
        return [group for part in self.parts for group in part.groups]

    @property
    def scale(self) -> float:
        """The schedule's share of every peak learning rate."""
        return self.parts[0].scale

    @scale.setter
    def scale(self, share: float) -> None:
        for part in self.parts:
            part.scale = share

    def step(self) -> None:
        """One step of each."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for part in self.parts:
            part.zero_grad()

    def state_dict(self) -> dict[str, Tensor]:
        """All states in one; the parameters' names keep them apart."""
        return {name: tensor for part in self.parts for name, tensor in part.state_dict().items()}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Give each part what belongs to its parameters."""
        left = dict(tensors)
        for part in self.parts:
            names = {name for group in part.groups for name in group.parameters}
            part.load_state_dict({key: left.pop(key) for key in tensors if key.partition("/")[2] in names})
        if left:
            raise CheckpointError(f"the optimizer state {min(left)!r} belongs to no parameter")
