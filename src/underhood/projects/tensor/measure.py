"""What the tensor library costs on this machine, beside the scalar engine, torch and the limits: figures whose names say the units. Nothing is printed."""

import math
import random
from collections.abc import Callable

import numpy as np
import torch

from underhood.data.corpora import load_corpus
from underhood.lab.timing import best_of, matmul_gflop_per_s
from underhood.scalar import mlp
from underhood.tensor.bigram import Bigram
from underhood.tensor.charmodel import CharModel
from underhood.tensor.functions import cross_entropy
from underhood.tensor.tensor import Array
from underhood.tensor.train import TrainConfig, evaluate, fit, train_step

SECONDS = 3  # about, on one thread
Figures = dict[str, float]
BATCH, CONTEXT, WIDTH, HIDDEN = 64, 8, 16, 128


def measure(steps: int = 1000) -> Figures:
    """Bits per character of what can be known at each stage, and the cost of a training step of the character model."""
    corpus = load_corpus("tales:300")
    train_text, val_text = ("".join(d + "\n" for d in documents) for documents in (corpus.train, corpus.val))
    characters = sorted(set(train_text + val_text))
    index = {c: i for i, c in enumerate(characters)}
    train, val = (np.array([index[c] for c in text]) for text in (train_text, val_text))
    model = CharModel(len(characters), 0, context=CONTEXT, width=WIDTH, hidden=HIDDEN)
    fit(model, train, TrainConfig(steps=steps), 0)
    rows = np.arange(BATCH)
    x, y = train[rows[:, None] + np.arange(CONTEXT)], train[rows + CONTEXT]
    ours = best_of(lambda: train_step(model, x, y, 0.0))
    theirs = best_of(_torch_step(model, x, y))
    # each weight of a matrix does one multiplication and one addition forward, and twice that backward
    flops = 6 * BATCH * (CONTEXT * WIDTH * HIDDEN + HIDDEN * len(characters))
    return {
        "parameters": sum(p.data.size for p in model.parameters()),
        "bits_per_character_uniform": math.log2(len(characters)),
        "bits_per_character_bigram": evaluate(Bigram.count(train, len(characters)), val) / math.log(2),
        "bits_per_character_model": evaluate(model, val) / math.log(2),
        "nodes_per_step": len(cross_entropy(model(x), y).topological_order()),
        "nodes_per_step_of_scalars": scalar_nodes_per_example(len(characters)) * BATCH,
        "ms_per_step": ours * 1e3,
        "ms_per_step_torch": theirs * 1e3,
        "speed_beside_torch": theirs / ours,
        "gflop_per_s": flops / ours / 1e9,
        "matmul_peak_gflop_per_s": matmul_gflop_per_s(),
    }


def scalar_nodes_per_example(vocab_size: int) -> int:
    """Nodes that one example takes in the scalar engine, parameters left out: the same network, counted by building it."""
    model = mlp.MLP(CONTEXT * WIDTH, [HIDDEN, vocab_size], random.Random(0))
    e = [logit.exp() for logit in model([0.0] * (CONTEXT * WIDTH))]
    loss = -(e[0] / sum(e[1:], e[0])).log()
    return len(loss.topological_order()) - len(model.parameters())


def _torch_step(model: CharModel, x: Array, y: Array) -> Callable[[], None]:
    """The same step in torch, from the same weights."""
    table, w1, b1, w2, b2 = parameters = [torch.tensor(p.data, requires_grad=True) for p in model.parameters()]
    ids, targets = torch.tensor(x), torch.tensor(y)

    def step() -> None:
        logits = torch.tanh(table[ids].reshape(BATCH, -1) @ w1 + b1) @ w2 + b2
        for p in parameters:
            p.grad = None
        torch.nn.functional.cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for p in parameters:
                assert p.grad is not None
                p.sub_(p.grad, alpha=0.0)

    return step
