"""canonicalize-binarizers: every form of a binarized activation becomes the canonical binarizer.

Exporters write `sign(x)` in many ways: Sign, comparisons with Where or Cast arithmetic, straight-through residue (r
+ (sign(x) - r)), a Clip or Tanh before. All are step functions of one tensor x with one threshold, so the pass
computes, for each tensor that is such a step, the four values it takes: below, at and above the threshold, and for
NaN. A step with the values -c and +c is a binarizer, times c.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from bnncc.passes import binarizers
from bnncc.passes import graph as g
from bnncc.passes.base import LAYER_OPS, Binarizer, Context, PassResult

BELOW, AT, ABOVE, NAN = range(4)


@dataclass(frozen=True)
class Step:
    """A tensor that depends only on how `source` compares with a threshold.

    threshold: float32 [1] or [C]; values: [4], below, at and above the threshold and for NaN; from_sign: the value at
    the threshold is that of an ONNX Sign, 0, or comes from it.
    """

    source: gs.Tensor
    threshold: np.ndarray
    values: np.ndarray
    from_sign: bool = False

    def same_input(self, other: Step) -> bool:
        return g.same_value(self.source, other.source) and np.array_equal(self.threshold, other.threshold)


_COMPARISONS = {
    "GreaterOrEqual": (0, 1, 1, 0),
    "Greater": (0, 0, 1, 0),
    "Less": (1, 0, 0, 0),
    "LessOrEqual": (1, 1, 0, 0),
    "Equal": (0, 1, 0, 0),
}
_SWAPPED = {
    "GreaterOrEqual": "LessOrEqual",
    "Greater": "Less",
    "Less": "Greater",
    "LessOrEqual": "GreaterOrEqual",
    "Equal": "Equal",
}
_ELEMENTWISE = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Neg": np.negative,
    "Not": np.logical_not,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Sign": np.sign,
    "Where": np.where,
}


class CanonicalizeBinarizers:
    """Canonical binarizers for all forms of binarized activations."""

    name = "canonicalize-binarizers"
    requires = ("simplify",)
    guarantees = "each binarizer of activations is Where(x >= t, +1, -1), directly on the tensor that it compares"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        result = PassResult()
        steps: dict[int, Step] = {}
        for node in list(graph.nodes):
            step = _step_of(node, steps)
            if step is not None:
                steps[id(node.outputs[0])] = step
        for node in list(graph.nodes):
            tensor = node.outputs[0] if node.outputs else None
            step = steps.get(id(tensor))
            if step is None or not _is_frontier(graph, tensor, steps):
                continue
            result.changed |= _canonicalize(graph, tensor, step, context, result)
        if result.changed:
            g.tidy(graph)
        return result


def _step_of(node: gs.Node, steps: dict[int, Step]) -> Step | None:
    if len(node.outputs) != 1 or node.domain not in (None, "", "ai.onnx"):
        return None
    inputs = [steps.get(id(tensor)) for tensor in node.inputs]
    known = [step for step in inputs if step is not None]
    if not known and node.op in _COMPARISONS:
        return _comparison(node)
    if not known:
        return _sign(node) if node.op == "Sign" else _without_residue(node, steps)
    return _elementwise(node, inputs, known[0])


def _comparison(node: gs.Node) -> Step | None:
    left, right = node.inputs
    op = node.op
    if g.constant(left) is not None:
        left, right, op = right, left, _SWAPPED[op]
    if g.constant(left) is not None:
        return None
    threshold = g.channel_vector(right, g.rank(left))
    if threshold is None or threshold.dtype != np.float32 or not np.isfinite(threshold).all():
        return None
    if not g.broadcasts_into(right, left):
        return None
    return Step(left, threshold, np.array(_COMPARISONS[op], bool))


def _sign(node: gs.Node) -> Step | None:
    if node.inputs[0].dtype != np.float32:
        return None
    return Step(node.inputs[0], np.zeros(1, np.float32), np.array([-1, 0, 1, 0], np.float32), from_sign=True)


def _elementwise(node: gs.Node, inputs: list[Step | None], first: Step) -> Step | None:
    """The op applied to the four values, its other operands being constants or steps of the same comparison."""
    operands = []
    for tensor, step in zip(node.inputs, inputs, strict=True):
        if step is not None:
            if not step.same_input(first):
                return None
            operands.append(step.values)
        else:
            value = g.filled_value(tensor)
            if value is None or not g.broadcasts_into(tensor, first.source):
                return None
            operands.append(value)
    from_sign = any(step.from_sign for step in inputs if step is not None)
    if node.op == "Cast":
        dtype = onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"])
        return replace(first, values=operands[0].astype(dtype), from_sign=from_sign)
    if node.op in _COMPARISONS:
        functions = {"GreaterOrEqual": np.greater_equal, "Greater": np.greater, "Less": np.less,
                     "LessOrEqual": np.less_equal, "Equal": np.equal}  # fmt: skip
        return replace(first, values=functions[node.op](*operands), from_sign=from_sign)
    function = _ELEMENTWISE.get(node.op)
    if function is None or (
        node.op == "Div" and operands[0].dtype.kind in "iu"
    ):  # ONNX truncates quotients of integers
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.asarray(function(*operands))
    # Sign(Sign(x) + 0.1) and the like map an exact zero to a definite side.
    return replace(first, values=values, from_sign=from_sign and not _two_valued(values))


def _two_valued(values: np.ndarray) -> bool:
    return len(np.unique(values[:NAN])) <= 2


def _without_residue(node: gs.Node, steps: dict[int, Step]) -> Step | None:
    """Undo r + (s - r), (s - r) + r and (s + r) - r with a step s: s, up to the rounding of the residue."""
    if node.op == "Add":
        for outer, inner in (node.inputs, reversed(node.inputs)):
            difference = g.producer(inner)
            if difference is not None and difference.op == "Sub" and g.same_value(difference.inputs[1], outer):
                return steps.get(id(difference.inputs[0]))
    if node.op == "Sub":
        total = g.producer(node.inputs[0])
        if total is not None and total.op == "Add":
            for kept, other in (total.inputs, reversed(total.inputs)):
                if g.same_value(other, node.inputs[1]):
                    return steps.get(id(kept))
    return None


def _is_frontier(graph: gs.Graph, tensor: gs.Tensor, steps: dict[int, Step]) -> bool:
    """Whether something that is no step itself reads the tensor."""
    if g.is_graph_output(graph, tensor):
        return True
    return any(id(output) not in steps for node in tensor.outputs for output in node.outputs)


def _canonicalize(graph: gs.Graph, tensor: gs.Tensor, step: Step, context: Context, result: PassResult) -> bool:
    """Rebuild a step as binarizer times c; returns whether the graph changed."""
    node = g.producer(tensor)
    below, at, above, nan = (float(value) for value in step.values)
    scale = abs(above)
    if step.values.dtype != np.float32:
        return False
    keeps_zero = step.from_sign and at == 0
    if below != -above or scale == 0 or (abs(at) != scale and not keeps_zero):
        if any(reader.op in LAYER_OPS for reader in tensor.outputs):
            result.note(node.name, f"not a binarizer: takes the values {below:g}, {at:g}, {above:g}, not -c and +c")
        return False
    upward = above > 0
    closed = keeps_zero or at == scale
    threshold = step.threshold
    if not closed:  # x > t is x >= the next float above t
        threshold = np.nextafter(threshold, np.float32(np.inf if upward else -np.inf))
    comparison = binarizers.Comparison(
        source=_without_saturation(step.source, threshold, upward),
        threshold=threshold,
        direction=np.array([1 if upward else -1], np.int8),
        nan_bit=int(nan == scale),
    )
    record = Binarizer(tensor.name, step.source.name, comparison.threshold, comparison.direction,
                       comparison.nan_bit, keeps_zero)  # fmt: skip
    current = binarizers.match(tensor)
    if scale == 1 and current is not None and current.source is comparison.source:
        context.binarizers.setdefault(tensor.name, record)
        return False
    if scale == 1:
        signs = binarizers.build(graph, comparison, tensor)
    else:
        signs = binarizers.build(graph, comparison, g.fresh_name(graph, f"{tensor.name}_signs"))
        factor = gs.Constant(g.fresh_name(graph, f"{tensor.name}_scale"), np.array(scale, np.float32))
        g.add_node(graph, "Mul", [signs, factor], tensor)
    context.binarizers[signs.name] = record
    if keeps_zero and g.producer(step.source) is None:
        result.note(node.name, "exact zeros of the input count as +1 (Sign gives 0)")
    return True


def _without_saturation(source: gs.Tensor, threshold: np.ndarray, upward: bool) -> gs.Tensor:
    """The tensor before a Clip or Tanh that cannot change the comparison."""
    node = g.producer(source)
    if node is None:
        return source
    if node.op == "Tanh" and (threshold == 0).all():
        return _without_saturation(node.inputs[0], threshold, upward)
    if node.op == "Clip":
        bounds = [g.filled_value(bound) if bound.name else None for bound in node.inputs[1:]] + [None, None]
        low = -np.inf if bounds[0] is None else bounds[0]
        high = np.inf if bounds[1] is None else bounds[1]
        dynamic = any(bound.name and g.filled_value(bound) is None for bound in node.inputs[1:])
        inside = (low < threshold) & (threshold <= high) if upward else (low <= threshold) & (threshold < high)
        if not dynamic and inside.all():
            return _without_saturation(node.inputs[0], threshold, upward)
    return source
