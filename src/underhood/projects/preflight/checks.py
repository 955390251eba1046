"""What any correct warm-up satisfies. The oracles are closed forms and torch."""

import math
import random

import torch

from underhood.lab.check import Check, Part, check, close, equal, refuses, runs


@check(
    "1 · The dot product",
    hints=(
        "Multiply what stands at the same place in both lists, and add up all the products, the last one too.",
        "zip(a, b) walks through two lists side by side; sum adds up what a generator yields.",
        "return sum(x * y for x, y in zip(a, b, strict=True))",
    ),
)
def check_dot_product(part: Part, rng: random.Random) -> None:
    """Σ aᵢ bᵢ over all places; 0 for empty lists."""
    equal(runs(lambda: part.dot([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), "dot does not run", given="[1, 2, 3] and [4, 5, 6]"), 32.0, "1·4 + 2·5 + 3·6 is 32")
    a, b = ([rng.uniform(-2, 2) for _ in range(6)] for _ in range(2))
    for n in (1, 2, 6):
        found = runs(lambda n=n: part.dot(a[:n], b[:n]), "dot does not run", given=(a[:n], b[:n]))  # type: ignore[misc]
        close(found, math.fsum(x * y for x, y in zip(a[:n], b[:n], strict=True)), "the dot product is another number", given=(a[:n], b[:n]))
    equal(runs(lambda: part.dot([], []), "dot does not run", given="two empty lists"), 0, "an empty sum is 0")


@check(
    "1 · The dot product",
    hints=(
        "What should a dot product of three numbers with two be? There is no good answer, so the function must not give one.",
        "By default zip stops at the end of the shorter list. It has an option that raises ValueError instead.",
        "zip(a, b, strict=True)",
    ),
)
def check_unequal_lengths(part: Part, rng: random.Random) -> None:
    """Lists of different lengths are an error, whichever is longer."""
    long, short = [rng.uniform(-2, 2) for _ in range(3)], [rng.uniform(-2, 2) for _ in range(2)]
    refuses(lambda: part.dot(long, short), ValueError, "lists of different lengths must be an error", given=(long, short))
    refuses(lambda: part.dot(short, long), ValueError, "lists of different lengths must be an error", given=(short, long))


@check(
    "2 · The slope",
    hints=(
        "How far does f move between two places close to x, as a multiple of the distance between them?",
        "Take the two places x + h and x − h; they are 2h apart.",
        "return (f(x + h) - f(x - h)) / (2 * h)",
    ),
)
def check_slopes(part: Part, rng: random.Random) -> None:
    """The slopes of functions whose slopes are known."""
    x = rng.uniform(0.5, 1.5)
    cases = (("2x + 1", lambda v: 2 * v + 1, 2.0), ("x⁴", lambda v: v**4, 4 * x**3), ("exp", math.exp, math.exp(x)), ("sin", math.sin, math.cos(x)))
    for name, f, expected in cases:
        found = runs(lambda f=f: part.slope(f, x), "slope does not run", given=(name, x))  # type: ignore[misc]
        close(found, expected, f"{name} has another slope there", given=x, atol=1e-8, rtol=1e-8)


@check(
    "2 · The slope",
    hints=(
        "Use the h that is given, and go to both sides of x by the same distance.",
        "From x to x + h the slope of x³ is 3x² + 3xh + h². From x − h to x + h the middle term cancels.",
        "return (f(x + h) - f(x - h)) / (2 * h)",
    ),
)
def check_both_sides(part: Part, rng: random.Random) -> None:
    """For x³ the central difference is 3x² + h², exactly: there is no error of first order."""
    x = rng.uniform(0.5, 1.5)
    for h in (0.1, 0.05):
        found = runs(lambda h=h: part.slope(lambda v: v**3, x, h), "slope does not run", given=("x³", x, h))  # type: ignore[misc]
        close(found, 3 * x**2 + h**2, "the central difference of x³ is 3x² + h²", given=f"x = {x:.6g}, h = {h}", atol=1e-9, rtol=1e-9)


@check(
    "3 · Softmax",
    hints=(
        "First make every logit positive, then divide by what makes the shares sum to 1.",
        "weights = [exp(z) …]; the share of each is its weight over the sum of all weights.",
        "total = sum(weights); return [w / total for w in weights]",
    ),
)
def check_shares(part: Part, rng: random.Random) -> None:
    """The shares are torch's, and sum to 1."""
    for n in (1, 3, 7):
        logits = [rng.gauss(0, 2) for _ in range(n)]
        found = runs(lambda z=logits: part.softmax(z), "softmax does not run", given=logits)  # type: ignore[misc]
        close(sum(found), 1.0, "the shares must sum to 1", given=logits, atol=1e-9)
        close(found, torch.tensor(logits, dtype=torch.float64).softmax(0), "the shares are other numbers", given=logits, atol=1e-9, rtol=1e-9)


@check(
    "3 · Softmax",
    hints=(
        "exp(710) is more than a float can hold, and exp(−746) is 0. Which number may be added to all logits without changing the shares?",
        "Any: it cancels in the fraction. Subtract the highest logit, then no exponential is above 1 and one of them is 1.",
        "highest = max(logits); weights = [math.exp(z - highest) for z in logits]",
    ),
)
def check_any_size(part: Part, rng: random.Random) -> None:
    """Logits around 1000 and around −1000 give the shares of the same logits around 0."""
    logits = [rng.gauss(0, 1) for _ in range(4)]
    expected = torch.tensor(logits, dtype=torch.float64).softmax(0)
    for offset in (1000.0, -1000.0):
        moved = [z + offset for z in logits]
        found = runs(lambda z=moved: part.softmax(z), "softmax must take logits of any size", given=moved)  # type: ignore[misc]
        close(found, expected, "adding the same number to all logits must not change the shares", given=moved, atol=1e-9, rtol=1e-9)
    far = runs(lambda: part.softmax([0.0, -2000.0]), "softmax must take logits that lie far apart", given=[0.0, -2000.0])
    close(far, [1.0, 0.0], "far below the highest, a share is 0", given=[0.0, -2000.0])


CHECKS: tuple[Check, ...] = (check_dot_product, check_unequal_lengths, check_slopes, check_both_sides, check_shares, check_any_size)
