"""Wrong engines that run: each fails by the check that is meant for it, with what was given, and every check before that holds."""

from pathlib import Path
from typing import NamedTuple

import pytest

from underhood.lab.kills import run_check
from underhood.lab.patch import Edit, applied
from underhood.projects.registry import find_project
from underhood.workbench.checking import check_file
from underhood.workbench.starter import solution

PROJECT = find_project("scalar")
V, M = "underhood.scalar.value:Value", "underhood.scalar.mlp"
ADD, POW, MUL = (f"{V}.{name}" for name in ("__add__", "__pow__", "__mul__"))
ORDER, BACKWARD, NEURON, CALL = f"{V}.topological_order", f"{V}.backward", f"{M}:Neuron.__init__", f"{M}:Neuron.__call__"
STEP, MEAN = f"{M}:train_step", f"{M}:mean_squared_error"
SEEN = """    seen: set[Value] = set()
    stack = [(self, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
"""
ROOT = """    slope = exponent * math.pow(self.data, exponent - 1) if exponent else 0.0
    return Value(math.pow(self.data, exponent)"""
NEURONS = "[Neuron(n_inputs, rng, activation) for _ in range(n_outputs)]"
CLEAR, DESCEND = "    for parameter in model.parameters():\n        parameter.grad = 0.0\n", "parameter.data -= learning_rate"
TRUE_MEAN = "sum(errors, Value(0.0)) / len(errors)"


class Wrong(NamedTuple):
    """What is changed, the check that must fail first, and words of its message."""

    target: str
    old: str
    new: str
    check: str
    says: str


WRONG = {
    "grad starts at 1": Wrong(f"{V}.__init__", "data, 0.0", "data, 1.0", "arithmetic", "the gradient 0.0"),
    "a sum without inputs": Wrong(ADD, "(self, other), (1.0, 1.0)", "(), ()", "arithmetic", "inputs are x and y"),
    "a sum in place": Wrong(ADD, "    return", "    self.data += 1.0\n    return", "arithmetic", "as they are"),
    "no op": Wrong(ADD, ', "+")', ")", "arithmetic", "what computed"),
    "3 − x turned round": Wrong(f"{V}.__rsub__", "-self + other", "self - other", "arithmetic", "number, Value: -"),
    "slopes of a sum": Wrong(ADD, "(1.0, 1.0)", "(1.0, 0.0)", "product_rule", "slopes of a + b"),
    "own number for slope": Wrong(MUL, "(other.data, self.data)", "(self.data, other.data)", "product_rule", "are b and a"),
    "relu slopes at 0": Wrong(f"{V}.relu", "self.data > 0", "self.data >= 0", "functions", "relu has another slope: 1 right of 0, and 0 elsewhere"),
    "power rule": Wrong(POW, "exponent * math.pow(self.data, exponent - 1)", "exponent * math.pow(self.data, exponent)", "functions", "k·xᵏ⁻¹"),
    "no case for x⁰": Wrong(POW, " if exponent else 0.0", "", "functions", "** 0 does not run"),
    "log slope": Wrong(f"{V}.log", "1.0 / self.data", "self.data", "functions", "log′ x = 1/x"),
    "exp slope": Wrong(f"{V}.exp", "(e,)", "(self.data * e,)", "functions", "exp is its own slope"),
    "complex roots": Wrong(POW, ROOT, ROOT.replace("math.pow(self.data, ", "pow(self.data, "), "refuses_what_is_no_number", "the square root"),
    "exp cut off": Wrong(f"{V}.exp", "math.exp(self.data)", "math.exp(min(self.data, 700.0))", "refuses_what_is_no_number", "beyond every float"),
    "division by 0 is inf": Wrong(
        f"{V}.__rtruediv__",
        "self**-1 * other",
        "self**-1 * other if self.data else Value(math.inf, (self,), (0.0,))",
        "refuses_what_is_no_number",
        "division by 0",
    ),
    "paying too early": Wrong(ORDER, "stack.append((node, True))", "order.insert(0, node)", "topological_order", "a stands before y, which it uses"),
    "twice in the order": Wrong(
        ORDER, "order.append(node)", "order.append(node)\n            order.append(node)", "topological_order", "2 times instead of once"
    ),
    "no leaves in the order": Wrong(ORDER, "for i in node.inputs)", "for i in node.inputs if i.inputs)", "topological_order", "0 times instead of once"),
    "without the result": Wrong(ORDER, "return order", "return order[:-1]", "topological_order", "0 times instead of once"),
    "from the result": Wrong(ORDER, "return order", "return order[::-1]", "topological_order", "which it uses"),
    "seen is a list": Wrong(ORDER, SEEN, SEEN.replace("set[Value] = set()", "list[Value] = []").replace("add", "append"), "each_line_once", "too long"),
    "walk not reversed": Wrong(BACKWARD, "for node in reversed(order)", "for node in order", "chain", "gradients of w, x and v"),
    "no start": Wrong(BACKWARD, "self.grad += 1.0", "pass", "chain", "gradients of w, x and v"),
    "= for +=": Wrong(BACKWARD, "source.grad += slope", "source.grad = slope", "shared_node", "4x³ + 9x²"),
    "inner nodes keep theirs": Wrong(BACKWARD, "node.grad = 0.0", "pass", "backward_adds_up", "adds to x and y what the first one did"),
    "leaves start afresh": Wrong(BACKWARD, "if node.inputs:", "if True:", "backward_adds_up", "adds to x and y what the first one did"),
    "result set to 1": Wrong(BACKWARD, "self.grad += 1.0", "self.grad = 1.0", "backward_adds_up", "a leaf that is the result itself"),
    "weights from −1 to 1": Wrong(NEURON, "n_inputs**-0.5", "1.0", "neuron", "±1/√inputs"),
    "weights all 0": Wrong(NEURON, "rng.uniform(-scale, scale)", "0.0", "neuron", "±1/√inputs"),
    "a generator of its own": Wrong(NEURON, "rng.uniform(-scale, scale)", "random.Random(0).uniform(-scale, scale)", "neuron", "drawn in order from rng"),
    "bias starts at 1": Wrong(NEURON, "Value(0.0)", "Value(1.0)", "neuron", "bias starts at 0"),
    "bias starts random": Wrong(NEURON, "Value(0.0)", "Value(rng.uniform(-scale, scale))", "neuron", "bias starts at 0"),
    "always tanh": Wrong(CALL, "total.tanh() if", "total.tanh() if True or", "neuron", "activation(w · x + b)"),
    "bias first": Wrong(f"{M}:Neuron.parameters", "[*self.weights, self.bias]", "[self.bias, *self.weights]", "neuron", "drawn in order"),
    "one neuron, three times": Wrong(f"{M}:Layer.__init__", NEURONS, "[Neuron(n_inputs, rng, activation)] * n_outputs", "layer", "neuron 2"),
    "layer forgets its activation": Wrong(f"{M}:Layer.__init__", "Neuron(n_inputs, rng, activation)", "Neuron(n_inputs, rng)", "layer", "relu(W x + b)"),
    "network forgets its activation": Wrong(f"{M}:MLP.__init__", "[activation] *", '["tanh"] *', "network", "W₂ relu("),
    "squashed output": Wrong(f"{M}:MLP.__init__", '["none"]', "[activation]", "network", "W₂ tanh("),
    "mean over the points": Wrong(MEAN, TRUE_MEAN, "sum(errors, Value(0.0)) / len(outputs)", "mean_squared_error", "the mean of the six squares"),
    "a sum for the mean": Wrong(MEAN, TRUE_MEAN, "sum(errors, Value(0.0))", "mean_squared_error", "the mean of the six squares"),
    "the last point only": Wrong(MEAN, TRUE_MEAN, "errors[-1] * 1.0", "mean_squared_error", "the mean of the six squares"),
    "a mean without slopes": Wrong(MEAN, TRUE_MEAN, "Value(sum(e.data for e in errors) / len(errors))", "mean_squared_error", "the slope towards each output"),
    "uphill": Wrong(STEP, DESCEND, "parameter.data += learning_rate", "train_step", "moves by −learning rate"),
    "no learning rate": Wrong(STEP, DESCEND + " *", "parameter.data -= 1.0 *", "train_step", "moves by −learning rate"),
    "never cleared": Wrong(STEP, CLEAR, "", "train_step", "step 2 leaves parameter 0 elsewhere: the gradients of earlier steps"),
    "cleared too late": Wrong(STEP, CLEAR + "    loss.backward()\n", "    loss.backward()\n" + CLEAR, "train_step", "moves by −learning rate"),
    "the loss is a node": Wrong(STEP, "return loss.data", "return loss", "train_step", "plain number"),
    "the loss after the step": Wrong(
        STEP, "return loss.data", "return mean_squared_error([model(x) for x in inputs], targets).data", "train_step", "before it moves"
    ),
    "one point a step": Wrong(STEP, "[model(x) for x in inputs], targets", "[model(inputs[0])], targets[:1]", "train_step", "the loss that step 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_engine_fails_by_its_check(name: str) -> None:
    wrong = WRONG[name]
    with applied((Edit(wrong.target, wrong.old, wrong.new),)):
        part = PROJECT.part_now()
        failed = next(((check.name, text) for check in PROJECT.checks() if (text := run_check(check, part)) is not None), None)
    assert failed is not None, "no check sees it"
    assert failed[0] == wrong.check, failed
    assert wrong.says in failed[1].splitlines()[0]
    assert "\n  given: " in failed[1]


def test_a_misplaced_node_is_shown_in_a_small_program() -> None:
    with applied((Edit(ORDER, "stack.append((node, True))", "order.insert(0, node)"),)):
        text = run_check(next(c for c in PROJECT.checks() if c.name == "topological_order"), PROJECT.part_now())
    assert text is not None
    rows = [row.strip() for row in text.splitlines()]
    assert rows[1].startswith("given: a = ")
    assert rows[1].count(";") == 1
    assert sorted(rows[3].removeprefix("found: ").split()) == ["a", "b", "x", "y"]


@pytest.mark.parametrize(("method", "check"), [("backward", "chain"), ("topological_order", "topological_order"), ("relu", "functions")])
def test_what_is_not_written_is_not_asked_for_before_its_step(method: str, check: str, tmp_path: Path) -> None:
    text = solution(PROJECT).replace(f"    def {method}(self)", f"    def {method}(self, *_):\n        raise NotWritten('{method}')\n\n    def _{method}(self)")
    file = tmp_path / "mine.py"
    file.write_text("from underhood.base.errors import NotWritten\n" + text, encoding="utf-8")
    report = check_file(PROJECT, file)
    assert report.next is not None
    assert (report.next.check.name, report.next.state) == (check, "not written")
