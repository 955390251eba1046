"""Where each head looks: heat maps and row entropies of a small trained model, for the report page of ``underhood run attention``."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from underhood.lab.baselines.attention import TrainedConfig, characters, fit
from underhood.lab.probe import at_rest, attention_weights
from underhood.lab.report import Section, heat_maps, paragraph, table
from underhood.nn.attention import entropy
from underhood.nn.gpt import GPTConfig, build_gpt

SHOWN = 28  # characters of the held-out text
MODEL = TrainedConfig(model=GPTConfig(vocab_size=1, context=32, n_layer=2, n_head=2, width=64, init="fan_in"))
Heads = dict[str, Float[Tensor, "T T"]]
VISIBLE = str.maketrans({" ": "␣", "\n": "¶"})


def sections(config: TrainedConfig = MODEL, seed: int = 0) -> list[Section]:
    """Train the model, and show for every head whom each character of a held-out line looks at."""
    tokenizer, train_ids, val_ids = characters(config.stories)
    model = build_gpt(dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size), seed)
    ids = torch.from_numpy(val_ids[:SHOWN])[None]
    before = heads(model, ids)
    fit(model, train_ids, config, seed, lambda step, **figures: None)
    after = heads(model, ids)
    even = float(torch.arange(1, SHOWN + 1).log().mean())
    labels = list(tokenizer.decode(val_ids[:SHOWN].tolist()).translate(VISIBLE))
    maps = {f"{name}: entropy {mean_entropy(w):.2f} nats": (w.tolist(), in_numbers(w, even)) for name, w in after.items()}
    rows = [(name, round(mean_entropy(before[name]), 2), round(mean_entropy(w), 2), round(even, 2)) for name, w in after.items()]
    says = (
        f"Two blocks of two heads, width {config.model.width}, after {config.steps} steps on the characters of tales, reading a line that was held out. "
        "A row is a character that looks, a column one that is looked at; the stronger the colour, the more of its attention goes there. "
        "Entropy is the mean over rows: 0 when each row looks at one place."
    )
    head = ("head", "entropy untrained (nats)", "trained", "if each looked everywhere alike")
    return [Section("Where the heads look", paragraph(says) + heat_maps(maps, labels) + table(head, rows))]


def heads(model: torch.nn.Module, ids: Tensor) -> Heads:
    """The weights of every head on one row of ids, by layer and head from 1."""
    with at_rest(model):
        layers = attention_weights(model, ids).values()
    return {f"layer {i}, head {j}": w for i, layer in enumerate(layers, 1) for j, w in enumerate(layer[0], 1)}


def mean_entropy(weights: Float[Tensor, "T T"]) -> float:
    """The mean over rows."""
    return float(entropy(weights).mean())


def in_numbers(weights: Float[Tensor, "T T"], even: float) -> str:
    """A head for those who do not see it: its entropy, and how much of the weight goes where."""
    places = {"to itself": weights.diagonal(), "to the character before": weights.diagonal(-1), "to the first": weights[:, 0]}
    shares = ", ".join(f"{float(part.mean()):.0%} {name}" for name, part in places.items())
    return f"Mean entropy of a row {mean_entropy(weights):.2f} of at most {even:.2f} nats; of the weight on average {shares}."
