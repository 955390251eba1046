"""What any correct GPT satisfies, then (``checks_training``) what trains it and draws from it. The oracles are torch's own functions composed into GPT-2."""

import random
from typing import Any

import torch

from underhood.base.errors import ShapeError
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, equal, holds, refuses
from underhood.lab.oracles import noise, tried
from underhood.nn.attention import AttentionConfig, LatentConfig
from underhood.nn.block import BlockConfig
from underhood.nn.gpt import GPTConfig
from underhood.nn.rope import RopeConfig
from underhood.projects.gpt.checks_training import CHECKS as TRAINING_CHECKS
from underhood.projects.gpt.oracles import Kept, KeptLayer, drawn, in_brief, silenced, torch_block, torch_gpt, torch_hidden, turned, whole_numbers

CONFIG = GPTConfig(vocab_size=13, context=48, n_layer=2, n_head=2, width=8)
BLOCK = BlockConfig(attend=AttentionConfig(width=8, n_head=2), hidden=32)
LENGTHS = (5, 40)
Weights = dict[str, torch.Tensor]
ORACLES = "underhood.projects.gpt.oracles"


def block_of(part: Part, rng: random.Random, config: BlockConfig = BLOCK) -> tuple[Any, Weights]:
    """A block with random weights, and these by name."""
    block = drawn(tried("the block can be built", part.Block, config), rng)
    return block, complete(block, block_names(), "a block of width 8")


def model_of(part: Part, rng: random.Random, config: GPTConfig = CONFIG) -> tuple[Any, Weights]:
    """A model with random weights, and these by name."""
    model = drawn(tried("the model can be built", part.GPT, config), rng)
    names = ["tokens.weight", "norm.weight", "norm.bias"] + ["positions.table.weight"] * (config.positions == "Learned") + ["head.weight"] * (not config.tie)
    blocks = [f"blocks.{i}.{name}" for i in range(config.n_layer) for name in block_names()]
    return model, complete(model, names + blocks, f"{config.n_layer} blocks, tie={config.tie}, positions={config.positions}")


def block_names() -> list[str]:
    """The parameters of GPT-2's block."""
    return [
        f"{layer}.{kind}"
        for layer in ("norm1", "attention.qkv", "attention.output", "norm2", "feedforward.up", "feedforward.down")
        for kind in ("weight", "bias")
    ]


def complete(module: Any, names: list[str], given: str) -> Weights:
    """The module's parameters by name; a failed check when one of ``names`` is missing or there are others."""
    found = {name: p.detach() for name, p in module.named_parameters()}
    missing, more = [n for n in names if n not in found], [n for n in found if n not in names]
    says = "a parameter is missing: its layer was not built, has another name, or is shared with another layer"
    holds(not missing, says, given=given, expected=", ".join(missing), found=", ".join(more) or "no parameter of that name")
    equal(more, [], "there are parameters that GPT-2 does not have", given=given)
    return found


# ── the block ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "1 · The block",
    hints=(
        "What should a block do to its input when both branches return zero?",
        "The stream goes on unchanged: each branch is *added* to it, and its norm stands inside the branch.",
        "`x = x + dropout(attention(norm1(x)))`, then `x = x + dropout(feedforward(norm2(x)))`.",
    ),
)
def check_block_adds_to_the_stream(part: Part, rng: random.Random) -> None:
    block, weights = block_of(part, rng)
    for T in LENGTHS:
        x = noise(rng, 2, T, 8)
        expected = torch_block(x, weights, 2)
        alike(tried("the block runs", block, x), expected, "the block equals GPT-2's, made of torch's own functions", given=f"{T} positions", atol=1e-9)
    silenced(block, "attention.output", "feedforward.down")
    says = "with both branches silenced the residual stream passes unchanged"
    alike(tried("the block runs", block, x), x, says, given="both output layers zero", atol=1e-12)


@check(
    "1 · The block",
    hints=(
        "The block takes a mask, a rotation and a cache. Who uses them?",
        "Its attention, all three. Leave none out, however rarely it is given.",
        "`self.attention(self.norm1(x), mask=mask, rotate=rotate, cache=cache)`.",
    ),
)
def check_attention_gets_what_the_block_gets(part: Part, rng: random.Random) -> None:
    block, w = block_of(part, rng)
    x, T = noise(rng, 2, 6, 8), 6
    mask = (noise(rng, T, T) > 0) | torch.eye(T, dtype=torch.bool)
    masked = tried("the block takes a mask", block, x, mask=mask)
    alike(masked, torch_block(x, w, 2, mask=mask), "the mask reaches the attention", given="a mask that hides some of the past too", atol=1e-9)
    rotated = tried("the block takes a rotation", block, x, rotate=turned)
    alike(rotated, torch_block(x, w, 2, turn=turned), "the rotation reaches the attention", given="queries and keys turned by their positions", atol=1e-9)
    cache = KeptLayer()
    pieces = [tried("the block takes a cache", block, piece, cache=cache) for piece in (x[:, :4], x[:, 4:])]
    says = "with a cache the later positions see the earlier ones"
    alike(torch.cat(pieces, 1), torch_block(x, w, 2), says, given="four positions, then two", atol=1e-9)


@check(
    "1 · The block",
    hints=(
        "While training, what may be set to zero at random: the stream, or what is added to it?",
        "What each of the two branches adds. A number dropped from the stream would be lost to every later block.",
        "`x = x + self.dropout(self.attention(…))`, and the same around the feed-forward branch.",
    ),
)
def check_dropout_acts_on_the_branches(part: Part, rng: random.Random) -> None:
    block, weights = block_of(part, rng, BlockConfig(attend=AttentionConfig(width=8, n_head=2), hidden=32, dropout=0.5))
    x = noise(rng, 2, 40, 8)
    given = "dropout 0.5"
    block.eval()
    alike(tried("the block runs", block, x), torch_block(x, weights, 2), "nothing is dropped while evaluating", given=given, atol=1e-9)
    block.train()
    block.dropout.generator = torch.Generator().manual_seed(rng.getrandbits(63))
    silenced(block, "attention.output", "feedforward.down")
    alike(tried("the block runs", block, x), x, "nothing is dropped from the stream itself", given=f"{given}, training, both branches zero", atol=1e-12)
    for branch in ("attention.output", "feedforward.down"):
        silenced(block, "attention.output", "feedforward.down")
        with torch.no_grad():
            dict(block.named_parameters())[f"{branch}.bias"].fill_(1.0)
        added = (tried("the block runs", block, x) - x).detach()
        found = sorted({round(v, 6) for v in added.flatten().tolist()})
        equal(found, [0.0, 2.0], "half of what a branch adds is dropped, and the rest doubled", given=f"{given}, training, {branch} gives 1 everywhere")


# ── the model ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def parts_are_built_from(part: Part) -> None:
    """The positions and each block get what the config says, and no number is set before somebody draws it."""
    settings: dict[str, Any] = {"vocab_size": 13, "context": 8, "n_layer": 3, "n_head": 2, "width": 8, "block": f"{ORACLES}:NotingBlock"}
    latent = LatentConfig(kv_rank=4, rope_width=6, nope_width=4, value_width=4)
    options: tuple[dict[str, Any], ...] = (
        {"positions": f"{ORACLES}:NotingPositions"},
        {"positions": f"{ORACLES}:NotingPositions", "rope": RopeConfig(base=100.0), "attention": "underhood.nn.latent:LatentAttention", "latent": latent},
        {"attention": "underhood.nn.grouped:GroupedQueryAttention", "window": 3, "window_from": 1},
    )
    for option in options:
        config = GPTConfig(**settings, **option)
        model = tried("the model can be built", part.GPT, config, given=option)
        if "positions" in option:
            rope = "" if config.rope is None else f", rope={config.rope}"
            expected = f"8, 8, {config.rotated_width}{rope}"
            equal(model.positions.told, expected, "positions get context, width, config.rotated_width, and rope where it is set", given=option)
        for i, block in enumerate(model.blocks):
            equal(block.told, in_brief(config.block_configs[i]), f"block {i} is built from config.block_configs[{i}]", given=option)
    fresh = tried("the model can be built", part.GPT, CONFIG)
    drawn_already = [name for name, p in fresh.named_parameters() if not p.isnan().all()]
    equal(drawn_already, [], "every weight is NaN until it is drawn or loaded")


@check(
    "2 · The model",
    hints=(
        "Compare step by step with GPT-2: what is added before the first block, what stands after the last?",
        "Token vector plus position vector, the blocks, one more norm, and then the product with the token vectors.",
        "`x = tokens(ids)`; `x = dropout(positions.add(x, start))`; the blocks; `norm(x)`; `hidden @ head_weight.T`.",
    ),
)
def check_logits_equal_gpt2(part: Part, rng: random.Random) -> None:
    parts_are_built_from(part)
    for tie in (True, False):
        config = GPTConfig(vocab_size=13, context=48, n_layer=2, n_head=2, width=8, tie=tie)
        model, weights = model_of(part, rng, config)
        for T in LENGTHS:
            ids, given = whole_numbers(rng, 13, 2, T), f"{T} tokens, tie={tie}"
            expected = torch_hidden(ids, weights, config)
            alike(tried("hidden runs", model.hidden, ids), expected, "hidden vectors equal those of GPT-2 out of torch's functions", given=given, atol=1e-9)
            alike(tried("the model runs", model, ids), torch_gpt(ids, weights, config), "logits equal those of GPT-2", given=given, atol=1e-9)
    hidden = noise(rng, 3, 8) * 9
    capped, w = model_of(part, rng, GPTConfig(vocab_size=13, context=8, n_layer=1, n_head=2, width=8, logit_cap=2.0))
    expected = 2 * torch.tanh(hidden @ w["tokens.weight"].T / 2)
    alike(tried("logits runs", capped.logits, hidden), expected, "logits are capped softly when the config says so", given="logit_cap=2", atol=1e-9)


@check(
    "2 · The model",
    hints=(
        "The cache holds five tokens. At which position does the next one stand?",
        "At `cache.length`, which counts from 0: the sixth token stands at position 5. Both `positions.add` and `positions.rotation` need that start.",
        "`start = 0 if cache is None else cache.length`; `positions.rotation(x, start)`, `positions.add(x, start)`; block i gets `cache.layers[i]`.",
    ),
)
def check_a_text_can_come_in_pieces(part: Part, rng: random.Random) -> None:
    for positions in ("Learned", "Rotary"):
        config = GPTConfig(vocab_size=13, context=48, n_layer=2, n_head=2, width=8, positions=positions)
        model, weights = model_of(part, rng, config)
        ids, cache = whole_numbers(rng, 13, 2, 40), Kept(2)
        expected = torch_gpt(ids, weights, config, turn=turned if positions == "Rotary" else None)
        alike(tried("the model runs", model, ids), expected, "the whole text at once gives GPT-2's logits", given=f"positions={positions}", atol=1e-5)
        pieces = [tried("the model takes a cache", model, piece, cache) for piece in (ids[:, :5], ids[:, 5:6], ids[:, 6:])]
        given = f"positions={positions}; 5 tokens, then 1, then 34, with a cache"
        alike(torch.cat(pieces, 1), expected, "a text read in pieces has the logits of the whole text", given=given, atol=1e-5)
    says = "what is in the cache counts towards the context"
    refuses(lambda: model(whole_numbers(rng, 13, 2, 9), cache), ShapeError, says, given="40 tokens in the cache, 9 more, a context of 48")


@check(
    "2 · The model",
    hints=(
        "How many parameters does the head have of its own?",
        "None: with `tie`, the matrix that makes logits *is* the token embedding. Without, it is a layer of its own.",
        "`head_weight` returns `tokens.weight` when `head` is None, else `head.weight`; `head` is built only without `tie`.",
    ),
)
def check_head_is_tied(part: Part, rng: random.Random) -> None:
    for tie in (True, False):
        config = GPTConfig(vocab_size=13, context=8, n_layer=1, n_head=2, width=8, tie=tie)
        model, _ = model_of(part, rng, config)
        block = 12 * 8 * 8 + 13 * 8
        expected = (13 + 8) * 8 + block + 16 + (0 if tie else 13 * 8)
        count = sum(p.numel() for p in model.parameters())
        equal(count, expected, f"the number of parameters {'with' if tie else 'without'} a tied head", given="13 tokens, context 8, one block of width 8")
        with torch.no_grad():
            model.tokens.weight.fill_(7.0)
        head = tried("the head's weights can be read", lambda m=model: m.head_weight)
        equal(bool((head == 7.0).all()), tie, "the head is the token embedding exactly when it is tied", given=f"tie={tie}, the embedding filled with 7")
        holds(head.requires_grad, "the head learns: its gradient reaches the matrix", given=f"tie={tie}", expected="requires_grad", found="no gradient")


@check(
    "2 · The model",
    hints=(
        "What happens to a text that is one token longer than the table of positions?",
        "There is no vector for that position. Say so before torch does, in words.",
        "Raise `ShapeError` when `start + T > config.context`.",
    ),
)
def check_too_long_is_refused(part: Part, rng: random.Random) -> None:
    model, _ = model_of(part, rng, GPTConfig(vocab_size=13, context=8, n_layer=2, n_head=2, width=8))
    tried("the whole context fits", model, whole_numbers(rng, 13, 1, 8), given="8 tokens, a context of 8")
    refuses(lambda: model(whole_numbers(rng, 13, 1, 9)), ShapeError, "nine tokens do not fit into a context of eight", given="9 tokens")


@check(
    "2 · The model",
    hints=(
        "The config's dropout: where does GPT-2 have it, besides the blocks?",
        "On the sum of token and position vectors, before the first block.",
        "`x = self.dropout(self.positions.add(x, start))`.",
    ),
)
def check_dropout_acts_on_the_embedding(part: Part, rng: random.Random) -> None:
    config = GPTConfig(vocab_size=13, context=48, n_layer=1, n_head=2, width=8, dropout=0.5)
    model, weights = model_of(part, rng, config)
    ids = whole_numbers(rng, 13, 2, 40)
    model.train()
    model.blocks[0].eval()
    silenced(model.blocks[0], "attention.output", "feedforward.down")
    model.dropout.generator, mine = (torch.Generator().manual_seed(5) for _ in range(2))
    x = (weights["tokens.weight"][ids] + weights["positions.table.weight"][:40]) * torch.empty(2, 40, 8).double().bernoulli_(0.5, generator=mine) * 2
    expected = torch.nn.functional.layer_norm(x, (8,), weights["norm.weight"], weights["norm.bias"])
    says = "dropout acts on the sum of token and position vectors"
    alike(tried("hidden runs", model.hidden, ids), expected, says, given="dropout 0.5, training, silent blocks", atol=1e-9)


CHECKS: tuple[Check, ...] = (
    check_block_adds_to_the_stream,
    check_attention_gets_what_the_block_gets,
    check_dropout_acts_on_the_branches,
    check_logits_equal_gpt2,
    check_head_is_tied,
    check_too_long_is_refused,
    check_a_text_can_come_in_pieces,
    check_dropout_acts_on_the_embedding,
    *TRAINING_CHECKS,
)
