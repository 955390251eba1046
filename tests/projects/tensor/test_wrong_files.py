"""Wrong tensors, layers and models that run: each fails by the check that is meant for it, and every check before that holds."""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

from underhood.lab.kills import run_check
from underhood.lab.patch import Edit, applied
from underhood.projects.registry import find_project
from underhood.workbench.checking import check_file
from underhood.workbench.starter import solution

PROJECT = find_project("tensor")
MODULE, FUNCTIONS, LAYERS = "underhood.tensor.tensor", "underhood.tensor.functions", "underhood.tensor.layers"
T, BIGRAM, MODEL = f"{MODULE}:Tensor", "underhood.tensor.bigram:Bigram", "underhood.tensor.charmodel:CharModel"
POW, SUM, MATMUL, BACKWARD = f"{T}.__pow__", f"{T}.sum", f"{T}.__matmul__", f"{T}.backward"
LINEAR, COUNT, INIT, DRAW = f"{LAYERS}:Linear.__init__", f"{BIGRAM}.count", f"{MODEL}.__init__", "underhood.tensor.sample:draw"
ADDED = "gradients[source] = gradients[source] + own if source in gradients else own"
IN_PLACE = "if source in gradients: gradients[source] += own\n                else: gradients[source] = own"
LEAF = "node.grad = gradient.copy() if node.grad is None else node.grad + gradient"
SHARED_LEAF = "if node.grad is None: node.grad = gradient\n            else: node.grad += gradient"
NORMAL = "rng.standard_normal((n_inputs, n_outputs)) * n_inputs**-0.5"
HIDDEN, OUTPUT = '_generator(seed, "init/hidden")', '_generator(seed, "init/output")'
ONE_MATRIX = "a.ndim < 2 or b.ndim < 2 or "
KEEP = "g if axis is None or keepdims else np.expand_dims(g, axis)"


CONTEXT, ONE_STREAM = "    self.context = context\n", "    self.context = context\n    _generator = lambda *_, rng=np.random.default_rng(seed): rng\n"
STREAM = "stream_seed(seed, purpose)"


class Wrong(NamedTuple):
    """What is changed, the check that must fail first, and words of its message."""

    target: str
    old: str
    new: str
    check: str
    says: str


WRONG = {
    "a 1 does not stretch": Wrong(f"{MODULE}:broadcast_shape", "n if m == 1 else m", "m", "broadcast_shape", "another shape"),
    "anything fits": Wrong(f"{MODULE}:broadcast_shape", "m != n and 1 not in (m, n)", "False", "broadcast_shape", "must be refused"),
    "only added axes": Wrong(f"{MODULE}:unbroadcast", "if stretched else gradient", "if False else gradient", "unbroadcast", "copied"),
    "averaged": Wrong(f"{MODULE}:unbroadcast", "gradient = gradient.sum(", "gradient = gradient.mean(", "unbroadcast", "copied 3 times"),
    "no case for x⁰": Wrong(POW, " if exponent else np.zeros_like(x)", "", "arithmetic", "x⁰ at 0"),
    "wanted by all": Wrong(f"{T}.result", "if source.requires_grad", "if True", "arithmetic", "what wants no gradient"),
    "the first input only": Wrong(f"{T}.result", "True, inputs, pullback", "True, inputs[:1], pullback", "arithmetic", "all its inputs"),
    "wanted by none": Wrong(f"{T}.result", "True, inputs", "False, inputs", "arithmetic", "all its inputs"),
    "product rule": Wrong(f"{T}.__mul__", "g * b if", "g * a if", "arithmetic", "a × b: its pullback gives another gradient of input 0"),
    "one gradient for two": Wrong(f"{T}.__add__", "(g, g)", "(g,)", "arithmetic", "a tuple with one gradient for each input"),
    "x − 3": Wrong(f"{T}.__rsub__", "-self + other", "self - other", "arithmetic", "3 − x: another value"),
    "numbers widen": Wrong(f"{T}._other", "np.asarray(other, self.data.dtype) if", "np.asarray(other) if", "dtypes", "another dtype"),
    "integers learn": Wrong(f"{T}.__init__", 'self.data.dtype.kind != "f"', "False", "dtypes", "integers must be refused"),
    "no tuple": Wrong(f"{T}.tanh", "(g * (1 - t * t),)", "g * (1 - t * t)", "functions", "a tuple with one gradient for each input"),
    "relu slopes at 0": Wrong(f"{T}.relu", "y > 0", "y >= 0", "functions", "relu: its pullback"),
    "log of the result": Wrong(f"{T}.log", "g / x", "g / np.log(x)", "functions", "log: its pullback"),
    "keepdims is ignored backward": Wrong(SUM, " or keepdims", "", "sums_and_shapes", "keepdims=True): its pullback"),
    "keepdims is ignored": Wrong(SUM, "axis=axis, keepdims=keepdims", "axis=axis", "sums_and_shapes", "keepdims=True): another value"),
    "no axis comes back": Wrong(SUM, KEEP, "g", "sums_and_shapes", "keepdims=False): its pullback does not run"),
    "means of rows": Wrong(f"{T}.mean", "total.data.size / self.data.size", "1.0 / len(self.data)", "sums_and_shapes", "x.mean(axis=None"),
    "back in the new shape": Wrong(f"{T}.reshape", "g.reshape(old)", "g", "sums_and_shapes", "reshape(2, -1): its pullback"),
    "not turned back": Wrong(f"{T}.transpose", "g.swapaxes(a, b)", "g", "sums_and_shapes", "transpose(0, 2): its pullback"),
    "vectors multiply": Wrong(MATMUL, ONE_MATRIX, "", "matrix_products", "must be refused"),
    "twice the gradient": Wrong(
        MATMUL, "g @ b.swapaxes(-1, -2)", "(b @ g.swapaxes(-1, -2)).swapaxes(-1, -2) * 2", "matrix_products", "gradient of input 0"),
    "the last use wins": Wrong(f"{T}.__getitem__", "np.add.at(full, index, g)", "full[index] = g", "repeated_rows", "x[[2, 0, 2, 2]]"),
    "not un-broadcast": Wrong(BACKWARD, "unbroadcast(part, source.data.shape)", "part", "backward", "gradient of input"),
    "from anything": Wrong(BACKWARD, "self.data.size != 1 or ", "", "backward", "more than one number"),
    "ways replace one another": Wrong(BACKWARD, ADDED, "gradients[source] = own", "shared_tensors", "another gradient"),
    "in place": Wrong(BACKWARD, ADDED, IN_PLACE, "shared_tensors", "((a + b) + a)·w: another gradient"),
    "leaves share an array": Wrong(BACKWARD, LEAF, SHARED_LEAF, "shared_tensors", "backward does not run"),
    "the second replaces the first": Wrong(BACKWARD, LEAF, "node.grad = gradient", "shared_tensors", "2 times the slopes"),
    "order with all": Wrong(f"{T}.topological_order", " if i.requires_grad)", ")", "backward", "backward does not run"),
    "softmax over all": Wrong(f"{FUNCTIONS}:softmax", "e.sum(axis=-1, keepdims=True)", "e.sum()", "softmax", "softmax: another value"),
    "softmax loses an axis": Wrong(f"{FUNCTIONS}:softmax", "e.sum(axis=-1, keepdims=True)", "e.sum(axis=-1)", "softmax", "softmax: forward does not run"),
    "a sum for the mean": Wrong(f"{FUNCTIONS}:cross_entropy", "picked.mean()", "picked.sum()", "cross_entropy", "another value"),
    "in bits": Wrong(f"{FUNCTIONS}:cross_entropy", "-picked.mean()", "-picked.mean() / np.log(2)", "cross_entropy", "another value"),
    "−1 is let through": Wrong(
        f"{FUNCTIONS}:cross_entropy", "targets.min() < 0 or ", "", "refuses_wrong_targets", "must be refused"),
    "weights too large": Wrong(LINEAR, " * n_inputs**-0.5", "", "layers", "deviation 1/√inputs"),
    "weights all 0": Wrong(LINEAR, NORMAL, "np.zeros((n_inputs, n_outputs))", "layers", "deviation 1/√inputs"),
    "weights uniform": Wrong(LINEAR, NORMAL, "rng.uniform(-1, 1, (n_inputs, n_outputs)) * (3 / n_inputs) ** 0.5", "layers", "start normal"),
    "by outputs": Wrong(LINEAR, "n_inputs**-0.5", "n_outputs**-0.5", "layers", "deviation 1/√inputs"),
    "a generator of its own": Wrong(LINEAR, "rng.standard", "np.random.default_rng(0).standard", "layers", "drawn from rng"),
    "bias starts at 1": Wrong(LINEAR, "np.zeros(n_outputs", "np.ones(n_outputs", "layers", "bias starts at 0"),
    "float64 weights": Wrong(LINEAR, ".astype(np.float32), requires", ", requires", "layers", "dtypes"),
    "the bias is fixed": Wrong(LINEAR, "np.zeros(n_outputs, np.float32), requires_grad=True", "np.zeros(n_outputs, np.float32)", "layers", "trainable"),
    "no bias": Wrong(f"{LAYERS}:Linear.__call__", " + self.bias", "", "layers", "x W + b"),
    "small rows": Wrong(f"{LAYERS}:Embedding.__init__", "width)).astype", "width)).__mul__(0.02).astype", "layers", "standard normal"),
    "whole smoothing": Wrong(
        COUNT, "np.full((vocab_size, vocab_size), smoothing)", "np.full((vocab_size, vocab_size), float(int(smoothing)))", "bigram", "a half added"),
    "no smoothing is fine": Wrong(COUNT, " or smoothing <= 0", "", "bigram", "above 0"),
    "the first character": Wrong(f"{BIGRAM}.__call__", "ids[:, -1]", "ids[:, 0]", "bigram", "what follows a, b and c"),
    "trainable is fixed": Wrong(f"{BIGRAM}.trainable", ", requires_grad=True", "", "bigram", "trainable table"),
    "targets too early": Wrong("underhood.tensor.charmodel:windows", "ids[context:]", "ids[context - 1 : -1]", "windows", "what follows"),
    "one stream, one state": Wrong(INIT, f"{OUTPUT})", '_generator(seed, "init/hidden"))', "character_model", "same random numbers"),
    "one stream for all": Wrong(INIT, CONTEXT, ONE_STREAM, "character_model", "a stream of its own"),
    "any seed": Wrong("underhood.tensor.charmodel:_generator", STREAM, "stream_seed(0, purpose)", "character_model", "depends on the seed"),
    "no bend": Wrong(f"{MODEL}.__call__", ".tanh()", "", "character_model", "W₂ tanh("),
    "the sum may end below 1": Wrong(DRAW, " * reached[-1]", "", "draw", "may end below 1"),
    "always the likeliest": Wrong(DRAW, "temperature == 0", "temperature < 1", "draw", "the shares of the draws"),
    "any temperature": Wrong(DRAW, "temperature < 0", "False", "draw", "negative temperature"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_wrong_tensor_fails_by_its_check(name: str) -> None:
    wrong = WRONG[name]
    with applied((Edit(wrong.target, wrong.old, wrong.new),)):
        part = PROJECT.part_now()
        failed = next(((check.name, text) for check in PROJECT.checks() if (text := run_check(check, part)) is not None), None)
    assert failed is not None, "no check sees it"
    assert failed[0] == wrong.check, failed
    assert wrong.says in failed[1].splitlines()[0], failed
    assert "\n  given: " in failed[1]


@pytest.mark.parametrize(
    ("missing", "step"),
    [
        (("exp", "log", "tanh", "relu", "sum", "mean", "__matmul__", "__getitem__", "topological_order", "backward"), 3),
        (("sum", "mean", "__matmul__", "__getitem__", "topological_order", "backward"), 4),
        (("__getitem__", "topological_order", "backward"), 5),
        (("topological_order", "backward"), 6),
        (("softmax", "log_softmax", "cross_entropy"), 7),
    ],
)
def test_what_a_later_step_teaches_is_not_asked_for(missing: tuple[str, ...], step: int, tmp_path: Path) -> None:
    tree = ast.parse(solution(PROJECT))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in missing]
    assert len(found) == len(missing)
    for node in found:
        node.body = ast.parse(f"raise NotWritten({node.name!r})").body
    file = tmp_path / "mine.py"
    file.write_text("from underhood.base.errors import NotWritten\n" + ast.unparse(tree), encoding="utf-8")
    report = check_file(PROJECT, file)
    assert report.next_step is not None
    assert report.next_step.number == step
    assert {o.state for o in report.next_step.outcomes} <= {"not written", "holds"}
