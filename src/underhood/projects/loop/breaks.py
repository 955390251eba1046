"""What goes wrong in a training loop: the recipe, the data, the accumulation, the resume. Most of it without an error, and some with a better loss."""

from underhood.lab.sabotage import Above, Below, Edit, Falls, Keeps, Rises, Sabotage, Set, Stays, Violates

ACCUMULATE = "underhood.train.accumulate:accumulate_gradients"
INIT = "underhood.nn.init:init_parameters"
SAMPLER = "underhood.data.sampler:RandomSampler"
BATCH = "underhood.data.sampler:Batches.next"

NOT_DIVIDED = Edit(ACCUMULATE, "loss_sum(x, y) / tokens", "loss_sum(x, y) / max(1, count_targets(y))")
MEAN_OF_MEANS = Edit(ACCUMULATE, "loss_sum(x, y) / tokens", "loss_sum(x, y) / max(1, count_targets(y)) / len(batches)")
RAGGED = ("torchtune pull request 1875",)

BREAKS: tuple[Sabotage, ...] = (
    # ── the recipe ──
    Sabotage(
        name="lr_times_30",
        says="The learning rate is 30 times too high.",
        kind="setup",
        patch=Set("train.optim.lr", 0.18),
        baseline="loop.tales",
        expect=(Rises("val_loss", by=0.8), Rises("train_loss", by=0.8), Falls("gain", by=0.1)),
        look="The loss jumps up, comes down in leaps and ends a nat too high. Clipping cannot help: Adam's step has the rate's size.",
        probe=Above("train_loss", 2.0),
    ),
    Sabotage(
        name="no_norm",
        says="All layer norms are taken out.",
        kind="setup",
        patch=Set("model.norm", "torch.nn:Identity"),
        baseline="loop.tales",
        expect=(Rises("val_loss", by=0.03), Rises("largest_norm", by=1.5), Falls("gain", by=0.5)),
        look="Two blocks survive it, a little worse, with warm-up and clipping. The first gradients are two to four times as large.",
        probe=Below("gain", 0.5),
    ),
    Sabotage(
        name="decay_everything",
        says="Weight decay acts on gains and biases too.",
        kind="part",
        patch=Edit("underhood.train.groups:decay_groups", "weight_decay=0.0)", "weight_decay=weight_decay)"),
        baseline="loop.tales",
        expect=(Violates("gains_are_not_decayed"), Falls("gain", by=0.04), Stays("val_loss", within=0.05)),
        look="The gains shrink, step by step, and the loss does not show it in a short run.",
        silent=True,
    ),
    Sabotage(
        name="residual_not_scaled",
        says="What writes into the residual stream starts at full size.",
        kind="part",
        patch=Edit(INIT, "parameter.copy_(drawn * factor if name.endswith(RESIDUAL) else drawn)", "parameter.copy_(drawn)"),
        baseline="loop.tales",
        expect=(Rises("stream_growth", by=1.5), Rises("val_loss", by=0.05)),
        look="The stream is twice as large after two blocks. Nothing warns: the run is fine, and a little worse than it could be.",
        silent=True,
    ),
    Sabotage(
        name="one_stream",
        says="All weights are drawn from the same stream, whatever their name.",
        kind="part",
        patch=Edit(INIT, 'f"init/{name}"', '"init"'),
        baseline="loop.tales",
        expect=(Violates("layers_differ"), Keeps("seeds_differ")),
        look="Matrices of one shape start equal in all blocks. Gradients part them again, so the loss hardly tells.",
        silent=True,
    ),
    Sabotage(
        name="seed_ignored",
        says="The initial weights do not depend on the seed.",
        kind="part",
        patch=Edit(INIT, "stream_seed(seed,", "stream_seed(0,"),
        baseline="loop.tales",
        expect=(Violates("seeds_differ"), Keeps("layers_differ")),
        look="Every run is fine. Only the spread over seeds is too small, and every effect looks more certain than it is.",
        silent=True,
    ),
    Sabotage(
        name="decay_too_early",
        says="The plateau of the learning rate ends half-way.",
        kind="part",
        patch=Edit("underhood.train.schedule:warmup_stable_decay", "round(steps / 5)", "round(steps / 2)"),
        baseline="loop.tales",
        expect=(Violates("plateau_is_kept"), Keeps("targets_are_next")),
        look="A run that was to be continued from the plateau has left it long ago.",
        silent=True,
    ),
    # ── accumulation ──
    Sabotage(
        name="not_divided_sgd",
        says="Each small batch's mean loss is added up without dividing by their number; SGD.",
        kind="part",
        patch=NOT_DIVIDED,
        baseline="loop.sgd",
        expect=(Violates("accumulation_is_exact"), Rises("largest_norm", by=8.0), Rises("train_loss", by=8.0), Falls("val_loss", by=0.3)),
        look="With four batches every step is four times as large: another learning rate. Here that one happens to be better; at ten times the rate"
        " the run ends in NaN. The loss that is printed is four times too high.",
        cites=RAGGED,
    ),
    Sabotage(
        name="not_divided_adamw",
        says="Each small batch's mean loss is added up without dividing by their number; AdamW.",
        kind="part",
        patch=NOT_DIVIDED,
        baseline="loop.adamw",
        expect=(Violates("accumulation_is_exact"), Rises("largest_norm", by=5.0), Stays("val_loss", within=0.01)),
        look="AdamW divides by the gradient's own size, so a factor of four is no factor at all: the same model to the third digit."
        " Only the printed loss and the gradient norm are four times too high.",
        cites=RAGGED,
    ),
    Sabotage(
        name="not_divided_clipped",
        says="Each small batch's mean loss is added up without dividing by their number; SGD with clipping.",
        kind="part",
        patch=NOT_DIVIDED,
        baseline="loop.clipped",
        expect=(Violates("accumulation_is_exact"), Rises("largest_norm", by=8.0), Keeps("gains_are_not_decayed"), Stays("val_loss", within=0.06)),
        look="Clipping cuts every step to the same length: it hides the fault and turns the recipe into another one.",
        cites=RAGGED,
    ),
    Sabotage(
        name="mean_of_means",
        says="Ragged batches are averaged, and then the averages: a token of a short batch counts more than one of a long batch.",
        kind="part",
        patch=MEAN_OF_MEANS,
        baseline="loop.ragged",
        expect=(Violates("accumulation_is_exact"), Rises("val_loss", by=0.15), Stays("largest_norm", within=1.0)),
        look="A loss that falls as it should and ends too high. The few tokens of short batches drown those of long ones.",
        silent=True,
        cites=RAGGED,
    ),
    Sabotage(
        name="nothing_accepted",
        says="Batches without any target are not refused.",
        kind="part",
        patch=Edit(ACCUMULATE, "if tokens == 0:", "if tokens < 0:"),
        baseline="loop.ragged",
        expect=(Violates("no_target_is_refused"), Keeps("accumulation_is_exact")),
        look="Zero divided by zero: the loss is NaN, and so is every weight after the update.",
    ),
    # ── data ──
    Sabotage(
        name="targets_shuffled",
        says="The targets of a batch belong to other rows than its inputs.",
        kind="part",
        patch=Edit(BATCH, "batch[:, 1:].contiguous()", "batch[:, 1:].roll(1, 0).contiguous()"),
        baseline="loop.tales",
        expect=(Violates("targets_are_next"), Rises("train_loss", by=3.0), Rises("val_loss", by=3.0)),
        look="The loss falls to that of guessing by frequency and stays there, for any rate and any size of the model."
        " A test that draws one row at a time does not see it: with one row there is no other.",
    ),
    Sabotage(
        name="same_window",
        says="The loader gives the same windows at every step.",
        kind="part",
        patch=Edit(f"{SAMPLER}.next", "self.step += 1", "self.step += 0"),
        baseline="loop.tales",
        expect=(Rises("repeats", by=0.9), Falls("train_loss", by=1.0), Rises("val_loss", by=4.0)),
        look="The training loss is the best ever: twelve windows are learned by heart. Held-out text is worse every step.",
        silent=True,
    ),
    # ── resume ──
    Sabotage(
        name="data_starts_over",
        says="After a resume the data begins from its start again.",
        kind="part",
        patch=Edit(f"{SAMPLER}.load_state", 'self.step = state["step"]', "pass"),
        baseline="loop.resume",
        expect=(Violates("resume_is_exact"), Rises("resume_gap", by=0.005)),
        look="The first batches are seen twice and the last never; in a run that is resumed daily the model sees the same day over and over.",
        silent=True,
    ),
    Sabotage(
        name="resume_without_rng",
        says="A run is resumed without the state of its dropout's random generator.",
        kind="part",
        patch=Edit("underhood.train.randomness:restore_random_state", 'generator.set_state(state["dropout"])', "pass"),
        baseline="loop.resume",
        expect=(Violates("resume_is_exact"), Rises("resume_gap", by=0.02), Stays("resume_jump", within=0.03)),
        look="As good a run as the other, and not the same one: nothing can be compared bit for bit any more.",
        silent=True,
    ),
)
