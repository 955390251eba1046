"""What goes wrong with a whole GPT: lines deleted from the model, from the update, from the recipe.

Breaks of exact properties run untrained; damage that has to be learned runs on four blocks that write tales.
"""

from underhood.lab.sabotage import Above, Below, Claim, Edit, Falls, Keeps, Rises, Sabotage, Set, Stays, Violates

BLOCK = "underhood.nn.block:Block.forward"
LOSS = "underhood.train.loss:cross_entropy"
ADAMW = "underhood.train.optim:AdamW.update"
CLIP = "underhood.train.clip:clip_gradients"

RESIDUAL = """x = x + self.dropout(self.attention(self.norm1(x), mask=mask, rotate=rotate, cache=cache))
    x = x + self"""
NO_RESIDUAL = """x = self.dropout(self.attention(self.norm1(x), mask=mask, rotate=rotate, cache=cache))
    x = self"""

DECOUPLED = """    m.mul_(self.beta1).add_(g, alpha=1 - self.beta1)
    v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
    m_hat = m / (1 - self.beta1**t)
    v_hat = v / (1 - self.beta2**t)
    p.mul_(1 - lr * weight_decay)
"""
COUPLED = """    g = g + weight_decay * p
    m.mul_(self.beta1).add_(g, alpha=1 - self.beta1)
    v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
    m_hat = m / (1 - self.beta1**t)
    v_hat = v / (1 - self.beta2**t)
"""

THEIR_CODE = "the published syllabus, project 5"

BREAKS: tuple[Sabotage, ...] = (
    # ── the model ──
    Sabotage(
        name="no_residual",
        says="The blocks replace the residual stream instead of adding to it.",
        kind="part",
        patch=Edit(BLOCK, RESIDUAL, NO_RESIDUAL),
        baseline="gpt.tales",
        expect=(Rises("val_loss", by=3.0), Rises("train_loss", by=3.0), Falls("pairs_quotes", by=0.3), Keeps("causal")),
        look="It learns how often each word occurs and nothing else: the right words in no order.",
        claim=Claim(
            says="Without residual connections the training loss goes from 1.57 to 2.85.",
            source=THEIR_CODE,
            untested="the model's size, the steps and the rate behind it are not published; in our own setting we predict a rise by more than 3 nats",
        ),
    ),
    Sabotage(
        name="no_final_norm",
        says="The last norm, between the blocks and the head, is left out.",
        kind="part",
        patch=Edit("underhood.nn.gpt:GPT.hidden", "return self.norm(x)", "return x"),
        baseline="gpt.parts",
        expect=(Violates("hidden_is_normed"), Keeps("positions_matter")),
        look="Logits grow with the residual stream, and the more blocks there are the more.",
        silent=True,
    ),
    Sabotage(
        name="no_positions",
        says="The position vectors are not added.",
        kind="part",
        patch=Edit("underhood.nn.gpt:GPT.hidden", "self.dropout(self.positions.add(x, start))", "self.dropout(x)"),
        baseline="gpt.parts",
        expect=(Violates("positions_matter"), Keeps("hidden_is_normed")),
        look="The same token has the same logits wherever it stands: a bag of words that still looks back.",
        silent=True,
    ),
    Sabotage(
        name="head_cut_off",
        says="The tied head is used, but no gradient reaches it.",
        kind="part",
        patch=Edit(
            "underhood.nn.gpt:GPT.head_weight", "return self.tokens.weight if self.head is None", "return self.tokens.weight.detach() if self.head is None"
        ),
        baseline="gpt.parts",
        expect=(Violates("head_learns"), Keeps("hidden_is_normed"), Keeps("positions_matter")),
        look="Every shape and every logit is right. Only the gradient is missing: the vectors are learned as inputs alone.",
        silent=True,
    ),
    Sabotage(
        name="context_unchecked",
        says="A text longer than the context is not refused in words.",
        kind="part",
        patch=Edit("underhood.nn.gpt:GPT._start", "if start + ids.shape[1] > self.config.context:", "if start + ids.shape[1] > 1_000_000:"),
        baseline="gpt.parts",
        expect=(Violates("too_long_is_refused"), Keeps("hidden_is_normed")),
        look="An error from deep inside torch about an index, or, with computed positions, no error and nonsense.",
    ),
    Sabotage(
        name="no_tying",
        says="The head is a matrix of its own instead of the token embedding.",
        kind="setup",
        patch=Set("model.tie", False),
        baseline="gpt.tales",
        expect=(Stays("val_loss", within=0.05), Rises("parameters", by=60_000), Keeps("causal")),
        look="A quarter more parameters and the same loss: at this size tying saves memory and costs nothing.",
        silent=True,
        probe=Above("parameters", 300_000),
    ),
    Sabotage(
        name="zero_init",
        says="All matrices start at zero.",
        kind="setup",
        patch=Set("model.init", "zeros"),
        baseline="gpt.tales",
        expect=(Rises("val_loss", by=5.0), Falls("largest_step", by=0.99)),
        look="The loss stays at the logarithm of the vocabulary, to the last digit. Head and embedding are one matrix of zeros, so no gradient passes.",
        probe=Below("largest_step", 1e-3),
    ),
    # ── the loss ──
    Sabotage(
        name="ignored_targets_count",
        says="Ignored targets are given a loss like all others.",
        kind="part",
        patch=Edit(LOSS, "torch.where(kept, logits.logsumexp(-1) - picked, 0.0)", "logits.logsumexp(-1) - picked"),
        baseline="gpt.parts",
        expect=(Violates("ignored_targets_do_not_count"), Keeps("no_target_is_refused")),
        look="The model learns to write the padding.",
        silent=True,
    ),
    Sabotage(
        name="mean_of_nothing",
        says="A batch without a single target is given the loss zero.",
        kind="part",
        patch=Edit(LOSS, "_some(count_targets(targets))", "max(1, count_targets(targets))"),
        baseline="gpt.parts",
        expect=(Violates("no_target_is_refused"), Keeps("ignored_targets_do_not_count")),
        look="Nothing: a loss mask that is wrong for a whole batch goes by unseen.",
        silent=True,
    ),
    Sabotage(
        name="labels_not_shifted",
        says="Each position is asked for the token that it has just read.",
        kind="setup",
        patch=Edit("underhood.data.sampler:Batches.next", "batch[:, 1:]", "batch[:, :-1]"),
        baseline="gpt.tales",
        expect=(Falls("val_loss", by=1.1), Falls("train_loss", by=1.1), Falls("pairs_quotes", by=0.3), Keeps("causal")),
        look="The best loss ever seen, on held-out text too, and a model that says day day day day day.",
        silent=True,
        probe=Below("val_loss", 0.2),
    ),
    Sabotage(
        name="dropout_at_evaluation",
        says="Dropout stays on while the validation loss is measured.",
        kind="part",
        patch=Edit("underhood.train.validate:validation_loss", "    model.eval()\n", ""),
        baseline="gpt.resume",
        expect=(Violates("evaluation_repeats"), Rises("val_loss", by=0.08), Stays("train_loss", within=0.001)),
        look="The validation loss is too high by a little, and another one each time it is measured.",
        silent=True,
    ),
    # ── the update ──
    Sabotage(
        name="no_bias_correction",
        says="Adam's second moment is used as it is, without dividing by 1 − β₂ᵗ.",
        kind="part",
        patch=Edit(ADAMW, "v_hat = v / (1 - self.beta2**t)", "v_hat = v"),
        baseline="gpt.parts",
        expect=(Violates("first_update_is_lr"), Keeps("decay_is_decoupled")),
        look="The first updates are up to 1/√(1 − β₂) = 4.5 times too large; without warm-up this can end a run at once.",
        silent=True,
    ),
    Sabotage(
        name="coupled_decay",
        says="Weight decay is added to the gradient, as in Adam before AdamW.",
        kind="part",
        patch=Edit(ADAMW, DECOUPLED, COUPLED),
        baseline="gpt.parts",
        expect=(Violates("decay_is_decoupled"), Keeps("first_update_is_lr")),
        look="Nothing at once: weights with large gradients hardly decay, weights with small ones decay by the full learning rate.",
        silent=True,
    ),
    Sabotage(
        name="warmup_from_zero",
        says="The warm-up begins at zero, so that the first update does nothing.",
        kind="part",
        patch=Edit("underhood.train.schedule:warmup_cosine", "return (step + 1) / warmup", "return step / warmup"),
        baseline="gpt.parts",
        expect=(Violates("first_update_is_made"), Keeps("first_update_is_lr")),
        look="One batch is read for nothing. With a warm-up of one step and the old weights printed, somebody may look for hours.",
        silent=True,
    ),
    Sabotage(
        name="no_warmup",
        says="The learning rate is at its peak from the first step.",
        kind="setup",
        patch=Set("train.schedule.warmup", 0),
        baseline="gpt.tales",
        expect=(Stays("val_loss", within=0.1), Keeps("causal")),
        look="Little: with pre-norm, clipping and AdamW's corrected moments a model of this size survives a cold start.",
        probe=Above("first_rate", 0.5),
    ),
    Sabotage(
        name="clip_each_tensor",
        says="Every tensor's gradient is clipped by its own norm.",
        kind="part",
        patch=Edit(
            CLIP,
            "torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], max_norm / norm)",
            "[p.grad.mul_(min(1.0, max_norm / float(p.grad.norm()))) for p in parameters if p.grad is not None]",
        ),
        baseline="gpt.parts",
        expect=(Violates("clip_keeps_direction"), Keeps("infinity_is_refused")),
        look="Nothing crashes, and the update points elsewhere: layers with small gradients gain on those with large ones.",
        silent=True,
    ),
    Sabotage(
        name="infinity_clipped",
        says="A gradient norm that is no number is scaled by like any other.",
        kind="part",
        patch=Edit(CLIP, "if not math.isfinite(norm):", "if norm < 0:"),
        baseline="gpt.parts",
        expect=(Violates("infinity_is_refused"), Keeps("clip_keeps_direction")),
        look="One infinite entry makes the factor 0, 0 · ∞ is NaN, and one step later every weight is.",
        silent=True,
    ),
    Sabotage(
        name="no_clipping",
        says="The gradient is not clipped.",
        kind="setup",
        patch=Set("train.clip", None),
        baseline="gpt.tales",
        expect=(Stays("val_loss", within=0.05), Rises("largest_step", by=1.0)),
        look="Nothing on clean data at this size: AdamW divides by the gradient's own size, and no batch is odd enough.",
        silent=True,
        probe=Above("largest_step", 1.5),
    ),
    Sabotage(
        name="weights_only_resume",
        says="A run is resumed with its weights, its data and its random state, and an optimizer that remembers nothing.",
        kind="setup",
        patch=Edit("underhood.train.loop:Trainer.load", 'self.optimizer.load_state_dict(_under("optim/", found.state))', "pass"),
        baseline="gpt.resume",
        expect=(Violates("resume_is_exact"), Rises("first_difference", by=1.5), Rises("resume_gap", by=0.03)),
        look="The first step after the resume is equal to the last digit; from the second on the runs part.",
        silent=True,
        probe=Above("resume_gap", 1e-6),
    ),
    # ── what may be drawn ──
    Sabotage(
        name="top_k_drops_the_last",
        says="Top-k drops the k-th token too.",
        kind="part",
        patch=Edit("underhood.infer.filters:keep_top_k", "logits < least", "logits <= least"),
        baseline="gpt.parts",
        expect=(Violates("top_k_keeps_k"), Keeps("top_p_reaches_p")),
        look="The text is a little tamer. With k = 1 nothing is left to draw.",
        silent=True,
    ),
    Sabotage(
        name="top_p_too_small",
        says="Top-p drops the token that crosses p.",
        kind="part",
        patch=Edit("underhood.infer.filters:keep_top_p", "likely.cumsum(dim=-1) - likely", "likely.cumsum(dim=-1)"),
        baseline="gpt.parts",
        expect=(Violates("top_p_reaches_p"), Keeps("top_k_keeps_k")),
        look="The text is a little tamer than the p that was asked for.",
        silent=True,
    ),
)
