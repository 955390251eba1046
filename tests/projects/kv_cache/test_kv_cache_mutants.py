"""Wrong caches that look right: each fails the check that is about its fault."""

import pytest

from tests.projects.mutants import Mutant, part_of
from underhood.lab.kills import run_check
from underhood.projects.registry import find_project
from underhood.workbench.starter import solution

MUTANTS = [
    # ── one layer ──
    Mutant("values_in_the_keys_place", "= k, v\n        self.length = end", "= v, k\n        self.length = end", "what_goes_in_comes_out"),
    Mutant("the_whole_buffer", "return self.keys[:, :, :end], self.values[:, :, :end]", "return self.keys, self.values", "what_goes_in_comes_out"),
    Mutant("only_the_new", "return self.keys[:, :, :end], self.values[:, :, :end]", "return k, v", "what_goes_in_comes_out"),
    Mutant("never_counted", "        self.length = end\n", "        self.length = k.shape[2]\n", "what_goes_in_comes_out"),
    Mutant(
        "buffers_in_float32",
        "x.new_empty(*x.shape[:2], self.capacity, x.shape[3]) for",
        "x.new_empty(*x.shape[:2], self.capacity, x.shape[3], dtype=torch.float32) for",
        "what_goes_in_comes_out",
    ),
    Mutant(
        "keys_as_wide_as_values",
        "x.new_empty(*x.shape[:2], self.capacity, x.shape[3]) for x in (k, v)",
        "k.new_empty(*k.shape[:2], self.capacity, k.shape[3]) for x in (k, v)",
        "what_goes_in_comes_out",
    ),
    Mutant("one_too_many", "if end > self.capacity:", "if end > self.capacity + 1:", "capacity_is_kept"),
    Mutant("one_too_few", "if end > self.capacity:", "if end >= self.capacity:", "capacity_is_kept"),
    # ── all layers ──
    Mutant(
        "one_layer_for_all",
        "self.layers = [LayerCache(capacity) for _ in range(n_layer)]",
        "self.layers = [LayerCache(capacity)] * n_layer",
        "each_layer_has_its_own",
    ),
    Mutant(
        "room_for_one_less", "[LayerCache(capacity) for _ in range(n_layer)]", "[LayerCache(capacity + 1) for _ in range(n_layer)]", "each_layer_has_its_own"
    ),
    Mutant("keep_lengthens", "self.length = min(length, self.length)", "self.length = length", "what_is_cut_back_is_forgotten"),
    Mutant("the_last_kept", "self.length = min(length, self.length)", "self.length = max(0, self.length - length)", "what_is_cut_back_is_forgotten"),
    Mutant(
        "buffers_kept_for_another_batch",
        "if self.length == 0:\n            self.keys, self.values = (x.new_empty",
        "if not self.keys.numel():\n            self.keys, self.values = (x.new_empty",
        "what_is_cut_back_is_forgotten",
    ),
    Mutant(
        "buffers_kept_for_another_dtype",
        "if self.length == 0:\n            self.keys, self.values = (x.new_empty",
        "if (self.keys.shape[:2], self.keys.shape[3:]) != (k.shape[:2], k.shape[3:]):\n            self.keys, self.values = (x.new_empty",
        "what_is_cut_back_is_forgotten",
    ),
    Mutant(
        "buffers_remade_for_another_number_of_rows",
        "if self.length == 0:\n            self.keys, self.values = (x.new_empty",
        "if len(self.keys) != len(k):\n            self.keys, self.values = (x.new_empty",
        "what_is_cut_back_is_forgotten",
    ),
    # ── prefill and decode ──
    Mutant("no_cache_for_the_prompt", "model.hidden(ids, cache)[:, -1]", "model.hidden(ids)[:, -1]", "cached_equals_recomputed"),
    Mutant("logits_of_the_first", "model.hidden(ids, cache)[:, -1]", "model.hidden(ids, cache)[:, 0]", "cached_equals_recomputed"),
    Mutant("no_cache_for_the_token", "model.hidden(tokens.unsqueeze(-1), cache)", "model.hidden(tokens.unsqueeze(-1))", "cached_equals_recomputed"),
    Mutant(
        "a_row_as_a_text",
        "model.logits(model.hidden(tokens.unsqueeze(-1), cache)[:, -1])",
        "model.logits(model.hidden(tokens.unsqueeze(0), cache)[0])",
        "cached_equals_recomputed",
    ),
    Mutant("graph_kept_of_the_prompt", "@torch.no_grad()\ndef prefill", "def prefill", "cached_equals_recomputed"),
    Mutant("graph_kept_of_the_token", "@torch.no_grad()\ndef decode", "def decode", "cached_equals_recomputed"),
    Mutant("one_token_too_many", "for i in range(count):", "for i in range(count + 1):", "a_thousand_tokens_are_exact"),
    Mutant("one_token_for_a_count_of_none", "for i in range(count):", "for i in range(max(count, 1)):", "a_thousand_tokens_are_exact"),
    Mutant(
        "first_token_left_out",
        "else prefill(model, ids, cache)).argmax(-1)",
        "else decode(model, prefill(model, ids, cache).argmax(-1), cache)).argmax(-1)",
        "a_thousand_tokens_are_exact",
    ),
    Mutant("least_likely", "(decode(model, tokens, cache) if i", "(-decode(model, tokens, cache) if i", "a_thousand_tokens_are_exact"),
    # ── memory ──
    Mutant("keys_alone", "2 * (config.n_kv_head or config.n_head)", "(config.n_kv_head or config.n_head)", "bytes_are_counted"),
    Mutant("width_by_heads", "* config.head_width if", "* (config.width // config.n_head) if", "bytes_are_counted"),
    Mutant("window_itself_kept", "min(length, w - 1)", "min(length, w)", "bytes_are_counted"),
    Mutant(
        "first_window_for_all", "for w in (c.attend.window for c in config.block_configs)", "for w in [config.window] * config.n_layer", "bytes_are_counted"
    ),
    Mutant("batch_left_out", "return batch * kept", "return kept", "bytes_are_counted"),
    Mutant("latent_as_any_other", "if wide is None else wide.kv_rank + wide.rope_width", "if wide is None else 2 * wide.kv_rank", "bytes_are_counted"),
    # ── static and rolling ──
    Mutant("newest_first", "torch.cat([old[:, :, T:], new], dim=2)", "torch.cat([new, old[:, :, :-T]], dim=2)", "one_shape_for_all_steps"),
    Mutant("coming_left_out", "- self.length - coming", "- self.length", "one_shape_for_all_steps"),
    Mutant("filled_from_the_front", ">= self.capacity - self.length - coming", "< self.length + coming", "one_shape_for_all_steps"),
    Mutant("static_overrun", "if self.length + T > self.capacity:", "if T > self.capacity:", "one_shape_for_all_steps"),
    Mutant(
        "static_buffers_in_float32",
        "x.new_zeros(*x.shape[:2], self.capacity, x.shape[3]) for",
        "torch.zeros(*x.shape[:2], self.capacity, x.shape[3]) for",
        "one_shape_for_all_steps",
    ),
    Mutant("a_view_kept", "k[:, :, first:].clone(), v[:, :, first:].clone()", "k[:, :, first:], v[:, :, first:]", "the_window_rolls"),
    Mutant(
        "a_view_kept_of_one_head",
        "k[:, :, first:].clone(), v[:, :, first:].clone()",
        "k[:, :, first:].contiguous(), v[:, :, first:].contiguous()",
        "the_window_rolls",
    ),
    Mutant(
        "window_cut_from_the_prompt",
        "self.length += T\n        return k, v",
        "self.length += T\n        return k[:, :, -self.window :], v[:, :, -self.window :]",
        "the_window_rolls",
    ),
    Mutant("one_more_kept", "k.shape[2] - (self.window - 1)", "k.shape[2] - self.window", "the_window_rolls"),
    Mutant("kept_counted", "self.length += T\n        return k, v", "self.length = k.shape[2]\n        return k, v", "the_window_rolls"),
    Mutant("every_layer_rolls", "RollingLayer(w) if w else LayerCache(capacity)", "RollingLayer(w or capacity)", "the_window_rolls"),
    Mutant("no_window_accepted", "if not any(windows):", "if False:", "the_window_rolls"),
    # ── a conversation ──
    Mutant("longest_of_both", "min(len(one), len(other)))", "max(len(one), len(other)))", "prompts_do_not_mix"),
    Mutant("the_last_token_known", "known = min(known, len(ids) - 1)", "known = min(known, len(ids))", "prompts_do_not_mix"),
    Mutant("nothing_known", "known = min(known, len(ids) - 1)", "known = 0", "prompts_do_not_mix"),
    Mutant("never_cut_back", "        self.cache.keep(known)\n", "", "prompts_do_not_mix"),
    Mutant("refused_prompt_believed", "list(ids[:known]), version", "list(ids), version", "prompts_do_not_mix"),
    Mutant("refused_prompt_cuts_the_cache_alone", "self.ids, self.version = list(ids[:known]), version", "self.version = version", "prompts_do_not_mix"),
    Mutant("the_list_of_the_caller", "self.ids = list(ids)\n", "self.ids = ids\n", "prompts_do_not_mix"),
    Mutant("empty_prompt_let_through", "if not ids:", "if False:", "prompts_do_not_mix"),
    Mutant(
        "version_of_the_first_weight", "for p in model.parameters() for n in", "for p in list(model.parameters())[:1] for n in", "new_weights_empty_the_cache"
    ),
    Mutant("writes_not_counted", "(p.data_ptr(), p._version)", "(p.data_ptr(),)", "new_weights_empty_the_cache"),
    Mutant("places_not_noted", "(p.data_ptr(), p._version)", "(p._version,)", "new_weights_empty_the_cache"),
    Mutant("version_never_renewed", "self.ids, self.version = list(ids[:known]), version", "self.ids = list(ids[:known])", "new_weights_empty_the_cache"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_wrong_file_fails_the_check_about_its_fault(mutant: Mutant) -> None:
    """That check alone is run: the one that writes a thousand tokens takes its time."""
    project = find_project("kv_cache")
    right = solution(project)
    assert right.count(mutant.right) == 1, f"{mutant.right!r} stands {right.count(mutant.right)} times in the right file"
    part = part_of("kv_cache", right.replace(mutant.right, mutant.wrong))
    check = next(c for c in project.checks() if c.name == mutant.check)
    assert run_check(check, part) is not None
