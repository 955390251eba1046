"""What goes wrong with tiled attention. Most of it is silent: the output has the right shape and size, and is exact at some length or other."""

from underhood.lab.sabotage import Edit, Falls, Keeps, Rises, Sabotage, Stays, Violates

FLASH = "underhood.nn.flash"
ABSORB, TILES, IN_SIGHT, WIDEN = f"{FLASH}:absorb", f"{FLASH}:tiles", f"{FLASH}:keys_in_sight", f"{FLASH}:widen"
SCORES, FORWARD, BACKWARD = f"{FLASH}:tile_scores", f"{FLASH}:flash_forward", f"{FLASH}:flash_backward"

NOT_RESCALED = Edit(ABSORB, "a = a * shrink + weights @ v", "a = a + weights @ v")
RAGGED = Edit(TILES, "range(0, n, size)", "range(0, n - size + 1, size)")
DIAGONAL = Edit(IN_SIGHT, "rows.stop + S - T", "rows.start + 1 + S - T")
NO_ROW_SUM = Edit(BACKWARD, "(dweights - row_sum[..., rows, :])", "dweights")
KEYS_UNSCALED = Edit(BACKWARD, "(dscores.transpose(-2, -1) @", "(dscores.transpose(-2, -1) / scale @")
LOOPS = """    for rows in tiles(T, tile[0]):
        m = widen(q[..., rows, :1]).new_full((*q.shape[:-2], rows.stop - rows.start, 1), -math.inf)
        l, a = torch.zeros_like(m), m.new_zeros(*m.shape[:-1], v.shape[-1])
        for cols in tiles(keys_in_sight(rows, T, S, causal=causal), tile[1]):
"""
ROUNDING = 1e-5

BREAKS: tuple[Sabotage, ...] = (
    # ── the online softmax ──
    Sabotage(
        name="no_running_max",
        says="The largest score is not subtracted before powers are taken.",
        kind="part",
        patch=Edit(ABSORB, "torch.maximum(m, scores.amax(-1, keepdim=True))", "torch.zeros_like(m)"),
        baseline="flash.rows",
        expect=(Falls("largest_safe_score", by=9900.0), Stays("error", within=ROUNDING), Stays("sharp_error", within=1e-4), Keeps("causal")),
        look="Right to the last digits as long as scores are small, then NaN all at once: exp(89) is more than float32 holds.",
    ),
    Sabotage(
        name="not_rescaled",
        says="When the largest score grows, the sum of weights shrinks and the sum of values does not.",
        kind="part",
        patch=NOT_RESCALED,
        baseline="flash.rows",
        expect=(Rises("error", by=0.5), Rises("sharp_error", by=3.0), Rises("row_sum_error", by=2.0), Keeps("short_texts"), Keeps("causal")),
        look="Exact for texts of one tile. Beyond, the old tiles speak too loudly wherever a later tile holds a larger score.",
        silent=True,
    ),
    Sabotage(
        name="not_rescaled_trained",
        says="A small model is trained with sums of values that do not shrink when the largest score grows.",
        kind="part",
        patch=NOT_RESCALED,
        baseline="flash.tales",
        expect=(Rises("val_loss", by=0.2), Rises("plain_loss", by=0.2), Keeps("causal")),
        look="The loss falls, stops early, and nothing says why: the forward pass is another function, and the backward pass is the true one's.",
    ),
    Sabotage(
        name="hidden_tile_is_nan",
        says="A tile in which everything is hidden is not provided for: -inf - -inf.",
        kind="part",
        patch=Edit(ABSORB, "top.masked_fill(top == -math.inf, 0.0)", "top"),
        baseline="flash.rows",
        expect=(Violates("left_padding"), Violates("empty_row_is_refused"), Keeps("causal"), Keeps("continues"), Stays("error", within=ROUNDING)),
        look="NaN for batches padded on the left, by more than a tile; everything else is exact.",
    ),
    # ── the tiles ──
    Sabotage(
        name="ragged_tile_dropped",
        says="There are n // size tiles: the shorter one at the end is left out.",
        kind="part",
        patch=RAGGED,
        baseline="flash.rows",
        expect=(Violates("short_texts"), Violates("continues"), Rises("error", by=0.3), Keeps("causal")),
        look="Zeros for the last queries, and keys that nobody sees, at every length that is no multiple of the tile.",
        silent=True,
    ),
    Sabotage(
        name="ragged_tile_dropped_trained",
        says="A small model is trained on 160 positions in tiles of 64, the last 32 left out.",
        kind="part",
        patch=RAGGED,
        baseline="flash.tales",
        expect=(Stays("val_loss", within=0.08), Rises("blind_loss", by=0.1), Keeps("causal")),
        look="A fifth of the positions gets nothing from attention, and the mean loss does not show it. When it writes, each text begins in the lost tile.",
        silent=True,
    ),
    Sabotage(
        name="diagonal_skipped",
        says="Each tile of queries looks as far as its first query may, so the tile on the diagonal is left out.",
        kind="part",
        patch=DIAGONAL,
        baseline="flash.rows",
        expect=(
            Rises("error", by=2.0),
            Violates("short_texts"),
            Keeps("causal"),
            Stays("two_way_error", within=ROUNDING),
            Stays("row_sum_error", within=ROUNDING),
        ),
        look="No leak, no NaN, rows that sum to 1: the nearest past is missing. Writing token by token with a cache is exact, for one query is a tile.",
        silent=True,
    ),
    Sabotage(
        name="diagonal_skipped_trained",
        says="A small model is trained without the tile on the diagonal.",
        kind="part",
        patch=DIAGONAL,
        baseline="flash.tales",
        expect=(Rises("val_loss", by=0.1), Rises("plain_loss", by=0.1), Keeps("causal")),
        look="The loss falls and stops early, like that of a model that is too small: each character sees itself and what lies more than a tile back.",
    ),
    Sabotage(
        name="upper_left",
        says="The causal diagonal begins in the upper left corner instead of ending in the lower right one.",
        kind="part",
        patch=Edit(SCORES, "past = k.shape[-2] - q.shape[-2]", "past = 0"),
        baseline="flash.rows",
        expect=(Violates("continues"), Keeps("causal"), Keeps("short_texts"), Stays("error", within=ROUNDING), Stays("gradient_error", within=ROUNDING)),
        look="Training is exact, for there are as many keys as queries. With a cache a new token sees the first key alone.",
        silent=True,
        cites=(
            "FlashAttention 2.1 moved its causal diagonal from the upper left to the lower right corner (change log in its README)",
            "torch pull request 111007",
        ),
    ),
    Sabotage(
        name="tile_ignored",
        says="The whole matrix of scores is one tile, whatever size is asked for.",
        kind="part",
        patch=Edit(FORWARD, LOOPS, LOOPS.replace("tiles(T, tile[0])", "tiles(T, T)").replace("tile[1])", "S)")),
        baseline="flash.rows",
        expect=(Stays("error", within=ROUNDING), Stays("gradient_error", within=ROUNDING), Rises("peak_kib", by=8000.0), Keeps("continues")),
        look="Exact in every case, and all for nothing: the memory grows with the square of the length again.",
        silent=True,
    ),
    # ── precision ──
    Sabotage(
        name="narrow_sums",
        says="Scores, statistics and sums stay in the 16 bits of the input.",
        kind="part",
        patch=Edit(WIDEN, "x if x.dtype == torch.float64 else x.float()", "x"),
        baseline="flash.rows",
        expect=(Rises("half_error", by=2.0), Stays("error", within=ROUNDING), Keeps("causal"), Keeps("continues")),
        look="A correct kernel is as exact as one rounding of the output. This one is several times worse, and only a comparison with more bits shows it.",
        silent=True,
    ),
    # ── the backward pass ──
    Sabotage(
        name="no_row_sum",
        says="The backward pass leaves out D, the row's sum of upstream · out.",
        kind="part",
        patch=NO_ROW_SUM,
        baseline="flash.rows",
        expect=(Stays("error", within=ROUNDING), Violates("gradients"), Rises("sharp_gradient_error", by=1.0)),
        look="The output is exact. Scores no longer compete: every key that helps is raised, the best and the average alike.",
        silent=True,
    ),
    Sabotage(
        name="no_row_sum_trained",
        says="A small model is trained without D in the backward pass.",
        kind="part",
        patch=NO_ROW_SUM,
        baseline="flash.tales",
        expect=(Rises("val_loss", by=0.4), Rises("train_loss", by=0.4), Keeps("causal")),
        look="The loss falls for a while and ends near that of a model that only counts characters. The output of every single step is right.",
    ),
    Sabotage(
        name="log_sum_without_max",
        says="The forward pass saves ln l instead of m + ln l.",
        kind="part",
        patch=Edit(FORWARD, "(m + l.log())", "l.log()"),
        baseline="flash.rows",
        expect=(Stays("error", within=ROUNDING), Violates("gradients"), Rises("key_gradient_ratio", by=5.0)),
        look="The output is exact. In the backward pass each row's weights are too large by exp(m), and they no longer sum to 1.",
        silent=True,
    ),
    Sabotage(
        name="keys_unscaled",
        says="The gradient at the keys is not divided by √D.",
        kind="part",
        patch=KEYS_UNSCALED,
        baseline="flash.rows",
        expect=(Stays("error", within=ROUNDING), Violates("gradients"), Rises("key_gradient_ratio", by=4.6)),
        look="The output is exact, and so are the gradients at queries and values. That at the keys is √32 = 5.66 times too large.",
        silent=True,
    ),
    Sabotage(
        name="keys_unscaled_trained",
        says="A small model is trained with gradients at the keys that are √D times too large.",
        kind="part",
        patch=KEYS_UNSCALED,
        baseline="flash.tales",
        expect=(Falls("val_loss", by=0.05), Falls("train_loss", by=0.03), Keeps("causal")),
        look="A slightly better loss. AdamW divides each weight's gradient by its own size, so the factor mostly goes; what is left helps a short run.",
        silent=True,
    ),
    # ── refusals ──
    Sabotage(
        name="empty_row_let_through",
        says="A query with nothing to attend to is not refused.",
        kind="part",
        patch=Edit(FORWARD, "    require_seen(log_sum)\n", ""),
        baseline="flash.rows",
        expect=(Violates("empty_row_is_refused"), Keeps("causal"), Keeps("left_padding")),
        look="NaN in the rows of a padded sequence that see nothing, and from there in every weight.",
    ),
)
