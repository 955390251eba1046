"""Wrong layers, conversions and latents that look right: each fails the check that is about its fault."""

import pytest

from tests.projects.mutants import Mutant, failing

CACHED = """        q_turned, k_turned, latent = placed(q_turned, k_turned, latent, rotate, cache)
        k, v = self._widened(latent)
"""
WIDENED_FIRST = """        k, v = self._widened(latent)
        q_turned, k_turned, _ = placed(q_turned, k_turned, latent, rotate, None)
        if cache is not None:
            k_turned, both = cache.extend(k_turned, torch.cat([k, v], dim=-1))
            k, v = both[..., : self.wide.nope_width], both[..., self.wide.nope_width :]
"""
NORMED_WHEN_READ = """        latent = cut(self.kv_down(x), self.wide.kv_rank)[0].unsqueeze(1)
        q_turned, k_turned, latent = placed(q_turned, k_turned, latent, rotate, cache)
        k, v = self._widened(self.kv_norm(latent))
"""

MUTANTS = [
    # ── heads and window ──
    Mutant("heads_by_view", "x.view(B, T, count, W // count).transpose(1, 2)", "x.view(B, count, T, W // count)", "heads_have_any_width"),
    Mutant("row_laid_down_again", "x.repeat_interleave(n_head // x.shape[1], dim=1)", "x.repeat(1, n_head // x.shape[1], 1, 1)", "neighbours_share"),
    Mutant("shared_gradient_doubled", "x.repeat_interleave(n_head", "(2 * x - x.detach()).repeat_interleave(n_head", "neighbours_share"),
    Mutant("window_one_too_wide", "< window", "<= window", "window_counts_itself"),
    Mutant(
        "window_hides_the_future",
        "return queries - torch.arange(S, device=device) < window",
        "return (queries - torch.arange(S)).abs() < window",
        "window_counts_itself",
    ),
    Mutant("window_from_zero", "torch.arange(S - T, S, device=device)", "torch.arange(T, device=device)", "window_ends_with_the_keys"),
    Mutant(
        "device_ignored",
        "torch.arange(S - T, S, device=device).unsqueeze(-1)\n    return queries - torch.arange(S, device=device)",
        "torch.arange(S - T, S).unsqueeze(-1)\n    return queries - torch.arange(S)",
        "window_ends_with_the_keys",
    ),
    # ── the layer ──
    Mutant("bias_everywhere", "Linear(C, heads * D, bias=config.inner_bias)", "Linear(C, heads * D, bias=config.bias)", "layer_equals_torch"),
    Mutant("output_bias_ignored", "Linear(H * D, C, bias=config.outer_bias)", "Linear(H * D, C, bias=config.bias)", "layer_equals_torch"),
    Mutant("width_of_a_head", "D, H, G = config.width, config.head_width,", "D, H, G = config.width, config.width // config.n_head,", "layer_equals_torch"),
    Mutant("fused_accepted", "if config.fused_qkv:", "if False:", "layer_equals_torch"),
    Mutant(
        "always_causal",
        "share_heads(v, H)\n        mixed, weights = self.kernel(q, k, v, causal=self.config.causal",
        "share_heads(v, H)\n        mixed, weights = self.kernel(q, k, v, causal=True",
        "layer_equals_torch",
    ),
    Mutant("window_in_the_place_of_the_mask", "near if mask is None else near & mask", "near", "layer_narrows_what_is_seen"),
    Mutant("mask_or_window", "near & mask", "near | mask", "layer_narrows_what_is_seen"),
    Mutant("window_forgotten", "if window is None or window >= S:", "if True:", "layer_narrows_what_is_seen"),
    Mutant("always_a_mask", "if window is None or window >= S:", "if window is None:", "layer_narrows_what_is_seen"),
    Mutant("mask_for_a_window_of_all_keys", "window >= S:", "window > S:", "layer_narrows_what_is_seen"),
    Mutant("window_of_all_keys_but_one", "window >= S:", "window >= S - 1:", "layer_narrows_what_is_seen"),
    Mutant(
        "norm_after_turning",
        "q, k = self._normalised(q, k)\n        q, k, v = placed(q, k, v, rotate, cache)",
        "q, k, v = placed(q, k, v, rotate, cache)\n        q, k = self._normalised(q, k)",
        "layer_norms_queries_and_keys",
    ),
    Mutant(
        "gain_of_the_query_for_both",
        "return self.query_norm(q), self.key_norm(k)",
        "return self.query_norm(q), self.query_norm(k)",
        "layer_norms_queries_and_keys",
    ),
    Mutant("norm_of_the_query_alone", "(rms_norm(q), rms_norm(k)) if", "(rms_norm(q), k) if", "layer_norms_queries_and_keys"),
    Mutant("epsilon_left_out", "self.query_norm = RMSNorm(D, epsilon=config.epsilon)", "self.query_norm = RMSNorm(D)", "layer_norms_queries_and_keys"),
    Mutant(
        "shared_before_the_cache", "placed(q, k, v, rotate, cache)", "placed(q, share_heads(k, H), share_heads(v, H), rotate, cache)", "cache_holds_the_groups"
    ),
    Mutant("cache_left_out", "placed(q, k, v, rotate, cache)", "placed(q, k, v, rotate, None)", "cache_holds_the_groups"),
    Mutant("rotation_left_out", "placed(q, k, v, rotate, cache)", "placed(q, k, v, None, cache)", "cache_holds_the_groups"),
    Mutant("values_from_x", "cut_heads(self.value(source), G)", "cut_heads(self.value(x), G)", "layer_looks_across"),
    Mutant("pages_shared", "if isinstance(k, Tensor):", "if True:", "kernel_gets_what_it_needs"),
    Mutant(
        "forward_without_context",
        "return self.look(x, context=context, mask=mask, rotate=rotate, cache=cache)[0]",
        "return self.look(x, mask=mask, rotate=rotate, cache=cache)[0]",
        "layer_looks_across",
    ),
    # ── conversion ──
    Mutant(
        "pooled_across",
        "weight.view(n_kv_head, n_head // n_kv_head, weight.shape[0] // n_head,",
        "weight.view(n_head // n_kv_head, n_kv_head, weight.shape[0] // n_head,",
        "pooled_heads_are_means",
    ),
    Mutant("sum_of_heads", "heads.mean(1)", "heads.sum(1)", "pooled_heads_are_means"),
    Mutant("first_of_each", "heads.mean(1)", "heads[:, 0]", "pooled_heads_are_means"),
    Mutant("unequal_shares", "if n_head % n_kv_head:", "if False:", "pooled_heads_are_means"),
    Mutant("names_alone", "if wanted.get(name) != found.get(name):", "if (name in wanted) != (name in found):", "loading_is_exact"),
    Mutant("strays_let_in", "for name in (*wanted, *found):", "for name in wanted:", "loading_is_exact"),
    Mutant("numbers_counted", "tuple(t.shape) for name", "t.numel() for name", "loading_is_exact"),
    Mutant("cut_to_fit", "pool(t, heads, n_kv_head) if", "t[: len(t) * n_kv_head // heads] if", "conversion_pools_keys_and_values"),
    Mutant("values_kept_whole", "if is_shared(name) else t for", 'if ".key." in name else t for', "conversion_pools_keys_and_values"),
    Mutant("heads_of_queries", "heads = old.n_kv_head or old.n_head", "heads = old.n_head", "conversion_pools_keys_and_values"),
    Mutant("always_the_mean", "pool(t, heads, n_kv_head) if", "pool_heads(t, heads, n_kv_head) if", "conversion_keeps_the_rest"),
    Mutant("always_training", "return grouped.train(model.training)", "return grouped", "conversion_keeps_the_rest"),
    Mutant("float32_again", "GPT(config).to(model.head_weight)", "GPT(config)", "conversion_keeps_the_rest"),
    Mutant("latent_let_in", "if old.latent is not None:", "if False:", "conversion_keeps_the_rest"),
    # ── latent attention ──
    Mutant("cut_from_the_end", "return x[..., :at], x[..., at:]", "return x[..., -at:], x[..., :-at]", "latent_equals_deepseek"),
    Mutant("rope_forgotten", "placed(q_turned, k_turned, latent, rotate, cache)", "placed(q_turned, k_turned, latent, None, cache)", "latent_equals_deepseek"),
    Mutant("query_not_turned", "q_turned, k_turned, latent = placed(", "_, k_turned, latent = placed(", "only_the_distance_counts"),
    Mutant("latent_not_normed", "return self.kv_norm(latent).unsqueeze(1)", "return latent.unsqueeze(1)", "latent_equals_deepseek"),
    Mutant("query_not_compressed", "x = self.query_norm(self.query_down(x))", "x = self.query_down(x)", "latent_equals_deepseek"),
    Mutant("turned_first", "torch.cat([q, q_turned], dim=-1)", "torch.cat([q_turned, q], dim=-1)", "latent_equals_deepseek"),
    Mutant("own_bias_ignored", "wide.rope_width, bias=config.inner_bias)", "wide.rope_width, bias=config.bias)", "latent_equals_deepseek"),
    Mutant("own_bias_of_the_way_back_ignored", "value_width, C, bias=config.outer_bias)", "value_width, C, bias=config.bias)", "latent_equals_deepseek"),
    Mutant(
        "mask_ignored",
        "-1, -1)], dim=-1)\n        mixed, weights = self.kernel(q, k, v, causal=self.config.causal, mask=mask",
        "-1, -1)], dim=-1)\n        mixed, weights = self.kernel(q, k, v, causal=self.config.causal, mask=None",
        "latent_keeps_to_its_settings",
    ),
    Mutant("window_ignored", '"qk_gain", "window"):', '"qk_gain"):', "latent_keeps_to_its_settings"),
    Mutant("widths_not_asked_for", "if config.latent is None:", "if False:", "latent_keeps_to_its_settings"),
    Mutant("normed_when_read", CACHED, NORMED_WHEN_READ, "cache_holds_the_latent"),
    Mutant("caches_what_is_made", CACHED, WIDENED_FIRST, "cache_holds_the_latent"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_wrong_file_fails_the_check_of_its_fault(mutant: Mutant) -> None:
    assert mutant.check in failing("gqa", mutant)
