"""What goes wrong where heads share: the wrong neighbour, a window one too wide, weights that fit by force, a rotation that is left out.

Breaks of exact properties run on random numbers; those whose damage has to be learned run on small models of tales.
"""

from underhood.lab.sabotage import Crashes, Edit, Keeps, Rises, Sabotage, Stays, Violates

GROUPED = "underhood.nn.grouped"
LAYER = f"{GROUPED}:GroupedQueryAttention"
CONVERT = "underhood.nn.convert"
SHARE = Edit(f"{GROUPED}:share_heads", "x.repeat_interleave(n_head // x.shape[1], dim=1)", "x.repeat(1, n_head // x.shape[1], 1, 1)")
PLACED = "placed(q_turned, k_turned, latent, rotate, cache)"

BREAKS: tuple[Sabotage, ...] = (
    # ── which head reads which ──
    Sabotage(
        name="heads_scrambled",
        says="The last axis is cut into heads by one view to (B H T D), without a transpose.",
        kind="part",
        patch=Edit(f"{GROUPED}:cut_heads", "x.view(B, T, count, W // count).transpose(1, 2)", "x.view(B, count, T, W // count)"),
        baseline="gqa.parts",
        expect=(Violates("groups_equal_torch"), Violates("cached_equals_whole"), Keeps("neighbours_share"), Keeps("cache_holds_groups")),
        look="The shape is right. What is called head 0 is a mixture of all heads of the first positions, later ones among them.",
        silent=True,
    ),
    Sabotage(
        name="interleaved",
        says="The row of key heads is repeated, 0 1 0 1, instead of each head in place, 0 0 1 1; the weights come from code that repeats in place.",
        kind="part",
        patch=SHARE,
        baseline="gqa.foreign",
        expect=(Violates("logits_equal"), Rises("val_loss", by=0.3), Stays("their_loss", within=1e-6), Keeps("causal")),
        look="Every shape agrees, the model is causal and writes. Half of the heads of queries look with keys that were made for others.",
        silent=True,
        cites=("https://github.com/onnx/onnx/pull/7274", "https://github.com/apple/axlearn/pull/842"),
    ),
    Sabotage(
        name="interleaved_from_start",
        says="The row of key heads is repeated, 0 1 0 1, from the first step of training.",
        kind="part",
        patch=SHARE,
        baseline="gqa.tales",
        expect=(Stays("val_loss", within=0.06), Stays("train_loss", within=0.06), Keeps("cached_equals_whole"), Keeps("causal")),
        look="Nothing. Which heads share is free to train: the heads of queries have changed places, and that is all.",
        silent=True,
    ),
    Sabotage(
        name="shared_too_early",
        says="Keys and values are repeated for all heads of queries before they go into the cache.",
        kind="part",
        patch=Edit(f"{LAYER}.look", "placed(q, k, v, rotate, cache)", "placed(q, share_heads(k, H), share_heads(v, H), rotate, cache)"),
        baseline="gqa.parts",
        expect=(Violates("cache_holds_groups"), Keeps("groups_equal_torch"), Keeps("cached_equals_whole")),
        look="Every number is right, and the cache is as large as without sharing.",
        silent=True,
    ),
    # ── the window ──
    Sabotage(
        name="window_too_wide",
        says="The window is one position too wide: a distance equal to it is let through.",
        kind="part",
        patch=Edit(f"{GROUPED}:window_mask", "< window", "<= window"),
        baseline="gqa.parts",
        expect=(Violates("window_counts_itself"), Violates("rolling_equals_whole"), Violates("masks_are_joined"), Keeps("window_ends_with_keys")),
        look="Nothing in training. When the model writes with a cache that keeps what the window allows, it sees one position less than it was trained with.",
        silent=True,
        cites=(
            "https://github.com/ml-explore/mlx-lm/pull/390",
            "https://github.com/huggingface/transformers/issues/29623",
            "https://github.com/huggingface/transformers/issues/39408",
        ),
    ),
    Sabotage(
        name="window_from_zero",
        says="The window counts the queries from 0, although earlier positions lie in the cache.",
        kind="part",
        patch=Edit(f"{GROUPED}:window_mask", "torch.arange(S - T, S, device=device)", "torch.arange(T, device=device)"),
        baseline="gqa.parts",
        expect=(Violates("window_ends_with_keys"), Keeps("window_counts_itself"), Keeps("rolling_equals_whole")),
        look="Training is right. Behind a cache that keeps everything, the window hides nothing at all.",
        silent=True,
    ),
    Sabotage(
        name="window_alone",
        says="A layer with a window forgets the mask of its caller.",
        kind="part",
        patch=Edit(f"{LAYER}._narrowed", "near if mask is None else near & mask", "near"),
        baseline="gqa.parts",
        expect=(Violates("masks_are_joined"), Keeps("window_counts_itself"), Keeps("rolling_equals_whole")),
        look="Padding is seen again, in models with a window alone, and there only in texts longer than it.",
        silent=True,
    ),
    # ── from many heads to few ──
    Sabotage(
        name="unpooled",
        says="A model is converted without pooling: weights of four heads go into a model of two.",
        kind="part",
        patch=Edit(f"{CONVERT}:to_groups", "pool(t, heads, n_kv_head) if is_shared(name) else t", "t"),
        baseline="gqa.parts",
        expect=(Crashes("CheckpointError"),),
        look="A CheckpointError that names the first matrix of keys, both shapes and the remedy, before anything is copied.",
        cites=("https://github.com/meta-llama/llama/issues/427",),
    ),
    Sabotage(
        name="shapes_unchecked",
        says="The names of the weights are compared before loading, and their shapes are not.",
        kind="part",
        patch=Edit(f"{CONVERT}:load_exact", "if wanted.get(name) != found.get(name):", "if (name in wanted) != (name in found):"),
        baseline="gqa.parts",
        expect=(Violates("foreign_heads_are_refused"), Keeps("equal_heads_survive"), Keeps("pooled_is_the_mean")),
        look="torch refuses as well, but at the end: what fits has been copied by then, and whoever catches the error goes on with half a model.",
        cites=("https://github.com/1bit-MONSTER/1bit-MONSTER/issues/1173",),
    ),
    Sabotage(
        name="cut_to_fit",
        says="The matrices of keys and values are cut to the size that fits: the first heads are kept, whichever group they belonged to.",
        kind="part",
        patch=Edit(f"{CONVERT}:to_groups", "pool(t, heads, n_kv_head) if is_shared(name) else t", "t[: len(t) * n_kv_head // heads] if is_shared(name) else t"),
        baseline="gqa.converted",
        expect=(Rises("converted_loss", by=0.5), Rises("val_loss", by=0.1), Stays("before_loss", within=1e-6), Keeps("causal"), Keeps("cached_equals_whole")),
        look="It loads, it writes, it can be trained on. Most heads of queries got keys that they never met.",
        silent=True,
    ),
    Sabotage(
        name="pooled_across",
        says="Heads 0 and 2, 1 and 3 are pooled, although 0 and 1, 2 and 3 will share.",
        kind="part",
        patch=Edit(
            f"{GROUPED}:pool_heads",
            "weight.view(n_kv_head, n_head // n_kv_head, weight.shape[0] // n_head, *weight.shape[1:])",
            "weight.view(n_head // n_kv_head, n_kv_head, weight.shape[0] // n_head, *weight.shape[1:]).transpose(0, 1)",
        ),
        baseline="gqa.converted",
        expect=(Rises("converted_loss", by=0.4), Rises("val_loss", by=0.05), Stays("before_loss", within=1e-6), Keeps("causal"), Keeps("cached_equals_whole")),
        look="A mean is taken, the shapes are right, and half of the heads of queries read a mean in which their own head has no part.",
        silent=True,
    ),
    # ── latent attention ──
    Sabotage(
        name="rope_forgotten",
        says="Latent attention makes the numbers that carry the position, and turns neither the query's nor the key's.",
        kind="part",
        patch=Edit("underhood.nn.latent:LatentAttention.look", PLACED, PLACED.replace("rotate", "None")),
        baseline="gqa.latent",
        expect=(Violates("order_is_felt"), Rises("val_loss", by=0.05), Keeps("only_distance_counts"), Keeps("cached_equals_whole"), Keeps("causal")),
        look="It trains, to a somewhat higher loss. A layer that reads its past as a set cannot tell who did what to whom, unless an earlier one counted.",
        silent=True,
    ),
    Sabotage(
        name="latent_turned",
        says="Latent attention turns the latent vector by its position, and not the numbers that are there to be turned.",
        kind="part",
        patch=Edit(
            "underhood.nn.latent:LatentAttention.look",
            PLACED,
            "placed(q_turned, k_turned, latent if rotate is None else rotate(latent), None, cache)",
        ),
        baseline="gqa.latent",
        expect=(
            Violates("only_distance_counts"),
            Keeps("order_is_felt"),
            Rises("val_loss", by=0.05),
            Rises("beyond_loss", by=0.3),
            Keeps("cached_equals_whole"),
            Keeps("causal"),
        ),
        look="It trains. What a position offers now depends on where the text began, so positions that were never trained are worse.",
        silent=True,
    ),
)
