"""Other kinds of attention and other ways to convert, measured like breaks: nothing in them is wrong. Each differs from its healthy arm in one choice."""

from underhood.lab.sabotage import Above, Below, Claim, Falls, Keeps, Rises, Sabotage, Set, Stays

ORDER = Claim(
    says="Of three ways to convert, the mean of the heads works best, then a single head, then new random heads.",
    source="Ainslie et al. 2023, arXiv 2305.13245, §3.3 and figure 4",
    untested="The paper converts T5 Large to one head of keys and values and trains on for 5 percent; ours is a model of 160 thousand parameters on tales.",
)

VARIANTS: tuple[Sabotage, ...] = (
    Sabotage(
        name="two_groups",
        says="Four heads of queries share two heads of keys and values.",
        kind="setup",
        patch=Set("kind", "groups"),
        baseline="gqa.kinds",
        expect=(Stays("val_loss", within=0.06), Falls("cache_bytes", by=512), Falls("parameters", by=8192), Keeps("causal")),
        probe=Below("cache_bytes", 768),
        look="The same loss from half of the cache.",
    ),
    Sabotage(
        name="one_group",
        says="All four heads of queries share one head of keys and values.",
        kind="setup",
        patch=Set("kind", "one"),
        baseline="gqa.kinds",
        expect=(Stays("val_loss", within=0.08), Falls("cache_bytes", by=768), Falls("parameters", by=12288), Keeps("causal")),
        probe=Below("cache_bytes", 384),
        look="A slightly higher loss at most, from a quarter of the cache and fewer parameters.",
    ),
    Sabotage(
        name="one_group_wider",
        says="One head of keys and values, and what it saves in parameters goes into the feed-forward layers.",
        kind="setup",
        patch=(Set("kind", "one"), Set("hidden", 200)),
        baseline="gqa.kinds",
        expect=(Stays("val_loss", within=0.08), Falls("cache_bytes", by=768), Stays("parameters", within=0), Keeps("causal")),
        probe=Below("cache_bytes", 384),
        look="As many parameters as with four heads, and about the same loss.",
    ),
    Sabotage(
        name="latent",
        says="Latent attention: 16 numbers for keys and values of all heads, and 16 that carry the position, are cached.",
        kind="setup",
        patch=Set("kind", "latent"),
        baseline="gqa.kinds",
        expect=(Stays("val_loss", within=0.08), Falls("cache_bytes", by=768), Stays("parameters", within=64), Keeps("causal"), Keeps("cached_equals_whole")),
        probe=Below("cache_bytes", 384),
        look="The cache of one shared head, the parameters of four.",
    ),
    Sabotage(
        name="near",
        says="Every layer sees itself and the seven positions before it.",
        kind="setup",
        patch=Set("near", 8),
        baseline="gqa.kinds",
        expect=(Stays("val_loss", within=0.06), Falls("beyond_loss", by=0.1), Falls("cache_bytes", by=768), Keeps("cached_equals_whole"), Keeps("causal")),
        probe=Below("cache_bytes", 384),
        look="No higher loss at this length, and a lower one beyond the trained length: a layer that sees eight positions never meets a distance that is new.",
    ),
    Sabotage(
        name="first_head",
        says="Conversion keeps the first head of each group instead of their mean.",
        kind="setup",
        patch=Set("pool", "underhood.lab.baselines.gqa:first_head"),
        baseline="gqa.converted",
        expect=(Rises("converted_loss", by=0.15), Rises("val_loss", by=0.03), Keeps("causal")),
        probe=Above("size_kept", 0.88),
        look="Worse than the mean right after conversion, and still a little worse after a short training.",
        claim=ORDER,
    ),
    Sabotage(
        name="random_heads",
        says="Conversion draws new heads of keys and values, and keeps nothing of the old ones.",
        kind="setup",
        patch=Set("pool", "underhood.lab.baselines.gqa:random_heads"),
        baseline="gqa.converted",
        expect=(Rises("converted_loss", by=1.0), Rises("val_loss", by=0.3), Keeps("causal")),
        probe=Above("converted_loss", 3.0),
        look="The loss of a damaged model, and more to learn again.",
        claim=ORDER,
    ),
)
