"""Wrong attention that runs: each fails by the check that is meant for it, in one short line, and every check before that holds."""

from pathlib import Path
from typing import NamedTuple

import pytest

from underhood.lab.kills import run_check
from underhood.lab.patch import Edit, applied
from underhood.projects.registry import find_project
from underhood.workbench.checking import check_file
from underhood.workbench.starter import solution

PROJECT = find_project("attention")
NN = "underhood.nn.attention"
ATTEND, HIDE, PLAIN = f"{NN}:attend", f"{NN}:hide", f"{NN}:plain"
INIT, FORWARD, LOOK, PROJECT_IN = (f"{NN}:MultiHeadAttention.{name}" for name in ("__init__", "forward", "look", "_project"))
SOFTMAX = "    scores = hide(scores, mask)\n    weights = scores.softmax(dim=-1)\n"
LATE = "    weights = scores.softmax(dim=-1)\n    weights = weights if mask is None else weights * mask\n"
TURN = "        q, k = rotate(q), rotate(k)\n"
CACHE = "    if cache is not None:\n        k, v = cache.extend(k, v)\n"
LINE = 160  # characters of what is shown of a value


class Wrong(NamedTuple):
    """What is changed, the check that must fail first, and words of its message."""

    target: str
    old: str
    new: str
    check: str
    says: str


WRONG = {
    "one sequence only": Wrong(f"{NN}:average_past", "x.shape[-2]", "x.shape[0]", "past_is_averaged", "runs on a batch"),
    "scaled by the values' width": Wrong(ATTEND, "math.sqrt(q.shape[-1])", "math.sqrt(v.shape[-1])", "scores_are_scaled", "weights 3/4"),
    "dropped weights are returned": Wrong(ATTEND, "return kept @ v, weights", "return kept @ v, kept", "dropout_acts_on_the_weights", "those before dropout"),
    "attend ignores dropout": Wrong(ATTEND, "dropout(weights)", "weights", "dropout_acts_on_the_weights", "ignores its dropout"),
    "dropout on the scores": Wrong(
        ATTEND, SOFTMAX, "    scores = scores if dropout is None else dropout(scores)\n" + SOFTMAX, "dropout_acts_on_the_weights", "those before dropout"
    ),
    "T keys only": Wrong(f"{NN}:causal_mask", "tril(S - T)", "tril()", "mask_is_a_triangle", "not later"),
    "float mask": Wrong(f"{NN}:causal_mask", "dtype=torch.bool", "dtype=torch.float", "mask_is_a_triangle", "boolean"),
    "-1e9": Wrong(HIDE, "-math.inf", "-1e9", "hidden_scores_are_minus_infinity", "hide puts -inf"),
    "0": Wrong(HIDE, "-math.inf", "0.0", "hidden_scores_are_minus_infinity", "hide puts -inf"),
    "in place": Wrong(HIDE, "scores.masked_fill(", "scores.masked_fill_(", "hidden_scores_are_minus_infinity", "must not write"),
    "empty rows pass": Wrong(HIDE, "    require_visible(mask)\n", "", "an_empty_row_is_an_error", "never NaN"),
    "an AssertionError": Wrong(HIDE, "require_visible(mask)", "assert mask.any(-1).all()", "an_empty_row_is_an_error", "never NaN"),
    "the first of the batch": Wrong(
        HIDE, "require_visible(mask)", "require_visible(mask.reshape(-1, *mask.shape[-2:])[0])", "an_empty_row_is_an_error", "in a batch"
    ),
    "which row?": Wrong(
        HIDE, "require_visible(mask)", 'if not mask.any(-1).all(): raise ShapeError("nothing to see")', "an_empty_row_is_an_error", "names the row"
    ),
    "attend ignores its mask": Wrong(ATTEND, "hide(scores, mask)", "scores", "hidden_keys_do_not_matter", "attend ignores its mask"),
    "mask after softmax": Wrong(ATTEND, SOFTMAX, LATE, "hidden_keys_do_not_matter", "a mask that comes after softmax"),
    "mask of one sequence": Wrong(
        ATTEND, "hide(scores, mask)", "hide(scores, mask if mask is None or mask.ndim < 4 else mask[:1])", "masked_attend_equals_torch", "equals torch's"
    ),
    "qkv with a bias": Wrong(INIT, "self.qkv = Linear(C, 3 * C, bias=config.bias)", "self.qkv = Linear(C, 3 * C)", "layer_equals_torch", "parameters"),
    "output with a bias": Wrong(INIT, "self.output = Linear(C, C, bias=config.bias)", "self.output = Linear(C, C)", "layer_equals_torch", "parameters"),
    "always fused": Wrong(INIT, "if config.fused_qkv:", "if True:", "layer_equals_torch", "parameters"),
    "always causal": Wrong(LOOK, "causal=self.config.causal", "causal=True", "layer_equals_torch", "MultiheadAttention"),
    "two layers": Wrong(FORWARD, "cache=cache)[0]", "cache=cache)[0] * 2", "layer_equals_torch", "forward gives what look gives"),
    "the caller's mask ignored": Wrong(LOOK, "mask=mask", "mask=None", "layer_joins_masks", "ignores the mask of its caller"),
    "the causal mask alone": Wrong(PLAIN, "past if mask is None else past & mask", "past", "layer_joins_masks", "ignores the mask of its caller"),
    "the caller's mask alone": Wrong(PLAIN, "past if mask is None else past & mask", "past if mask is None else mask", "layer_joins_masks", "forgets"),
    "either mask": Wrong(PLAIN, "past & mask", "past | mask", "layer_joins_masks", "both allow it"),
    "forward without mask": Wrong(FORWARD, "mask=mask", "mask=None", "layer_joins_masks", "forward gives what look gives"),
    "forward without context": Wrong(FORWARD, "context=context", "context=None", "layer_looks_across", "forward"),
    "values of x": Wrong(PROJECT_IN, "self.value(source)", "self.value(x)", "layer_looks_across", "another sequence"),
    "a context is ignored": Wrong(PROJECT_IN, "    if context is not None:\n", "    if False:\n", "layer_looks_across", "must be an error"),
    "a ValueError": Wrong(PROJECT_IN, "raise ConfigError(", "raise ValueError(", "layer_looks_across", "must be an error"),
    "forward without cache": Wrong(FORWARD, "cache=cache", "cache=None", "layer_goes_on_from_a_cache", "forward, piece by piece"),
    "rotate is ignored": Wrong(LOOK, TURN, "        pass\n", "layer_turns_queries_and_keys", "ignores rotate"),
    "values are turned": Wrong(LOOK, TURN, "        q, k, v = rotate(q), rotate(k), rotate(v)\n", "layer_turns_queries_and_keys", "values must not be turned"),
    "queries alone": Wrong(LOOK, TURN, "        q = rotate(q)\n", "layer_turns_queries_and_keys", "of each head"),
    "forward without rotate": Wrong(FORWARD, "rotate=rotate", "rotate=None", "layer_turns_queries_and_keys", "forward gives what look gives"),
    "turned after the cache": Wrong(
        LOOK,
        "    if rotate is not None:\n" + TURN + CACHE,
        CACHE + "    if rotate is not None:\n" + TURN,
        "layer_turns_queries_and_keys",
        "turned when it came",
    ),
    "qk_norm is ignored": Wrong(LOOK, "if self.config.qk_norm:", "if False:", "layer_norms_queries_and_keys", "ignores qk_norm"),
    "values are normalised": Wrong(
        LOOK, "q, k = rms_norm(q), rms_norm(k)", "q, k, v = rms_norm(q), rms_norm(k), rms_norm(v)", "layer_norms_queries_and_keys", "values are not"
    ),
    "the whole width is normalised": Wrong(
        LOOK,
        "(split_heads(p, self.config.n_head) for p in self._project(x, context))",
        "(split_heads(rms_norm(p) if i < 2 and self.config.qk_norm else p, self.config.n_head) for i, p in enumerate(self._project(x, context)))",
        "layer_norms_queries_and_keys",
        "head by head",
    ),
    "no dropout": Wrong(INIT, "Dropout(config.dropout)", "Dropout(0.0)", "layer_drops_weights", "no weight was dropped"),
    "dropout from nowhere": Wrong(INIT, "Dropout(config.dropout)", "nn.Dropout(config.dropout)", "layer_drops_weights", "use the Dropout"),
    "dropout on the output": Wrong(
        LOOK,
        "mask=mask, dropout=self.dropout)\n",
        "mask=mask, dropout=None)\n    mixed = self.dropout(mixed)\n",
        "layer_drops_weights",
        "the whole look of a head",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_attention_fails_by_its_check(name: str) -> None:
    wrong = WRONG[name]
    with applied((Edit(wrong.target, wrong.old, wrong.new),)):
        part = PROJECT.part_now()
        failed = next(((check.name, text) for check in PROJECT.checks() if (text := run_check(check, part)) is not None), None)
    assert failed is not None, "no check sees it"
    assert failed[0] == wrong.check, failed
    says, *values = failed[1].splitlines()
    assert wrong.says in says
    assert all(len(value) < LINE for value in values), "a page of numbers"


def test_a_mask_after_softmax_is_told_in_the_step_of_the_mask(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(solution(PROJECT).replace(SOFTMAX, LATE))
    report = check_file(PROJECT, file)
    assert report.next is not None
    assert report.next_step is not None
    assert (report.next.check.name, report.next_step.number) == ("hidden_keys_do_not_matter", 3)
    assert "mask 1000 1100 1110 1111" in report.next.given
    assert report.matches == ("mask_after_softmax",)


def test_dropout_from_the_global_generator_is_seen_in_a_process_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(solution(PROJECT).replace("Dropout(config.dropout)", "nn.Dropout(config.dropout)"))
    report = check_file(PROJECT, file)
    assert report.next is not None
    assert report.next.check.name == "layer_drops_weights"
