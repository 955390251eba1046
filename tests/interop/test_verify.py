"""The lattice holds for every family, and names the edge, the layer and the position where a break has entered."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.infer.small import CONFIGS, model
from tests.interop.families import V, case, saved
from underhood.base.errors import ConfigError, NonFinite
from underhood.infer.paths import PATHS
from underhood.interop.models import load_weights
from underhood.interop.verify import WRITERS, Edge, _wide, compiled, every_path, verify
from underhood.lab.patch import Edit, applied
from underhood.nn.gpt import GPT, build_gpt
from underhood.projects.registry import find_break

__all__ = ["case"]
TEXTS = [torch.randint(V, (n,), generator=torch.Generator().manual_seed(n)) for n in (22, 3, 13)]
CompiledDecoder = pytest.importorskip("underhood.kernels.decode", exc_type=ImportError).CompiledDecoder


def passed_over(case: str) -> list[str]:
    """Only a window has something to forget, and kernels are compiled for rotations that do not change."""
    return (["rolling"] if "window" not in case or "no window" in case else []) + (["compiled"] if "dynamic" in case else [])


def require_all(edges: list[Edge]) -> None:
    assert {e.name for e in edges} == {*every_path(model()), *WRITERS}
    for edge in edges:
        assert edge.holds, edge
        assert edge.compared > 0 or edge.why.startswith("passed over"), edge


def test_every_family_exactly(tmp_path: Path, case: str) -> None:
    saved(tmp_path, case)
    require_all(list(verify(load_weights(tmp_path, torch.float64), TEXTS, "exact")))


def test_every_family_in_single_precision(tmp_path: Path, case: str) -> None:
    saved(tmp_path, case)
    edges = list(verify(load_weights(tmp_path, kernel="sdpa"), TEXTS))
    require_all(edges)
    assert [e.name for e in edges if e.why] == passed_over(case), "nothing else is passed over"


@pytest.mark.parametrize("name", ["gpt2", "qwen"])
def test_half_precision(name: str) -> None:
    require_all(list(verify(model(name).bfloat16(), TEXTS, "half")))


def test_half_precision_of_a_path_nearer_to_the_truth_than_the_naive_one() -> None:
    """Compiled kernels add in float32: where the naive path's rounding has chosen another token, it is not theirs that is wrong."""
    text = torch.randint(CONFIGS["mistral"].vocab_size, (96,), generator=torch.Generator().manual_seed(5))
    edge = next(verify(model("mistral").bfloat16(), [text], "half", paths={"compiled": compiled}))
    assert edge.holds, edge
    assert edge.error < 1e-5 < edge.allowed


@torch.no_grad()
@pytest.mark.parametrize(("noise", "why"), [(0.0, ""), (2.0, "larger errors on the whole"), (8.0, "")])
def test_half_precision_bounds_errors_on_the_whole_and_each(noise: float, why: str) -> None:
    """The naive path's own errors are an even rounding; twice as much noise everywhere is too much, and so is one far logit."""
    made, generator = model("gpt2").bfloat16(), torch.Generator().manual_seed(0)
    own = float((made(TEXTS[0][None]).double() - _wide(made)(TEXTS[0][None])).square().mean().sqrt())

    def noisy(m: GPT, texts: object, see: object) -> None:
        def forward() -> torch.Tensor:
            logits = m(TEXTS[0][None]).double()
            if noise == 8.0:
                logits[0, 7, 3] += 40 * own
                return logits
            return logits + noise * own * (2 * torch.randint(2, logits.shape, generator=generator) - 1)

        see([(0, t) for t in range(22)], forward)  # type: ignore[operator]

    edge = next(verify(made, TEXTS, "half", paths={"noisy": noisy}))
    assert (edge.holds, edge.why) == (noise == 0, why), edge


PAGES = "underhood.infer.pages:"
SHARED = "self._mixed(q[:, :, r.begin : r.end], "
BREAKS: dict[str, tuple[Edit, ...]] = {
    "cached": (Edit("underhood.infer.cache:LayerCache.extend", "self.values[:, :, :end]", "self.values[:, :, :end].roll(1, 2)"),),
    "static-cached": (Edit("underhood.infer.cache:StaticCache.filled", "- self.length - coming", "- self.length - coming - 1"),),
    "padded": (Edit("underhood.infer.forward:hidden_padded", "(real.long().cumsum(-1) - 1).clamp(min=0)", "torch.arange(ids.shape[1]).expand(ids.shape)"),),
    "paged": (Edit(PAGES + "PageTable.append_slots", "size + t % size", "size + (t + 1) % size"),),
    "batched": (Edit("underhood.infer.paged:PagedLayer.attend", SHARED + "r,", SHARED + "self.step.reaches[0],"),),
    "chunked": (Edit("underhood.nn.attention:causal_mask", ".tril(S - T)", ".tril()"),),
    "prefix-cached": (
        Edit(PAGES + "BlockPool.allocate", "self.index.forget(block)", "pass"),
        Edit(PAGES + "BlockPool.release", "last=block in self.index", "last=False"),
    ),
    "speculative": (Edit(PAGES + "PageTable.truncate", "self.published = length,", "self.published = min(length + 1, self.length),"),),
    "compiled": (Edit("underhood.kernels.decode:CompiledDecoder.hidden", "if self.positions is not None:", "if self.positions is None:"),),
    "drafted": (Edit("underhood.infer.speculate:judge", "uniform[i] * q[i, guess] >= p[i, guess]", "False"),),
    "engine": (Edit("underhood.infer.engine:Engine._choose", "request.draft[place] == chosen[request][place]", "True"),),
    "exported": (
        Edit("underhood.interop.gpt2:their_tensors", "state[ours].T if turned", "state[ours].T if turned and state[ours].shape[0] != state[ours].shape[1]"),
    ),
}


def broken(patches: tuple[Edit, ...], made: GPT) -> dict[str, Edge]:
    with applied(list(patches)):
        return {e.name: e for e in verify(made, TEXTS)}


@pytest.mark.parametrize("edge", BREAKS)
def test_each_edge_has_a_break_that_it_catches(edge: str) -> None:
    found = broken(BREAKS[edge], model("gpt2"))
    assert not found[edge].holds, found
    assert found[edge].place is not None or found[edge].why
    whole = {"static-cached": 13, "padded": 13, "batched": 10, "prefix-cached": 12, "speculative": 12, "compiled": 12, "exported": 13}
    whole |= {"drafted": 13, "engine": 13}
    if edge in whole:
        assert sum(e.holds for e in found.values()) >= whole[edge], "the other edges stand"


def test_tiled_attention_has_one_of_its_project() -> None:
    found = broken(find_break("flash.not_rescaled")[1].patches, model("gpt2"))  # type: ignore[arg-type]
    assert not found["tiled"].holds
    assert all(e.holds for e in found.values() if e.name != "tiled")


def test_a_text_that_ends_early_is_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WRITERS, "engine", lambda made, asked: [[0]] * len(asked))
    edge = next(e for e in verify(model(), TEXTS) if e.name == "engine")
    assert (edge.holds, edge.why) == (False, "it wrote too little or too much")


def test_a_rolling_cache_that_forgets_too_much() -> None:
    forgetful = Edit("underhood.infer.cache:RollingLayer.extend", "k.shape[2] - (self.window - 1)", "k.shape[2] - (self.window - 2)")
    found = broken((forgetful,), model("mistral"))
    assert [name for name, e in found.items() if not e.holds] == ["rolling"]


def test_every_edge_is_broken_once() -> None:
    assert {*BREAKS, "tiled", "rolling"} == {*every_path(model()), *WRITERS}


def test_the_first_layer_and_position_are_named() -> None:
    """A key of layer 1 is written over at position 5 of the first text: everything before stands."""
    made = model("gpt2")

    def poisoned(m: GPT, texts: object, see: object) -> None:
        from underhood.infer.cache import KVCache

        text, cache = TEXTS[0], KVCache(2, 22)
        see([(0, t) for t in range(6)], lambda: m(text[None, :6], cache))  # type: ignore[operator]
        cache.layers[1].keys[:, :, 5] += 1
        for t in range(6, 22):
            see([(0, t)], lambda t=t: m(text[None, t : t + 1], cache))  # type: ignore[operator,misc]

    edge = next(verify(made, TEXTS, paths={"poisoned": poisoned}))
    assert (edge.holds, edge.layer, edge.place) == (False, 1, (0, 6))


def one_weight_off(made: GPT) -> GPT:
    other = copy.deepcopy(made)
    with torch.no_grad():
        other.blocks[1].feedforward.down.weight[0] += 0.1  # type: ignore[union-attr,operator,index]
    return other


@pytest.mark.parametrize("path", ["compiled", "exported"])
def test_the_block_is_named_of_a_path_that_runs_others(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block 0 agrees and block 1 does not, where the kernels, or the files, have a weight of their own."""
    module, right = sys.modules["underhood.interop.verify"], load_weights
    if path == "compiled":
        monkeypatch.setattr(module, "_decoder", lambda made: CompiledDecoder(one_weight_off(made), huge_pages=False))
    else:
        monkeypatch.setattr(module, "load_weights", lambda *given: one_weight_off(right(*given)))
    found = {e.name: e for e in verify(model("gpt2"), TEXTS)}
    assert (found[path].holds, found[path].layer, found[path].place) == (False, 1, (0, 0))
    assert [e.name for e in found.values() if not e.holds] == ([path, "engine"] if path == "compiled" else [path])


def test_a_path_that_computes_nothing_does_not_hold() -> None:
    edge = next(verify(model(), TEXTS, paths={"nothing": lambda m, t, see: None}))
    assert (edge.holds, edge.why) == (False, "it computed nothing")


def test_a_path_that_fails_says_how() -> None:
    def fails(m: GPT, texts: object, see: object) -> None:
        raise RuntimeError("no")

    edge = next(verify(model(), TEXTS, paths={"fails": fails}))
    assert (edge.holds, edge.why) == (False, "RuntimeError: no")


def test_not_a_number_is_no_agreement() -> None:
    made, other = model(), build_gpt(CONFIGS["mistral"], 0).eval()
    with torch.no_grad():
        other.blocks[1].norm1.weight[0] = torch.nan  # type: ignore[union-attr,operator]

    def nan(m: GPT, texts: object, see: object) -> None:
        see([(0, t) for t in range(22)], lambda: other(TEXTS[0][None]))  # type: ignore[operator]

    assert not next(verify(made, TEXTS, paths={"nan": nan})).holds


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_not_finite_from_a_position_on_is_named(value: float) -> None:
    """All that is shown counts as compared, and a row of NaN is not one that was never computed."""

    def late(m: GPT, texts: list[torch.Tensor], see: Callable[..., None]) -> None:
        def forward(text: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = m(text[None])
            logits[:, 3:] = value
            return logits

        for i, text in enumerate(texts):
            see([(i, t) for t in range(len(text))], lambda text=text: forward(text))  # type: ignore[misc]

    for made, grade in ((model(), "numerical"), (model().bfloat16(), "half")):
        edge = next(verify(made, TEXTS, grade, paths={"late": late}))  # type: ignore[arg-type,dict-item]
        assert (edge.holds, edge.layer, edge.place, edge.compared) == (False, -1, (0, 3), sum(map(len, TEXTS)))
        assert "not finite" in edge.why


def test_not_finite_in_a_stream_alone_is_named() -> None:
    def hidden(m: GPT, texts: list[torch.Tensor], see: Callable[..., None]) -> None:
        stream = torch.zeros(1, 22, 32)
        stream[0, 7] = torch.nan
        see([(0, t) for t in range(22)], lambda: (m(texts[0][None]), {1: stream}))

    edge = next(verify(build_gpt(CONFIGS["mistral"], 0).eval(), TEXTS, paths={"hidden": hidden}))  # type: ignore[dict-item]
    assert (edge.holds, edge.error, edge.layer) == (False, float("inf"), 1)


@pytest.mark.parametrize(("layer", "text"), [(0, 3), (1, 1)])
def test_not_finite_in_the_naive_path_itself_leaves_nothing_to_compare_with(layer: int, text: int) -> None:
    """A row of the embedding that only the last text has, or a gain that all go through."""
    made = model()
    only = next(i for i in TEXTS[2] if all(i not in t for t in TEXTS[:2]))
    with torch.no_grad():
        (made.tokens.weight[only] if layer == 0 else made.blocks[1].norm1.weight)[0] = torch.nan  # type: ignore[union-attr,operator,index]
    with pytest.raises(NonFinite, match=f"naive path gives after block {layer} at text {text}, position 0, is not finite"):
        next(verify(made, TEXTS))


def test_not_finite_where_only_what_is_written_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts miss the row of NaN, and a writer ends in it."""
    made = model()
    missed = next(i for i in range(V) if all(i not in t for t in TEXTS))
    with torch.no_grad():
        made.tokens.weight[missed] = torch.nan
    monkeypatch.setitem(WRITERS, "engine", lambda m, asked: [[missed] * n for _, n in asked])
    edge = next(e for e in verify(made, TEXTS) if e.name == "engine")
    assert not edge.holds
    assert "not finite" in edge.why


def test_the_grade_asks_for_its_dtype() -> None:
    with pytest.raises(ConfigError, match="float64"):
        next(verify(model(), TEXTS, "exact"))


def test_paths_are_shown_in_the_order_of_the_lattice() -> None:
    assert list(every_path(model()))[: len(PATHS)] == list(PATHS)
