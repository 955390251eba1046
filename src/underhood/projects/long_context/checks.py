"""What any correct extension of rotary positions satisfies. The oracles are closed forms, torch's complex numbers, and figures of published configurations."""

import math
import random
from typing import Any

import torch

from underhood.base.errors import ConfigError
from underhood.lab.alike import alike
from underhood.lab.check import Check, Part, check, close, equal, holds, refuses
from underhood.lab.oracles import noise, tried
from underhood.nn.rope import RopeConfig
from underhood.projects.long_context.oracles import BASE, agree, by_turns, in_brief, plain, scaled, turned

KINDS = (
    RopeConfig(kind="default", base=500.0),
    RopeConfig(kind="linear", factor=4),
    RopeConfig(kind="ntk", factor=4, base=5000.0),
    RopeConfig(kind="dynamic", factor=2, original_context=100),
    RopeConfig(kind="llama3", factor=8, original_context=256, low_freq_factor=1.5, high_freq_factor=5, base=500_000.0),
    RopeConfig(kind="yarn", factor=8, original_context=512, beta_fast=20, beta_slow=2),
)


# ── step 1 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "1 · Interpolation",
    hints=(
        "Trained on positions 0 to 127, asked about 0 to 511. Which trained position should position 400 be turned like?",
        "Like position 100. The angle is position · frequency, so a position that is divided by 4 is a frequency that is divided by 4.",
        "`return f / factor`.",
    ),
)
def check_new_positions_fall_between(part: Part, rng: random.Random) -> None:
    f, factor = plain(8), rng.choice((2.0, 4.0, 8.0))
    given = f"four pairs of base 10,000, factor {factor}"
    slow = tried("interpolated gives frequencies", part.interpolated, f, factor, given=given)
    agree(f, plain(8), "the frequencies that were given are left as they are", given=given)
    agree(slow, f / factor, "position p is turned as position p / factor was", given=given)


# ── step 2 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "2 · Another base",
    hints=(
        "The slowest pair has the frequency base^(-(D-2)/D). By which power must the base grow for this to be divided by the factor?",
        "(base·x)^(-(D-2)/D) = base^(-(D-2)/D) / factor. Solve for x.",
        "`base * factor ** (width / (width - 2)) if width > 2 else base`: a head of two numbers has one pair, which turns by 1 whatever the base.",
    ),
)
def check_the_slowest_is_divided_and_the_fastest_kept(part: Part, rng: random.Random) -> None:
    for width, factor, base in ((32, 4.0, BASE), (64, 8.0, 500_000.0), (4, 2.0, 100.0)):
        given = f"{width} numbers, factor {factor}, base {base}"
        new = tried("ntk_base gives a base", part.ntk_base, base, factor, width, given=given)
        before, after = plain(width, base), plain(width, new)
        close(float(before[-1] / after[-1]), factor, "the slowest frequency is divided by the factor", given=given, rtol=1e-9)
    close(tried("ntk_base gives a base", part.ntk_base, BASE, 1.0, 32), BASE, "at factor 1 the base stays")
    close(tried("ntk_base takes a head of two numbers", part.ntk_base, BASE, 4.0, 2), BASE, "a head of one pair has none that is slower; its base stays")


# ── step 3 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "3 · By the length at hand",
    hints=(
        "A text as long as the trained ones needs no help. What should the factor be there, and one token later?",
        "A straight line through 1 at the trained length and through factor · n - (factor - 1) at n times it; never below 1.",
        "`max(1.0, factor * length / original - (factor - 1))`.",
    ),
)
def check_the_factor_begins_at_one_and_grows(part: Part, rng: random.Random) -> None:
    for factor, length, original, expected in ((2.0, 100, 100, 1.0), (2.0, 200, 100, 3.0), (4.0, 400, 100, 13.0), (4.0, 110, 100, 1.4)):
        given = f"factor {factor}, {length} tokens, trained on {original}"
        close(
            tried("dynamic_factor gives a factor", part.dynamic_factor, factor, length, original, given=given),
            expected,
            "factor · length / original - (factor - 1)",
            given=given,
        )
    for length in (1, 50, 99):
        found = tried("dynamic_factor gives a factor", part.dynamic_factor, 4.0, length, 100)
        close(found, 1.0, "up to the trained length the factor is 1", given=f"{length} tokens, trained on 100")


# ── step 4 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "4 · By parts",
    hints=(
        "A pair of frequency f has the wavelength 2π / f. How many waves fit into the trained context?",
        "original_context · f / 2π. At low_freq_factor waves nothing is kept, at high_freq_factor all, on a straight line between, and never outside 0 … 1.",
        "`((waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)).clamp(0, 1)`.",
    ),
)
def check_llama_keeps_short_waves(part: Part, rng: random.Random) -> None:
    rope = RopeConfig(kind="llama3", factor=8, original_context=1000, low_freq_factor=2, high_freq_factor=6)
    f = torch.tensor([8.0, 6.0, 5.0, 4.0, 2.0, 1.0], dtype=torch.float64) * 2 * math.pi / 1000
    given = "pairs of 8, 6, 5, 4, 2 and 1 waves in the trained context, bounds 2 and 6"
    kept = tried("kept_by_wavelength gives shares", part.kept_by_wavelength, f, rope, given=given)
    expected = torch.tensor([1.0, 1.0, 0.75, 0.5, 0.0, 0.0], dtype=torch.float64)
    agree(kept, expected, "short waves are kept, long ones not, and those between on a line", given=given)


@check(
    "4 · By parts",
    hints=(
        "Pair i of base b turns L·b^(-2i/D) / 2π times in the trained context. At which i are that beta_fast turns, and at which beta_slow?",
        "i = D · ln(L / (2π · turns)) / (2 ln b). Round the first down and the second up, stay within 0 and D - 1, and draw a line between, 1 down to 0.",
        "`ramp = (torch.arange(width // 2) - low) / (high - low if high != low else 0.001)`, then `1 - ramp.clamp(0, 1)`; round only where `rope.truncate`.",
    ),
)
def check_yarn_keeps_pairs_that_turn_often(part: Part, rng: random.Random) -> None:
    for width, rope in (
        (64, RopeConfig(kind="yarn", factor=4, original_context=4096)),
        (32, RopeConfig(kind="yarn", factor=4, original_context=128)),
        (32, RopeConfig(kind="yarn", factor=8, original_context=2048, beta_fast=16, beta_slow=2, base=500_000.0)),
    ):
        given = f"{width} numbers, trained on {rope.original_context}, bounds {rope.beta_fast} and {rope.beta_slow} turns, base {rope.base}"
        kept = tried("kept_by_turns gives shares", part.kept_by_turns, width, rope, given=given)
        agree(kept, by_turns(width, rope), "what turns often is kept, what turns seldom is interpolated, and those between lie on a line", given=given)
    beyond = "bounds lie within 0 … width - 1: the line may end beyond the last pair, width / 2 - 1"
    for says, width, rope in (
        ("bounds are not rounded when truncate is False", 32, RopeConfig(kind="yarn", factor=4, original_context=1024, truncate=False)),
        ("where both bounds are the first pair, the line is a step", 32, RopeConfig(kind="yarn", factor=4, original_context=64, beta_fast=32, beta_slow=16)),
        (beyond, 16, RopeConfig(kind="yarn", factor=4, original_context=4096, base=500.0)),
        (beyond, 16, RopeConfig(kind="yarn", factor=4, original_context=1_000_000, beta_fast=2000, base=500.0)),
    ):
        given = f"{width} numbers, {in_brief(rope)}"
        kept = tried("kept_by_turns gives shares", part.kept_by_turns, width, rope, given=given)
        agree(kept, by_turns(width, rope), says, given=given)


# ── step 5 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "5 · The temperature",
    hints=(
        "Softmax over four times as many keys is flatter. Should the scores grow or shrink to make up for that?",
        "They grow. √(1/t) = 0.1 ln(factor) + 1 multiplies queries and keys alike, so that scores are divided by t < 1.",
        "`0.1 * math.log(factor) + 1 if factor > 1 else 1.0`.",
    ),
)
def check_scores_get_sharper(part: Part, rng: random.Random) -> None:
    for factor, expected in ((math.e, 1.1), (math.e**2, 1.2), (4.0, 1.1386294361)):
        close(
            tried("yarn_factor gives a factor", part.yarn_factor, factor),
            expected,
            "0.1 ln(factor) + 1, which is more than 1",
            given=f"factor {factor}",
            atol=1e-9,
        )
    close(tried("yarn_factor gives a factor", part.yarn_factor, 1.0), 1.0, "without extension nothing changes")


# ── step 6 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "6 · Every kind",
    hints=(
        "Go through the kinds one by one: which begin with another base, which divide, which mix?",
        "ntk and dynamic take `frequencies` of another base. linear divides all. llama3 and yarn mix kept and divided by the shares of step 4.",
        "`keep * f + (1 - keep) * slow`, with `slow = interpolated(f, rope.factor)`; start from `frequencies(width, base)`, which is float64.",
    ),
)
def check_every_kind_has_its_frequencies(part: Part, rng: random.Random) -> None:
    for rope in KINDS:
        for length in (64, 350):
            given = f"32 numbers, {length} tokens; {in_brief(rope)}"
            found = tried("scaled_frequencies gives frequencies", part.scaled_frequencies, 32, rope, length, given=given)
            agree(found, scaled(32, rope, length), f"the frequencies of {rope.kind}", given=given)
            equal(str(found.dtype), "torch.float64", "frequencies are float64", given=given)


# ── step 7 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@check(
    "7 · The rotation",
    hints=(
        "The first half of a head's numbers are real parts, the second half imaginary ones: turning is one complex product.",
        "`rotate(x, cos, sin)` of project 7 does it. A `Turn` only remembers its sines and cosines.",
        "`def __call__(self, x): return rotate(x, self.cos, self.sin)`.",
    ),
)
def check_a_turn_turns(part: Part, rng: random.Random) -> None:
    angles, x = noise(rng, 5, 4), noise(rng, 2, 3, 5, 8)
    turn = tried("a Turn is made of cosines and sines", part.Turn, angles.cos(), angles.sin())
    agree(tried("a Turn turns", turn, x), turned(x, angles), "each pair (i, i + D/2) is turned by its angle", atol=1e-9)
    late = tried("a LateTurn is made of cosines, sines and a Turn for the keys", part.LateTurn, angles[-1:].cos(), angles[-1:].sin(), turn)
    agree(tried("a LateTurn turns queries", late, x[..., -1:, :]), turned(x[..., -1:, :], angles[-1:]), "called, a LateTurn turns what is new", atol=1e-9)
    agree(tried("its keys turn keys", late.keys, x), turned(x, angles), "its keys turn all that there is", atol=1e-9)


@check(
    "7 · The rotation",
    hints=(
        "Seven tokens are in the cache and two more come. Which positions do the two have?",
        "start and start + 1. Angles are position times frequency, one row a position.",
        "`self.turn(torch.arange(start, end), end, x)` with `end = start + x.shape[1]`. An odd head width is a `ConfigError` in `__init__`.",
    ),
)
def check_the_rotation_starts_where_it_is_told(part: Part, rng: random.Random) -> None:
    q = noise(rng, 1, 2, 3, 16)
    for rope in KINDS[:3]:
        positions = tried("ScaledRotary is made", part.ScaledRotary, 512, 32, 16, rope)
        for start in (0, 7):
            turn = tried("rotation gives a turn", positions.rotation, torch.zeros(1, 3, 32, dtype=torch.float64), start)
            angles = torch.outer(torch.arange(start, start + 3, dtype=torch.float64), scaled(16, rope, start + 3))
            agree(turn(q), turned(q, angles), f"positions {start} to {start + 2} are turned by position times frequency", given=in_brief(rope), atol=1e-9)
    refuses(lambda: part.ScaledRotary(8, 5, 5, RopeConfig()), ConfigError, "a head of 5 numbers has no pairs to turn, and is refused when the module is made")


@check(
    "7 · The rotation",
    hints=(
        "By what are sines and cosines multiplied so that scores are multiplied by the square of it?",
        "By `attention_factor`: the config's, or where it has none `yarn_factor(factor)`; 1 for every other kind. Once.",
        "`Turn((angles.cos() * sharper).to(like), (angles.sin() * sharper).to(like))`.",
    ),
)
def check_yarn_multiplies_queries_and_keys_once(part: Part, rng: random.Random) -> None:
    q, k, x = noise(rng, 1, 1, 4, 16), noise(rng, 1, 1, 4, 16), torch.zeros(1, 4, 16, dtype=torch.float64)
    yarn: dict[str, Any] = {"kind": "yarn", "factor": 4.0, "original_context": 64}
    for fields, expected in ((yarn, 0.1 * math.log(4) + 1), (yarn | {"attention_factor": 1.0}, 1.0), ({"kind": "linear", "factor": 4.0}, 1.0)):
        rope = RopeConfig(**fields)
        positions = tried("ScaledRotary is made", part.ScaledRotary, 256, 16, 16, rope)
        turn = tried("rotation gives a turn", positions.rotation, x)
        angles = torch.outer(torch.arange(4, dtype=torch.float64), scaled(16, rope, 4))
        scores = turn(q) @ turn(k).transpose(-2, -1)
        wanted = turned(q, angles) @ turned(k, angles).transpose(-2, -1) * expected**2
        alike(scores, wanted, "scores grow by the square of the attention factor", given=in_brief(rope), atol=1e-8)
        close(positions.attention_factor, expected, "attention_factor is the config's, or YaRN's own, or 1", given=in_brief(rope), atol=1e-9)


@check(
    "7 · The rotation",
    hints=(
        "bfloat16 has eight significant bits. Which number follows 256 in it?",
        "258. Positions and angles must not pass through the model's dtype; only the finished sines and cosines do.",
        "`at.cpu().double().unsqueeze(-1) * scaled_frequencies(…)`, and `.to(like)` at the very end.",
    ),
)
def check_half_precision_keeps_positions_apart(part: Part, rng: random.Random) -> None:
    positions = tried("ScaledRotary is made", part.ScaledRotary, 4096, 8, 8, RopeConfig())
    at, like = torch.arange(1000, 1004), torch.zeros(1, dtype=torch.bfloat16)
    turn = tried("turn gives a turn for positions", positions.turn, at, 1004, like)
    angles = torch.outer(at.double(), plain(8))
    equal(str(turn.cos.dtype), "torch.bfloat16", "sines and cosines have the model's dtype")
    agree(turn.cos, angles.cos(), "each position has its own cosines, rounded once", given="positions 1000 to 1003 in bfloat16", atol=4e-3)
    agree(turn.sin, angles.sin(), "each position has its own sines, rounded once", given="positions 1000 to 1003 in bfloat16", atol=4e-3)


@check(
    "7 · The rotation",
    hints=(
        "Under dynamic scaling all frequencies change when the text grows. What is then true of keys that were turned and cached earlier?",
        "They were turned by other frequencies. Give a LateTurn: its `keys` turns positions 0 … end-1, all of them, with today's frequencies.",
        "`LateTurn(turn.cos, turn.sin, self.turn(torch.arange(end), end, x))` where the kind is dynamic, and the plain `turn` for every other.",
    ),
)
def check_dynamic_turns_all_keys_anew(part: Part, rng: random.Random) -> None:
    rope = RopeConfig(kind="dynamic", factor=2, original_context=8)
    positions = tried("ScaledRotary is made", part.ScaledRotary, 64, 16, 16, rope)
    q, k = noise(rng, 1, 1, 1, 16), noise(rng, 1, 1, 20, 16)
    late = tried("rotation gives a turn", positions.rotation, torch.zeros(1, 1, 16, dtype=torch.float64), 19)
    angles = torch.outer(torch.arange(20, dtype=torch.float64), scaled(16, rope, 20))
    given = "the twentieth token, trained on 8, factor 2"
    agree(late(q), turned(q, angles[-1:]), "the query is turned for a text of 20 tokens, not of 1", given=given, atol=1e-9)
    keys = tried("the turn has keys for what is cached", lambda: late.keys(k))
    agree(keys, turned(k, angles), "cached keys are turned anew, all of them, for 20 tokens", given=given, atol=1e-9)
    for other in (r for r in KINDS if r.kind != "dynamic"):
        turn = tried("rotation gives a turn", part.ScaledRotary(64, 16, 16, other).rotation, torch.zeros(1, 1, 16), 19)
        holds(not hasattr(turn, "keys"), "for every other kind keys are turned once, before they are cached: its turn has no `keys`", given=other.kind)


CHECKS: tuple[Check, ...] = (
    check_new_positions_fall_between,
    check_the_slowest_is_divided_and_the_fastest_kept,
    check_the_factor_begins_at_one_and_grows,
    check_llama_keeps_short_waves,
    check_yarn_keeps_pairs_that_turn_often,
    check_scores_get_sharper,
    check_every_kind_has_its_frequencies,
    check_a_turn_turns,
    check_the_rotation_starts_where_it_is_told,
    check_yarn_multiplies_queries_and_keys_once,
    check_half_precision_keeps_positions_apart,
    check_dynamic_turns_all_keys_anew,
)
