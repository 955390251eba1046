"""Three functions that the whole course is made of: the dot product, the slope and softmax, on plain numbers and lists.

Arrays of them come later (``tensor.functions``), and slopes that are exact (``scalar.value``). The name softmax is Bridle's (1990).
"""

import math
from collections.abc import Callable, Sequence


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """The dot product Σ aᵢ bᵢ of two lists of the same length; 0 for empty ones. Raises ``ValueError`` when the lengths differ."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def slope(f: Callable[[float], float], x: float, h: float = 1e-5) -> float:
    """The slope of ``f`` at ``x`` as a central difference: from ``x − h`` to ``x + h``. Its error shrinks with h², until rounding takes over."""
    return (f(x + h) - f(x - h)) / (2 * h)


def softmax(logits: Sequence[float]) -> list[float]:
    """exp(zᵢ) / Σⱼ exp(zⱼ) for each of the finite logits z: positive shares that sum to 1, however large or small the logits are.

    How: the highest logit is subtracted from all. It cancels in the fraction, and no exponential is above 1.
    """
    highest = max(logits)
    weights = [math.exp(z - highest) for z in logits]
    total = sum(weights)
    return [w / total for w in weights]
