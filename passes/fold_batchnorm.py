"""fold-batchnorm: a BatchNormalization beside a float layer disappears into its weights and bias.

    after:   BN(W x + b) = (s W) x + (s (b - mean) + beta),  s = gamma / sqrt(var + epsilon)
    before:  W BN(x) + b = (W s) x + (b + W t),  t = beta - s mean; exact where no zero padding enters the sums

Binary layers keep theirs: it becomes an integer threshold, or the scale and shift of the kernel's epilogue.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import binary_layers as bl
from bnncc.passes import elementwise as ew
from bnncc.passes import graph as g
from bnncc.passes.base import LAYER_OPS, Context, PassResult


class FoldBatchNorm:
    """Batch-norm folded into the float layer before or after it."""

    name = "fold-batchnorm"
    requires = ("thresholds",)
    guarantees = "no BatchNormalization in inference mode is left next to a float layer that could hold it"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        result = PassResult()
        for norm in [node for node in graph.nodes if node.op == "BatchNormalization"]:
            if _comes_from_binary_layers(norm.inputs[0]):
                continue
            reason = _fold(graph, norm, context)
            if reason is None:
                result.changed = True
            else:
                result.note(norm.name, reason)
        g.tidy(graph)
        return result


def _comes_from_binary_layers(tensor: gs.Tensor) -> bool:
    """Whether only per-channel ops, and their sums, lie between binary layers and the tensor."""
    left, seen = [tensor], set()
    while left:
        node = g.producer(left.pop())
        if node is None:
            return False
        if bl.is_binary(node) or id(node) in seen:
            continue
        seen.add(id(node))
        data = ew.data_input(node)
        if data is not None:
            left.append(data)
        elif node.op in ("Gather", "Mul") and isinstance(node.inputs[1], gs.Constant):
            left.append(node.inputs[0])  # the sum of a window, for each filter
        elif node.op == "Add":
            left += node.inputs
        else:
            return False
    return True


def _fold(graph: gs.Graph, norm: gs.Node, context: Context) -> str | None:
    """Fold one node into the layer before it or, failing that, after it; returns why neither is possible."""
    if ew.is_training_batchnorm(norm):
        return "not folded: training mode"
    parameters = [g.constant(tensor) for tensor in norm.inputs[1:]]
    if any(values is None for values in parameters):
        return "not folded: its parameters are not constants"
    gamma, beta, mean, variance = (values.astype(np.float64) for values in parameters)
    with np.errstate(invalid="ignore", divide="ignore"):  # checked next
        scale = gamma / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
        shift = beta - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return "not folded: its parameters are not finite"
    before = _fold_into_producer(graph, norm, scale, shift)
    if before is None:
        return None
    after = _fold_into_reader(graph, norm, scale, shift, context)
    return None if after is None else f"not folded: {before}; {after}"


def _fold_into_producer(graph: gs.Graph, norm: gs.Node, scale: np.ndarray, shift: np.ndarray) -> str | None:
    source = norm.inputs[0]
    layer, added = g.producer(source), None
    if layer is not None and layer.op == "Add" and g.has_one_use(graph, source):
        data = ew.data_input(layer)
        added = None if data is None else g.channel_vector(next(t for t in layer.inputs if t is not data), g.rank(data))
        if added is not None:
            source, layer = data, g.producer(data)
    if layer is None or layer.op not in LAYER_OPS:
        return "no layer right before it"
    if not g.has_one_use(graph, source):
        return f"'{layer.name}' has other readers"
    weights, bias = g.constant(layer.inputs[1]), _bias(layer)
    if weights is None or bias is None:
        return f"the weights of '{layer.name}' are not constants"
    if weights.dtype != np.float32:
        return f"the weights of '{layer.name}' are {weights.dtype}"
    if layer.op == "MatMul" and (weights.ndim != 2 or g.rank(layer.inputs[0]) != 2):
        return f"'{layer.name}' is no product of [N, K] activations and a matrix"
    factor = _output_factor(layer, weights, scale)
    if factor is None:
        return f"'{layer.name}' has another number of output channels"
    total = (layer.attrs.get("beta", 1.0) if layer.op == "Gemm" else 1.0) * bias.astype(np.float64)
    total = (total if added is None else total + added) * scale + shift
    _replace_layer(graph, layer, layer.inputs[0], weights * factor, total, norm.outputs[0])
    return None


def _bias(layer: gs.Node) -> np.ndarray | None:
    """Constant bias, 0 without one; None where it is computed."""
    bias = g.optional_input(layer, 2)
    return np.zeros(1, np.float32) if bias is None else g.constant(bias)


def _output_factor(layer: gs.Node, weights: np.ndarray, scale: np.ndarray) -> np.ndarray | None:
    """`scale` per output channel, shaped to multiply the layer's weights."""
    trailing = (1,) * (weights.ndim - 2)
    if layer.op == "Conv":
        channels, shape = weights.shape[0], (-1, 1, *trailing)
    elif layer.op == "ConvTranspose":  # [C, M / group, ...]: output channels are group-major, as the rows of C are
        group = layer.attrs.get("group", 1)
        if scale.size != weights.shape[1] * group:
            return None
        rows = np.repeat(scale.reshape(group, -1), weights.shape[0] // group, axis=0)
        return rows.reshape(*weights.shape[:2], *trailing)
    elif layer.op == "Gemm" and layer.attrs.get("transB", 0):
        channels, shape = weights.shape[0], (-1, 1)
    else:
        channels, shape = weights.shape[1], (1, -1)
    return scale.reshape(shape) if scale.size == channels else None


def _fold_into_reader(
    graph: gs.Graph, norm: gs.Node, scale: np.ndarray, shift: np.ndarray, context: Context
) -> str | None:
    value = norm.outputs[0]
    if not g.has_one_use(graph, value):
        return "it has several readers"
    layer = value.outputs[0]
    if layer.op not in ("Conv", "Gemm", "MatMul") or layer.inputs[0] is not value:
        return "no layer right after it"
    record = context.layers.get(layer.name)
    if record is not None and record.status == "weight-binary":
        return f"'{layer.name}' has binary weights, which folding would spoil"
    weights, bias = g.constant(layer.inputs[1]), _bias(layer)
    if weights is None or bias is None:
        return f"the weights of '{layer.name}' are not constants"
    if weights.dtype != np.float32:
        return f"the weights of '{layer.name}' are {weights.dtype}"
    if layer.op == "Conv":
        auto_pad = layer.attrs.get("auto_pad", "NOTSET")
        if any(layer.attrs.get("pads", [])) or auto_pad not in ("NOTSET", "VALID"):
            return f"'{layer.name}' pads with zeros"
        group = layer.attrs.get("group", 1)
        grouped = weights.reshape(group, weights.shape[0] // group, *weights.shape[1:])
        inputs = (group, 1, -1) + (1,) * (weights.ndim - 2)
        moved = (grouped * scale.reshape(inputs)).reshape(weights.shape)
        added = (grouped * shift.reshape(inputs)).reshape(weights.shape[0], -1).sum(axis=1)
    else:
        if weights.ndim != 2 or g.rank(value) != 2 or layer.attrs.get("transA", 0):
            return f"'{layer.name}' is no product of [N, K] activations and a matrix"
        matrix = weights.T if layer.attrs.get("transB", 0) else weights
        moved = scale[:, None] * matrix
        moved = moved.T if layer.attrs.get("transB", 0) else moved
        added = (shift @ matrix) * layer.attrs.get("alpha", 1.0)
    total = (layer.attrs.get("beta", 1.0) if layer.op == "Gemm" else 1.0) * bias.astype(np.float64) + added
    _replace_layer(graph, layer, norm.inputs[0], moved, total, layer.outputs[0])
    return None


def _replace_layer(
    graph: gs.Graph, layer: gs.Node, source: gs.Tensor, weights: np.ndarray, bias: np.ndarray, output: gs.Variable
) -> None:
    """The layer again with other weights and a bias, writing `output`. Gemm's bias counts whole (beta = 1)."""
    name, shape = layer.name, output.shape
    constant = gs.Constant(g.fresh_name(graph, f"{name}_folded_weight"), weights.astype(np.float32))
    addend = gs.Constant(g.fresh_name(graph, f"{name}_folded_bias"), bias.astype(np.float32))
    attrs = {key: value for key, value in layer.attrs.items() if key != "beta"}
    layer.outputs.clear()
    layer.name = f"{name}_unfolded"
    if layer.op == "MatMul":
        product = g.add_node(graph, "MatMul", [source, constant], g.fresh_name(graph, f"{name}_product"),
                             dtype=np.float32, shape=shape, name=name)  # fmt: skip
        g.add_node(graph, "Add", [product, addend], output, name=g.fresh_name(graph, f"{name}_bias"))
    else:
        g.add_node(graph, layer.op, [source, constant, addend], output, attrs=attrs, name=name)
