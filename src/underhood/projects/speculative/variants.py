"""How many guesses, and where the formula for tokens a pass holds. Nothing is broken here."""

from underhood.lab.sabotage import Above, Below, Claim, Falls, Keeps, Rises, Sabotage, Set, Stays

SOURCE = "Leviathan, Kalman and Matias 2023, arXiv 2211.17192, eq. 1"
CLAIM = "With acceptances independent and of one probability α, a pass of K guesses gives (1 − α^(K+1)) / (1 − α) tokens on average."

VARIANTS: tuple[Sabotage, ...] = (
    Sabotage(
        name="one_guess",
        says="One guess a pass instead of four.",
        kind="setup",
        patch=Set("k", 1),
        baseline="speculative.tales",
        expect=(Keeps("model_identical"), Falls("tokens_per_pass", by=0.3), Rises("cost_per_token", by=0.05)),
        probe=Below("tokens_per_pass", 1.8),
        look="At most two tokens a pass.",
        claim=Claim(says=CLAIM, source=SOURCE, baseline="speculative.judge", expect=(Keeps("formula_holds"),)),
    ),
    Sabotage(
        name="eight_guesses",
        says="Eight guesses a pass instead of four.",
        kind="setup",
        patch=Set("k", 8),
        baseline="speculative.tales",
        expect=(Keeps("model_identical"), Rises("tokens_per_pass", by=0.02), Stays("formula_gap", within=0.1), Rises("cost_per_token", by=0.02)),
        probe=Above("guesses_per_token", 2.3),
        look="Hardly more tokens a pass, and twice the draft's work.",
        claim=Claim(says=CLAIM, source=SOURCE, baseline="speculative.judge", expect=(Keeps("formula_holds"),)),
    ),
)
