"""How to break the warm-up. Predictions come from pilots on seeds of their own; the records hold what was measured."""

from underhood.lab.sabotage import Below, Edit, Falls, Keeps, Rises, Sabotage, Set, Stays, Violates

WARMUP = "underhood.scalar.warmup"
BASELINE = "preflight.clouds"

BREAKS: tuple[Sabotage, ...] = (
    Sabotage(
        name="last_dropped",
        says="The dot product leaves out the last pair.",
        kind="part",
        patch=Edit(f"{WARMUP}:dot", "zip(a, b, strict=True)", "zip(a[:-1], b[:-1], strict=True)"),
        baseline=BASELINE,
        expect=(Rises("loss", by=0.2), Falls("correct", by=0.15), Keeps("sums_to_one"), Keeps("refuses_unequal_lengths")),
        look="The loss falls and stays too high: the last coordinate is the constant 1, and without it the cloud in the middle has no score of its own.",
    ),
    Sabotage(
        name="lengths_unchecked",
        says="The dot product stops at the end of the shorter list and says nothing.",
        kind="part",
        patch=Edit(f"{WARMUP}:dot", "strict=True", "strict=False"),
        baseline=BASELINE,
        silent=True,
        expect=(Stays("loss", within=1e-9), Stays("correct", within=1e-9), Violates("refuses_unequal_lengths")),
        look="Nothing, as long as all lists have the right length.",
    ),
    Sabotage(
        name="forward_difference",
        says="The slope goes from x to x + h instead of from x − h to x + h.",
        kind="part",
        patch=Edit(f"{WARMUP}:slope", "(f(x + h) - f(x - h)) / (2 * h)", "(f(x + h) - f(x)) / h"),
        baseline=BASELINE,
        silent=True,
        expect=(Rises("slope_error", by=4e-6), Falls("gain_of_half_the_width", by=1.8), Stays("loss", within=1e-4), Stays("correct", within=0.005)),
        look="The loss curve is the same to the eye. The slopes are five digits worse: halving h halves their error, where it should quarter it.",
    ),
    Sabotage(
        name="no_shift",
        says="Softmax takes the exponentials of the logits themselves, without subtracting the highest.",
        kind="part",
        patch=Edit(f"{WARMUP}:softmax", "z - highest", "z"),
        baseline=BASELINE,
        silent=True,
        expect=(Stays("loss", within=1e-9), Falls("largest_logit", by=1000), Keeps("sums_to_one")),
        look="The same loss, but for the last digits; a logit of 710 is an OverflowError, and logits below −745 all together a division by zero.",
    ),
    Sabotage(
        name="divided_by_the_highest",
        says="Softmax divides by the highest exponential instead of by their sum.",
        kind="part",
        patch=Edit(f"{WARMUP}:softmax", "sum(weights)", "max(weights)"),
        baseline=BASELINE,
        silent=True,
        expect=(Falls("loss", by=0.08), Falls("held_out_loss", by=0.1), Falls("correct", by=0.01), Violates("sums_to_one")),
        look="The loss is better than ever, down to 0: the highest share is always 1, so to be first is to be certain.",
    ),
    Sabotage(
        name="width_below_rounding",
        says="Slopes are measured with h = 1e-20, for more accuracy.",
        kind="setup",
        patch=Set("h", 1e-20),
        baseline=BASELINE,
        probe=Below("moved", 0.6),
        expect=(Rises("loss", by=0.5), Falls("fell", by=0.5), Falls("correct", by=0.25)),
        look="The loss keeps its first value: x + h and x − h are the same number, and every slope is 0.",
    ),
)
