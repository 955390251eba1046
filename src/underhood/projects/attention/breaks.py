"""What goes wrong with attention, from the scale that is left out to heads that are cut along the wrong axis.

Breaks of exact properties run on random rows; those whose damage has to be learned run on one head, trained on characters of ``tales``.
"""

from underhood.lab.sabotage import Claim, Crashes, Edit, Falls, Keeps, Rises, Sabotage, Violates

ATTEND = "underhood.nn.attention:attend"
CAUSAL_MASK = "underhood.nn.attention:causal_mask"
HIDE_IN = "underhood.nn.attention:hide"
LAYER = "underhood.nn.attention:MultiHeadAttention"

SCALE = "    scores = scores / math.sqrt(q.shape[-1])\n"
HIDE = "    scores = hide(scores, mask)\n"
SOFTMAX = "    weights = scores.softmax(dim=-1)\n"

NO_SCALE = Edit(ATTEND, SCALE, "")

BREAKS: tuple[Sabotage, ...] = (
    Sabotage(
        name="past_summed",
        says="The past is added up instead of averaged.",
        kind="part",
        patch=Edit("underhood.nn.attention:average_past", "seen / seen.sum(-1, keepdim=True)", "seen"),
        baseline="attention.rows",
        expect=(Violates("past_is_averaged"), Keeps("causal")),
        look="Later positions grow with everything that came before them: at position 60 the vector is 60 times too long.",
        silent=True,
    ),
    Sabotage(
        name="no_scale",
        says="The scores are not divided by √d.",
        kind="part",
        patch=NO_SCALE,
        baseline="attention.rows",
        expect=(
            Falls("entropy_claim", by=0.5),
            Falls("entropy_d16", by=1.5),
            Falls("entropy_d64", by=2.0),
            Falls("entropy_d256", by=2.3),
            Falls("jacobian_d256", by=0.1),
            Rises("gradient_d16", by=1.0),
            Rises("gradient_d256", by=10.0),
        ),
        look="Rows put nearly all their weight on one key, the more so the wider the head. The derivative of softmax fades at d = 256, yet the gradient at"
        " the query grows, because the keys it is multiplied with are no longer divided by √d either.",
        claim=Claim(
            says="At d = 16, without scaling the row entropy falls from 1.078 to 0.417.",
            source="the published syllabus, project 4",
            untested="neither the number of positions nor the inputs are published; eight causal positions of unit variance come near the healthy value"
            " (entropy_claim, 1.1 nats), and there we predict a fall by more than 0.5",
        ),
    ),
    Sabotage(
        name="no_scale_trained",
        says="One head of 64 is trained without dividing its scores by √d.",
        kind="part",
        patch=NO_SCALE,
        baseline="attention.one_head",
        expect=(Rises("val_loss", by=0.4), Rises("blind_loss", by=0.4), Falls("attention_entropy", by=1.2), Keeps("causal"), Keeps("rows_sum_to_one")),
        look="The loss stops early and high: each position looks at one earlier character, picked by chance, and hardly learns to pick better.",
        silent=True,
    ),
    Sabotage(
        name="no_scale_deep",
        says="Four layers of width 128 with GPT-2's initial weights are trained without dividing the scores by √d.",
        kind="part",
        patch=NO_SCALE,
        baseline="attention.four_layers",
        expect=(Falls("attention_entropy", by=0.4), Falls("val_loss", by=0.04), Keeps("causal"), Keeps("rows_sum_to_one")),
        look="Sharper rows and, if anything, a better loss: weights of deviation 0.02 start the scores near zero, and here √d only holds them back.",
        silent=True,
        claim=Claim(
            says="Without scaling, training plateaus 30 percent earlier and at a worse loss.",
            source="the published syllabus, project 4",
            untested="model, data, steps and initial weights are not published; in four layers of width 128 we predict the opposite: a better loss",
        ),
    ),
    Sabotage(
        name="no_mask",
        says="Nothing is hidden: every position sees the future, the answer included.",
        kind="part",
        patch=Edit(ATTEND, HIDE, ""),
        baseline="attention.one_head",
        expect=(Violates("causal"), Falls("train_loss", by=0.8), Falls("val_loss", by=0.8), Rises("blind_loss", by=2.5)),
        look="The loss is too good to be true, on held-out text as well. It copies the next character from its input; asked to write, it repeats itself.",
        silent=True,
    ),
    Sabotage(
        name="mask_off_by_one",
        says="The mask's diagonal is one too far: every position sees one character ahead.",
        kind="part",
        patch=Edit(CAUSAL_MASK, "tril(S - T)", "tril(S - T + 1)"),
        baseline="attention.one_head",
        expect=(Violates("causal"), Keeps("rows_sum_to_one"), Falls("val_loss", by=0.8), Rises("blind_loss", by=2.5)),
        look="As without a mask: one character ahead is all it takes, for that one is the answer.",
        silent=True,
    ),
    Sabotage(
        name="self_hidden",
        says="The mask's diagonal is one too low: no position may look at itself, and the first may look nowhere.",
        kind="part",
        patch=Edit(CAUSAL_MASK, "tril(S - T)", "tril(S - T - 1)"),
        baseline="attention.rows",
        expect=(Crashes("ShapeError"),),
        look="An error that names query 0. Where nobody checks, softmax over nothing is NaN and the loss is NaN from the first step.",
    ),
    Sabotage(
        name="mask_flipped",
        says="True is taken to mean hidden, where here it means visible.",
        kind="part",
        patch=Edit(HIDE_IN, "masked_fill(~mask", "masked_fill(mask"),
        baseline="attention.one_head",
        expect=(Crashes("NonFinite"),),
        look="NaN at the first step: the last position sees nothing. torch itself has both conventions, one in MultiheadAttention and the other in SDPA.",
    ),
    Sabotage(
        name="empty_row_let_through",
        says="A query that may look nowhere is no longer refused.",
        kind="part",
        patch=Edit(HIDE_IN, "    require_visible(mask)\n", ""),
        baseline="attention.rows",
        expect=(Violates("empty_row_is_refused"), Keeps("causal"), Keeps("rows_sum_to_one")),
        look="Nothing, until one padded row comes: its weights are NaN, and so is everything after them.",
        silent=True,
        cites=(
            "https://github.com/pytorch/pytorch/issues/41508",
            "https://github.com/pytorch/pytorch/issues/103749",
            "https://github.com/allenai/OLMo/issues/322",
        ),
    ),
    Sabotage(
        name="no_softmax",
        says="The scores themselves are the weights; hidden ones count 0.",
        kind="part",
        patch=Edit(ATTEND, "scores.softmax(dim=-1)", "scores.masked_fill(scores == -math.inf, 0.0)"),
        baseline="attention.one_head",
        expect=(Violates("rows_sum_to_one"), Keeps("causal"), Rises("val_loss", by=0.4), Rises("blind_loss", by=0.5)),
        look="The loss falls slowly and stays high: weights may be negative and grow with the number of keys, so nothing is ever picked out.",
    ),
    Sabotage(
        name="mask_after_softmax",
        says="The mask multiplies the weights after softmax instead of entering the scores before it.",
        kind="part",
        patch=Edit(ATTEND, HIDE + SOFTMAX, SOFTMAX + "    weights = weights if mask is None else weights * mask\n"),
        baseline="attention.one_head",
        expect=(Violates("rows_sum_to_one"), Violates("causal"), Falls("val_loss", by=0.1), Rises("blind_loss", by=0.5)),
        look="Hidden weights are 0, yet the loss is a little too good: the future is in the denominator, and what a row lacks tells what comes.",
        silent=True,
    ),
    Sabotage(
        name="wrong_axis",
        says="Softmax runs over the queries instead of the keys.",
        kind="part",
        patch=Edit(ATTEND, "softmax(dim=-1)", "softmax(dim=-2)"),
        baseline="attention.one_head",
        expect=(Violates("rows_sum_to_one"), Violates("causal"), Falls("val_loss", by=0.2), Rises("blind_loss", by=2.0)),
        look="Columns sum to 1 instead of rows. The loss is too good: every denominator reaches into the future. The first words written are noise.",
        silent=True,
    ),
    Sabotage(
        name="keys_mixed",
        says="The weights mix the keys instead of the values.",
        kind="part",
        patch=Edit(ATTEND, "kept @ v", "kept @ k"),
        baseline="attention.rows",
        expect=(Violates("within_values"), Keeps("rows_sum_to_one"), Keeps("causal")),
        look="Shapes agree and it trains, only a little worse: what a position offers must now be the same as what it is found by.",
        silent=True,
    ),
    Sabotage(
        name="heads_cut_along_time",
        says="The heads are cut by reshaping to (B H T D) at once, without moving an axis.",
        kind="part",
        patch=Edit("underhood.nn.attention:split_heads", "x.view(B, T, n_head, C // n_head).transpose(1, 2)", "x.reshape(B, n_head, T, C // n_head)"),
        baseline="attention.rows",
        expect=(Violates("heads_are_slices"), Violates("causal"), Keeps("rows_sum_to_one")),
        look="Shapes agree. A head holds a stretch of time instead of a slice of the width, so positions mix and the future leaks.",
        silent=True,
    ),
    Sabotage(
        name="heads_joined_along_time",
        says="The heads are joined by reshaping to (B T C) at once, without moving the axis back.",
        kind="part",
        patch=Edit("underhood.nn.attention:merge_heads", "x.transpose(1, 2).reshape(B, T, H * D)", "x.reshape(B, T, H * D)"),
        baseline="attention.rows",
        expect=(Violates("heads_rejoin"), Violates("causal"), Keeps("heads_are_slices")),
        look="Shapes agree. What one head gathered for several positions lands at one, so the future leaks.",
        silent=True,
    ),
    Sabotage(
        name="context_ignored",
        says="When looking at another sequence, the keys are still made from the layer's own input.",
        kind="part",
        patch=Edit(f"{LAYER}._project", "self.key(source)", "self.key(x)"),
        baseline="attention.rows",
        expect=(Violates("context_is_a_set"), Keeps("causal"), Keeps("cached_equals_whole")),
        look="Nothing where both sequences are equally long: weights look reasonable and point to the wrong places.",
        silent=True,
    ),
    Sabotage(
        name="cache_not_read",
        says="New keys and values are stored in the cache, but attention goes on with the new ones only.",
        kind="part",
        patch=Edit(f"{LAYER}.look", "k, v = cache.extend(k, v)", "cache.extend(k, v)"),
        baseline="attention.rows",
        expect=(Violates("cached_equals_whole"), Keeps("causal")),
        look="Training is untouched. When writing, every token sees only itself.",
        silent=True,
    ),
)
