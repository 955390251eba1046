"""What a GPT of four blocks costs on this machine, and what it writes for that: figures whose names say the units. Nothing is printed."""

import math
import time
from typing import Any

import torch

from underhood.eval.tales import score_model
from underhood.infer.sample import SampleConfig, generate_batch
from underhood.lab.baselines.gpt import FOUR_BLOCKS, SHORT, random_batches, tales, windows
from underhood.lab.probe import copied_share
from underhood.lab.timing import best_of, matmul_gflop_per_s
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.train.loop import Trainer
from underhood.train.validate import validation_loss

SECONDS = 40  # about, on one thread
BATCH, CHECK_WINDOWS, WRITTEN_TOKENS = 12, 96, 48


def measure(steps: int = SHORT.steps, sentences: int = 200) -> dict[str, Any]:
    """Train the records' healthy model on tales for ``steps``: parameters, operations and speed beside the matmul peak, losses, scored text."""
    text = tales()
    model = build_gpt(FOUR_BLOCKS, 0)
    trainer = Trainer(model, SHORT, random_batches(text.train, FOUR_BLOCKS.context, BATCH, 0))
    start = time.perf_counter()
    losses = [trainer.step().loss for _ in range(steps)]
    train_seconds = time.perf_counter() - start
    held_out = windows(text.val, FOUR_BLOCKS.context, CHECK_WINDOWS)
    val_loss = validation_loss(model, held_out)
    rate, peak = steps * BATCH * FOUR_BLOCKS.context / train_seconds, matmul_gflop_per_s()
    written = score_model(model, text.tokenizer, least=sentences)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens_per_step": BATCH * FOUR_BLOCKS.context,
        "training_s": train_seconds,
        "training_tokens_per_s": rate,
        "training_mflop_per_token": flops_per_token(FOUR_BLOCKS) / 1e6,
        "training_gflop_per_s": rate * flops_per_token(FOUR_BLOCKS) / 1e9,
        "matmul_peak_gflop_per_s": peak,
        "training_share_of_peak": rate * flops_per_token(FOUR_BLOCKS) / 1e9 / peak,
        "writing_tokens_per_s": WRITTEN_TOKENS / _writing_seconds(model),
        "train_nats_per_token": sum(losses[-20:]) / len(losses[-20:]),
        "val_nats_per_token": val_loss,
        "floor_nats_per_token": text.floor,
        "val_bits_per_byte": val_loss * len(text.val) / text.val_bytes / math.log(2),
        "share_of_8_grams_copied": copied_share(" ".join(written.texts), " ".join(text.stories)),
        "written": {
            "sentences": written.scores.sentences,
            **{f"{name}_share": written.scores[name].share for name in ("parsed", "agreement", "recall", "counting", "names")},
        },
    }


def flops_per_token(config: GPTConfig) -> float:
    """Of a training step: 2 a weight of every matrix forward, 4 C a key for scores and mixture (all T keys: the plain path computes the masked half too), and
    twice that backward. The head is the embedding table; looking rows up costs nothing."""
    C = config.width
    matrices = config.n_layer * (4 * C * C + 2 * C * 4 * C) + config.vocab_size * C
    return 3.0 * (2 * matrices + config.n_layer * 4 * config.context * C)


def _writing_seconds(model: GPT) -> float:
    """One text, token after token, with the cache."""
    config = SampleConfig(max_tokens=WRITTEN_TOKENS)
    return best_of(lambda: generate_batch(model, [[0]], config, torch.Generator().manual_seed(0)))
