"""Tokenizers that several tests share."""

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
