"""What any correct layers, bigram model, character model and sampling satisfy: the extension of the project, checked last."""

import random
from functools import partial
from typing import Any

import numpy as np

from underhood.lab.check import Check, Part, check, close, equal, holds, refuses, runs


@check(
    "Layers",
    hints=(
        "A linear layer is x W + b; an embedding is a table from which rows are read.",
        "Weights start random, so that no two units and no two characters are the same, and a linear layer's with deviation 1/√inputs; the bias starts at 0.",
        "Tensor(rng.standard_normal((n_tokens, width)).astype(np.float32), requires_grad=True); in Linear (n_inputs, n_outputs), times n_inputs**-0.5.",
    ),
)
def check_layers(part: Part, rng: random.Random) -> None:
    """Linear computes x W + b from its parameters; rows of an embedding differ, are read in place, and are trained; both start as they are said to."""
    _check_linear_start(part)
    linear = runs(lambda: part.Linear(3, 2, np.random.default_rng(1)), "Linear(3, 2, rng) cannot be built")
    weight, bias = linear.parameters()
    equal((weight.shape, bias.shape), ((3, 2), (2,)), "the shapes of the weight and the bias")
    bias.data = np.array([0.5, -0.5], np.float32)
    x = np.array([[[rng.uniform(-2, 2) for _ in range(3)] for _ in range(2)] for _ in range(2)])
    found = runs(lambda: linear(part.Tensor(x.astype(np.float32))).data, "the linear layer does not run", given=x)
    close(found, x @ weight.data + bias.data, "x W + b", given=x, rtol=1e-4, atol=1e-5)

    embedding = runs(lambda: part.Embedding(7, 4, np.random.default_rng(1)), "Embedding(7, 4, rng) cannot be built")
    (table,) = embedding.parameters()
    equal(table.shape, (7, 4), "the shape of the table")
    equal(len(np.unique(table.data, axis=0)), 7, "each character starts with a row of its own", given=table.data)
    wide = runs(lambda: part.Embedding(200, 100, np.random.default_rng(2)).parameters()[0].data, "Embedding(200, 100, rng) cannot be built")
    _check_normal(wide, 1.0, "the rows of an embedding start standard normal", "Embedding(200, 100, rng)")
    ids = np.array([[1, 6], [6, 0]])
    rows = runs(lambda: embedding(ids), "the embedding does not run", given=ids)
    close(rows.data, table.data[ids], "row i for character i", given=ids)
    holds(bool(table.requires_grad), "the table must be trainable")
    runs(rows.sum().backward, "backward into the table does not run")
    close(table.grad.sum(axis=1) / 4, [1, 1, 0, 0, 0, 0, 2], "how often each row was used", given=ids)


def _check_linear_start(part: Part) -> None:
    """The first numbers of a linear layer, and what they are drawn from."""
    given = "Linear(400, 50, np.random.default_rng(1))"
    layers = [runs(partial(part.Linear, 400, 50, np.random.default_rng(seed)), f"{given} cannot be built") for seed in (1, 1, 2)]
    (weight, bias), (again, _), (other, _) = [layer.parameters() for layer in layers]
    equal((weight.shape, bias.shape), ((400, 50), (50,)), "the shapes of the weight and the bias", given=given)
    equal((str(weight.data.dtype), str(bias.data.dtype)), ("float32", "float32"), "the dtypes of the weight and the bias", given=given)
    holds(bool(weight.requires_grad and bias.requires_grad), "weight and bias must be trainable", given=given)
    close(bias.data, np.zeros(50), "the bias starts at 0", given=given)
    _check_normal(weight.data, 1 / 20, "the weights start normal with deviation 1/√inputs, here 1/20", given)
    drawn = np.array_equal(weight.data, again.data) and not np.array_equal(weight.data, other.data)
    holds(drawn, "the weights are drawn from rng: the same from the same seed, others from another", given="seeds 1, 1 and 2")


def _check_normal(numbers: Any, deviation: float, says: str, given: str) -> None:
    """Mean, deviation, and the share beyond two deviations, each to five standard errors."""
    z = np.ravel(numbers) / deviation
    found = {"mean": z.mean() * deviation, "deviation": z.std() * deviation, "share beyond two deviations": (abs(z) > 2).mean()}
    fits = abs(z.mean()) < 5 / z.size**0.5 and abs(z.std() - 1) < 5 / (2 * z.size) ** 0.5 and abs((abs(z) > 2).mean() - 0.0455) < 5 * (0.0434 / z.size) ** 0.5
    shown = {name: round(float(value), 4) for name, value in found.items()}
    holds(bool(fits), says, given=given, expected=f"about {dict(zip(found, (0.0, deviation, 0.0455), strict=True))}", found=shown)


@check(
    "The bigram model",
    hints=(
        "Of all the times that a was followed by something, how often was it b?",
        "Count pairs in a table with a row for the first and a column for the second character, and divide each row by its sum.",
        "counts = np.full((V, V), smoothing, dtype=float); np.add.at(…, 1); counts / counts.sum(axis=1, keepdims=True), then the logarithm.",
    ),
)
def check_bigram(part: Part, rng: random.Random) -> None:
    """Worked by hand: in «abacab» a is followed by b twice and c once; with one added to each, 3/6, 2/6 and 1/6."""
    model = runs(lambda: part.Bigram.count(np.array([0, 1, 0, 2, 0, 1]), 3, 1.0), "Bigram.count does not run")
    p = np.exp(runs(lambda: model(np.array([[2, 0], [0, 1], [1, 2]])).data, "the model does not run"))
    close(
        p,
        [[1 / 6, 3 / 6, 2 / 6], [2 / 4, 1 / 4, 1 / 4], [2 / 4, 1 / 4, 1 / 4]],
        "the probabilities of what follows a, b and c in «abacab»",
        given="the rows [2, 0], [0, 1], [1, 2] of ids, smoothing 1",
    )
    half = runs(lambda: part.Bigram.count(np.array([0, 1, 0, 2, 0, 1]), 3, 0.5), "Bigram.count with smoothing 0.5 does not run")
    p = np.exp(runs(lambda: half(np.array([[0]])).data, "the model does not run", given=[[0]]))
    close(p, [[0.5 / 4.5, 2.5 / 4.5, 1.5 / 4.5]], "what follows a in «abacab», with a half added to each count", given="smoothing 0.5")
    default = runs(lambda: part.Bigram.count(np.array([0, 1]), 2).parameters(), "Bigram.count without smoothing named does not run")
    close(np.exp(default[0].data), [[1 / 3, 2 / 3], [1 / 2, 1 / 2]], "parameters() is the table; where nothing is said the smoothing is 1", given="«ab»")
    refuses(lambda: part.Bigram.count(np.array([0]), 3, 1.0), ValueError, "one character has no pair to count: an error", given="ids [0]")
    refuses(lambda: part.Bigram.count(np.array([0, 1]), 3, 0.0), ValueError, "smoothing must be above 0", given="smoothing 0.0")
    (table,) = runs(lambda: part.Bigram.trainable(3).parameters(), "Bigram.trainable does not run")
    starts = (bool(table.requires_grad), np.ptp(table.data, axis=1).tolist())
    equal(starts, (True, [0.0] * 3), "the trainable table wants gradients and starts with equal logits in each row", given="Bigram.trainable(3)")


@check(
    "Windows",
    hints=(
        "What should the model say after reading the window? Not something that it has just read.",
        "The target of ids[i : i + context] is ids[i + context].",
        "return sliding_window_view(ids, context)[:-1], ids[context:]",
    ),
)
def check_windows(part: Part, rng: random.Random) -> None:
    """Every window, and the character that follows it; worked by hand."""
    x, y = runs(lambda: part.windows(np.array([5, 6, 7, 8, 9]), 3), "windows does not run")
    equal(np.asarray(x).tolist(), [[5, 6, 7], [6, 7, 8]], "the windows of three", given="the ids 5 6 7 8 9")
    equal(np.asarray(y).tolist(), [8, 9], "what follows each window of three", given="the ids 5 6 7 8 9")
    refuses(lambda: part.windows(np.array([1, 2, 3]), 3), ValueError, "a text without a whole window and its target must be refused")


@check(
    "The character model",
    hints=(
        "Look up each character of the context, put the rows side by side, and feed that to the hidden layer. Each part draws from a stream of its own.",
        "(B, T) ids become (B, T, C), then (B, T·C), then (B, hidden) through tanh, then (B, V).",
        'default_rng(stream_seed(seed, "init/hidden")) and so on; self.output(self.hidden(self.embedding(ids).reshape(len(ids), -1)).tanh())',
    ),
)
def check_character_model(part: Part, rng: random.Random) -> None:
    """Logits and all gradients as torch has them for the same weights; each place of the context matters."""
    import torch

    _check_streams(part)
    model = runs(lambda: part.CharModel(6, 1, context=3, width=4, hidden=5), "CharModel(6, seed, context=3, width=4, hidden=5) cannot be built")
    ids, targets = np.array([[0, 1, 2], [3, 4, 5], [1, 1, 1]]), np.array([2, 0, 5])
    ours = model.parameters()
    equal([p.shape for p in ours], [(6, 4), (12, 5), (5,), (5, 6), (6,)], "the shapes of embedding, hidden weight and bias, output weight and bias")
    for p in ours:
        p.data = p.data + 0.1 * np.cos(np.arange(p.data.size, dtype=np.float32)).reshape(p.shape)
    table, w1, b1, w2, b2 = theirs = [torch.tensor(p.data, dtype=torch.float64, requires_grad=True) for p in ours]
    expected = torch.tanh(table[torch.tensor(ids)].reshape(3, -1) @ w1 + b1) @ w2 + b2
    found = runs(lambda: model(ids), "the model does not run", given=ids)
    close(found.data, expected, "W₂ tanh(W₁ [e₁ e₂ e₃] + b₁) + b₂", given=ids, rtol=1e-4, atol=1e-5)
    runs(part.cross_entropy(found, targets).backward, "backward does not run")
    torch.nn.functional.cross_entropy(expected, torch.tensor(targets)).backward()  # type: ignore[no-untyped-call]
    for p, t in zip(ours, theirs, strict=True):
        holds(p.grad is not None, "a parameter received no gradient", given=p.shape)
        close(p.grad, t.grad, "a gradient differs from torch's", given=p.shape, rtol=1e-3, atol=1e-5)


def _check_streams(part: Part) -> None:
    """Each part of the model starts from its own numbers, whatever the sizes of the others."""
    sizes = {"context": 3, "width": 4, "hidden": 5}
    start = _starts(part, 6, 1, sizes)
    given = "CharModel(6, 1, context=3, width=4, hidden=5)"
    for name, other in (("embedding", _starts(part, 6, 1, {**sizes, "hidden": 7})), ("output", _starts(part, 6, 1, {**sizes, "width": 7}))):
        changed = f"{given}, then with {'hidden=7' if name == 'embedding' else 'width=7'}"
        close(other[name], start[name], f"the {name} draws from a stream of its own: the size of another part changes nothing in it", given=changed)
    close(_starts(part, 9, 1, sizes)["hidden"], start["hidden"], "the hidden layer draws from a stream of its own", given=f"{given}, then with 9 characters")
    firsts = [start["embedding"].ravel()[:3], start["hidden"].ravel()[:3] * 12**0.5, start["output"].ravel()[:3] * 5**0.5]
    alike = any(np.allclose(a, b, rtol=1e-4) for a, b in ((firsts[0], firsts[1]), (firsts[0], firsts[2]), (firsts[1], firsts[2])))
    holds(not alike, "two parts start from the same random numbers: each needs a stream of its own", given=given, found=[f.tolist() for f in firsts])
    for seed, same in ((1, True), (2, False)):
        again = _starts(part, 6, seed, sizes)
        holds(all(np.array_equal(again[n], start[n]) == same for n in start), "the start depends on the seed, and on nothing else", given=f"seeds 1 and {seed}")


def _starts(part: Part, vocab_size: int, seed: int, sizes: dict[str, int]) -> dict[str, Any]:
    given = f"CharModel({vocab_size}, {seed}, {', '.join(f'{name}={size}' for name, size in sizes.items())})"
    found = runs(lambda: part.CharModel(vocab_size, seed, **sizes).parameters(), f"{given} cannot be built")
    equal(len(found), 5, "the parameters: embedding, hidden weight and bias, output weight and bias", given=given)
    return {"embedding": found[0].data, "hidden": found[1].data, "output": found[3].data}


@check(
    "Sampling",
    hints=(
        "Dividing the logits by a number below 1 widens the gaps between them.",
        "p = softmax(logits / temperature); at temperature 0 take the largest.",
        "reached = p.cumsum(); np.searchsorted(reached, rng.random() * reached[-1], side='right')",
    ),
)
def check_draw(part: Part, rng: random.Random) -> None:
    """Shares of 1,000 draws agree with softmax(logits ÷ temperature) to five standard errors; 0 is greedy, below 0 an error."""
    logits = np.array([rng.uniform(-1, 1) for _ in range(4)] + [2.0])
    for temperature in (0.5, 1.0, 2.0):
        generator = np.random.default_rng(rng.getrandbits(32))
        p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        found = np.zeros(5)
        for _ in range(1000):
            found[runs(partial(part.draw, logits, temperature, generator), "draw does not run", given=temperature)] += 1 / 1000
        far = np.abs(found - p) / np.sqrt(p * (1 - p) / 1000)
        holds(
            bool((far < 5).all()),
            "the shares of the draws differ from softmax(logits ÷ temperature)",
            given=f"temperature {temperature}",
            expected=p,
            found=found,
        )
    equal(part.draw(logits, 0.0, np.random.default_rng(1)), 4, "temperature 0 takes the likeliest", given=logits)
    refuses(lambda: part.draw(logits, -1.0, np.random.default_rng(1)), ValueError, "a negative temperature must be refused", given="temperature -1.0")
    for _ in range(30):
        logits = np.array([rng.uniform(-3, 3) for _ in range(6)])
        found = runs(partial(part.draw, logits, 1.0, _highest()), "draw does not run", given=logits)
        says = "the running sum of the probabilities may end below 1 by rounding: a random number above it gives an index outside"
        holds(found in range(6), says, given=f"logits {logits.tolist()}, rng.random() = 1 − 2⁻⁵³", expected="an index in 0 … 5", found=found)


def _highest() -> np.random.Generator:
    """A generator whose next ``random()`` is the largest float below 1: PCG64 one step before the state whose output is all ones (O'Neill 2014, XSL-RR)."""
    bits = np.random.PCG64(0)
    state: Any = bits.state
    ones, multiplier, modulus = 2**64 - 1, 0x2360ED051FC65DA44385DF649FCCF645, 2**128
    state["state"]["state"] = (ones - state["state"]["inc"]) * pow(multiplier, -1, modulus) % modulus
    bits.state = state
    return np.random.Generator(bits)


CHECKS: tuple[Check, ...] = (check_layers, check_bigram, check_windows, check_character_model, check_draw)
