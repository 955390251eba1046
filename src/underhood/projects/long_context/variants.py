"""The other ways to read further, measured against YaRN at factor 4: without tuning, and with 24 steps at the new length. Nothing in them is wrong."""

from underhood.lab.sabotage import Above, Below, Falls, Keeps, Prediction, Rises, Sabotage, Set, Stays

UNSHARPENED = Below("attention_factor", 1.05)
READ, TUNED = "long_context.read", "long_context.tuned"


def instead(name: str, kind: str, baseline: str, says: str, look: str, probe: Above | Below, *expect: Prediction) -> Sabotage:
    """``kind`` in YaRN's place."""
    same = (Stays("train_loss", within=1e-6), Keeps("causal"))
    return Sabotage(name=name, says=says, kind="setup", patch=Set("extend.kind", kind), baseline=baseline, expect=(*expect, *same), probe=probe, look=look)


VARIANTS: tuple[Sabotage, ...] = (
    instead(
        "linear",
        "linear",
        READ,
        "All frequencies are divided by 4.",
        "Every position between two trained ones, and neighbours four times as close: the loss suffers everywhere, the answers do not.",
        Above("inside_loss", 1.9),
        Rises("inside_loss", by=0.3),
        Rises("last_loss", by=0.5),
        Stays("found_long", within=0.08),
    ),
    instead(
        "ntk",
        "ntk",
        READ,
        "The base grows so that the slowest pair is divided by 4 and the fastest stays.",
        "Short texts are better than YaRN's, long ones worse: pairs of middle speed are divided by less than 4 and leave what was trained.",
        Above("answer_loss", 0.6),
        Falls("inside_loss", by=0.05),
        Rises("last_loss", by=0.04),
        Falls("found_long", by=0.15),
    ),
    instead(
        "dynamic",
        "dynamic",
        READ,
        "The base grows with the length of the text at hand.",
        "Short texts lose nothing at all; at the full length its factor is 13, not 4, and it is better than a fixed base, worse than YaRN.",
        Above("answer_loss", 0.5),
        Falls("inside_loss", by=0.05),
        Rises("last_loss", by=0.04),
        Falls("found_long", by=0.1),
    ),
    instead(
        "llama3",
        "llama3",
        READ,
        "Llama 3's rule: waves shorter than a quarter of the trained length are kept, those longer than all of it divided by 4.",
        "Close to YaRN, which keeps a little more and is sharper.",
        UNSHARPENED,
        Stays("inside_loss", within=0.1),
        Rises("last_loss", by=0.02),
        Stays("found_long", within=0.08),
    ),
    Sabotage(
        name="tuned",
        says="YaRN, and 24 steps of training at 128 tokens.",
        kind="setup",
        patch=Set("tuning", 24),
        baseline=READ,
        expect=(Falls("last_loss", by=0.1), Falls("beyond_loss", by=0.1), Stays("found_long", within=0.05), Keeps("causal")),
        probe=Below("beyond_loss", 1.55),
        look="An eighth of the steps, at the new length: what no formula gives.",
    ),
    instead(
        "plain_tuned",
        "default",
        TUNED,
        "No extension: the plain rotation, and 24 steps of training at 128 tokens.",
        "Tuning alone mends the loss nearly to YaRN's, and the answers only in part.",
        Above("answer_loss", 0.4),
        Stays("last_loss", within=0.15),
        Falls("found_long", by=0.1),
    ),
    instead(
        "linear_tuned",
        "linear",
        TUNED,
        "All frequencies divided by 4, and 24 steps of training at 128 tokens.",
        "Tuning takes back most of what interpolation cost the loss.",
        UNSHARPENED,
        Rises("last_loss", by=0.05),
        Stays("found_long", within=0.05),
    ),
    instead(
        "ntk_tuned",
        "ntk",
        TUNED,
        "The larger base, and 24 steps of training at 128 tokens.",
        "As good a loss as YaRN's, and fewer answers.",
        UNSHARPENED,
        Stays("last_loss", within=0.1),
        Falls("found_long", by=0.02),
    ),
)
