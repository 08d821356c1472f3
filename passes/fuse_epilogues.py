"""fuse-epilogues: what float output of a binary convolution goes through next becomes steps of the convolution's op.

    BinaryConv -> Add(shortcut) -> PRelu -> ... -> Binarize      becomes      BinaryConvStepsDual

A shortcut that is added, activations, affine ops and clips are steps that the kernel takes while the floats are in the
cache, each rounded as the op that it replaces, in their order; the packed signs that the next layer reads are taken
from the result there as well. So is the sum of the window that weights of two values need (canonicalize-weights): the
library counts it itself, and the convolution that stood for it goes. The steps end where something else reads a tensor:
the op gives one float tensor.

A convolution never waits for a shortcut that depends on it: only tensors with one reader are passed, so that whatever
comes from the convolution comes through the last step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import elementwise as ew
from bnncc.passes import graph as g
from bnncc.passes.affine import batchnorm
from bnncc.passes.base import Context, PassResult, Unsuitable
from bnncc.runtime.functions import DOMAIN, MOST_STEPS, STEP_NUMBERS

# Ops that could be steps: where one stays behind a binary convolution, a note says why.
CANDIDATES = ("Add", "Sub", "Mul", "BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip")

Step = tuple[str, np.ndarray]  # name, float32 [1] or [C]


@dataclass
class _Epilogue:
    """What follows a convolution, as steps: `nodes` are the ops that they replace, `output` what they give."""

    output: gs.Variable
    steps: list[Step] = field(default_factory=list)
    nodes: list[gs.Node] = field(default_factory=list)
    residual: gs.Tensor | None = None


class FuseEpilogues:
    """Shortcuts, activations and binarizers as parts of the convolution before them."""

    name = "fuse-epilogues"
    requires = ("lower",)
    guarantees = "a binary convolution's float output is read by no op that could be a step of it"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        result = PassResult()
        left: list[tuple[gs.Node, str]] = []
        for node in list(graph.nodes):
            if node.domain != DOMAIN or not node.op.startswith("BinaryConv") or node.op.endswith("Threshold"):
                continue
            epilogue = _follow(graph, node, left)
            if epilogue.steps:
                _fuse(graph, node, epilogue, context)
                result.changed = True
        if result.changed:
            g.tidy(graph)
        for node, reason in left:
            if g.is_own(graph, node):  # else it has become a part of another convolution
                result.note(node.name, reason)
        return result


def _follow(graph: gs.Graph, node: gs.Node, left: list[tuple[gs.Node, str]]) -> _Epilogue:
    """The steps behind a convolution; adds to `left` why an op that could have been one is none."""
    epilogue = _Epilogue(node.outputs[0])
    while True:
        readers = [reader for reader in epilogue.output.outputs if reader.op in CANDIDATES]
        if not readers:
            return epilogue
        reader = readers[0]
        try:
            if node.op != "BinaryConv":
                raise Unsuitable(
                    "its dot product is binarized as well"
                    if node.op == "BinaryConvDual"
                    else "the layer has steps already"
                )
            _binarize_after_saturation(graph, epilogue.output, reader)
            if not g.has_one_use(graph, epilogue.output):
                raise Unsuitable(f"'{epilogue.output.name}' is read elsewhere, too")
            factors = _window_sum_factors(reader, epilogue.output, node)
            steps = [("window_sum", factors)] if factors is not None else list(_steps(reader, epilogue))
            if len(epilogue.steps) + len(steps) > MOST_STEPS:
                raise Unsuitable(f"the layer has {MOST_STEPS} steps, which are the most")
        except Unsuitable as reason:
            left += [(other, f"no part of '{node.name}': {reason}") for other in readers]
            return epilogue
        epilogue.steps += steps
        epilogue.nodes.append(reader)
        epilogue.output = reader.outputs[0]


def _steps(node: gs.Node, epilogue: _Epilogue) -> Iterator[Step]:
    """A node as steps that round as it does."""
    data = epilogue.output
    if node.op == "Add" and not any(isinstance(tensor, gs.Constant) for tensor in node.inputs):
        yield _residual_step(node, epilogue)
        return
    if ew.data_input(node) is not data:
        raise Unsuitable("its other inputs are not constants, one per channel")

    def values(position: int) -> np.ndarray:
        return g.channel_vector(node.inputs[position], g.rank(data)).astype(np.float32)

    other = 1 if node.inputs[0] is data else 0  # of ops with two inputs
    if node.op == "Add":
        yield "add", values(other)
    elif node.op == "Sub" and other == 1:
        yield "add", -values(other)
    elif node.op == "Sub":  # c - y is (-1 y) + c: a change of sign is exact
        yield "multiply", np.float32([-1])
        yield "add", values(other)
    elif node.op == "Mul":
        yield "multiply", values(other)
    elif node.op == "BatchNormalization":
        scale, shift = batchnorm(node, np.float32)
        yield "multiply", scale
        yield "add", shift
    elif node.op == "Relu":
        yield "maximum", np.float32([0])
    elif node.op == "LeakyRelu":
        yield "prelu", np.float32([node.attrs.get("alpha", 0.01)])
    elif node.op == "PRelu":
        yield "prelu", values(1)
    else:  # Clip: the lower bound, then the upper one, either of which may be absent
        for name, index in (("maximum", 1), ("minimum", 2)):
            if g.optional_input(node, index) is not None:
                yield name, values(index)


def _binarize_after_saturation(graph: gs.Graph, tensor: gs.Variable, saturation: gs.Node) -> None:
    """Binarizers that read a tensor beside its Clip or Relu read the result instead, where that gives the same bits.

    y >= t is clip(y) >= t where t is above the lower bound and not above the upper one; mirrored for y <= t.
    """
    if saturation.op not in ("Clip", "Relu") or not g.is_own(graph, saturation):
        return
    bounds = {"maximum": np.float32([-np.inf]), "minimum": np.float32([np.inf])} | dict(
        _steps(saturation, _Epilogue(tensor))
    )
    low, high = bounds["maximum"], bounds["minimum"]
    for reader in list(tensor.outputs):
        if reader.domain == DOMAIN and reader.op == "Binarize" and g.is_own(graph, reader):
            threshold, direction = reader.inputs[1].values, reader.inputs[2].values
            upward, downward = (low < threshold) & (threshold <= high), (low <= threshold) & (threshold < high)
            if np.where(direction > 0, upward, downward).all():
                reader.inputs[0] = saturation.outputs[0]


def _window_sum_factors(add: gs.Node, data: gs.Tensor, conv: gs.Node) -> np.ndarray | None:
    """The factor per channel where a node adds multiples of the sums of a convolution's own windows, else None."""
    term = next((g.producer(tensor) for tensor in add.inputs if tensor is not data), None) if add.op == "Add" else None
    if term is None or term.op != "Mul" or not isinstance(term.inputs[1], gs.Constant):
        return None
    factors, sums = g.channel_vector(term.inputs[1], 4), g.producer(term.inputs[0])
    groups, filters = conv.attrs["group"], conv.attrs["weight_shape"][0]
    if sums is not None and sums.op == "Gather" and isinstance(sums.inputs[1], gs.Constant):
        repeats = np.array_equal(sums.inputs[1].values, np.repeat(np.arange(groups), filters // groups))
        sums = g.producer(sums.inputs[0]) if repeats and sums.attrs.get("axis", 0) == 1 else None
    if factors is None or sums is None or sums.domain != DOMAIN or sums.op != "BinaryConv":
        return None
    shape = [groups, *conv.attrs["weight_shape"][1:]]
    ones, scale, shift = (tensor.values for tensor in sums.inputs[1:])
    same_windows = sums.inputs[0] is conv.inputs[0] and sums.attrs == conv.attrs | {"weight_shape": shape}
    counts = np.unpackbits(ones, axis=-1, count=math.prod(shape[1:]), bitorder="little").all()
    return factors if same_windows and counts and (scale == 1).all() and (shift == 0).all() else None


def _residual_step(add: gs.Node, epilogue: _Epilogue) -> Step:
    data = epilogue.output
    other = next(tensor for tensor in add.inputs if tensor is not data)
    shapes = [tensor.shape for tensor in (data, other)]
    if None in shapes or shapes[0] != shapes[1] or None in shapes[0]:
        raise Unsuitable(f"'{other.name}' is not known to be of the same shape")
    if epilogue.residual is not None:
        raise Unsuitable("the layer adds another tensor already")
    epilogue.residual = other
    return "residual", np.zeros(1, np.float32)


def _fuse(graph: gs.Graph, conv: gs.Node, epilogue: _Epilogue, context: Context) -> None:
    """Replace a convolution and what its steps stand for by one op; the name stays."""
    most = max(operand.size for _, operand in epilogue.steps)
    operands = np.stack([np.broadcast_to(operand, most) for _, operand in epilogue.steps])
    added = [gs.Constant(g.fresh_name(graph, f"{conv.name}_operands"), np.ascontiguousarray(operands))]
    attrs = conv.attrs | {"steps": [STEP_NUMBERS[name] for name, _ in epilogue.steps]}
    outputs = [epilogue.output]
    binarize = _binarizer_of(graph, epilogue.output)
    residual = epilogue.residual
    if residual is None:  # the op's input is there for all; without such a step it is not read
        residual = gs.Constant(g.fresh_name(graph, f"{conv.name}_no_residual"), np.zeros(1, np.float32))
    inputs = [*conv.inputs, *added, residual]
    if binarize is not None:
        inputs += binarize.inputs[1:]
        attrs["nan_bit"] = binarize.attrs["nan_bit"]
        outputs += binarize.outputs
    name = conv.name
    record = context.layers.get(name)
    if record is not None:
        record.size_before += g.constant_bytes(epilogue.nodes)
        record.size_after += sum(tensor.values.nbytes for tensor in inputs[4:] if isinstance(tensor, gs.Constant))
    conv.outputs.clear()
    for node in (*epilogue.nodes, *([binarize] if binarize is not None else [])):
        node.outputs.clear()
        node.inputs.clear()
    conv.name = f"{name}_float"
    conv.inputs.clear()
    op = "BinaryConvSteps" if binarize is None else "BinaryConvStepsDual"
    graph.nodes.append(gs.Node(op, name, attrs, inputs, outputs, domain=DOMAIN))


def _binarizer_of(graph: gs.Graph, tensor: gs.Variable) -> gs.Node | None:
    """A Binarize that takes the bits of a tensor; another with other thresholds stays an op of its own."""
    for reader in tensor.outputs:
        if reader.domain == DOMAIN and reader.op == "Binarize" and g.is_own(graph, reader):
            return reader
    return None
