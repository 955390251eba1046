"""The healthy run behind the breaks of the scalar engine: six points in the plane that no straight line parts."""

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence

from underhood.base.rng import stream
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.scalar.mlp import MLP, Activation, mean_squared_error, train_step
from underhood.scalar.value import Value

POINTS = ((-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0), (0.0, 0.0), (0.0, 1.2))
LABELS = (-1.0, 1.0, 1.0, -1.0, 1.0, -1.0)  # the corners of the exclusive or, and one point more of each kind


@dataclasses.dataclass(frozen=True, kw_only=True)
class SixPoints:
    """A small network on six points."""

    widths: tuple[int, ...] = (8, 8, 1)  # two hidden layers, so that a gradient has to pass through one to reach the other
    activation: Activation = "tanh"
    learning_rate: float = 0.1  # 0.3 makes single seeds jump; 0.03 needs three times the steps
    steps: int = 200  # the loss has fallen below a hundredth of its start


def run(config: SixPoints, seed: int, watch: Watch) -> Mapping[str, float | bool | str]:
    """Train; then test the gradients themselves, on expressions with and without a node that is used twice."""
    inputs, targets = [list(p) for p in POINTS], [[t] for t in LABELS]
    model = MLP(2, config.widths, stream(seed, "init"), config.activation)
    start = [p.data for p in model.parameters()]
    error = network_gradient_error(model, inputs, targets)
    losses = []
    for step in range(config.steps):
        losses.append(train_step(model, inputs, targets, config.learning_rate))
        watch(step, loss=losses[-1])
    n_first = 3 * config.widths[0]
    moved = [abs(p.data - s) for p, s in zip(model.parameters(), start, strict=True)]
    rng = stream(seed, "probe")
    return {
        "first_loss": losses[0],
        "loss": losses[-1],
        "fell": losses[0] - losses[-1],
        "correct": sum(model(x)[0].data * t[0] > 0 for x, t in zip(inputs, targets, strict=True)),
        "first_layer_moved": sum(moved[:n_first]) / n_first,
        "network_gradient_error": error,
        "tree_exact": exact(tree, rng),
        "shared_exact": exact(diamond, rng),
        "fresh_gradients": fresh_gradients(model, inputs, targets),
        "survives_depth": survives_depth(20_000),
        "refuses_log_of_zero": refuses_log_of_zero(),
    }


def tree(x: Sequence[Value]) -> Value:
    """An expression in which every node is used once."""
    return (x[0] * x[1] + x[2].exp()).log() * (x[3] - 0.5).tanh()


def diamond(x: Sequence[Value]) -> Value:
    """An expression in which inner nodes and leaves are used twice, at different depths."""
    a = x[0] * x[1]
    b = (a + x[2]).tanh()
    return (a * b + x[0]) * b + x[3] * a


def exact(expression: Callable[[Sequence[Value]], Value], rng: random.Random, tolerance: float = 1e-6) -> bool:
    """Whether backward gives the central differences of ``expression`` at a random point."""
    point = [rng.uniform(0.5, 1.5) for _ in range(4)]
    leaves = [Value(p) for p in point]
    expression(leaves).backward()
    slopes = differences(lambda at: expression([Value(p) for p in at]).data, point)
    return max(abs(leaf.grad - s) for leaf, s in zip(leaves, slopes, strict=True)) < tolerance


def differences(function: Callable[[list[float]], float], point: list[float], width: float = 1e-5) -> list[float]:
    """(f(x + h) − f(x − h)) ÷ 2h along each coordinate."""
    slopes = []
    for i, p in enumerate(point):
        up, down = (function([*point[:i], p + h, *point[i + 1 :]]) for h in (width, -width))
        slopes.append((up - down) / (2 * width))
    return slopes


def network_gradient_error(model: MLP, inputs: list[list[float]], targets: list[list[float]]) -> float:
    """The largest difference between backward and central differences over all parameters, as a share of the largest slope."""
    parameters = model.parameters()
    start = [p.data for p in parameters]

    def loss_at(values: list[float]) -> float:
        for p, value in zip(parameters, values, strict=True):
            p.data = value
        return mean_squared_error([model(x) for x in inputs], targets).data

    slopes = differences(loss_at, start)
    loss_at(start)
    mean_squared_error([model(x) for x in inputs], targets).backward()
    worst = max(abs(p.grad - s) for p, s in zip(parameters, slopes, strict=True))
    for p in parameters:
        p.grad = 0.0
    return worst / max(abs(s) for s in slopes)


def fresh_gradients(model: MLP, inputs: list[list[float]], targets: list[list[float]]) -> bool:
    """Whether a step leaves the gradients of its own batch only: twice the same step, at rate 0, twice the same gradients."""
    seen = []
    for _ in range(2):
        train_step(model, inputs, targets, 0.0)
        seen.append([p.grad for p in model.parameters()])
    return seen[0] == seen[1]


def survives_depth(depth: int) -> bool:
    """Whether a chain of ``depth`` additions can be gone back through."""
    x = Value(1.0)
    y = x
    for _ in range(depth):
        y = y + 1.0
    try:
        y.backward()
    except RecursionError:
        return False
    return x.grad == 1.0


def refuses_log_of_zero() -> bool:
    """Whether the log of 0 is an error where it is taken."""
    try:
        Value(0.0).log()
    except (ValueError, ZeroDivisionError):
        return True
    return False


BASELINES = (
    Baseline(
        name="scalar.six_points",
        says="a 2-8-8-1 tanh network, gradient descent on the squared error of six points that no line parts",
        run=run,
        config=SixPoints(),
        metrics={
            "loss": Metric(says="mean squared error before the last step", floor=0.0, ceiling=1.0, smallest=0.02, worst=1.0, tolerance=1e-6),
            "first_loss": Metric(says="mean squared error before the first step", floor=0.0, smallest=0.02, better="neither"),
            "fell": Metric(says="first loss minus last", ceiling=0.0, smallest=0.02, worst=0.0, better="higher"),
            "correct": Metric(says="points on the right side, of six", floor=6, ceiling=3, smallest=0.5, worst=0, better="higher"),
            "first_layer_moved": Metric(says="mean distance that the first layer's parameters travelled", smallest=0.005, better="neither"),
            "network_gradient_error": Metric(
                says="largest gradient error before training, as a share of the largest slope", floor=0.0, smallest=1e-4, better="lower"
            ),
            "tree_exact": Metric(says="gradients match central differences where no node is used twice", better="higher"),
            "shared_exact": Metric(says="gradients match central differences where nodes are used twice", better="higher"),
            "fresh_gradients": Metric(says="a step's gradients are those of its own batch", better="higher"),
            "survives_depth": Metric(says="a chain of 20,000 operations can be gone back through", better="higher"),
            "refuses_log_of_zero": Metric(says="the log of 0 is an error where it is taken", better="higher"),
        },
        seconds=1.0,
    ),
)
