"""Healthy runs for speculative decoding: judged guesses by the ten thousand, two models of four tokens, and a small model of tales with its drafts."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from underhood.base.errors import ConfigError
from underhood.base.rng import stream_seed
from underhood.data.corpora import load_tales
from underhood.data.tales import VERSION
from underhood.infer.medusa import MedusaDraft, MedusaHeads, medusa_loss
from underhood.infer.sample import SampleConfig, generate
from underhood.infer.speculate import Draft, ModelDraft, NGramDraft, Tally, expected_tokens, judge, speculate
from underhood.lab.baseline import Baseline, Metric, Watch
from underhood.lab.baselines.gpt import Curve, random_batches, windows
from underhood.lab.probe import at_rest
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.llama import llama
from underhood.text.chars import CharTokenizer
from underhood.train.loop import TrainConfig, Trainer
from underhood.train.optim_config import OptimConfig
from underhood.train.schedule import ScheduleConfig

Found = Mapping[str, float | bool | str]

# ── judging ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Passes over fixed distributions. Every guess is accepted with the same probability, whatever became of the others: the formula's own conditions."""

    vocabulary: int = 5
    k: int = 3
    passes: int = 20_000


def judge_run(config: JudgeConfig, seed: int, watch: Watch) -> Found:
    """Draw guesses from q, judge them, and look at what comes out."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "judge"))
    watch(0)
    p, q = rows(config, generator)
    guesses = torch.stack([torch.multinomial(row, config.passes, replacement=True, generator=generator) for row in q], dim=1).tolist()
    uniform = torch.rand(config.passes, config.k + 1, dtype=torch.float64, generator=generator)
    new = [judge(p, q, g, u) for g, u in zip(guesses, uniform, strict=True)]
    firsts, seconds = Counter(x[0] for x in new), Counter(x[1] for x in new if len(x) > 1)
    alpha = float(torch.minimum(p[0], q[0]).sum())
    tokens = sum(map(len, new)) / len(new)
    gap = tokens - expected_tokens(alpha, config.k)
    return {
        "first_tv": variation(firsts, p[0]),
        "second_tv": variation(seconds, p[1]),
        "first_chi_square": chi_square(firsts, p[0]),
        "alpha": alpha,
        "tokens_per_pass": tokens,
        "formula_gap": gap,
        "formula_holds": abs(gap) <= 0.05,
        "greedy_is_exact": all(greedily(config, generator) for _ in range(300)),
    }


def rows(config: JudgeConfig, generator: torch.Generator) -> tuple[Float[Tensor, "K1 V"], Float[Tensor, "K V"]]:
    """p and q, unlike each other; each row is the one before moved on by a token, so that Σ min(p, q) is the same in all."""
    one, other = torch.rand(2, config.vocabulary, dtype=torch.float64, generator=generator) ** 2 + 0.02
    p = torch.stack([(one / one.sum()).roll(i) for i in range(config.k + 1)])
    return p, torch.stack([(other / other.sum()).roll(i) for i in range(config.k)])


def variation(counts: Counter[int], expected: Float[Tensor, "V"]) -> float:
    """Total variation: how much of the probability lies elsewhere."""
    n = max(1, counts.total())
    return sum(abs(counts[i] / n - float(e)) for i, e in enumerate(expected)) / 2


def chi_square(counts: Counter[int], expected: Float[Tensor, "V"]) -> float:
    """χ² per degree of freedom: 1 where the counts come from ``expected``."""
    n = counts.total()
    return sum((counts[i] - n * float(e)) ** 2 / (n * float(e)) for i, e in enumerate(expected)) / (len(expected) - 1)


def greedily(config: JudgeConfig, generator: torch.Generator) -> bool:
    """Whether one pass with a certain model gives its own tokens, up to the first that was guessed wrong and that one included."""
    own = torch.randint(2, (config.k + 1,), generator=generator)
    guesses = torch.randint(2, (config.k,), generator=generator)
    p, q = torch.eye(config.vocabulary, dtype=torch.float64)[own], torch.full((config.k, config.vocabulary), 1 / config.vocabulary, dtype=torch.float64)
    wrong = next((i for i in range(config.k) if own[i] != guesses[i]), config.k)
    new = judge(p, q, guesses.tolist(), torch.rand(config.k + 1, dtype=torch.float64, generator=generator))
    return own.tolist()[: len(new)] == new and len(new) in (wrong, wrong + 1)


# ── sampled ───────────────────────────────────────────────────────────────────────────────────────────────────────────


FOUR = llama(vocab_size=4, context=16, n_layer=1, n_head=2, width=16, init="fan_in")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledConfig:
    """Two models of random weights that know four tokens; the one guesses for the other, and the first two tokens are counted."""

    model: GPTConfig = FOUR
    temperature: float = 0.5
    k: int = 3
    texts: int = 1000
    prompt: tuple[int, ...] = (0, 1, 2, 0, 1)


def sampled_run(config: SampledConfig, seed: int, watch: Watch) -> Found:
    """How far the counted pairs lie from the exact ones, which are known for every pair of tokens."""
    target, other = (build_gpt(config.model, stream_seed(seed, name)).eval() for name in ("target", "draft"))
    sample, prompt = SampleConfig(temperature=config.temperature, max_tokens=2), list(config.prompt)
    generator = torch.Generator().manual_seed(stream_seed(seed, "sample"))
    watch(0)
    exact, found = pairs(target, prompt, config.temperature), dict[str, float | bool]()
    drafts: dict[str, Draft] = {"model": ModelDraft(other, sample), "ngram": NGramDraft(4)}
    for name, draft in drafts.items():
        counts = Counter(i * 4 + j for i, j in (speculate(target, draft, prompt, sample, generator, k=config.k) for _ in range(config.texts)))
        found[f"{name}_tv"] = variation(counts, exact)
    greedy = dataclasses.replace(sample, temperature=0, max_tokens=10)
    plain = list(generate(target, prompt, greedy, generator))
    drafts = {"model": ModelDraft(other, greedy), "ngram": NGramDraft(4)}
    found["greedy_identical"] = all(list(speculate(target, d, prompt, greedy, generator, k=config.k)) == plain for d in drafts.values())
    return {**found, "penalty_is_refused": refuses_penalty(target, sample)}


@torch.no_grad()
def pairs(model: GPT, prompt: list[int], temperature: float) -> Float[Tensor, "V2"]:
    """The probability of each pair of tokens after ``prompt``, by two whole passes."""
    V = model.config.vocab_size
    first = (model(torch.tensor([prompt]))[0, -1].double() / temperature).softmax(-1)
    after = (model(torch.tensor([[*prompt, i] for i in range(V)]))[:, -1].double() / temperature).softmax(-1)
    both: Tensor = first.unsqueeze(-1) * after
    return both.flatten()


def refuses_penalty(model: GPT, sample: SampleConfig) -> bool:
    """Whether a repetition penalty is an error."""
    try:
        next(speculate(model, Draft(), [0], dataclasses.replace(sample, repetition_penalty=1.2), torch.Generator()))
    except ConfigError:
        return True
    return False


# ── tales ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

STORIES, CONTEXT = 1000, 96
CHARACTERS = 64  # at most; those of tales are fewer
TARGET = llama(vocab_size=CHARACTERS, context=CONTEXT, n_layer=2, n_head=4, width=64, init="fan_in")
SMALLER = llama(vocab_size=CHARACTERS, context=CONTEXT, n_layer=1, n_head=2, width=16, init="fan_in")
SHORT = TrainConfig(steps=120, optim=OptimConfig(lr=8e-3), schedule=ScheduleConfig(warmup=12))


@dataclasses.dataclass(frozen=True)
class Letters:
    """Tales as characters."""

    tokenizer: CharTokenizer
    train: NDArray[np.uint16]
    val: NDArray[np.uint16]


@functools.cache
def letters() -> Letters:
    """The same for every seed and arm, made once a process."""
    corpus = load_tales(STORIES)
    tokenizer = CharTokenizer.train("\n".join([*corpus.train, *corpus.val]))
    train, val = (np.array(tokenizer.encode("\n".join(part)), dtype=np.uint16) for part in (corpus.train, corpus.val))
    return Letters(tokenizer, train, val)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TalesConfig:
    """A model of characters, a draft of a twenty-fifth of its size, and heads that are trained when it is."""

    model: GPTConfig = TARGET
    draft: GPTConfig = SMALLER
    draft_reads: str = "forwards"  # what the draft was trained on: the same text, forwards or backwards
    train: TrainConfig = SHORT
    batch_size: int = 8
    heads: int = 3
    head_steps: int = 40
    k: int = 4
    prompt: int = 24
    prompts: int = 6
    written: int = 56
    check_windows: int = 12


class FullPasses(Tally):
    """Counts the passes that judged ``k`` guesses alone: near the end of a text fewer are asked for, which is not what the formula speaks of."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k, self.all = k, Tally()

    def note(self, proposed: int, new: int) -> None:
        """One pass."""
        self.all.note(proposed, new)
        if proposed == self.k:
            super().note(proposed, new)


def tales_run(config: TalesConfig, seed: int, watch: Watch) -> Found:
    """Train the model, its draft and its heads; then write with each, and without any."""
    text, curve = letters(), Curve(watch)
    target = trained(config.model, config, text.train, seed, curve)
    draft = trained(config.draft, config, text.train[::-1].copy() if config.draft_reads == "backwards" else text.train, seed, Curve())
    with at_rest(target):
        heads = trained_heads(target, config, text, seed)
    ((x, _),) = windows(text.val, CONTEXT, config.check_windows)
    starts = [row[: config.prompt].tolist() for row in windows(text.val, CONTEXT, config.prompts)[0][0]]
    with at_rest(target), at_rest(draft):
        p, q = (model(x).double().softmax(-1) for model in (target, draft))
        return {
            "train_loss": curve.late(),
            "overlap": float(torch.minimum(p, q).sum(-1).mean()),
            **sampled_figures(target, draft, config, starts, seed),
            **greedy_figures(target, draft, heads, config, starts),
            "text": text.tokenizer.decode(starts[0] + next(iter(plainly(target, config, starts[:1])))),
        }


def trained(model: GPTConfig, config: TalesConfig, ids: NDArray[np.uint16], seed: int, curve: Curve) -> GPT:
    """A model trained on ``ids``."""
    made = build_gpt(model, seed)
    Trainer(made, config.train, random_batches(ids, CONTEXT, config.batch_size, seed), callbacks=[curve]).run()
    return made.eval()


def trained_heads(model: GPT, config: TalesConfig, text: Letters, seed: int) -> MedusaHeads:
    """Heads trained on the model's hidden vectors; the model itself is not touched."""
    heads, batches = MedusaHeads(model, config.heads), random_batches(text.train, CONTEXT, config.batch_size, seed + 1)
    optimizer = torch.optim.Adam(heads.parameters(), lr=1e-2)
    for _ in range(config.head_steps):
        ids, _ = batches.next()
        with torch.no_grad():
            hidden, head = model.hidden(ids), model.head_weight.detach()
        with torch.enable_grad():
            loss = medusa_loss(heads, hidden, head, ids)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return heads


def weights(model: GPT) -> int:
    """Weights that a token is multiplied with, the table of embeddings left out."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("tokens."))


def sampled_figures(target: GPT, draft: GPT, config: TalesConfig, starts: Sequence[list[int]], seed: int) -> dict[str, float]:
    """Tokens drawn at temperature 1: acceptance, tokens a pass beside the formula, and the cost of a token in passes of the model."""
    sample, tally = SampleConfig(max_tokens=config.written), FullPasses(config.k)
    generator = torch.Generator().manual_seed(stream_seed(seed, "sample"))
    guesser = ModelDraft(draft, sample)
    for start in starts:
        list(speculate(target, guesser, start, sample, generator, k=config.k, tally=tally))
    work = weights(draft) / weights(target)
    return {
        "alpha": tally.acceptance,
        "tokens_per_pass": tally.tokens_per_pass,
        "formula_gap": tally.tokens_per_pass - expected_tokens(tally.acceptance, config.k),
        "draft_share": work,
        "guesses_per_token": tally.proposed / max(1, tally.written),
        "cost_per_token": (tally.passes + work * tally.proposed) / max(1, tally.written),
    }


def greedy_figures(target: GPT, draft: GPT, heads: MedusaHeads, config: TalesConfig, starts: Sequence[list[int]]) -> dict[str, float | bool]:
    """The likeliest tokens, by plain generation and with each draft: the same text, in fewer passes."""
    greedy, plain, found = SampleConfig(temperature=0, max_tokens=config.written), plainly(target, config, starts), dict[str, float | bool]()
    for name, k in (("model", config.k), ("ngram", config.k), ("medusa", config.heads)):
        tally = FullPasses(k)
        drafts: dict[str, Draft] = {"model": ModelDraft(draft, greedy), "ngram": NGramDraft(CHARACTERS), "medusa": MedusaDraft(target, heads)}
        guesser = drafts[name]
        written = [list(speculate(target, guesser, start, greedy, torch.Generator(), k=k, tally=tally)) for start in starts]
        found |= {
            f"{name}_identical": written == plain,
            f"{name}_alpha": tally.acceptance,
            f"{name}_tokens_per_pass": tally.all.tokens_per_pass,
            f"{name}_gap": tally.tokens_per_pass - expected_tokens(tally.acceptance, k),
        }
    return found


def plainly(model: GPT, config: TalesConfig, starts: Sequence[list[int]]) -> list[list[int]]:
    """Plain greedy generation, a pass a token."""
    greedy = SampleConfig(temperature=0, max_tokens=config.written)
    return [list(generate(model, start, greedy, torch.Generator())) for start in starts]


# ── what the figures mean ─────────────────────────────────────────────────────────────────────────────────────────────


def prop(says: str) -> Metric:
    """A property that holds or does not."""
    return Metric(says=says, better="neither")


def share(says: str, **options: float) -> Metric:
    """A share between 0 and 1, the higher the better."""
    return Metric(says=says, better="higher", **({"floor": 1.0, "ceiling": 0.0, "smallest": 0.01, "worst": 0.0, "tolerance": 0.01} | options))


def total_variation(says: str, smallest: float) -> Metric:
    """How much of the probability lies elsewhere; counting alone gives a little."""
    return Metric(says=f"share of the probability that lies elsewhere than in {says}", floor=0.0, ceiling=1.0, smallest=smallest, worst=1.0)


def a_pass(says: str) -> Metric:
    """Tokens a pass."""
    return Metric(says=f"tokens a pass of the model, {says}", ceiling=1.0, smallest=0.05, worst=1.0, better="higher", tolerance=0.01)


def gap(says: str) -> Metric:
    """Distance from the formula."""
    return Metric(says=f"tokens a pass, measured minus formula, {says}", floor=0.0, smallest=0.03, better="neither", tolerance=1e6)


BASELINES = (
    Baseline(
        name="speculative.judge",
        says="20,000 passes of three guesses on a vocabulary of five, p and q drawn at random and unlike each other. No model.",
        run=judge_run,
        config=JudgeConfig(),
        metrics={
            "first_tv": total_variation("p, first token of a pass", 0.01),
            "second_tv": total_variation("p, second token of a pass", 0.015),
            "first_chi_square": Metric(says="χ² per degree of freedom of the first token against p", floor=1.0, smallest=3.0, worst=1e6),
            "alpha": share("Σ min(p, q), the probability that a guess is accepted"),
            "tokens_per_pass": a_pass("guesses accepted independently"),
            "formula_gap": gap("guesses accepted independently"),
            "formula_holds": prop("tokens a pass are those of the formula, to within 0.05"),
            "greedy_is_exact": prop("a certain model gets its own tokens, whatever is guessed"),
        },
        seconds=6,
    ),
    Baseline(
        name="speculative.sampled",
        says="Two models of random weights over four tokens, temperature 0.5: 1,000 texts of two tokens by each of two drafts, beside exact probabilities.",
        run=sampled_run,
        config=SampledConfig(),
        metrics={
            "model_tv": total_variation("the model's own pairs of tokens, a model as draft", 0.03),
            "ngram_tv": total_variation("the model's own pairs of tokens, the text as draft", 0.03),
            "greedy_identical": prop("the likeliest tokens are those of plain generation, with either draft"),
            "penalty_is_refused": prop("a repetition penalty is an error"),
        },
        seconds=6,
    ),
    Baseline(
        name="speculative.tales",
        says="Two Llama blocks of width 64 and a draft of one block of width 16, trained on characters of tales for 120 steps, and three Medusa heads for 40.",
        run=tales_run,
        config=TalesConfig(),
        metrics={
            "train_loss": Metric(says="the model's loss at the end of training (nats per character)", ceiling=math.log(CHARACTERS), smallest=0.03, worst=10.0),
            "overlap": share("Σ min(p, q) on held-out text, mean over positions"),
            "alpha": share("judged guesses accepted, tokens drawn at temperature 1"),
            "tokens_per_pass": a_pass("drawn at temperature 1"),
            "formula_gap": gap("drawn at temperature 1"),
            "draft_share": Metric(says="the draft's weights as a share of the model's", smallest=0.001, better="neither"),
            "guesses_per_token": Metric(says="guesses made for a token that was written, drawn at temperature 1", floor=0.0, smallest=0.1, tolerance=0.01),
            "cost_per_token": Metric(
                says="work for a token in passes of the model, the draft's included; plain: 1",
                ceiling=1.0,
                smallest=0.02,
                worst=5.0,
                tolerance=0.01,
            ),
            "model_alpha": share("judged guesses accepted, greedy, a model as draft"),
            "ngram_alpha": share("judged guesses accepted, greedy, the text as draft"),
            "medusa_alpha": share("judged guesses accepted, greedy, Medusa heads"),
            "model_tokens_per_pass": a_pass("greedy, a model as draft"),
            "ngram_tokens_per_pass": a_pass("greedy, the text as draft"),
            "medusa_tokens_per_pass": a_pass("greedy, Medusa heads"),
            "model_gap": gap("greedy, a model as draft"),
            "ngram_gap": gap("greedy, the text as draft"),
            "medusa_gap": gap("greedy, Medusa heads"),
            "model_identical": prop("greedy text with a model as draft is that of plain generation"),
            "ngram_identical": prop("greedy text with the text as draft is that of plain generation"),
            "medusa_identical": prop("greedy text with Medusa heads is that of plain generation"),
        },
        seconds=7,
        corpus=f"tales version {VERSION}, seed 0, {STORIES} stories, characters",
    ),
)
