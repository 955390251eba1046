"""info, verify, export and import on real folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.infer.small import GROUPED, SIZES
from tests.infer.small import model as small
from underhood.base.config import to_plain
from underhood.cli.main import main
from underhood.infer.paged import PagedCache
from underhood.interop.export import save_model
from underhood.interop.models import open_model
from underhood.interop.weights import open_weights, write_weights
from underhood.lab.patch import Edit, applied
from underhood.nn.attention import LatentConfig
from underhood.nn.gpt import GPT, build_gpt
from underhood.nn.llama import llama
from underhood.nn.rope import RopeConfig
from underhood.text.bpe import BPE
from underhood.train.checkpoint import Checkpoint, model_tensors, save_checkpoint
from underhood.train.recipes import modern

TOKENIZER = BPE([], special=["<|endoftext|>"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the kind that `underhood train` makes, in the layout of transformers."""
    model = build_gpt(modern(2, vocab_size=TOKENIZER.vocab_size, context=32), 0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return save_model(model.eval(), tmp_path_factory.mktemp("models") / "small", TOKENIZER)


def test_what_we_train_generates_the_same_text_in_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from underhood.infer.sample import SampleConfig, generate

    theirs, tokens = transformers.AutoModelForCausalLM.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokens("Once upon", return_tensors="pt")
    assert ids["input_ids"][0].tolist() == TOKENIZER.encode("Once upon")
    expected = theirs.generate(**ids, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)[0, ids["input_ids"].shape[1] :].tolist()
    ours = open_model(folder)[0]
    assert list(generate(ours, TOKENIZER.encode("Once upon"), SampleConfig(temperature=0, max_tokens=20), torch.Generator())) == expected


def test_info_reads_no_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder), "--json", "--tensors"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["family"] == "qwen3"
    assert facts["parameters"] == sum(p.numel() for p in open_model(folder)[0].parameters())
    assert facts["weights_bytes"]["bfloat16"] == 2 * facts["parameters"]
    assert facts["cache_bytes"]["32"] == 32 * 2 * 2 * 64 * 4  # tokens, both, blocks, heads · width, bytes
    assert facts["tensors"]["tokens.weight"] == [257, 64]
    assert main(["info", str(folder)]) == 0
    assert "rotation" in capsys.readouterr().out


def run_of(model: GPT, folder: Path) -> Path:
    """A run with one checkpoint of ``model``."""
    facts = {"config": {"model": to_plain(model.config)}}
    save_checkpoint(folder, 0, Checkpoint(model=model_tensors(model), state={"none": torch.zeros(1)}, facts=facts))
    return folder


def test_info_counts_the_positions_that_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server keeps every position in float32, also those that no window sees: as many bytes as its pages have."""
    made = small("mistral")
    run = run_of(made, tmp_path)
    assert main(["info", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    pages = PagedCache(made.config, made.config.context // 4, 4)
    held = sum(pool.numel() * pool.element_size() for pair in pages.pools for pool in pair)
    assert facts["cache_bytes"][str(made.config.context)] == held == 2 * 2 * 96 * 2 * 8 * 4  # both, layers, tokens, heads, width, bytes
    assert facts["seen_bytes"][str(made.config.context)] == 2 * 2 * 19 * 2 * 8 * 4
    assert main(["info", str(run)]) == 0
    out = capsys.readouterr().out
    assert "25 kB, of which windows leave 5 kB in sight" in out
    assert "bfloat16)" not in out


def test_info_counts_what_latent_attention_caches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latent = LatentConfig(kv_rank=8, rope_width=4, nope_width=4, value_width=8)
    made = build_gpt(llama(**SIZES, attention="underhood.nn.latent:LatentAttention", positions="Rotary", latent=latent), 0)
    assert main(["info", str(run_of(made, tmp_path)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cache_bytes"]["96"] == 2 * 96 * (8 + 4) * 4  # layers, tokens, numbers, bytes


def test_info_refuses_what_it_does_not_know(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "attention_multiplier": 2.0}))
    assert main(["info", str(tmp_path)]) == 2
    assert "attention_multiplier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_attention_heads": 10**9, "num_key_value_heads": 10**9}, "a width of all heads of"),
        ({"num_hidden_layers": 1}, "has no place"),
        ({"intermediate_size": 100}, "expected [100, 64], by config.json"),
    ],
)
def test_info_refuses_a_config_at_odds_with_the_tensors(
    folder: Path, tmp_path: Path, fields: dict[str, int], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    held = json.loads((folder / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(held | fields))
    assert main(["info", str(tmp_path / "model")]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert not captured.out


def test_info_reads_the_headers_of_gpt2_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(small("gpt2"), tmp_path / "model", TOKENIZER)
    assert main(["info", str(tmp_path / "model"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == small("gpt2").config.n_params
    held = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(held | {"n_positions": 95}))
    assert main(["info", str(tmp_path / "model")]) == 2
    assert "wpe" in capsys.readouterr().err


def test_beyond_the_trained_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the rotation changes with the length, info and verify go by the length that is served, and say so."""
    rope = RopeConfig(kind="dynamic", factor=4.0, original_context=24)
    made = build_gpt(llama(**SIZES, **GROUPED | {"rope": rope}), 0)
    run = run_of(made, tmp_path)
    TOKENIZER.save(run / "tokenizer.json")
    assert main(["info", str(run), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["context"], facts["beyond it"]) == (24, "up to 96, without a cache: the rotation changes with the length")
    assert list(facts["cache_bytes"]) == ["24"]
    assert main(["verify", str(run), "-n", "30", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["tokens"] == 24
    assert "30 tokens were asked for; 24 is the longest text that every path takes: up to 96 the rotation changes" in captured.err


def test_verify_ends_where_the_naive_path_itself_is_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = small("llama")
    with torch.no_grad():
        made.blocks[1].norm2.weight[0] = torch.inf  # type: ignore[union-attr,operator]
    run = run_of(made, tmp_path)
    TOKENIZER.save(run / "tokenizer.json")
    assert main(["verify", str(run), "-n", "12"]) == 1
    captured = capsys.readouterr()
    assert "the naive path gives after block 1 at text 1, position 0, is not finite" in captured.err
    assert "✓" not in captured.out


def test_verify_says_when_the_context_is_shorter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "-n", "33"]) == 0
    assert "33 tokens were asked for; 32 is the longest text that every path takes\n" in capsys.readouterr().err
    assert main(["verify", str(folder), "-n", "12"]) == 0
    assert "asked for" not in capsys.readouterr().err


def test_verify_proves_and_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "-n", "12"]) == 0
    out = capsys.readouterr().out
    assert "naive = exported" in out
    assert "Every path ends at the same logits." in out
    with applied([Edit("underhood.infer.pages:PageTable.append_slots", "size + t % size", "size + (t + 1) % size")]):
        assert main(["verify", str(folder), "-n", "12"]) == 1
    out = capsys.readouterr().out
    assert "✗  naive = paged" in out
    assert "first apart after block 0 at text 1, position" in out
    assert "✓  naive = cached" in out


@pytest.mark.parametrize(("options", "says"), [(["--grade", "exakt"], "exact"), (["-n", "1"], "at least 2")])
def test_verify_refuses(folder: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), *options]) == 2
    assert says in capsys.readouterr().err


def test_import_and_export_are_inverse(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    assert main(["import", str(folder), str(run)]) == 0
    assert main(["import", str(folder), str(run)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["export", str(run), str(again), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["logits_apart"] == 0
    ids = torch.arange(9)[None]
    assert torch.equal(open_model(again)[0](ids), open_model(folder)[0](ids))
    assert main(["export", str(run), str(again)]) == 2


def test_a_model_with_a_number_that_is_none_is_not_imported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Be it in a row of the embedding that no first tokens have."""
    shutil.copytree(folder, tmp_path / "nan")
    stored = open_weights(folder)
    tensors = {name: stored.tensor(name).clone() for name in stored.infos}
    tensors["model.embed_tokens.weight"][200, 5] = torch.nan
    write_weights(tmp_path / "nan", tensors)
    for verb, *options in (("import", str(tmp_path / "run")), ("export", str(tmp_path / "run")), ("verify",)):
        assert main([verb, str(tmp_path / "nan"), *options]) == 2
        assert "model.embed_tokens.weight: a number that is not finite" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("value", "options"), [(torch.nan, []), (torch.inf, []), (1e5, ["--dtype", "float16"])])
def test_a_run_with_a_number_that_is_none_is_not_exported(tmp_path: Path, value: float, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    made = build_gpt(modern(2, vocab_size=TOKENIZER.vocab_size, context=32), 0)
    with torch.no_grad():
        made.tokens.weight[200, 5] = value
    run = run_of(made, tmp_path / "run")
    TOKENIZER.save(run / "tokenizer.json")
    assert main(["export", str(run), str(tmp_path / "out"), *options]) == 2
    assert "model.embed_tokens.weight, in float" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"chat_template.jinja": "{% for"}, "chat_template.jinja: cannot be read"),
        ({"chat_template.jinja": "{% for a in range(10**9) %}{{ a }}{% endfor %}"}, "chat_template.jinja: goes beyond its limits"),
        ({"chat_template.jinja": "{{ messages[0].content }}", "additional_chat_templates/tool_use.jinja": "{{ tools[0] + 1 }}"}, "fails on this"),
        ({"chat_template.jinja": "{{ raise_exception('no system message') }}"}, ""),
    ],
)
def test_a_chat_template_is_tried_before_anything_is_written(
    folder: Path, tmp_path: Path, files: dict[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    for name, source in files.items():
        (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text(source)
    assert main(["import", str(tmp_path / "model"), str(tmp_path / "run")]) == (2 if says else 0)
    assert says in capsys.readouterr().err
    assert (tmp_path / "run").exists() != bool(says)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_exported_as_they_are_stored(folder: Path, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind = {"bfloat16": "BF16", "float16": "F16"}[dtype]
    assert main(["export", str(folder), str(tmp_path / "half"), "--dtype", dtype]) == 0
    capsys.readouterr()
    for options, stored in (([], kind), (["--dtype", "float32"], "F32")):
        out = tmp_path / stored
        assert main(["export", str(tmp_path / "half"), str(out), "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out)["logits_apart"] == 0
        assert {info.dtype for info in open_weights(out).infos.values()} == {stored}
        assert json.loads((out / "config.json").read_text())["dtype"] == (dtype if stored == kind else "float32")
    half, whole = ((tmp_path / name / "model.safetensors").stat().st_size for name in (kind, "F32"))
    assert half < 0.6 * whole


def test_weights_in_two_dtypes_are_exported_in_the_wider(folder: Path, tmp_path: Path) -> None:
    assert main(["export", str(folder), str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    stored = open_weights(tmp_path / "half")
    tensors = {name: stored.tensor(name).clone() for name in stored.infos}
    (tmp_path / "half" / "model.safetensors").unlink()
    write_weights(tmp_path / "half", {n: t.float() if "norm" in n else t for n, t in tensors.items()})
    assert main(["export", str(tmp_path / "half"), str(tmp_path / "out")]) == 0
    assert {info.dtype for info in open_weights(tmp_path / "out").infos.values()} == {"F32"}
