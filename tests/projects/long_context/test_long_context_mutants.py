"""Wrong extensions that look right: each fails the check that is about its fault."""

import pytest

from tests.projects.mutants import Mutant, failing

LINE = "max(1.0, factor * length / original - (factor - 1))"
NEW = "self.turn(torch.arange(start, end), end, x)"
TURNED = '"""``x`` turned."""\n        return rotate(x, self.cos, self.sin)'

MUTANTS = [
    # ── interpolation and the base ──
    Mutant("multiplied", "return f / factor", "return f * factor", "new_positions_fall_between"),
    Mutant("written_into", "return f / factor", "return f.div_(factor)", "new_positions_fall_between"),
    Mutant("without_the_two", "(width / (width - 2))", "(width / width)", "the_slowest_is_divided_and_the_fastest_kept"),
    Mutant("one_pair_not_provided_for", " if width > 2 else base", "", "the_slowest_is_divided_and_the_fastest_kept"),
    Mutant("halves_counted", "(width / (width - 2))", "(width / 2 / (width / 2 - 2))", "the_slowest_is_divided_and_the_fastest_kept"),
    # ── by the length ──
    Mutant("jumps", " - (factor - 1))", ")", "the_factor_begins_at_one_and_grows"),
    Mutant("below_one", LINE, "factor * length / original - (factor - 1)", "the_factor_begins_at_one_and_grows"),
    Mutant("by_the_length_alone", LINE, "max(1.0, length / original)", "the_factor_begins_at_one_and_grows"),
    # ── by parts ──
    Mutant("two_pi_forgotten", "rope.original_context * f / (2 * math.pi)", "rope.original_context * f", "llama_keeps_short_waves"),
    Mutant("not_clamped", "rope.low_freq_factor)).clamp(0, 1)", "rope.low_freq_factor))", "llama_keeps_short_waves"),
    Mutant("long_waves_kept", "return ((waves", "return 1 - ((waves", "llama_keeps_short_waves"),
    Mutant("ramp_reversed", "return 1 - ramp.clamp(0, 1)", "return ramp.clamp(0, 1)", "yarn_keeps_pairs_that_turn_often"),
    Mutant("both_bounds_down", "math.floor(low), math.ceil(high)", "math.floor(low), math.floor(high)", "yarn_keeps_pairs_that_turn_often"),
    Mutant("always_truncated", "if rope.truncate:", "if True:", "yarn_keeps_pairs_that_turn_often"),
    Mutant("below_the_first_pair", "max(low, 0)", "low", "yarn_keeps_pairs_that_turn_often"),
    Mutant("ramp_ends_at_the_last_pair", "min(high, width - 1)", "min(high, width // 2 - 1)", "yarn_keeps_pairs_that_turn_often"),
    Mutant("ramp_ends_anywhere", "min(high, width - 1)", "high", "yarn_keeps_pairs_that_turn_often"),
    Mutant("no_step", " if high != low else 0.001", "", "yarn_keeps_pairs_that_turn_often"),
    Mutant("base_taken_for_granted", "(2 * math.log(rope.base))", "(2 * math.log(10_000.0))", "yarn_keeps_pairs_that_turn_often"),
    # ── the temperature ──
    Mutant("inverted", "0.1 * math.log(factor) + 1 if", "1 / (0.1 * math.log(factor) + 1) if", "scores_get_sharper"),
    Mutant("decimal_logarithm", "0.1 * math.log(factor)", "0.1 * math.log10(factor)", "scores_get_sharper"),
    # ── every kind ──
    Mutant("kept_and_slow_exchanged", "keep * f + (1 - keep) * slow", "(1 - keep) * f + keep * slow", "every_kind_has_its_frequencies"),
    Mutant("base_of_ten_thousand", "f = frequencies(width, rope.base)", "f = frequencies(width)", "every_kind_has_its_frequencies"),
    Mutant("ntk_by_length", 'if rope.kind == "ntk":', 'if rope.kind == "never":', "every_kind_has_its_frequencies"),
    Mutant("float32", "f = frequencies(width, rope.base)", "f = frequencies(width, rope.base).float()", "every_kind_has_its_frequencies"),
    Mutant("one_rule_for_both", 'if rope.kind == "llama3" else kept_by_turns', 'if rope.kind != "never" else kept_by_turns', "every_kind_has_its_frequencies"),
    # ── the rotation ──
    Mutant("backwards", TURNED, TURNED.replace("self.sin", "-self.sin"), "a_turn_turns"),
    Mutant("keys_turned_as_queries", "self.keys = cos, sin, keys", "self.keys = cos, sin, Turn(cos, sin)", "a_turn_turns"),
    Mutant("from_zero", NEW, "self.turn(torch.arange(end - start), end, x)", "the_rotation_starts_where_it_is_told"),
    Mutant("odd_heads_taken", "if head_width % 2:", "if False:", "the_rotation_starts_where_it_is_told"),
    Mutant("config_s_factor_ignored", "if self.rope.attention_factor is None else self.rope.attention_factor", "", "yarn_multiplies_queries_and_keys_once"),
    Mutant("sharp_always", 'if self.rope.kind != "yarn":', "if False:", "yarn_multiplies_queries_and_keys_once"),
    Mutant("twice", "sharper = self.attention_factor", "sharper = self.attention_factor**2", "yarn_multiplies_queries_and_keys_once"),
    Mutant("sines_not_sharpened", "(angles.sin() * sharper)", "angles.sin()", "yarn_multiplies_queries_and_keys_once"),
    Mutant("positions_in_half", "at.cpu().double()", "at.to(like).double()", "half_precision_keeps_positions_apart"),
    Mutant("angles_in_half", "(angles.cos() * sharper).to(like)", "(angles.to(like).cos() * sharper).to(like)", "half_precision_keeps_positions_apart"),
    Mutant("stays_float64", "(angles.cos() * sharper).to(like)", "(angles.cos() * sharper)", "half_precision_keeps_positions_apart"),
    Mutant("cached_turned", 'if self.rope.kind != "dynamic":', "if True:", "dynamic_turns_all_keys_anew"),
    Mutant("always_late", 'if self.rope.kind != "dynamic":', "if False:", "dynamic_turns_all_keys_anew"),
    Mutant("only_the_new_keys", "self.turn(torch.arange(end), end, x))", "self.turn(torch.arange(start, end), end, x))", "dynamic_turns_all_keys_anew"),
    Mutant(
        "length_of_what_is_new",
        NEW,
        "self.turn(torch.arange(start, end), x.shape[1], x)",
        "dynamic_turns_all_keys_anew",
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_wrong_file_fails_the_check_about_its_fault(mutant: Mutant) -> None:
    assert mutant.check in failing("long_context", mutant)


def test_the_first_pair_that_differs_is_named_with_its_numbers() -> None:
    half = next(mutant for mutant in MUTANTS if mutant.name == "ramp_ends_at_the_last_pair")
    told = failing("long_context", half)[half.check]
    assert told.endswith("expected: 0.833333333 for pair 4\n  found: 0.75 for pair 4, the first of 4 pairs that differ")
