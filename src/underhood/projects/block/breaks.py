"""What goes wrong inside a block: a norm without its ε, pairs of the wrong numbers, a seam between two kinds of norm.

Breaks of exact properties run on random numbers; those whose damage has to be learned run on small models of tales.
"""

from underhood.lab.sabotage import Above, Edit, Keeps, Rises, Sabotage, Set, Stays, Violates

RMS = "underhood.nn.norm:rms_norm"
LAYER = "underhood.nn.norm:layer_norm"
GATED = "underhood.nn.feedforward:GatedFeedForward"
POSITIONS = "underhood.nn.positions"
SCORES = "underhood.nn.scores"

HALVES = """    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
"""
NEIGHBOURS = """    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
"""
WIDE = """    wide = x.float() if x.dtype in HALF else x
    square = wide.square().mean(-1, keepdim=True)
    return (wide * torch.rsqrt(square + epsilon)).to(x.dtype)
"""
NARROW_WITHOUT_EPSILON = """    square = x.square().mean(-1, keepdim=True)
    return x * torch.rsqrt(square)
"""

BREAKS: tuple[Sabotage, ...] = (
    # ── norms ──
    Sabotage(
        name="layer_not_centred",
        says="Layer norm does not take the mean away.",
        kind="part",
        patch=Edit(LAYER, "wide - wide.mean(-1, keepdim=True)", "wide"),
        baseline="block.parts",
        expect=(Violates("layer_is_centred"), Keeps("zero_row_is_zero")),
        look="It is RMS norm now. A model that is trained so does not mind; one that was trained with the mean taken away does.",
        silent=True,
    ),
    Sabotage(
        name="sample_variance",
        says="Layer norm divides by the variance of a sample, with C − 1 below the line.",
        kind="part",
        patch=Edit(LAYER, "centred.square().mean(-1, keepdim=True)", "wide.var(-1, keepdim=True)"),
        baseline="block.parts",
        expect=(Violates("layer_has_unit_size"), Keeps("layer_is_centred")),
        look="Every row is too short by the factor √(1 − 1/C): 3 percent at width 16, 0.07 percent at 768. It trains; loaded weights are slightly off.",
        silent=True,
    ),
    Sabotage(
        name="no_epsilon",
        says="RMS norm divides by the root of the mean square, with nothing added to it.",
        kind="part",
        patch=Edit(RMS, "torch.rsqrt(square + epsilon)", "torch.rsqrt(square)"),
        baseline="block.parts",
        expect=(Violates("zero_row_is_zero"), Violates("tiny_row_is_right"), Keeps("large_row_is_right")),
        look="Nothing, until a row is zero: 0 · ∞ is NaN. Rows that should stay tiny are blown up to full size.",
        silent=True,
    ),
    Sabotage(
        name="half_statistics",
        says="RMS norm takes the mean of the squares in the precision of its input, float16.",
        kind="part",
        patch=Edit(RMS, "wide = x.float() if x.dtype in HALF else x", "wide = x"),
        baseline="block.parts",
        expect=(Violates("large_row_is_right"), Keeps("zero_row_is_zero"), Keeps("tiny_row_is_right")),
        look="300² overflows to infinity, its inverse root is 0, and the whole row becomes zeros: no NaN, no error, an empty position.",
        silent=True,
        cites=(
            "https://github.com/microsoft/onnxruntime/pull/29043",
            "https://github.com/xlite-dev/LeetCUDA/pull/335",
            "https://github.com/skyzh/tiny-llm/pull/18",
        ),
    ),
    Sabotage(
        name="no_epsilon_in_half",
        says="RMS norm works in float16 throughout and adds no ε.",
        kind="part",
        patch=Edit(RMS, WIDE, NARROW_WITHOUT_EPSILON),
        baseline="block.parts",
        expect=(Violates("zero_row_is_zero"), Violates("tiny_row_is_right"), Violates("large_row_is_right")),
        look="NaN for a row of zeros, infinities for a tiny one, whose square underflows to 0, and zeros for a large one.",
        cites=("https://github.com/huggingface/diffusers/pull/13316",),
    ),
    Sabotage(
        name="seam_of_norms",
        says="A model trained with LayerNorm runs with RMSNorm above its first block; the learned gains are kept.",
        kind="setup",
        patch=Set("above", "RMSNorm"),
        baseline="block.seam",
        expect=(Rises("seam_cost", by=0.01), Stays("val_loss", within=0.06), Stays("before_loss", within=1e-6), Keeps("causal")),
        probe=Above("seam_cost", 0.001),
        look="Nothing crashes, and the text is hardly worse. The mean that LayerNorm takes away is next to nothing here; the learned shifts are missed.",
        silent=True,
    ),
    # ── activations and the gate ──
    Sabotage(
        name="gelu_by_tanh",
        says="The exact GELU is computed by the tanh formula.",
        kind="part",
        patch=Edit("underhood.nn.activation:gelu", "torch.erf(x / math.sqrt(2))", "torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))"),
        baseline="block.parts",
        expect=(Violates("gelu_is_exact"), Keeps("gate_is_bent")),
        look="Up to 0.0005 off at every unit. Nobody sees it in a loss; whoever compares logits with the original does.",
        silent=True,
    ),
    Sabotage(
        name="gate_swapped",
        says="The feed-forward layer bends the other projection and leaves the gate straight.",
        kind="part",
        patch=Edit(
            "underhood.nn.feedforward:GatedFeedForward.forward", "self.activation(self.gate(x)) * self.up(x)", "self.gate(x) * self.activation(self.up(x))"
        ),
        baseline="block.foreign",
        expect=(Violates("logits_equal"), Rises("val_loss", by=1.0), Stays("their_loss", within=1e-6), Keeps("causal")),
        look="Trained from the start it is the same layer under other names. With loaded weights the text is wrong.",
        silent=True,
    ),
    # ── positions ──
    Sabotage(
        name="frequencies_too_close",
        says="The exponents run over i / D instead of 2i / D, so that the slowest pair turns a hundred times too fast.",
        kind="part",
        patch=Edit(
            f"{POSITIONS}:frequencies", "torch.arange(0, width, 2, dtype=torch.float64) / width", "torch.arange(width // 2, dtype=torch.float64) / width"
        ),
        baseline="block.foreign",
        expect=(Violates("logits_equal"), Rises("val_loss", by=0.1), Stays("their_loss", within=1e-6), Keeps("causal")),
        look="Shapes agree and short texts look fine. With loaded weights the loss is higher, since every distance looks longer than it is.",
        silent=True,
    ),
    Sabotage(
        name="neighbours_turned",
        says="Rotation pairs neighbours, (2i, 2i + 1), while the weights were trained for halves, (i, i + D/2).",
        kind="part",
        patch=Edit(f"{POSITIONS}:rotate", HALVES, NEIGHBOURS),
        baseline="block.foreign",
        expect=(Violates("logits_equal"), Rises("val_loss", by=0.3), Stays("their_loss", within=1e-6), Keeps("causal")),
        look="Every tensor has its place and its shape, and the model writes: wrong text. The same code trained from the start is as good as the other.",
        silent=True,
        cites=(
            "https://github.com/huggingface/transformers/issues/25199",
            "https://github.com/Dao-AILab/flash-attention/issues/288",
            "https://github.com/rasbt/LLMs-from-scratch/pull/747",
        ),
    ),
    Sabotage(
        name="values_turned",
        says="Rotation is applied to the values too.",
        kind="part",
        patch=Edit("underhood.nn.attention:MultiHeadAttention.look", "q, k = rotate(q), rotate(k)", "q, k, v = rotate(q), rotate(k), rotate(v)"),
        baseline="block.small",
        expect=(Violates("only_distance_counts"), Stays("val_loss", within=0.1), Rises("beyond_loss", by=0.05), Keeps("causal")),
        look="It trains. What a position gathers now depends on where the text began, so positions that were never trained are worse.",
        silent=True,
    ),
    Sabotage(
        name="rotation_from_zero",
        says="The rotation always begins at position 0, wherever the tokens stand.",
        kind="part",
        patch=Edit(f"{POSITIONS}:Rotary.rotation", "self.angles.narrow(0, start, x.shape[1])", "self.angles.narrow(0, 0, x.shape[1])"),
        baseline="block.parts",
        expect=(Violates("rotation_starts_where_told"), Keeps("only_distance_counts"), Keeps("frequencies_fall_to_the_end")),
        look="Training is untouched. When the model writes with a cache, every new token believes that it is the first.",
        silent=True,
    ),
    Sabotage(
        name="table_starts_over",
        says="A position past the end of the learned table takes the row of an earlier one.",
        kind="part",
        patch=Edit(
            f"{POSITIONS}:Learned.add",
            "self.table.weight.narrow(0, start, x.shape[1])",
            "self.table.weight[torch.arange(start, start + x.shape[1]) % len(self.table.weight)]",
        ),
        baseline="block.parts",
        expect=(Violates("past_the_table_is_refused"), Keeps("only_distance_counts")),
        look="No error for a text that is too long: its end believes that it is the beginning.",
        silent=True,
    ),
    Sabotage(
        name="learned_past_length",
        says="Positions are a learned table, of which training on 32 tokens reaches the first half, and the model reads 64.",
        kind="setup",
        patch=Set("model.positions", "Learned"),
        baseline="block.small",
        expect=(Rises("beyond_loss", by=1.0), Stays("val_loss", within=0.15), Keeps("causal")),
        probe=Above("beyond_loss", 2.0),
        look="Fine up to position 32. From there on each token gets a vector that nobody ever trained, and the loss jumps.",
        silent=True,
    ),
    # ── scores ──
    Sabotage(
        name="alibi_reversed",
        says="ALiBi's bias grows with the distance instead of falling.",
        kind="part",
        patch=Edit(f"{SCORES}:alibi_bias", "torch.arange(S) - torch.arange(S - T, S).unsqueeze(-1)", "torch.arange(S - T, S).unsqueeze(-1) - torch.arange(S)"),
        baseline="block.parts",
        expect=(Violates("near_weighs_more"), Keeps("cap_holds")),
        look="Every head prefers the beginning of the text to the word before.",
        silent=True,
    ),
    Sabotage(
        name="cap_by_clamp",
        says="The soft cap is a hard one.",
        kind="part",
        patch=Edit(f"{SCORES}:soft_cap", "cap * torch.tanh(x / cap)", "x.clamp(-cap, cap)"),
        baseline="block.parts",
        expect=(Violates("cap_has_a_slope"), Keeps("cap_holds")),
        look="The numbers stay within the cap. What lies beyond it gets no gradient and never comes back.",
        silent=True,
    ),
    # ── the order of norm and sum ──
    Sabotage(
        name="branch_normed",
        says="The post-norm block normalises what the branch returns instead of the sum.",
        kind="part",
        patch=Edit(
            "underhood.nn.block:PostNormBlock.forward",
            "self.norm1(x + self.dropout(self.attention(x, mask=mask, rotate=rotate, cache=cache)))\n    x = self.norm2(x + self.dropout(self.feedforward(x)))",
            "x + self.norm1(self.dropout(self.attention(x, mask=mask, rotate=rotate, cache=cache)))\n    x = x + self.norm2(self.dropout(self.feedforward(x)))",
        ),
        baseline="block.parts",
        expect=(Violates("post_norm_stream_is_normed"), Keeps("layer_has_unit_size")),
        look="The stream is no longer put back to size: it grows with depth, as in pre-norm.",
        silent=True,
    ),
    Sabotage(
        name="post_norm_cold",
        says="Six post-norm blocks are trained at the full learning rate from the first step.",
        kind="setup",
        patch=Set("train.schedule.warmup", 0),
        baseline="block.post",
        expect=(Rises("val_loss", by=3.0), Rises("train_loss", by=3.0), Keeps("causal")),
        probe=Above("val_loss", 3.0),
        look="The loss stops at what one learns from how often each word occurs, and stays there.",
    ),
)
