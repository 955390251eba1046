"""What the size of a block decides."""

from underhood.lab.sabotage import Above, Below, Claim, Falls, Keeps, Rises, Sabotage, Set, Stays, Violates

VARIANTS: tuple[Sabotage, ...] = (
    Sabotage(
        name="rows",
        says="The same memory in rows: each request gets one block that holds the whole context.",
        kind="setup",
        patch=Set("rows", True),
        baseline="serving.crowd",
        expect=(Rises("waste", by=0.4), Falls("texts_at_once", by=3.0), Falls("tokens_per_step", by=4.0), Keeps("tokens_alike")),
        probe=Above("waste", 0.4),
        look="Most of the memory holds nothing, so that two run at once; and no prompt fills a block, so that nothing is shared.",
        claim=Claim(
            says="paged memory wastes less than 4 % of its slots; rows waste 60 to 80 %",
            source="Kwon et al. 2023 (arXiv 2309.06180), and the announcement of vLLM",
            baseline="serving.long",
            expect=(Violates("below_4_percent"), Rises("waste", by=0.56)),
        ),
    ),
    Sabotage(
        name="smaller_blocks",
        says="Blocks of four slots instead of sixteen, and four times as many.",
        kind="setup",
        patch=(Set("size", 4), Set("n_blocks", 160)),
        baseline="serving.crowd",
        expect=(Falls("waste", by=0.08), Stays("cached_share", within=0.05), Keeps("tokens_alike")),
        probe=Below("waste", 0.05),
        look="Less waste, about as much sharing, and tables that are four times as long: each step handles more entries.",
    ),
    Sabotage(
        name="larger_blocks",
        says="Blocks of 64 slots instead of sixteen, and a quarter as many.",
        kind="setup",
        patch=(Set("size", 64), Set("n_blocks", 10)),
        baseline="serving.crowd",
        expect=(Rises("waste", by=0.2), Falls("cached_share", by=0.2), Falls("tokens_per_step", by=2.0), Keeps("tokens_alike")),
        probe=Above("waste", 0.2),
        look="A system prompt of 32 tokens no longer fills a block, and is computed for everybody.",
    ),
)
