"""canonicalize-weights: binary weights over signs become +-1 weights, with their scales and bias behind the layer.

A filter is binary where its weights take two values: -c and +c, or any alpha and beta (DAB-Net):
    w = (alpha - beta) / 2 * sign + (alpha + beta) / 2
so that w . a = (alpha - beta) / 2 * (sign . a) + (alpha + beta) / 2 * sum(a); sum(a) is one filter of ones, shared by
all filters of a group. Filters of one value have no such term: their signs are all the same.
Scales that the activations carry move behind the layer as well. Values that differ from c by rounding only (exporters
evaluate straight-through residue in float32) count as c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import binary_layers as bl
from bnncc.passes import graph as g
from bnncc.passes.base import LAYER_OPS, Context, LayerRecord, PassResult
from bnncc.passes.exact_sums import trailing_exponent

# Straight-through residue r + (c - r) is off by a few roundings of float32 (2**-24 each).
VALUE_TOLERANCE = 2.0**-21


@dataclass(frozen=True)
class BinaryWeights:
    """w = scale * signs + offset per output channel. signs: float32 +-1 [M, ...]; scale, offset: float32 [M]."""

    signs: np.ndarray
    scale: np.ndarray
    offset: np.ndarray


def factor(weights: np.ndarray) -> BinaryWeights | str:
    """Weights [M, ...] as scale * signs + offset, or the reason, in words, why they are not binary."""
    if not weights.size:
        return "weights are empty"
    flat = weights.reshape(weights.shape[0], -1)
    if not np.isfinite(flat).all():
        return "weights are not finite"
    low, high = flat.min(axis=1), flat.max(axis=1)
    tolerance = VALUE_TOLERANCE * np.maximum(np.abs(low), np.abs(high))
    is_low = np.abs(flat - low[:, None]) <= tolerance[:, None]
    is_high = np.abs(flat - high[:, None]) <= tolerance[:, None]
    other = ~(is_low | is_high)
    if other.any():
        channel = int(other.any(axis=1).argmax())
        count = len(np.unique(flat[channel]))
        return f"weights take {count} values in channel {channel}; not binary"
    symmetric = np.abs(low + high) <= tolerance
    uniform = high - low <= tolerance
    if (uniform & (high == 0)).all():
        return "all weights are 0"
    scale = np.where(symmetric | uniform, np.maximum(np.abs(low), np.abs(high)), (high - low) / 2)
    offset = np.where(symmetric | uniform, 0, (high + low) / 2)
    plus = np.where((uniform & (high < 0))[:, None], False, is_high)
    signs = np.where(plus, np.float32(1), np.float32(-1)).reshape(weights.shape)
    return BinaryWeights(signs, scale.astype(np.float32), offset.astype(np.float32))


class CanonicalizeWeights:
    """+-1 weights for all forms of binary weights, and a verdict on every layer."""

    name = "canonicalize-weights"
    requires = ("canonicalize-binarizers",)
    guarantees = "each binary layer is a Conv or MatMul of +-1 weights without bias, on signs without a scale"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        result = PassResult()
        binarized = context.binarization.layers if context.binarization is not None else []
        chosen = {layer.node for layer in binarized}
        for node in [node for node in graph.nodes if node.op in LAYER_OPS]:
            record = context.layers.get(node.name)
            if record is None:
                continue
            reason = _canonicalize(graph, node, record, result)
            if record.status == "weight-binary" and node.name in chosen:
                # What the user asked for: no layer that was trained to be binary and is not.
                record.candidate, reason = False, "weights binarized without training, float activations"
            if reason:
                record.reason = reason
                if record.candidate:
                    result.note(node.name, reason)
        g.tidy(graph)
        return result


def _canonicalize(graph: gs.Graph, node: gs.Node, record: LayerRecord, result: PassResult) -> str | None:
    """Rewrite one layer where it is binary; returns why it is not."""
    path = bl.sign_path(node.inputs[0])
    weights = bl.weights_of(node)
    factored = factor(weights) if weights is not None else "weights are not constant float32 matrices or filters"
    if path is None:
        if isinstance(factored, str) or weights[0].size == 1:
            return "float weights, float activations"
        record.status, record.candidate = "weight-binary", True
        return f"weights are binary, but the activations '{node.inputs[0].name}' are not"
    record.candidate = True
    reason = _unsupported(node, path)
    if reason is None and isinstance(factored, str):
        reason = factored
    if reason is not None:
        return reason
    record.status = "binary"
    record.exact_sums = _sums_exactly(node, factored, path)
    if factored.offset.any():
        result.note(node.name, _about_sums(node, factored))
    if not bl.is_binary(node):
        _rewrite(graph, node, factored, path)
        result.changed = True
    return None


def _about_sums(node: gs.Node, weights: BinaryWeights) -> str:
    """What the term of weights that are not -c and +c costs, in words."""
    offsets, groups = weights.offset, node.attrs.get("group", 1)
    return (
        f"weights take two values that are not -c and +c in {np.count_nonzero(offsets)} of {offsets.size} filters: "
        f"the sum of the window is added to these, which costs as much as {groups} filter{'s' * (groups > 1)} more"
    )


def _sums_exactly(node: gs.Node, weights: BinaryWeights, path: bl.SignPath) -> bool:
    """Whether the original's float sums are exact in any order: multiples n * c, |n| <= K, of a c of few bits."""
    bias = g.optional_input(node, 2)
    if weights.offset.any() or (bias is not None and np.any(g.constant(bias))):
        return False
    alpha = np.float32(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else np.float32(1)
    step = weights.scale.astype(np.float64) * path.scale * alpha
    return bool((np.abs(step) * bl.fan_in_of(weights.signs) <= np.exp2(trailing_exponent(step) + 24)).all())


def _unsupported(node: gs.Node, path: bl.SignPath) -> str | None:
    """Why no binary kernel computes a layer over signs, whatever its weights."""
    if node.op == "ConvTranspose":
        return "transposed convolutions have no binary kernel"
    if node.op == "Conv" and g.rank(node.inputs[1]) != 4:
        return f"only 2-D convolutions have a binary kernel; this one has weights of rank {g.rank(node.inputs[1])}"
    bias = g.optional_input(node, 2)
    if node.op == "Conv" and bias is not None and g.constant(bias) is None:
        return "its bias is no constant"
    if node.op != "Conv" and g.rank(node.inputs[0]) != 2:
        return "only matrix products of [N, K] activations have a binary kernel"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return "Gemm with transposed activations"
    if node.op == "Gemm" and bias is not None and _gemm_bias(node) is None:
        return "Gemm whose bias is not a constant per output feature"
    return path.obstacle or None


def _gemm_bias(node: gs.Node) -> np.ndarray | None:
    """Return beta * C as float32 [1] or [M], where C is constant and the same for all rows."""
    values = g.channel_vector(node.inputs[2], 2)
    if values is None or values.dtype != np.float32 or not g.broadcasts_into(node.inputs[2], node.outputs[0]):
        return None
    return np.float32(node.attrs.get("beta", 1.0)) * values


def _rewrite(graph: gs.Graph, node: gs.Node, weights: BinaryWeights, path: bl.SignPath) -> None:
    """Layer of +-1 weights, then Mul by the scales, Add of the offset times sum(a), Add of the bias."""
    output, rank = node.outputs[0], 4 if node.op == "Conv" else 2
    source = node.inputs[0] if path.scale == 1 else _unscaled(graph, path)
    scale, offset = weights.scale * path.scale, weights.offset * path.scale
    given, bias = g.optional_input(node, 2), None
    if node.op == "Gemm":
        scale, offset = (np.float32(node.attrs.get("alpha", 1.0)) * v for v in (scale, offset))
    if given is not None:
        bias = _gemm_bias(node) if node.op == "Gemm" else g.constant(given)
    steps: list[tuple[str, gs.Tensor]] = []
    if not (scale == 1).all():
        steps.append(("Mul", _channel_constant(graph, f"{node.name}_scale", scale, rank)))
    if offset.any():
        total = _window_sums(graph, node, source, weights.signs, output.shape)
        factor_ = _channel_constant(graph, f"{node.name}_offset", offset, rank)
        steps.append(("Add", g.add_node(graph, "Mul", [total, factor_], g.fresh_name(graph, f"{node.name}_offset_sum"),
                                        dtype=np.float32, shape=output.shape)))  # fmt: skip
    if bias is not None and bias.any():
        steps.append(("Add", _channel_constant(graph, f"{node.name}_bias", bias, rank)))
    name, node.name = node.name, f"{node.name}_original"
    node.outputs.clear()
    value = _layer(graph, node, source, weights.signs, name, None if steps else output, output.shape)
    for index, (op, operand) in enumerate(steps):
        last = index == len(steps) - 1
        target = output if last else g.fresh_name(graph, f"{name}_{op.lower()}")
        value = g.add_node(graph, op, [value, operand], target, dtype=np.float32, shape=output.shape,
                           name=g.fresh_name(graph, f"{name}_{op.lower()}_node"))  # fmt: skip


def _window_sums(graph: gs.Graph, node: gs.Node, source: gs.Tensor, signs: np.ndarray, shape: list) -> gs.Tensor:
    """The sum of what each filter sees: of one filter of ones for each group, repeated where there are several."""
    groups = node.attrs.get("group", 1) if node.op == "Conv" else 1
    sums_shape = None if shape is None else [shape[0], groups, *shape[2:]]
    total = _layer(graph, node, source, np.ones_like(signs[:groups]), f"{node.name}_sum", None, sums_shape)
    if groups == 1:
        return total
    group_of_filter = np.repeat(np.arange(groups), len(signs) // groups)
    indices = gs.Constant(g.fresh_name(graph, f"{node.name}_groups"), group_of_filter)
    name = g.fresh_name(graph, f"{node.name}_group_sums")
    return g.add_node(graph, "Gather", [total, indices], name, attrs={"axis": 1}, dtype=np.float32, shape=shape)


def _layer(graph, node, source, signs, name, output=None, shape=None) -> gs.Variable:
    """A Conv or MatMul of the given +-1 weights with the geometry of `node`."""
    attrs = {}
    if node.op == "Conv":
        attrs = dict(node.attrs)
        values = signs
    else:
        values = np.ascontiguousarray(signs.T)
    constant = gs.Constant(g.fresh_name(graph, f"{name}_signs"), values)
    target = output if output is not None else g.fresh_name(graph, f"{name}_dot")
    op = "Conv" if node.op == "Conv" else "MatMul"
    return g.add_node(graph, op, [source, constant], target, attrs=attrs, dtype=np.float32, shape=shape, name=name)


def _unscaled(graph: gs.Graph, path: bl.SignPath) -> gs.Tensor:
    """The path from the binarizer to the layer again, without the factors on it."""
    tensor = path.signs
    for node in path.nodes:
        inputs = [tensor, *node.inputs[1:]]
        if node.op == "Pad":
            value = bl.pad_value(node) / path.scale
            pad_value = gs.Constant(g.fresh_name(graph, f"{node.name}_value"), np.array(value, np.float32))
            inputs = [tensor, node.inputs[1], pad_value, *node.inputs[3:]]
        name = g.fresh_name(graph, f"{node.name}_unscaled")
        tensor = g.add_node(graph, node.op, inputs, name, attrs=dict(node.attrs), dtype=np.float32,
                            shape=node.outputs[0].shape)  # fmt: skip
    return tensor


def _channel_constant(graph: gs.Graph, name: str, values: np.ndarray, rank: int) -> gs.Constant:
    return g.per_channel_constant(g.fresh_name(graph, name), values.astype(np.float32), rank)
