"""Other ways to score and to weigh, measured like breaks: nothing in them is wrong."""

from underhood.lab.sabotage import Above, Below, Edit, Falls, Keeps, Rises, Sabotage, Stays, Violates
from underhood.projects.attention.breaks import ATTEND, SCALE

VARIANTS: tuple[Sabotage, ...] = (
    Sabotage(
        name="additive_scores",
        says="Scores are Σ tanh(q + k) instead of q · k / √d: additive attention (Bahdanau et al. 2015) with its output weights fixed at 1.",
        kind="setup",
        patch=Edit(ATTEND, "    scores = q @ k.transpose(-2, -1)\n" + SCALE, "    scores = (q.unsqueeze(-2) + k.unsqueeze(-3)).tanh().sum(-1)\n"),
        baseline="attention.one_head",
        expect=(Rises("val_loss", by=0.2), Falls("attention_entropy", by=0.8), Keeps("causal"), Keeps("rows_sum_to_one")),
        probe=Below("attention_entropy", 1.0),
        look="Slower and worse here: a sum of 64 numbers of size up to 1 saturates softmax as an unscaled product does, and costs T · S · d numbers of memory.",
    ),
    Sabotage(
        name="scaled_by_d",
        says="Scores are divided by d instead of √d.",
        kind="setup",
        patch=Edit(ATTEND, "math.sqrt(q.shape[-1])", "q.shape[-1]"),
        baseline="attention.one_head",
        expect=(Stays("val_loss", within=0.08), Rises("attention_entropy", by=0.1), Keeps("causal"), Keeps("rows_sum_to_one")),
        probe=Above("attention_entropy", 1.87),
        look="Rows start nearly uniform and sharpen as the projections grow: at this size it costs nothing, and may even help.",
    ),
    Sabotage(
        name="sigmoid_weights",
        says="Each weight is σ(score - ln S) by itself instead of a share of a row (Ramapuram et al. 2024, arXiv 2409.04431).",
        kind="setup",
        patch=Edit(ATTEND, "scores.softmax(dim=-1)", "(scores - math.log(k.shape[-2])).sigmoid()"),
        baseline="attention.one_head",
        expect=(Violates("rows_sum_to_one"), Keeps("causal"), Stays("val_loss", within=0.06), Rises("blind_loss", by=0.1)),
        probe=Below("rows_sum_to_one", 0.5),
        look="As good as softmax on windows of the trained length; worse on shorter ones, since the constant ln S belongs to one length.",
    ),
)
