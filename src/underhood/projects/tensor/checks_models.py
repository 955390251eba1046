"""What any correct layers, bigram model, character model and sampling satisfy: the extension of the project, checked last."""

import random
from functools import partial

import numpy as np

from underhood.lab.check import Check, Part, check, close, equal, holds, refuses, runs


@check(
    "Layers",
    hints=(
        "A linear layer is x W + b; an embedding is a table from which rows are read.",
        "Weights start random, so that no two units and no two characters are the same; all of them want gradients.",
        "self.weight = Tensor(rng.standard_normal((n_tokens, width)).astype(np.float32), requires_grad=True)",
    ),
)
def check_layers(part: Part, rng: random.Random) -> None:
    """Linear computes x W + b from its parameters; rows of an embedding differ, are read in place, and are trained."""
    linear = runs(lambda: part.Linear(3, 2, np.random.default_rng(1)), "Linear(3, 2, rng) cannot be built")
    weight, bias = linear.parameters()
    equal((weight.shape, bias.shape), ((3, 2), (2,)), "the shapes of the weight and the bias")
    bias.data = np.array([0.5, -0.5], np.float32)
    x = np.array([[rng.uniform(-2, 2) for _ in range(3)] for _ in range(4)])
    found = runs(lambda: linear(part.Tensor(x.astype(np.float32))).data, "the linear layer does not run", given=x)
    close(found, x @ weight.data + bias.data, "x W + b", given=x, rtol=1e-4, atol=1e-5)

    embedding = runs(lambda: part.Embedding(7, 4, np.random.default_rng(1)), "Embedding(7, 4, rng) cannot be built")
    (table,) = embedding.parameters()
    equal(table.shape, (7, 4), "the shape of the table")
    equal(len(np.unique(table.data, axis=0)), 7, "each character starts with a row of its own", given=table.data)
    ids = np.array([[1, 6], [6, 0]])
    rows = runs(lambda: embedding(ids), "the embedding does not run", given=ids)
    close(rows.data, table.data[ids], "row i for character i", given=ids)
    holds(bool(table.requires_grad), "the table must be trainable")
    runs(rows.sum().backward, "backward into the table does not run")
    close(table.grad.sum(axis=1) / 4, [1, 1, 0, 0, 0, 0, 2], "how often each row was used")


@check(
    "The bigram model",
    hints=(
        "Of all the times that a was followed by something, how often was it b?",
        "Count pairs in a table with a row for the first and a column for the second character, and divide each row by its sum.",
        "counts / counts.sum(axis=1, keepdims=True), then the logarithm.",
    ),
)
def check_bigram(part: Part, rng: random.Random) -> None:
    """Worked by hand: in «abacab» a is followed by b twice and c once; with one added to each, 3/6, 2/6 and 1/6."""
    model = runs(lambda: part.Bigram.count(np.array([0, 1, 0, 2, 0, 1]), 3, 1.0), "Bigram.count does not run")
    p = np.exp(runs(lambda: model(np.array([[2, 0], [0, 1], [1, 2]])).data, "the model does not run"))
    close(p, [[1 / 6, 3 / 6, 2 / 6], [2 / 4, 1 / 4, 1 / 4], [2 / 4, 1 / 4, 1 / 4]], "the probabilities of what follows a, b and c in «abacab»")
    refuses(lambda: part.Bigram.count(np.array([0]), 3, 1.0), ValueError, "one character has no pair to count")


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
    equal(np.asarray(x).tolist(), [[5, 6, 7], [6, 7, 8]], "the windows of three in 5 6 7 8 9")
    equal(np.asarray(y).tolist(), [8, 9], "what follows each of them")
    refuses(lambda: part.windows(np.array([1, 2, 3]), 3), ValueError, "a text without a whole window and its target must be refused")


@check(
    "The character model",
    hints=(
        "Look up each character of the context, put the rows side by side, and feed that to the hidden layer.",
        "(B, T) ids become (B, T, C), then (B, T·C), then (B, hidden) through tanh, then (B, V).",
        "self.output(self.hidden(self.embedding(ids).reshape(len(ids), -1)).tanh())",
    ),
)
def check_character_model(part: Part, rng: random.Random) -> None:
    """Logits and all gradients as torch has them for the same weights; each place of the context matters."""
    import torch

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


@check(
    "Sampling",
    hints=(
        "Dividing the logits by a number below 1 widens the gaps between them.",
        "p = softmax(logits / temperature); at temperature 0 take the largest.",
        "np.searchsorted(p.cumsum(), rng.random() * p.sum(), side='right')",
    ),
)
def check_draw(part: Part, rng: random.Random) -> None:
    """Shares of 2,000 draws agree with softmax(logits ÷ temperature) to five standard errors; 0 is greedy, below 0 an error."""
    logits = np.array([rng.uniform(-1, 1) for _ in range(4)] + [2.0])
    for temperature in (0.5, 1.0, 2.0):
        generator = np.random.default_rng(rng.getrandbits(32))
        p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        found = np.zeros(5)
        for _ in range(2000):
            found[runs(partial(part.draw, logits, temperature, generator), "draw does not run", given=temperature)] += 1 / 2000
        far = np.abs(found - p) / np.sqrt(p * (1 - p) / 2000)
        holds(
            bool((far < 5).all()),
            "the shares of the draws differ from softmax(logits ÷ temperature)",
            given=f"temperature {temperature}",
            expected=p,
            found=found,
        )
    equal(part.draw(logits, 0.0, np.random.default_rng(1)), 4, "temperature 0 takes the likeliest", given=logits)
    refuses(lambda: part.draw(logits, -1.0, np.random.default_rng(1)), ValueError, "a negative temperature must be refused")


CHECKS: tuple[Check, ...] = (check_layers, check_bigram, check_windows, check_character_model, check_draw)
