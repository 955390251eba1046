"""Generation: the same text cached and uncached, alone and in a batch; NaN is an error; stop strings and characters over tokens."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from underhood.base.errors import ConfigError, DataError, NonFinite, ShapeError
from underhood.infer.sample import SampleConfig, choose, first_ids, generate, generate_batch, stream_text, text_ends
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.nn.llama import llama
from underhood.nn.rope import RopeConfig
from underhood.text.bpe import BPE
from underhood.text.chars import CharTokenizer

PROMPTS = [[1, 2, 3], [4], [5, 6, 7], [8, 9]]


def model(**changes: Any) -> GPT:
    return build_gpt(GPTConfig(vocab_size=31, context=24, n_layer=2, n_head=2, width=32, init="fan_in", **changes), 0).double()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("positions", ["Learned", "Rotary", "Sinusoidal"])
@pytest.mark.parametrize("kernel", ["plain", "sdpa"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cached_is_uncached_also_beyond_the_context(positions: str, kernel: str, temperature: float) -> None:
    config = SampleConfig(max_tokens=40, temperature=temperature)
    built = model(positions=positions, kernel=kernel)
    cached = generate_batch(built, PROMPTS, config, seeded())
    assert cached == generate_batch(built, PROMPTS, config, seeded(), cached=False)
    assert [len(t) for t in cached] == [40] * 4


def test_alone_is_first_in_the_batch_and_later_prompts_do_not_matter() -> None:
    config = SampleConfig(max_tokens=20)
    batch = generate_batch(model(), PROMPTS, config, seeded())
    assert list(generate(model(), PROMPTS[0], config, seeded())) == batch[0]
    assert generate_batch(model(), PROMPTS[:2], config, seeded()) == batch[:2]


def test_greedy_is_the_argmax_and_needs_no_draws() -> None:
    built, ids = model(), [1, 2]
    greedy = list(generate(built, ids, SampleConfig(temperature=0, max_tokens=8), seeded()))
    for token in greedy:
        assert token == built(torch.tensor([ids]))[0, -1].argmax().item()
        ids = [*ids, token]
    assert greedy == list(generate(built, [1, 2], SampleConfig(temperature=0, max_tokens=8), seeded(9)))
    assert greedy == list(generate(built, [1, 2], SampleConfig(top_k=1, max_tokens=8), seeded(9)))


def test_seeds_decide_and_the_global_generator_does_not() -> None:
    texts = []
    for seed, other in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(other)
        before = torch.get_rng_state()
        texts.append(list(generate(model(), [1], SampleConfig(max_tokens=20), seeded(seed))))
        assert torch.equal(torch.get_rng_state(), before)
    assert texts[0] == texts[1] != texts[2]


def test_end_tokens_stop_their_row_and_are_not_given() -> None:
    free = generate_batch(model(), PROMPTS, SampleConfig(max_tokens=30), seeded())
    end = free[0][10]
    stopped = generate_batch(model(), PROMPTS, SampleConfig(max_tokens=30, end_ids=(end,)), seeded())
    assert stopped == [row[: row.index(end)] if end in row else row for row in free]
    assert list(generate(model(), PROMPTS[0], SampleConfig(max_tokens=30, end_ids=(end,)), seeded())) == stopped[0]


def test_the_filters_reach_the_draw() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    past = torch.tensor([[0]])
    uniform = torch.tensor([0.999])
    choices = {"": 3, "top_k": 1, "top_p": 1, "min_p": 2, "temperature": 0, "repetition_penalty": 3}
    settings: dict[str, Any] = {"top_k": 2, "top_p": 0.8, "min_p": 0.2, "temperature": 0.0, "repetition_penalty": 1.5}
    for name, expected in choices.items():
        config = SampleConfig(**({name: settings[name]} if name else {}))
        assert choose(logits, past, config, uniform).tolist() == [expected], name
    assert choose(logits, past, SampleConfig(repetition_penalty=9.0, temperature=0), uniform).tolist() == [1]


def test_a_repetition_penalty_makes_text_more_varied() -> None:
    plain, varied = (list(generate(model(), [1], SampleConfig(temperature=0, max_tokens=24, repetition_penalty=r), seeded())) for r in (1.0, 3.0))
    assert len(set(varied)) > len(set(plain))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error_never_a_token(wrong: float, temperature: float) -> None:
    built = model()
    with torch.no_grad():
        built.norm.bias[0] = wrong
    with pytest.raises(NonFinite, match="logits"):
        list(generate(built, [1], SampleConfig(temperature=temperature), seeded()))


def test_evaluation_mode_while_generating_and_put_back_after() -> None:
    built = model(dropout=0.5).train()
    tokens = generate(built, [1], SampleConfig(temperature=0, max_tokens=5), seeded())
    next(tokens)
    assert not built.training
    rest = list(tokens)
    assert built.training
    assert len(rest) == 4
    assert list(generate(built.eval(), [1], SampleConfig(temperature=0, max_tokens=5), seeded()))[1:] == rest


def test_nothing_to_do_and_nothing_to_go_on() -> None:
    assert list(generate(model(), [1], SampleConfig(max_tokens=0), seeded())) == []
    assert generate_batch(model(), [], SampleConfig(), seeded()) == []
    with pytest.raises(DataError, match="no token"):
        list(generate(model(), [], SampleConfig(), seeded()))
    with pytest.raises(ShapeError, match="id 99"):
        list(generate(model(), [99], SampleConfig(), seeded()))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5},
        {"top_p": float("nan")}, {"min_p": 0.0}, {"min_p": 2.0}, {"repetition_penalty": 0.0}, {"max_tokens": -1}, {"stop": ("",)},
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SampleConfig(**options)


class Scripted(GPT):
    """Says a fixed sequence of ids, whatever it is asked."""

    def __init__(self, ids: Iterable[int], vocab_size: int) -> None:
        super().__init__(GPTConfig(vocab_size=vocab_size, context=64, n_layer=1, n_head=1, width=4))
        self.script = list(ids)

    def hidden(self, ids: torch.Tensor, cache: Any = None) -> torch.Tensor:
        return ids[..., None].float()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        said = torch.zeros(hidden.shape[0], self.config.vocab_size)
        said[:, self.script.pop(0)] = 50.0
        return said


def test_text_streams_in_whole_characters_up_to_the_stop() -> None:
    tokenizer = BPE([])
    script = tokenizer.encode("é, fin. Then more")
    written = list(stream_text(Scripted(script, 256), tokenizer, "x", SampleConfig(stop=(" Then",), max_tokens=len(script)), seed=0))
    assert "".join(written) == "é, fin."
    assert written[0] == "é"
    assert "".join(stream_text(Scripted(script, 256), tokenizer, "x", SampleConfig(max_tokens=9), seed=0)) == "é, fin. "


def test_what_was_held_back_comes_at_the_end() -> None:
    tokenizer = BPE([])
    script = [*tokenizer.encode("a EN"), tokenizer.encode("é")[0]]
    written = list(stream_text(Scripted(script, 256), tokenizer, "x", SampleConfig(stop=("END",), max_tokens=5), seed=0))
    assert written == ["a", " ", "EN\ufffd"]


def test_streamed_text_is_the_generated_text() -> None:
    tokenizer = CharTokenizer(map(chr, range(97, 128)))
    seed, config = 3, SampleConfig(max_tokens=30)
    streamed = "".join(stream_text(model(), tokenizer, "abc", config, seed))
    assert streamed == "".join(stream_text(model(), tokenizer, "abc", config, seed))
    assert len(streamed) == 30


def test_a_model_may_have_more_ids_than_its_tokenizer_and_control_tokens_are_no_text() -> None:
    """Qwen's embeddings have rows for which there is no token."""
    config = SampleConfig(temperature=0, max_tokens=12)
    bpe = BPE([], special=["<|im_start|>"])
    model = build_gpt(GPTConfig(vocab_size=300, context=16, n_layer=1, n_head=2, width=16, init="fan_in"), 0).eval()
    with torch.no_grad():
        model.tokens.weight[[256, 299]] = 8 * model.tokens.weight[[256, 299]]  # what is written mostly
    ids = list(generate(model, bpe.encode("ab"), config, torch.Generator()))
    assert set(ids) & {256, 299}
    shown = bpe.decode_bytes([i for i in ids if i < 256]).decode("utf-8", errors="replace")
    assert "".join(stream_text(model, bpe, "ab", config, 0)) == shown


def test_beyond_the_trained_context_nothing_is_cached_where_the_rotation_changes_with_the_length() -> None:
    rope = RopeConfig(kind="dynamic", factor=4.0, original_context=8)
    sizes: dict[str, Any] = {"vocab_size": 40, "context": 32, "n_layer": 2, "n_head": 2, "width": 16, "init": "fan_in"}
    model = build_gpt(llama(**sizes, positions="underhood.nn.rope:ScaledRotary", rope=rope), 0).eval()
    text = [1, 2, 3, 4]
    for token in generate(model, text[:4], SampleConfig(temperature=0, max_tokens=24), torch.Generator()):
        assert token == int(model(torch.tensor([text]))[0, -1].argmax())
        text.append(token)


def test_a_document_ends_and_begins_at_its_separator() -> None:
    tokenizer = BPE([], special=("<|endoftext|>",))
    end = tokenizer.special["<|endoftext|>"]
    script = [*tokenizer.encode("fin"), end, *tokenizer.encode("more")]
    scripted = Scripted(script, 257)
    assert "".join(stream_text(scripted, tokenizer, "", SampleConfig(max_tokens=9), seed=0)) == "fin"
    lines = CharTokenizer("\nab")
    assert "".join(stream_text(Scripted([1, 0, 2], 3), lines, "", SampleConfig(max_tokens=3), seed=0)) == "a\nb"
    with pytest.raises(DataError, match="no prompt"):
        list(stream_text(model(), CharTokenizer("ab"), "", SampleConfig(), seed=0))


def test_a_text_begins_and_ends_as_the_model_expects() -> None:
    tokenizer = BPE([], special=("<|endoftext|>",))
    mark, other = tokenizer.special["<|endoftext|>"], tokenizer.encode("!")[0]
    assert first_ids(tokenizer, "ab") == tokenizer.encode("ab")
    assert first_ids(tokenizer, "") == [mark]
    assert (text_ends(tokenizer), text_ends(tokenizer, [other]), text_ends(CharTokenizer("\nab"))) == ((mark,), (other,), ())
    tokenizer.begin_ids = [mark]  # type: ignore[attr-defined]  # as a published tokenizer says
    assert (first_ids(tokenizer, "ab"), first_ids(tokenizer, "")) == ([mark, *tokenizer.encode("ab")], [mark])
    script = tokenizer.encode("fin!more")
    assert "".join(stream_text(Scripted(script, 257), tokenizer, "x", SampleConfig(max_tokens=8, end_ids=(other,)), seed=0)) == "fin"
