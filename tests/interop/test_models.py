"""``open_model``: a run, a checkpoint or a GPT-2 folder, told apart by what is in it."""

from pathlib import Path

import pytest
import torch

from underhood.base.config import to_plain
from underhood.base.errors import CheckpointError, TokenizerError
from underhood.interop.export import save_model
from underhood.interop.models import load_their_tokenizer, open_model
from underhood.nn.gpt import GPT, GPTConfig, build_gpt
from underhood.text.bpe import BPE
from underhood.text.chars import CharTokenizer
from underhood.text.gpt2_files import write_gpt2_files
from underhood.text.vocabulary import Vocabulary
from underhood.train.checkpoint import Checkpoint, model_tensors, save_checkpoint

TOKENIZER = CharTokenizer.train("abc ")
IDS = torch.tensor([[0, 1, 2, 3]])


def model(seed: int = 0, **changes: object) -> GPT:
    return build_gpt(GPTConfig(vocab_size=4, context=8, n_layer=1, n_head=2, width=8, init="fan_in", **changes), seed).eval()  # type: ignore[arg-type]


def run_folder(path: Path, steps: tuple[int, ...] = (3, 12), **changes: object) -> Path:
    path.mkdir(exist_ok=True)
    TOKENIZER.save(path / "tokenizer.json")
    for step in steps:
        built = model(step, **changes)
        facts = {"config": {"model": to_plain(built.config), "train": {}}}
        save_checkpoint(path, step, Checkpoint(model=model_tensors(built), state={"x": torch.zeros(1)}, facts=facts))
    return path


def test_a_run_opens_at_its_latest_checkpoint(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    opened, tokenizer, config = open_model(run)
    assert torch.equal(opened(IDS), model(12)(IDS))
    assert tokenizer.encode("cab") == TOKENIZER.encode("cab")
    assert config == model(12).config
    assert not opened.training
    assert torch.equal(open_model(run / "step-000003")[0](IDS), model(3)(IDS))


def test_a_damaged_latest_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    with open(run / "step-000012" / "model.safetensors", "r+b") as file:
        file.truncate(100)
    assert torch.equal(open_model(run)[0](IDS), model(3)(IDS))
    with pytest.raises(CheckpointError, match="damaged"):
        open_model(run / "step-000012")


def test_a_gpt2_folder_opens(tmp_path: Path) -> None:
    save_model(model(5), tmp_path / "out", TOKENIZER)
    opened, tokenizer, config = open_model(tmp_path / "out")
    torch.testing.assert_close(opened(IDS), model(5)(IDS))
    assert tokenizer.decode([0, 1]) == TOKENIZER.decode([0, 1])
    assert config.width == 8


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", steps=(1,))
    CharTokenizer.train("abcdefgh").save(run / "tokenizer.json")
    with pytest.raises(CheckpointError, match="a tokenizer of 8 ids for a model of 4"):
        open_model(run)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        open_model(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="neither a run nor a model"):
        open_model(tmp_path)
    pickle = tmp_path / "pytorch_model.bin"
    pickle.write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match="runs code"):
        open_model(pickle)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickle"):
        open_model(tmp_path)


def test_a_pulled_model_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "underhood" / "models" / "a").mkdir(parents=True)
    save_model(model(5), tmp_path / "underhood" / "models" / "a" / "b", TOKENIZER)
    torch.testing.assert_close(open_model("a/b")[0](IDS), model(5)(IDS))


def test_what_we_export_ends_at_no_new_line(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    lines = CharTokenizer.train("\nabc")
    made = model(5)
    with torch.no_grad():
        made.head_weight.zero_()  # every token is as likely: the likeliest is the first, the new line
    save_model(made, tmp_path / "out", lines)
    assert lines.ids["\n"] == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.generate(torch.tensor([[1]]), do_sample=False, max_new_tokens=6, pad_token_id=0)[0].tolist() == [1] + [0] * 6


def test_merges_are_read_as_gpt2s_for_gpt2_alone(tmp_path: Path) -> None:
    """Qwen's slow tokenizer writes the same two files, and splits digits one by one."""
    words = BPE.train(["one two two three three three"], 262, special=["<|endoftext|>"])
    write_gpt2_files(tmp_path, Vocabulary(merges=words.merges, special=words.special))
    (tmp_path / "vocab.bpe").rename(tmp_path / "merges.txt")
    (tmp_path / "encoder.json").rename(tmp_path / "vocab.json")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert load_their_tokenizer(tmp_path).encode("three two") == words.encode("three two")
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(TokenizerError, match="save_pretrained"):
        load_their_tokenizer(tmp_path)
