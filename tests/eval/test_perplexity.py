"""Loss, perplexity and bits per byte against closed forms, and against transformers' own loss."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.eval.tiny_models import Counter, Table, Uniform
from underhood.base.errors import DataError, NonFinite
from underhood.data.shards import Shards, write_shards
from underhood.eval.perplexity import evaluate, evaluate_documents

IDS = torch.randint(0, 7, (500,), generator=torch.Generator().manual_seed(0)).numpy()
LOG_P = torch.randn(7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).log_softmax(-1)


def test_a_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    found = evaluate(Uniform(7), IDS, n_bytes=1000, context=16)
    assert found.loss == pytest.approx(math.log(7), rel=1e-6)
    assert found.perplexity == pytest.approx(7, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(499 * math.log2(7) / 1000, rel=1e-6)
    assert found.tokens == 499


@pytest.mark.parametrize("context", [1, 5, 16, 499, 1000])
@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_a_bigram_table_has_its_own_cross_entropy_however_the_text_is_cut(context: int, batch_tokens: int) -> None:
    """The model looks one token back, so windows change nothing; each of the 499 targets counts once."""
    expected = -LOG_P[IDS[:-1], IDS[1:]].mean()
    found = evaluate(Table(LOG_P), IDS, 0, context, batch_tokens=batch_tokens)
    assert found.loss == pytest.approx(float(expected), rel=1e-9)
    assert found.tokens == 499
    assert found.bits_per_byte is None


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_sliding_asks_each_token_once_and_with_a_longer_past(stride: int) -> None:
    assert evaluate(Table(LOG_P), IDS, 0, 8, stride=stride).loss == pytest.approx(float(-LOG_P[IDS[:-1], IDS[1:]].mean()))
    ids = np.full(101, 7)  # what ``Counter`` says once it has seen seven tokens or more
    sure = math.log1p(7 * math.exp(-10))
    losses = [sure if past >= 7 else sure + 10 for past in pasts(100, 8, stride)]
    assert evaluate(Counter(8), ids, 0, 8, stride=stride).loss == pytest.approx(sum(losses) / 100, rel=1e-5)


def pasts(targets: int, context: int, stride: int) -> list[int]:
    """How many tokens stand before the input of each target in its window, worked out one target at a time."""
    first = list(range(context))
    return [first[i] if i < context else (i - context) % stride + context - stride for i in range(targets)]


def test_by_hand() -> None:
    """Two tokens, p(1|0) = 0.25 and p(0|1) = 0.5: 0 1 0 costs ln 4 + ln 2 nats."""
    table = Table(torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log())
    found = evaluate(table, [0, 1, 0], 2, 8)
    assert found.loss == pytest.approx((math.log(4) + math.log(2)) / 2)
    assert found.bits_per_byte == pytest.approx(1.5)


def test_documents_start_afresh_and_their_end_counts() -> None:
    """Bigrams 0→1→2→0 and 0→3→0, with 0 as end mark: five targets."""
    found = evaluate_documents(Table(LOG_P), [[1, 2], [3]], 5, 16, end=0)
    pairs = [(0, 1), (1, 2), (2, 0), (0, 3), (3, 0)]
    assert found.tokens == 5
    assert found.loss == pytest.approx(-sum(float(LOG_P[a, b]) for a, b in pairs) / 5)


def test_a_document_longer_than_the_context_goes_on_in_further_windows() -> None:
    document = IDS[:50].tolist()
    found = evaluate_documents(Table(LOG_P), [document], 50, 8, end=0)
    row = [0, *document, 0]
    assert found.tokens == 51
    assert found.loss == pytest.approx(float(-LOG_P[row[:-1], row[1:]].mean()))


def test_padding_of_short_documents_costs_nothing() -> None:
    documents = [[1] * n for n in range(1, 30)]
    together = evaluate_documents(Table(LOG_P), documents, 0, 64, end=0, batch_tokens=4096)
    alone = [evaluate_documents(Table(LOG_P), [d], 0, 64, end=0) for d in documents]
    assert together.loss == pytest.approx(sum(a.loss * a.tokens for a in alone) / sum(a.tokens for a in alone))


def test_shards_are_read_like_an_array(tmp_path: Path) -> None:
    write_shards(tmp_path / "s", [IDS.tolist()], vocab_size=7, shard_tokens=64)
    assert evaluate(Table(LOG_P), Shards(tmp_path / "s"), 9, 16) == evaluate(Table(LOG_P), IDS, 9, 16)


def test_the_model_keeps_its_mode_and_sees_no_gradients() -> None:
    model = Uniform(7)
    for training in (True, False):
        model.train(training)
        evaluate(model, IDS, 0, 16)
        assert model.training is training

    class Watch(Uniform):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return super().forward(ids)

    evaluate(Watch(7).train(), IDS, 0, 16)


def test_a_mode_is_put_back_after_an_error() -> None:
    class Broken(Uniform):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.full((*ids.shape, 7), torch.nan)

    model = Broken(7).train()
    with pytest.raises(NonFinite, match="the loss"):
        evaluate(model, IDS, 0, 16)
    assert model.training


def test_what_cannot_be_evaluated_says_so() -> None:
    with pytest.raises(DataError, match="1 tokens; expected at least 2"):
        evaluate(Uniform(7), [1], 0, 16)
    with pytest.raises(DataError, match="stride 17"):
        evaluate(Uniform(7), IDS, 0, 16, stride=17)
    with pytest.raises(DataError, match="no documents"):
        evaluate_documents(Uniform(7), [], 0, 16, end=0)


def test_the_loss_is_the_one_that_transformers_reports() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2)).eval()
    ids = torch.randint(0, 50, (32,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(ids[None], labels=ids[None]).loss.item()
    assert evaluate(lambda x: theirs(x).logits, ids.numpy(), 0, 32).loss == pytest.approx(expected, rel=1e-5)
