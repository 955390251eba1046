"""What is measured of long texts: the keys, and that a model without an extension is told from one with it."""

from underhood.lab.baselines.long_context import KEEPER, READER, SHORT, TIMES, YARN, LongConfig, longer
from underhood.nn.gpt import build_gpt
from underhood.nn.rope import ScaledRotary
from underhood.projects.long_context import measure


def test_an_untrained_model_is_as_unsure_as_chance_everywhere() -> None:
    """A tied head of small weights: perplexity near the vocabulary's size at every stretch, facts found as often as guessed."""
    config = LongConfig(check_windows=4)
    found = measure.perplexities(longer(build_gpt(READER, 0), config), config)
    assert list(found) == [f"from_{i}" for i in range(1, TIMES * SHORT, 16)]
    assert all(p > 500 for p in found.values())
    shares = measure.found_by_place(longer(build_gpt(KEEPER, 0), config), count=8)
    assert list(shares)[:4] == ["one_T32_depth10", "one_T32_depth50", "one_T32_depth90", "one_T64_depth10"]
    assert sum(shares.values()) / len(shares) < 0.4


def test_the_weights_stay_and_the_positions_change() -> None:
    model = build_gpt(READER, 0)
    long = longer(model, LongConfig())
    assert long.config.context == TIMES * SHORT
    assert isinstance(long.positions, ScaledRotary)
    assert long.positions.rope == YARN
    assert all((a == b).all() for a, b in zip(model.parameters(), long.parameters(), strict=True))
    assert longer(model, LongConfig(extend=None)) is model


def test_turning_all_keys_costs_more_than_turning_one() -> None:
    found = measure.rotation_costs()
    assert found["keys_mib"] == 4
    assert found["dynamic_turns_us"] > 5 * found["yarn_turns_us"]
