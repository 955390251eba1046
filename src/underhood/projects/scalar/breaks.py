"""How to break the scalar engine. Predictions come from pilots on seeds of their own; the records hold what was measured."""

from underhood.lab.sabotage import Claim, Edit, Falls, Keeps, Rises, Sabotage, Stays, Violates

VALUE = "underhood.scalar.value:Value"
MLP = "underhood.scalar.mlp"
BASELINE = "scalar.six_points"

BREAKS: tuple[Sabotage, ...] = (
    Sabotage(
        name="product_rule_lost",
        says="The product passes no gradient to either operand.",
        kind="part",
        patch=Edit(f"{VALUE}.__mul__", "(other.data, self.data)", "(0.0, 0.0)"),
        baseline=BASELINE,
        expect=(Falls("fell", by=0.9), Rises("loss", by=0.9), Falls("first_layer_moved", by=0.15), Violates("tree_exact")),
        look="The loss keeps its first value to the last digit: even the mean at its end is a product, so nothing behind it hears anything.",
        claim=Claim(
            says="the loss stays at 0.8802 while the healthy run reaches 0.0068 on the six-point set",
            source="the published course, project 1, Break it",
            untested="the six points, the network and the learning rate behind the two figures are not published; on our own six points we predict the same "
            "kind of result: the loss does not move at all, the healthy one ends below a hundredth of its start",
        ),
    ),
    Sabotage(
        name="one_operand",
        says="A product passes its gradient to the left operand only.",
        kind="part",
        patch=Edit(f"{VALUE}.__mul__", "(other.data, self.data)", "(other.data, 0.0)"),
        baseline=BASELINE,
        silent=True,
        expect=(Rises("loss", by=0.85), Falls("first_layer_moved", by=0.15), Rises("network_gradient_error", by=0.4), Violates("tree_exact")),
        look="The loss falls at every step, so it looks as if the network learned; only its last layer does, for in weight × input no input hears anything.",
    ),
    Sabotage(
        name="overwritten",
        says="A node keeps the last gradient that reaches it instead of the sum of all.",
        kind="part",
        patch=Edit(f"{VALUE}.backward", "source.grad += slope", "source.grad = slope"),
        baseline=BASELINE,
        silent=True,
        expect=(Rises("loss", by=1.0), Rises("network_gradient_error", by=0.8), Keeps("tree_exact"), Violates("shared_exact")),
        look="Every test on an expression without repetition passes; a weight used for six points learns from one of them, and the loss on all six rises.",
    ),
    Sabotage(
        name="no_topological_order",
        says="Nodes are listed when they are first met, not after everything that they depend on.",
        kind="part",
        patch=Edit(f"{VALUE}.topological_order", "stack.append((node, True))", "order.insert(0, node)"),
        baseline=BASELINE,
        silent=True,
        expect=(
            Rises("network_gradient_error", by=0.4),
            Falls("first_layer_moved", by=0.05),
            Stays("loss", within=0.3),
            Keeps("tree_exact"),
            Violates("shared_exact"),
        ),
        look="It trains: gradients that are half wrong still point downhill. A node passes its gradient on before all who use it have paid in.",
    ),
    Sabotage(
        name="never_zeroed",
        says="The gradients of earlier steps are never cleared.",
        kind="part",
        patch=Edit(f"{MLP}:train_step", "parameter.grad = 0.0", "pass"),
        baseline=BASELINE,
        silent=True,
        expect=(Rises("first_layer_moved", by=5.0), Rises("loss", by=0.05), Keeps("tree_exact"), Keeps("shared_exact"), Violates("fresh_gradients")),
        look="All six points come out right, yet the loss stops near a tenth: a sum of gradients is momentum without friction, and throws the weights far out.",
    ),
    Sabotage(
        name="recursive_order",
        says="The order is found by a function that calls itself, once for every node of a chain.",
        kind="part",
        patch=Edit(
            f"{VALUE}.topological_order",
            """    stack = [(self, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((i, False) for i in node.inputs)
""",
            """
    def visit(node: Value) -> None:
        if node not in seen:
            seen.add(node)
            for source in node.inputs:
                visit(source)
            order.append(node)

    visit(self)
""",
        ),
        baseline=BASELINE,
        silent=True,
        expect=(Stays("loss", within=0.02), Keeps("shared_exact"), Violates("survives_depth")),
        look="Nothing at all on six points; a sum over a thousand examples ends in RecursionError.",
    ),
    Sabotage(
        name="sum_for_difference",
        says="Minus adds: the sign of what is subtracted is lost.",
        kind="part",
        patch=Edit(f"{VALUE}.__sub__", "-other", "other"),
        baseline=BASELINE,
        silent=True,
        expect=(Stays("loss", within=0.02), Falls("correct", by=5)),
        look="The loss curve is as good as ever and every point ends on the wrong side: the network learned (output + target)² → 0.",
    ),
    Sabotage(
        name="tanh_slope",
        says="The slope of tanh is taken as 1 − t instead of 1 − t².",
        kind="part",
        patch=Edit(f"{VALUE}.tanh", "1.0 - t * t", "1.0 - t"),
        baseline=BASELINE,
        expect=(Rises("first_layer_moved", by=1.0), Rises("network_gradient_error", by=0.5), Violates("tree_exact")),
        look="Some seeds still learn, after long detours: the slope is right at 0 and never has the wrong sign, only the wrong size.",
    ),
    Sabotage(
        name="log_of_zero_masked",
        says="The log of 0 is quietly taken as the log of a tiny number.",
        kind="part",
        patch=Edit(f"{VALUE}.log", "math.log(self.data), (self,), (1.0 / self.data,)", "math.log(self.data or 1e-12), (self,), (1.0 / (self.data or 1e-12),)"),
        baseline=BASELINE,
        silent=True,
        expect=(Stays("loss", within=0.02), Keeps("tree_exact"), Violates("refuses_log_of_zero")),
        look="Nothing, until a probability of 0 is met: then the run goes on with a gradient of a million million.",
    ),
    Sabotage(
        name="no_bias",
        says="A neuron leaves out its bias.",
        kind="part",
        patch=Edit(f"{MLP}:Neuron.__call__", "total = self.bias", "total = Value(0.0)"),
        baseline=BASELINE,
        expect=(Rises("loss", by=0.7), Keeps("shared_exact")),
        look="All gradients are right, and the loss stalls: without biases tanh networks are odd functions, and f(−x) = −f(x) contradicts the labels.",
    ),
    Sabotage(
        name="squashed_output",
        says="The last layer has the activation too.",
        kind="part",
        patch=Edit(f"{MLP}:MLP.__init__", '["none"]', "[activation]"),
        baseline=BASELINE,
        silent=True,
        expect=(Stays("correct", within=0.5), Stays("loss", within=0.05), Keeps("shared_exact")),
        look="Here almost nothing, since targets of ±1 are within reach; any target beyond could never be met.",
    ),
)
