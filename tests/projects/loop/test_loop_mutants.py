"""Wrong training loops that look right: each fails the check that is about its fault."""

import pytest

from tests.projects.mutants import Mutant, failing

PHILOX = 'np.random.Philox(key=stream_seed(self.seed, "data"), counter=[0, 0, 0, self.step])'
MUTANTS = [
    Mutant("all_decay", "weight_decay=0.0)", "weight_decay=weight_decay)", "only_matrices_decay"),
    Mutant("numbers_lost", "if p.ndim < 2", "if p.ndim == 1", "only_matrices_decay"),
    Mutant("rates_differ", "Group(parameters=vectors, lr=lr,", "Group(parameters=vectors, lr=lr / 2,", "only_matrices_decay"),
    Mutant("scaled_by_depth", "1 / math.sqrt(2 * n_layer)", "1 / (2 * n_layer)", "branches_start_small"),
    Mutant("zero_forgotten", '"zero": 0.0', '"zero": 1.0', "branches_start_small"),
    Mutant("all_scaled", "drawn * factor if name.endswith(RESIDUAL) else drawn", "drawn * factor", "branches_start_small"),
    Mutant("one_stream", 'f"init/{name}"', '"init"', "each_weight_has_its_own_stream"),
    Mutant("seed_ignored", 'stream_seed(seed, f"init', 'stream_seed(0, f"init', "each_weight_has_its_own_stream"),
    Mutant("another_stream", 'f"init/{name}"', 'f"weights/{name}"', "each_weight_has_its_own_stream"),
    Mutant("returned_undetached", "losses.append(loss.detach())", "losses.append(loss)", "accumulation_equals_big_batch"),
    Mutant("mean_of_means", "loss_sum(x, y) / tokens", "loss_sum(x, y) / max(1, count_targets(y)) / len(batches)", "accumulation_equals_big_batch"),
    Mutant("sum_returned", "return torch.stack(losses).sum()", "return torch.stack(losses).sum() * tokens", "accumulation_equals_big_batch"),
    Mutant("never_collected", "if collect is not None:", "if False:", "gradients_can_be_collected"),
    Mutant(
        "collected_at_the_end",
        "        if collect is not None:\n            collect()\n",
        "    if collect is not None:\n        collect()\n",
        "gradients_can_be_collected",
    ),
    Mutant("nothing_accepted", "if tokens == 0:", "if tokens < 0:", "nothing_to_learn_is_refused"),
    Mutant("one_start_too_many", "self.starts = n_tokens - context", "self.starts = n_tokens - context + 1", "windows_reach_both_ends"),
    Mutant("one_start_too_few", "self.starts = n_tokens - context", "self.starts = n_tokens - context - 1", "windows_reach_both_ends"),
    Mutant("key_is_seed_plus_step", PHILOX, "np.random.Philox(key=self.seed + self.step)", "windows_move_on"),
    Mutant("key_is_seed_times_step", PHILOX, "np.random.Philox(key=self.seed * self.step)", "windows_move_on"),
    Mutant("step_stands_still", "self.step += 1", "self.step += 0", "windows_move_on"),
    Mutant("seed_of_no_effect", 'stream_seed(self.seed, "data")', 'stream_seed(0, "data")', "windows_move_on"),
    Mutant("targets_of_other_rows", "batch[:, 1:].contiguous()", "batch[:, 1:].roll(1, 0).contiguous()", "targets_are_next_tokens"),
    Mutant("targets_unshifted", "batch[:, 1:].contiguous()", "batch[:, :-1].contiguous()", "targets_are_next_tokens"),
    Mutant("thirty_two_bits", "windows.astype(np.int64)", "windows.astype(np.int32)", "targets_are_next_tokens"),
    Mutant(
        "arrays_only",
        "np.stack([np.asarray(self.ids[start : start + self.context + 1]) for start in self.sampler.next().tolist()])",
        "self.ids[self.sampler.next()[:, None] + np.arange(self.context + 1)]",
        "targets_are_next_tokens",
    ),
    Mutant("place_not_restored", 'self.step = state["step"]', "pass", "data_resumes"),
    Mutant("state_of_arrays", 'return {"step": self.step}', 'return {"step": np.array(self.step)}', "data_resumes"),
    Mutant("dropout_not_restored", 'generator.set_state(state["dropout"])', "pass", "draws_resume"),
    Mutant("torch_not_restored", 'torch.set_rng_state(state["torch"])', "pass", "draws_resume"),
    Mutant("missing_state_passed_over", "if name not in state:", "if False:", "draws_resume"),
    Mutant("down_from_half_way", "round(steps / 5)", "round(steps / 2)", "schedule_has_a_plateau"),
    Mutant("below_the_floor", "max(floor, 1 - (1 - floor)", "max(0.0, 1 - (1 - floor)", "schedule_has_a_plateau"),
    Mutant("division_by_no_steps", "max(1, round(steps / 5))", "round(steps / 5)", "schedule_has_a_plateau"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_wrong_file_fails_the_check_about_its_fault(mutant: Mutant) -> None:
    assert mutant.check in failing("loop", mutant)
