"""What any correct session satisfies: prompts do not mix, and other weights empty the cache. The oracle is a Llama of torch's functions without a cache."""

import random
from typing import Any

import torch
from torch import Tensor, nn

from underhood.base.errors import DataError, ShapeError
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, equal, holds, refuses, runs
from underhood.lab.oracles import noise, tried
from underhood.projects.kv_cache.oracles import AGREES, CONFIGS, Growing, V, model, tokens, whole


def expected(talker: Any, text: list[int]) -> Tensor:
    """What the model says after ``text``, recomputed."""
    return whole(talker, torch.tensor([text]))[0, -1]


def refused_prompts_leave_nothing(session: Any, talker: Any, rng: random.Random) -> None:
    """A prompt beyond the context, and then one that begins like it, or like the text before it."""
    long = [rng.randrange(V) for _ in range(65)]
    cases = (
        (long, 40, "a prompt that was refused leaves nothing behind", "65 tokens refused, then the first 40 of them"),
        ([(t + 1) % V for t in long], 41, "what was cut off for a refused prompt is not held", "40 tokens held, 65 others refused, then the 40 and one more"),
    )
    for refused, count, says, given in cases:
        refuses(lambda: session.logits(refused), ShapeError, "a prompt beyond the context is an error", given="65 tokens, context 64")  # noqa: B023
        found = runs(lambda: session.logits(long[:count]), says, given=given)  # noqa: B023
        alike(found, expected(talker, long[:count]), says, given=given, atol=AGREES)


def the_text_is_its_own(session: Any, talker: Any, rng: random.Random) -> None:
    """A chat that grows in place: the list that the session was given is the caller's."""
    text, given = tuple(tokens(rng, 8).tolist()), "a list of 5 tokens, then the same list with 3 more appended"
    for count in (5, 8):
        found = runs(lambda: session.logits(Growing(text[:count])), "a session answers", given=given)  # noqa: B023
        says = "the session remembers a copy of the text, not the caller's list"
        alike(found, expected(talker, list(text[:count])), says, given=given, atol=AGREES)


@check(
    "7 · A conversation",
    hints=(
        "The second prompt begins like the first. How far? And what if it is the first one, only shorter?",
        "Keep the positions that both texts share, token by token, but never all of the new prompt: logits are not in the cache.",
        "`known = min(in_common(self.ids, ids), len(ids) - 1)`; cut `self.cache` and `self.ids` to it, prefill `ids[known:]`, `self.ids = list(ids)`.",
    ),
)
def check_prompts_do_not_mix(part: Part, rng: random.Random) -> None:
    for one, other, n in (([1, 2], [1, 2, 3], 2), ([1, 2, 9], [1, 3, 9], 1), ([4, 2], [1, 2], 0), ([], [1], 0), ([5], [5], 1)):
        equal(tried("in_common runs", part.in_common, one, other), n, "two texts have in common what they begin with alike", given=(one, other))
    talker = model(rng, CONFIGS["three Llama blocks"])
    session, text, held, computed = runs(lambda: part.Session(talker), "a session can be made"), list[int](), list[int](), 0
    for turn in range(14):
        text = text[: rng.randrange(len(text) + 1)] if turn % 3 else list(text)
        if turn % 4 or not text:  # else a prompt that the session knows to its end
            text = (text + [rng.randrange(V) for _ in range(rng.randrange(1, 6))])[:60]
        given = f"after {held}, the prompt {text}"
        found = runs(lambda: session.logits(text), "a session answers", given=given)  # noqa: B023
        alike(found, expected(talker, text), "a prompt gets what it gets alone, whatever was said before", given=given, atol=AGREES)
        same = next((i for i, (a, b) in enumerate(zip(held, text, strict=False)) if a != b), min(len(held), len(text)))
        computed += len(text) - min(same, len(text) - 1)
        equal(session.computed, computed, "only what is new is computed, and the last token always", given=given)
        held = list(text)
    refuses(lambda: session.logits([]), DataError, "an empty prompt is an error", given=[])
    refused_prompts_leave_nothing(session, talker, rng)
    the_text_is_its_own(session, talker, rng)


@check(
    "7 · A conversation",
    hints=(
        "The model gets other weights between two prompts. Whose keys are in the cache?",
        "Remember, with the text, a version of the weights: something that differs after any write to any of them.",
        "`tuple(n for p in model.parameters() for n in (p.data_ptr(), p._version))`; where it differs from the remembered one, `known = 0`.",
    ),
)
def check_new_weights_empty_the_cache(part: Part, rng: random.Random) -> None:
    talker = model(rng, CONFIGS["three Llama blocks"])
    before = runs(lambda: part.weights_version(talker), "the weights have a version")
    equal(runs(lambda: part.weights_version(talker), "the weights have a version"), before, "the version stays while nothing is written")
    session, text = part.Session(talker), tokens(rng, 9).tolist()
    runs(lambda: session.logits(text), "a session answers")
    runs(lambda: session.logits(text), "a session answers twice")
    equal(session.computed, 10, "with the same weights only the last token is computed again", given="9 tokens, twice")
    for name in ("blocks.1.attention.key.weight", "tokens.weight", "norm.weight", "head.weight"):
        with torch.no_grad():
            talker.get_parameter(name).mul_(1.5)
        after = runs(lambda: part.weights_version(talker), "the weights have a version")
        holds(after != before, "a write to any weight gives another version", given=name)
        before = after
        found = runs(lambda: session.logits(text), "a session answers after a write", given=name)
        alike(found, expected(talker, text), "with other weights all is computed anew", given=f"{name} was written to", atol=AGREES)
    equal(session.computed, 10 + 4 * 9, "with other weights all is computed anew", given="9 tokens, four writes")
    runs(lambda: session.logits(text), "a session answers twice")
    equal(session.computed, 10 + 4 * 9 + 1, "and once only: then the cache is the new weights'", given="9 tokens, four writes, and once more")
    old, new = talker.get_parameter("blocks.2.attention.value.weight"), nn.Parameter(noise(rng, 32, 32))
    with torch.no_grad():
        while new._version < old._version:
            new.add_(0)  # as often written to as the old one
    talker.blocks[2].attention.value.weight = new  # type: ignore[union-attr]
    holds(runs(lambda: part.weights_version(talker), "the weights have a version") != before, "another tensor in a weight's place gives another version")


SESSION_CHECKS: tuple[Check, ...] = (
    check_prompts_do_not_mix,
    check_new_weights_empty_the_cache,
)
