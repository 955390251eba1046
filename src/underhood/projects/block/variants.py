"""Other norms, activations, positions and orders, measured like breaks: nothing in them is wrong. Each differs from its healthy arm in one choice."""

from underhood.lab.sabotage import Above, Below, Falls, Keeps, Rises, Sabotage, Set, Stays, Violates

WIDER = 252  # of two matrices, as many numbers as three of 168

VARIANTS: tuple[Sabotage, ...] = (
    Sabotage(
        name="layer_norm",
        says="LayerNorm with a gain instead of RMSNorm.",
        kind="setup",
        patch=Set("model.norm", "LayerNorm"),
        baseline="block.small",
        expect=(Stays("val_loss", within=0.06), Keeps("causal")),
        probe=Below("constant_felt", 0.01),
        look="The same loss, for one more sum a row.",
    ),
    Sabotage(
        name="plain_gelu",
        says="Two matrices with GELU between them instead of SwiGLU's three, with as many parameters.",
        kind="setup",
        patch=(Set("model.feedforward", "FeedForward"), Set("model.activation", "gelu_tanh"), Set("model.hidden", WIDER)),
        baseline="block.small",
        expect=(Stays("val_loss", within=0.06), Falls("stream_growth", by=100), Keeps("causal")),
        probe=Above("hidden_min", -0.2),
        look="About the same loss at this size.",
    ),
    Sabotage(
        name="squared_relu",
        says="Two matrices with ReLU² between them instead of SwiGLU's three, with as many parameters.",
        kind="setup",
        patch=(Set("model.feedforward", "FeedForward"), Set("model.activation", "relu_squared"), Set("model.hidden", WIDER)),
        baseline="block.small",
        expect=(Stays("val_loss", within=0.06), Rises("stream_growth", by=400), Keeps("causal")),
        probe=Above("hidden_min", -0.1),
        look="About the same loss at this size, for a product and a comparison a unit; a larger stream, since squares grow faster.",
    ),
    Sabotage(
        name="sinusoids_added",
        says="Fixed sines and cosines are added to the token vectors instead of turning queries and keys.",
        kind="setup",
        patch=Set("model.positions", "Sinusoidal"),
        baseline="block.small",
        expect=(Violates("only_distance_counts"), Rises("val_loss", by=0.3), Rises("beyond_loss", by=3.0), Keeps("causal")),
        probe=Above("beyond_loss", 2.0),
        look="Worse inside the trained length, far worse beyond it. Token vectors start here with numbers of size 1/8, and the sines drown them;"
        " the 2017 paper multiplies token vectors by √C.",
    ),
    Sabotage(
        name="alibi_scores",
        says="ALiBi's bias on the scores instead of rotation.",
        kind="setup",
        patch=(Set("model.positions", "Positions"), Set("model.kernel", "underhood.nn.scores:alibi")),
        baseline="block.small",
        expect=(Stays("val_loss", within=0.15), Stays("beyond_loss", within=0.15), Keeps("only_distance_counts"), Keeps("causal")),
        probe=Above("attention_entropy", 1.5),
        look="A little worse than rotation inside the trained length, and hardly worse beyond it.",
    ),
    Sabotage(
        name="qk_norm",
        says="Queries and keys pass RMS norm before they are compared.",
        kind="setup",
        patch=Set("model.qk_norm", True),
        baseline="block.small",
        expect=(
            Stays("val_loss", within=0.06),
            Falls("largest_score", by=10),
            Rises("attention_entropy", by=0.2),
            Keeps("causal"),
        ),
        probe=Below("largest_score", 5.7),
        look="About the same loss. No score can exceed √D, here 5.7, however large the weights grow: at this size nothing needs that.",
    ),
    Sabotage(
        name="pre_norm",
        says="The norms stand inside the branches instead of in the stream.",
        kind="setup",
        patch=Set("model.block", "underhood.nn.block:Block"),
        baseline="block.post",
        expect=(Falls("val_loss", by=0.05), Rises("stream_growth", by=1000), Keeps("causal")),
        probe=Above("stream_growth", 100.0),
        look="A lower loss from the same steps, and a stream that grows with every block.",
    ),
    Sabotage(
        name="pre_norm_cold",
        says="The norms stand inside the branches, and there is no warm-up.",
        kind="setup",
        patch=(Set("model.block", "underhood.nn.block:Block"), Set("train.schedule.warmup", 0)),
        baseline="block.post",
        expect=(Stays("val_loss", within=0.25), Rises("stream_growth", by=1000), Keeps("causal")),
        probe=Above("stream_growth", 100.0),
        look="Where six post-norm blocks learn hardly anything without warm-up, six pre-norm blocks hardly mind.",
    ),
)
