"""What a model has learned of ``tales``: its own stories scored, and the right word against the wrong one.

``score_model`` lets the model write and counts what it gets right; ``pair_accuracy`` shows it minimal pairs and asks which continuation it
finds likelier. The first is what a reader sees, the second is cheap and steady: breaks predict on it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from underhood.base.errors import DataError
from underhood.base.rng import stream_seed
from underhood.data.tales import generate
from underhood.data.tales_pairs import Pair
from underhood.data.tales_score import Scores, score, sentences
from underhood.data.tokens import end_id
from underhood.eval.perplexity import BATCH_TOKENS, Model, inference
from underhood.infer.sample import SampleConfig, generate_batch
from underhood.nn.gpt import GPT
from underhood.text.tokenizer import Tokenizer

PROMPT_SEED = 1_000_003  # of the stories whose first sentences are the prompts; no corpus has it
PROMPTS = 40
DISTINCT, COPIES = 8, 4  # of them, and of each, in a round of ``score_model``: copies share a batch
ROUNDS = 5  # at most; a round of whole tales has more than 200 sentences
STORY_CHARACTERS = 450  # longer than nearly every tale


@dataclasses.dataclass(frozen=True)
class Written:
    """What the model wrote, each text with its prompt, and what it got right."""

    texts: tuple[str, ...]
    scores: Scores


def prompts(n: int = PROMPTS) -> list[str]:
    """The fixed prompts: the first sentences of ``n`` stories."""
    return [sentences(story.text)[0] for story in generate(n, PROMPT_SEED)]


def score_model(model: GPT, tokenizer: Tokenizer, *, seed: int = 0, least: int = 200, sample: SampleConfig | None = None) -> Written:
    """Let the model go on from the fixed prompts until it has written ``least`` sentences, and score them (not the prompts).

    ``sample``: how to choose tokens; by default at temperature 1, as many as a tale may need. A sentence cut off by the limit is not counted,
    unless the model had not ended any. After ``ROUNDS`` rounds there may be fewer sentences: the counts say how many.
    """
    end = end_id(tokenizer)
    opening = [prompt for prompt in prompts(DISTINCT) for _ in range(COPIES)]
    ids = [([] if end is None else [end]) + tokenizer.encode(prompt) for prompt in opening]
    per_character = sum(map(len, ids)) / sum(map(len, opening))
    sample = sample or SampleConfig(max_tokens=round(STORY_CHARACTERS * per_character))
    sample = dataclasses.replace(sample, end_ids=sample.end_ids or (() if end is None else (end,)))
    generator = torch.Generator().manual_seed(stream_seed(seed, "sample/tales"))
    written, scores = list[str](), score(())
    for _ in range(ROUNDS):
        for new in generate_batch(model, ids, sample, generator):
            text = tokenizer.decode(new)
            written.append(whole_sentences(text) if len(new) == sample.max_tokens else text)
        scores = score(written, prompts=opening * (len(written) // len(opening)))
        if scores.sentences >= least:
            break
    return Written(tuple(prompt + text for prompt, text in zip(cycle(opening), written, strict=False)), scores)


def whole_sentences(text: str) -> str:
    """``text`` without a last sentence that has no end, if it has others."""
    *whole, last = sentences(text) or [""]
    ended = last.rstrip("\"')").endswith((".", "!", "?"))
    return text if ended or not whole else text[: text.rindex(last)]


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """How many of ``total`` pairs were right; a tie counts half."""

    right: float
    total: int

    @property
    def share(self) -> float:
        return self.right / self.total


def pair_accuracy(model: Model, tokenizer: Tokenizer, pairs: Sequence[Pair], *, context: int, batch_tokens: int = BATCH_TOKENS) -> dict[str, Accuracy]:
    """By skill, and for recall and binding by distance too (``"recall_at_2"``): in how many pairs the right continuation is the likelier.

    Both continuations are read after the same prefix (its last ``context`` tokens); compared are the sums of their tokens' log-probabilities,
    from the first token in which they differ. Chance is one half.
    """
    if not pairs:
        raise DataError("no pairs", expected="at least one")
    margins = _margins(model, tokenizer, pairs, context, batch_tokens)
    verdicts: dict[str, list[float]] = {}
    for pair, margin in zip(pairs, margins, strict=True):
        right = 0.5 if margin == 0 else float(margin > 0)
        verdicts.setdefault(pair.skill, []).append(right)
        if pair.distance:
            verdicts.setdefault(f"{pair.skill}_at_{pair.kind}", []).append(right)
    return {name: Accuracy(sum(rights), len(rights)) for name, rights in verdicts.items()}


def to_plain(accuracies: Mapping[str, Accuracy]) -> dict[str, dict[str, Any]]:
    return {name: {"right": a.right, "total": a.total, "share": a.share} for name, a in accuracies.items()}


def _margins(model: Model, tokenizer: Tokenizer, pairs: Sequence[Pair], context: int, batch_tokens: int) -> list[float]:
    """log p(right) − log p(wrong) of every pair, in nats."""
    rows = [_cut(tokenizer, pair, context) for pair in pairs]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    margins = [0.0] * len(rows)
    at = 0
    with inference(model):
        while at < len(order):
            widest = max(map(len, rows[order[at]][:2]))
            batch = order[at : at + max(1, batch_tokens // (2 * widest))]
            scores = _log_probability(model, [row for i in batch for row in rows[i][:2]], [rows[i][2] for i in batch for _ in (0, 1)])
            for k, i in enumerate(batch):
                margins[i] = float(scores[2 * k] - scores[2 * k + 1])
            at += len(batch)
    return margins


def _cut(tokenizer: Tokenizer, pair: Pair, context: int) -> tuple[list[int], list[int], int]:
    """The ids of both texts, and the position from which they differ; of a long prefix the beginning is left out."""
    end = end_id(tokenizer)
    start = [] if end is None else [end]
    right, wrong = (start + tokenizer.encode(pair.prefix + continuation) for continuation in (pair.right, pair.wrong))
    same = next((i for i, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b), min(len(right), len(wrong)))
    drop = max(0, max(len(right), len(wrong)) - context - 1)
    return right[drop:], wrong[drop:], same - drop


def _log_probability(model: Model, rows: list[list[int]], starts: list[int]) -> Float[Tensor, "B"]:
    """The log-probability of each row's tokens from its start on."""
    x = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    asked = torch.zeros(x.shape, dtype=torch.bool)
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        x[i, : len(row)] = torch.tensor(row)
        asked[i, start : len(row)] = True
    log_p = model(x[:, :-1]).double().log_softmax(-1).gather(-1, x[:, 1:, None])[..., 0]
    return torch.where(asked[:, 1:], log_p, 0.0).sum(-1)
