"""Wrong GPTs that look right: each fails the check that is about its fault."""

import pytest

from tests.projects.mutants import Mutant, failing

MUTANTS = [
    # ── the block ──
    Mutant("attention_replaces_the_stream", "x = x + self.dropout(self.attention", "x = self.dropout(self.attention", "block_adds_to_the_stream"),
    Mutant("one_norm_for_both", "self.norm2 = norm(width, epsilon=config.epsilon, bias=bias)", "self.norm2 = self.norm1", "block_adds_to_the_stream"),
    Mutant("mask_left_out", "mask=mask, rotate=rotate", "rotate=rotate", "attention_gets_what_the_block_gets"),
    Mutant("rotation_left_out_of_the_block", "mask=mask, rotate=rotate", "mask=mask", "attention_gets_what_the_block_gets"),
    Mutant("cache_left_out_of_the_block", "rotate=rotate, cache=cache)", "rotate=rotate)", "attention_gets_what_the_block_gets"),
    Mutant("mask_for_short_texts_only", "mask=mask, rotate", "mask=None if x.shape[1] > 5 else mask, rotate", "attention_gets_what_the_block_gets"),
    Mutant(
        "future_seen_in_long_texts",
        "x = x + self.dropout(self.feed",
        "x = x + (x.mean(1, True) if x.shape[1] >= 32 else 0) + self.dropout(self.feed",
        "block_adds_to_the_stream",
    ),
    Mutant(
        "no_dropout_on_attention",
        "x + self.dropout(self.attention(self.norm1(x), mask=mask, rotate=rotate, cache=cache))",
        "x + self.attention(self.norm1(x), mask=mask, rotate=rotate, cache=cache)",
        "dropout_acts_on_the_branches",
    ),
    Mutant(
        "dropout_on_the_stream",
        "x = x + self.dropout(self.feedforward(self.norm2(x)))",
        "x = self.dropout(x + self.feedforward(self.norm2(x)))",
        "dropout_acts_on_the_branches",
    ),
    # ── the model ──
    Mutant("positions_from_zero", "self.positions.add(x, start)", "self.positions.add(x, 0)", "a_text_can_come_in_pieces"),
    Mutant("rotation_from_zero", "self.positions.rotation(x, start)", "self.positions.rotation(x, 0)", "a_text_can_come_in_pieces"),
    Mutant("rotation_left_out", "rotate=rotate, cache=None if", "cache=None if", "a_text_can_come_in_pieces"),
    Mutant("one_cache_for_all", "cache.layers[i]", "cache.layers[0]", "a_text_can_come_in_pieces"),
    Mutant("cache_left_out", "cache=None if cache is None else cache.layers[i]", "cache=None", "a_text_can_come_in_pieces"),
    Mutant("past_not_counted", "if start + ids.shape[1] >", "if ids.shape[1] >", "a_text_can_come_in_pieces"),
    Mutant("length_unchecked", "if start + ids.shape[1] > self.config.context", "if start > self.config.context", "too_long_is_refused"),
    Mutant("first_config_for_all", "for c in config.block_configs", "for c in config.block_configs[:1] * config.n_layer", "logits_equal_gpt2"),
    Mutant("width_of_a_head", "config.rotated_width", "config.width // config.n_head", "logits_equal_gpt2"),
    Mutant("rope_left_out", 'scaled = {} if config.rope is None else {"rope": config.rope}', "scaled = {}", "logits_equal_gpt2"),
    Mutant("rope_always", 'scaled = {} if config.rope is None else {"rope": config.rope}', 'scaled = {"rope": config.rope}', "logits_equal_gpt2"),
    Mutant("not_capped", "return logits if cap is None else cap * torch.tanh(logits / cap)", "return logits", "logits_equal_gpt2"),
    Mutant("always_tied", "hidden @ self.head_weight.T", "hidden @ self.tokens.weight.T", "logits_equal_gpt2"),
    Mutant("head_is_a_copy", "return self.tokens.weight if", "return self.tokens.weight.detach() if", "head_is_tied"),
    Mutant("no_dropout_on_the_embedding", "self.dropout(self.positions.add(x, start))", "self.positions.add(x, start)", "dropout_acts_on_the_embedding"),
    # ── the loss ──
    Mutant("half_stays_half", "logits = logits.to(torch.promote_types(logits.dtype, torch.float32))", "pass", "half_precision_is_widened"),
    Mutant("softmax_then_log", "logits.logsumexp(-1) - picked", "-(picked.exp() / logits.exp().sum(-1)).log()", "loss_equals_torch"),
    Mutant("reduction_ignored", 'losses.sum() if reduction == "sum" else losses.sum()', "losses.sum()", "loss_equals_torch"),
    Mutant("gradient_cut", "picked = logits.gather(", "picked = logits.detach().gather(", "loss_equals_torch"),
    Mutant("zero_for_nothing", "losses.sum() / _some(count_targets(targets))", "losses.sum() / max(1, count_targets(targets))", "no_target_is_refused"),
    Mutant("sum_refused_too", "losses = torch.where(", "_some(count_targets(targets))\n    losses = torch.where(", "no_target_is_refused"),
    Mutant("always_training_afterwards", "model.train(training)", "model.train()", "evaluation_is_still"),
    Mutant("left_in_evaluation", "    model.train(training)\n", "", "evaluation_is_still"),
    Mutant("dropout_on", "    model.eval()\n", "", "evaluation_is_still"),
    Mutant(
        "mean_of_batches",
        'total += float(cross_entropy(model(x), y, reduction="sum"))\n            tokens += count_targets(y)',
        "total += float(cross_entropy(model(x), y))\n            tokens += 1",
        "evaluation_weighs_tokens_alike",
    ),
    # ── the update ──
    Mutant("moments_replaced", 'm, v = state["m"], state["v"]', 'm, v = state["m"].clone(), state["v"].clone()', "adamw_equals_torch"),
    Mutant("epsilon_in_the_root", "v_hat.sqrt() + self.eps", "(v_hat + self.eps).sqrt()", "adamw_equals_torch"),
    Mutant("uncorrected", "v_hat = v / (1 - self.beta2**t)", "v_hat = v", "adamw_equals_torch"),
    Mutant(
        "decay_afterwards",
        "p.mul_(1 - lr * weight_decay)\n        p.addcdiv_(m_hat, v_hat.sqrt() + self.eps, value=-lr)",
        "p.addcdiv_(m_hat, v_hat.sqrt() + self.eps, value=-lr)\n        p.mul_(1 - lr * weight_decay)",
        "adamw_equals_torch",
    ),
    Mutant("warmup_from_zero", "return (step + 1) / warmup", "return step / warmup", "schedule_is_warmup_and_cosine"),
    Mutant("line_for_cosine", "(1 + math.cos(math.pi * x)) / 2", "(1 - x)", "schedule_is_warmup_and_cosine"),
    Mutant(
        "floor_left_again", "min(1.0, (step - warmup) / max(1, steps - warmup))", "(step - warmup) / max(1, steps - warmup)", "schedule_is_warmup_and_cosine"
    ),
    Mutant("division_by_no_steps", "max(1, steps - warmup)", "(steps - warmup)", "schedule_is_warmup_and_cosine"),
    # ── clipping ──
    Mutant("gone_through_twice", "    parameters = list(parameters)\n", "", "clipping_is_global"),
    Mutant("none_clips_at_one", "if max_norm is not None and norm > max_norm:", "max_norm = max_norm or 1.0\n    if norm > max_norm:", "clipping_is_global"),
    Mutant("norm_afterwards", "    return norm\n", "    return min(norm, max_norm or norm)\n", "clipping_is_global"),
    Mutant("always_scaled", "max_norm is not None and norm > max_norm", "max_norm is not None", "clipping_is_global"),
    Mutant("nan_spread", "if not math.isfinite(norm):", "if norm < 0:", "nan_is_not_spread"),
    # ── what may be drawn ──
    Mutant("the_last_dropped", "logits < least", "logits <= least", "top_k_keeps_k"),
    Mutant("k_too_large", "min(k, logits.shape[-1])", "k", "top_k_keeps_k"),
    Mutant("the_crossing_dropped", "likely.cumsum(dim=-1) - likely", "likely.cumsum(dim=-1)", "top_p_reaches_p"),
    Mutant("sorted_order_kept", "(before >= p).scatter(-1, order, before >= p)", "before >= p", "top_p_reaches_p"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_wrong_file_fails_the_check_about_its_fault(mutant: Mutant) -> None:
    assert mutant.check in failing("gpt", mutant)
