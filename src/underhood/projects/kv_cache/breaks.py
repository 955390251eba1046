"""What goes wrong with a cache. Nearly all of it is silent: the text goes on, and a little or a lot of it comes from something that is not there."""

from underhood.lab.sabotage import Edit, Falls, Keeps, Rises, Sabotage, Stays, Violates

CACHE, SESSION = "underhood.infer.cache", "underhood.infer.session"
EXTEND = f"{CACHE}:LayerCache.extend"
WRITTEN = "self.length : end] = k, v\n"
SIGN = "(1 - 2 * (torch.arange(self.length, end) == 16).long()).unsqueeze(-1)"  # -1 for position 16, 1 for all others
EIGHT = "(x / x.abs().amax() * 127).round() / 127 * x.abs().amax()"  # one scale for all that is written at once

BREAKS: tuple[Sabotage, ...] = (
    Sabotage(
        name="one_key_corrupted",
        says="The key of position 16 changes its sign in the cache of every layer. All other keys and all values are right.",
        kind="part",
        patch=Edit(EXTEND, WRITTEN, f"self.length : end] = k * {SIGN}, v\n"),
        baseline="kv_cache.tales",
        expect=(
            Keeps("first_part_alike"),
            Rises("poisoned_near", by=0.4),
            Rises("poisoned_far", by=0.2),
            Rises("cache_cost", by=0.01),
        ),
        look="Nothing before it, then every token that would have looked there, most of them soon after. The text stays fluent.",
        silent=True,
    ),
    Sabotage(
        name="positions_not_advanced",
        says="The cache says that it holds nothing, so each new token is given position 0.",
        kind="part",
        patch=Edit(f"{CACHE}:KVCache.length", "return self.layers[0].length", "return 0"),
        baseline="kv_cache.tales",
        expect=(Keeps("prompt_alike"), Rises("cache_cost", by=0.5), Falls("alike_tokens", by=36.0)),
        look="The first token after the prompt is right, whatever one asks. Then the model repeats itself or wanders.",
        silent=True,
    ),
    Sabotage(
        name="stale_across_prompts",
        says="How much a prompt has in common with the cached text is taken from their lengths, not from their tokens.",
        kind="part",
        patch=Edit(
            f"{SESSION}:in_common",
            "next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))",
            "min(len(one), len(other))",
        ),
        baseline="kv_cache.tales",
        expect=(Violates("talk_alike"), Rises("talk_cost", by=1.0), Stays("cache_cost", within=1e-4)),
        look="The first user is served well. The second is answered about the first one's text.",
        silent=True,
        cites=("OpenAI, March 20 ChatGPT outage: here's what happened (2023): another layer's cache gave users each other's chat titles",),
    ),
    Sabotage(
        name="rope_twice",
        says="Keys are turned when they are cached, and all of them again when they are read.",
        kind="part",
        patch=Edit(
            "underhood.nn.grouped:placed", "k, v = cache.extend(k, v)\n        return rotate(q)", "k, v = cache.extend(rotate(k), v)\n        return rotate(q)"
        ),
        baseline="kv_cache.late",
        expect=(Rises("cache_cost", by=0.3), Rises("moved", by=0.2), Falls("alike_tokens", by=36.0)),
        look="A key at position p stands at 2p. Training and every pass without a cache are right.",
        silent=True,
    ),
    Sabotage(
        name="kept_in_float16",
        says="Keys and values are rounded to float16 when they are written.",
        kind="part",
        patch=Edit(EXTEND, WRITTEN, "self.length : end] = k.half(), v.half()\n"),
        baseline="kv_cache.tales",
        expect=(Rises("logit_error", by=2e-3), Stays("cache_cost", within=1e-3), Stays("same_choice", within=0.005)),
        look="The third digit behind the point of a logit. No text tells.",
        silent=True,
    ),
    Sabotage(
        name="kept_in_bfloat16",
        says="Keys and values are rounded to bfloat16 when they are written.",
        kind="part",
        patch=Edit(EXTEND, WRITTEN, "self.length : end] = k.bfloat16(), v.bfloat16()\n"),
        baseline="kv_cache.tales",
        expect=(Rises("logit_error", by=0.015), Stays("cache_cost", within=2e-3), Stays("same_choice", within=0.005)),
        look="Several times as far as float16, for three bits less.",
        silent=True,
    ),
    Sabotage(
        name="kept_in_eight_bits",
        says="Keys and values are rounded to 255 steps between minus and plus the largest of all that is written at once.",
        kind="part",
        patch=Edit(EXTEND, WRITTEN, f"self.length : end] = ({EIGHT} for x in (k, v))\n"),
        baseline="kv_cache.tales",
        expect=(Rises("logit_error", by=0.06), Stays("cache_cost", within=0.005), Falls("same_choice", by=0.002)),
        look="A few choices in a thousand are others.",
        silent=True,
    ),
    Sabotage(
        name="kept_across_reload",
        says="The session does not look whether the weights are still those that the cache was computed with.",
        kind="part",
        patch=Edit(f"{SESSION}:Session.logits", "in_common(self.ids, ids) if version == self.version else 0", "in_common(self.ids, ids)"),
        baseline="kv_cache.tales",
        expect=(Violates("reload_alike"), Rises("reload_moved", by=0.05), Keeps("talk_alike")),
        look="New queries look at old keys. The first answers after a reload are neither model's; a restart heals it.",
        silent=True,
    ),
    Sabotage(
        name="one_layer_cut_back",
        says="When a cache is cut back, only the first layer forgets.",
        kind="part",
        patch=Edit(f"{CACHE}:KVCache.keep", "for layer in self.layers:", "for layer in self.layers[:1]:"),
        baseline="kv_cache.exact",
        expect=(Violates("prompts_alike"), Rises("back_error", by=0.05), Keeps("thousand_tokens_alike"), Stays("cached_error", within=1e-9)),
        look="The cache reports the right length. Above the first layer tokens that were taken back are still looked at.",
        silent=True,
    ),
    Sabotage(
        name="padding_looked_at",
        says="The mask of the static cache calls every place filled.",
        kind="part",
        patch=Edit(f"{CACHE}:StaticCache.filled", ">= self.capacity - self.length - coming", ">= 0"),
        baseline="kv_cache.exact",
        expect=(Rises("static_error", by=0.05), Stays("cached_error", within=1e-9), Keeps("thousand_tokens_alike")),
        look="Keys of zero have score 0, which is not nothing: they take their share of attention. The emptier the cache, the more.",
        silent=True,
    ),
    Sabotage(
        name="window_one_short",
        says="The rolling layer keeps window - 2 positions: together with the new one, one less than the window shows.",
        kind="part",
        patch=Edit(f"{CACHE}:RollingLayer.extend", "(self.window - 1)", "(self.window - 2)"),
        baseline="kv_cache.exact",
        expect=(Rises("rolling_error", by=0.05), Stays("cached_error", within=1e-9), Keeps("thousand_tokens_alike")),
        look="Reading the prompt is exact, for there the window is cut by the mask. Each token after it misses the oldest key it should see.",
        silent=True,
    ),
    Sabotage(
        name="query_heads_counted",
        says="The memory model counts a key and a value for each head of queries.",
        kind="part",
        patch=Edit(f"{CACHE}:cache_bytes", "(config.n_kv_head or config.n_head)", "config.n_head"),
        baseline="kv_cache.exact",
        expect=(Violates("bytes_counted"), Keeps("thousand_tokens_alike"), Stays("cached_error", within=1e-9)),
        look="Right for every model whose heads share nothing, and H/G times too much for the others: half of the requests that would fit are turned away.",
        silent=True,
    ),
)
