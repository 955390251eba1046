"""Wrong speculation that runs: each file fails by the check that is meant for it."""

import pytest

from tests.projects.mutants import Mutant, part_of
from underhood.lab.kills import run_check
from underhood.projects.registry import find_project
from underhood.workbench.starter import solution

TOP_K = "    if config.top_k is not None:\n        logits = keep_top_k(logits, config.top_k)\n"
TOP_P = "    if config.top_p is not None:\n        logits = keep_top_p(logits, config.top_p)\n"
MIN_P = "    if config.min_p is not None:\n        logits = keep_min_p(logits, config.min_p)\n"

MUTANTS = [
    Mutant("float32", "logits = logits.double() / config.temperature", "logits = logits / config.temperature", "the_distribution_is_that_of_plain_sampling"),
    Mutant("no_top_k", "logits = keep_top_k(logits, config.top_k)", "pass", "guesses_are_drawn_from_what_is_reported"),
    Mutant("no_min_p", "logits = keep_min_p(logits, config.min_p)", "pass", "the_distribution_is_that_of_plain_sampling"),
    Mutant("top_p_before_top_k", TOP_K + TOP_P, TOP_P + TOP_K, "the_distribution_is_that_of_plain_sampling"),
    Mutant("min_p_before_top_p", TOP_P + MIN_P, MIN_P + TOP_P, "the_distribution_is_that_of_plain_sampling"),
    Mutant("not_normalised", "return left / total if total > 0 else p", "return left", "the_residual_completes_p"),
    Mutant("nan_when_covered", "return left / total if total > 0 else p", "return left / total", "the_residual_completes_p"),
    Mutant("q_minus_p", "(p - q).clamp(min=0)", "(q - p).clamp(min=0)", "the_residual_completes_p"),
    Mutant("at_most", "uniform[i] * q[i, guess] >= p[i, guess]", "uniform[i] * q[i, guess] > p[i, guess]", "a_certain_model_gets_its_own_tokens"),
    Mutant("accepted_by_p", "uniform[i] * q[i, guess] >= p[i, guess]", "uniform[i] >= p[i, guess]", "what_comes_out_has_the_models_distribution"),
    Mutant(
        "one_random_number", "drawn(residual(p[i], q[i]), uniform[-1])", "drawn(residual(p[i], q[i]), uniform[i])", "what_comes_out_has_the_models_distribution"
    ),
    Mutant("residual_of_the_last", "residual(p[i], q[i])", "residual(p[i], q[-1])", "a_pass_by_hand"),
    Mutant("extra_from_the_first_row", "drawn(p[len(guesses)], uniform[-1])", "drawn(p[0], uniform[-1])", "a_pass_by_hand"),
    Mutant("no_limit_at_one", "float(k + 1) if alpha == 1 else ", "", "the_expected_tokens_are_a_geometric_sum"),
    Mutant("too_many_asked", "min(k, end - len(text) - 1)", "min(k, end - len(text))", "greedy_text_is_plain_text"),
    Mutant("a_token_too_many", "min(k, end - len(text) - 1)", "min(k, end - len(text))", "drawn_text_has_the_models_distribution"),
    Mutant("no_cache", "model.hidden(fresh, cache)[0,", "model.hidden(torch.tensor([text + guesses]))[0,", "the_draft_and_the_tally_are_told"),
    Mutant(
        "end_token_given",
        "            if token in config.end_ids:\n                return\n            yield token",
        "            yield token\n            if token in config.end_ids:\n                return",
        "the_draft_and_the_tally_are_told",
    ),
    Mutant("random_numbers_shared", "uniform[k + 1 :])", "uniform[:k])", "drawn_text_has_the_models_distribution"),
    Mutant("all_is_read_again", "self.cache.keep(min(in_common(self.held, text), len(text) - 1))", "self.cache.keep(0)", "the_draft_follows_the_text"),
    Mutant("beyond_the_context", "min(count, self.model.config.context - len(text))", "count", "the_draft_follows_the_text"),
    Mutant("first_occurrence", "range(len(text) - n - 1, -1, -1)", "range(len(text) - n)", "what_followed_before_is_guessed"),
    Mutant("shortest_suffix", "range(min(self.n, len(text) - 1), 0, -1)", "range(1, min(self.n, len(text) - 1) + 1)", "what_followed_before_is_guessed"),
    Mutant("random_start", "nn.init.zeros_(parameter)", "nn.init.normal_(parameter)", "heads_start_as_the_models_own"),
    Mutant("no_decay", "total + decay**i * ", "total + ", "head_i_learns_the_token_i_plus_2_ahead"),
    Mutant("all_heads", ".argmax(-1)[:count]", ".argmax(-1)", "heads_guess_from_the_last_vector"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_wrong_file_fails_where_it_should(mutant: Mutant) -> None:
    project = find_project("speculative")
    text = solution(project)
    assert text.count(mutant.right) == 1
    check = next(c for c in project.checks() if c.name == mutant.check)
    assert run_check(check, part_of("speculative", text.replace(mutant.right, mutant.wrong))) is not None
