"""Tokenizers that several tests share."""

import os
from pathlib import Path

import pytest

from underhood.text.bpe import BPE
from underhood.text.vocabulary import Pair

from .texts import TEXTS


@pytest.fixture(scope="session", params=["gpt2", "gpt4"])
def pattern(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def merges(pattern: str) -> list[Pair]:
    return BPE.train(TEXTS, 480, pattern).merges


@pytest.fixture
def shared_data() -> Path:
    """Where larger data is found; tests that need it skip without."""
    folder = os.environ.get("UNDERHOOD_DATA")
    if not folder:
        pytest.skip("UNDERHOOD_DATA is not set: no GPT-2 vocabulary to compare with")
    return Path(folder)
