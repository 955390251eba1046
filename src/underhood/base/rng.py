"""Separate random streams, each keyed by (seed, purpose), so that drawing from one never moves another."""

import hashlib
import random


def stream_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for the stream ``purpose`` (``"init/blocks.0.attn.qkv.weight"``, ``"data"``, ``"sample"`` …) of run ``seed``."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(seed: int, purpose: str) -> random.Random:
    """A Python generator of its own for ``purpose``."""
    return random.Random(stream_seed(seed, purpose))
