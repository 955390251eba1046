"""The healthy run behind the breaks of the tensor library: the MLP character model on a small corpus of tales."""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from underhood.base.errors import ShapeError
from underhood.base.rng import stream_seed
from underhood.data.corpora import load_corpus
from underhood.data.tales import VERSION
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.tensor.bigram import Bigram
from underhood.tensor.charmodel import CharModel
from underhood.tensor.functions import cross_entropy, log_softmax, softmax
from underhood.tensor.sample import continue_text, draw
from underhood.tensor.tensor import Array, Tensor
from underhood.tensor.train import TrainConfig, evaluate, fit

END = "\n"  # one character after each story, as the corpus counts it
CORPUS = "tales:1000"
SEARCHED = 10_000.0  # the largest logit that is tried


@dataclasses.dataclass(frozen=True, kw_only=True)
class Characters:
    """A character model that trains in seconds."""

    context: int = 8  # about a word and a half
    width: int = 16  # room for what matters about one of 57 characters
    hidden: int = 128  # the loss is far below the bigram's after two seconds
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


def text_ids() -> tuple[list[str], Array, Array]:
    """(characters, training ids, validation ids)."""
    corpus = load_corpus(CORPUS)
    train, val = ("".join(document + END for document in documents) for documents in (corpus.train, corpus.val))
    characters = sorted(set(train + val))
    index = {c: i for i, c in enumerate(characters)}
    return characters, np.array([index[c] for c in train]), np.array([index[c] for c in val])


def run(config: Characters, seed: int, watch: Watch) -> Mapping[str, float | bool | str]:
    """Train, evaluate beside the counted models, write some text, and find the limits of the functions."""
    characters, train, val = text_ids()
    model = CharModel(len(characters), seed, context=config.context, width=config.width, hidden=config.hidden)
    train_loss = fit(model, train, config.train, seed, watch)
    written = continue_text(model, val[: config.context], 200, 0.8, np.random.default_rng(stream_seed(seed, "sample")))
    shares = np.bincount(train, minlength=len(characters)) / len(train)
    return {
        "train_loss": train_loss,
        "val_loss": evaluate(model, val),
        "next_character_loss": next_character_loss(model, val, config.context),
        "bigram_loss": evaluate(Bigram.count(train, len(characters)), val),
        "unigram_loss": float(-np.log(shares[val] + 1e-9).mean()),
        "float32_throughout": float32_throughout(model, train, config.context),
        "reads_every_place": reads_every_place(model, train[: config.context]),
        "largest_safe_logit": largest(lambda x: _finite(softmax, [x, 0.0]) and _finite(log_softmax, [x, 0.0])),
        "largest_safe_gap": largest(lambda x: math.isfinite(float(cross_entropy(_row([0.0, x]), np.array([0])).data))),
        "colder_is_surer": colder_is_surer(seed),
        "refuses_negative_targets": refuses_negative_targets(),
        "text": "".join(characters[i] for i in written),
    }


def next_character_loss(model: CharModel, ids: Array, context: int, n: int = 4000) -> float:
    """The loss on what really follows, in nats per character, worked out here in float64 and not by the library under test."""
    starts = np.arange(min(n, len(ids) - context))
    rows = ids[starts[:, None] + np.arange(context)]
    logits = model(rows).data.astype(np.float64)
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float((total - logits[starts, ids[starts + context]]).mean())


def reads_every_place(model: CharModel, row: Array) -> bool:
    """Whether another character in any one place of the context changes the logits."""
    others = np.tile(row, (len(row), 1))
    others[np.arange(len(row)), np.arange(len(row))] = np.where(row == 0, 1, 0)
    change = np.abs(model(others).data - model(row[None]).data).max(axis=1)
    return bool((change > 1e-4).all())  # far above what another batch size does to rounding


def float32_throughout(model: CharModel, ids: Array, context: int) -> bool:
    """Whether the loss and every gradient have the dtype of the parameters."""
    loss = cross_entropy(model(ids[None, :context]), ids[context : context + 1])
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    arrays = [loss.data, *(p.grad for p in model.parameters() if p.grad is not None)]
    return all(a.dtype == np.float32 for a in arrays)


def _row(logits: list[float]) -> Tensor:
    return Tensor(np.array([logits], np.float32))


def _finite(function: Callable[[Tensor], Tensor], logits: list[float]) -> bool:
    return bool(np.isfinite(function(_row(logits)).data).all())


def largest(works: Callable[[float], bool]) -> float:
    """The largest logit up to 10,000 for which ``works`` holds, found by halving to within a hundredth."""
    low, high = 0.0, SEARCHED
    with np.errstate(all="ignore"):
        if works(high):
            return high
        while high - low > 0.01:
            middle = (low + high) / 2
            low, high = (middle, high) if works(middle) else (low, middle)
    return round(low, 2)


def colder_is_surer(seed: int) -> bool:
    """Whether the likeliest of four logits is drawn more often at temperature 0.5 than at 1, and less often at 2."""
    logits = np.array([1.0, 0.5, 0.0, -0.5])
    shares = []
    for temperature in (0.5, 1.0, 2.0):
        rng = np.random.default_rng(stream_seed(seed, f"probe/{temperature}"))
        shares.append(np.mean([draw(logits, temperature, rng) == 0 for _ in range(1000)]))
    return bool(shares[0] > shares[1] + 0.05 and shares[1] > shares[2] + 0.05)


def refuses_negative_targets() -> bool:
    """Whether a target of −1 is an error rather than the last character."""
    try:
        cross_entropy(_row([0.0, 1.0]), np.array([-1]))
    except ShapeError:
        return True
    return False


UNIFORM = math.log(57)  # of as many characters as the corpus has
LOWER_BOUND = 0.186  # the corpus's entropy for who sees the whole story, in nats per character: with 8 characters in sight it cannot be reached

BASELINES = (
    Baseline(
        name="tensor.characters",
        says="the MLP character model (8 characters of context, 128 units) on 300,000 characters of tales, stochastic gradient descent",
        run=run,
        config=Characters(),
        metrics={
            "train_loss": Metric(
                says="nats per character, mean of the last tenth of the steps", floor=LOWER_BOUND, ceiling=UNIFORM, smallest=0.02, worst=UNIFORM
            ),
            "val_loss": Metric(
                says="nats per character on held-out tales, through the library", floor=LOWER_BOUND, ceiling=UNIFORM, smallest=0.02, worst=UNIFORM
            ),
            "next_character_loss": Metric(
                says="nats per character on what really follows, worked out beside the library",
                floor=LOWER_BOUND,
                ceiling=UNIFORM,
                smallest=0.02,
                worst=4 * UNIFORM,
            ),
            "bigram_loss": Metric(says="nats per character of the counted bigram model", floor=LOWER_BOUND, ceiling=UNIFORM, smallest=0.02),
            "unigram_loss": Metric(says="nats per character knowing only how frequent each is", ceiling=UNIFORM, smallest=0.02, better="neither"),
            "float32_throughout": Metric(says="the loss and all gradients have the parameters' dtype", better="higher"),
            "reads_every_place": Metric(says="another character in any place of the context changes the answer", better="higher"),
            "largest_safe_logit": Metric(
                says="largest float32 logit (to 10,000) with finite softmax and log-softmax", ceiling=0, floor=SEARCHED, smallest=1, better="higher"
            ),
            "largest_safe_gap": Metric(
                says="largest distance (to 10,000) of the target's float32 logit below the top with a finite loss",
                ceiling=0,
                floor=SEARCHED,
                smallest=1,
                better="higher",
            ),
            "colder_is_surer": Metric(says="a lower temperature draws the likeliest more often", better="higher"),
            "refuses_negative_targets": Metric(says="a target of −1 is an error", better="higher"),
        },
        seconds=3.0,
        corpus=f"tales version {VERSION}, 1000 stories",
    ),
)
