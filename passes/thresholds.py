"""thresholds: a binarizer moves up to the layer that feeds it, past batch-norm, scales, saturations and pooling.

    layer -> BN -> max-pool -> binarize      becomes      layer -> compare with a threshold -> max-pool of signs

The dot product of a binary layer is an integer in [-K, K], so evaluating the original float arithmetic at each
gives the bit for each, and with it the integer threshold per channel; ties fall as they did. Behind a float layer
the threshold is a float32, found by bisection over all floats; the ops between must be monotone in float
arithmetic.

Max-pooling commutes: with f before the pool and g between pool and binarizer, the bit is the maximum of the bits of
g(f(.)) where g rises and their minimum where it falls.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import binarizers
from bnncc.passes import binary_layers as bl
from bnncc.passes import elementwise as ew
from bnncc.passes import graph as g
from bnncc.passes.base import Context, PassResult, Unsuitable
from bnncc.passes.chains import Chain, float_chain, integer_chain, is_structural


class Thresholds:
    """Binarizers moved to the layer that feeds them, as thresholds."""

    name = "thresholds"
    requires = ("restore-signs",)
    guarantees = "a binarizer behind a binary layer compares its integer dot product with one integer per channel"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        result = PassResult()
        for where in [node for node in graph.nodes if node.op == "Where"]:
            comparison = binarizers.match(where.outputs[0])
            if comparison is None or where.outputs[0].name not in context.binarizers:
                continue
            try:
                result.changed |= _move_up(graph, where, comparison, context)
            except Unsuitable as reason:
                result.note(where.name, str(reason))
        if result.changed:
            g.tidy(graph)
        return result


def _move_up(graph: gs.Graph, where: gs.Node, comparison: binarizers.Comparison, context: Context) -> bool:
    signs = where.outputs[0]
    chain = integer_chain(comparison)
    if chain is not None:
        layer = g.producer(chain.source)
        values = bl.weights_of(layer)
        moved = _integer_threshold(chain, comparison, values.shape[0], bl.fan_in(layer), context)
        record = context.layers.get(layer.name)
        if record is not None:  # the threshold replaces the parameters that nothing else reads
            only_here = [node for node in chain.elementwise if len(node.outputs[0].outputs) == 1]
            record.size_before += g.constant_bytes(only_here)
    else:
        chain = float_chain(graph, comparison)
        if chain is None or g.channels(chain.source) is None:
            return False
        moved = _float_threshold(chain, comparison, g.channels(chain.source), context)
    if not chain.nodes and _same(comparison, moved):
        return False
    _rebuild(graph, signs, chain, moved, context)
    return True


def _same(a: binarizers.Comparison, b: binarizers.Comparison) -> bool:
    return (
        a.source is b.source
        and np.array_equal(np.broadcast_to(a.threshold, b.threshold.shape), b.threshold)
        and np.array_equal(np.broadcast_to(a.direction, b.direction.shape), b.direction)
    )


# ---- Thresholds --------------------------------------------------------------------------------------------


def _bits(comparison: binarizers.Comparison, values: np.ndarray) -> np.ndarray:
    """The bit of each value [C, L]."""
    threshold, direction = comparison.threshold[:, None], comparison.direction[:, None]
    with np.errstate(invalid="ignore"):
        compared = np.where(direction > 0, values >= threshold, values <= threshold)
    return np.where(np.isnan(values), bool(comparison.nan_bit), compared)


def _integer_threshold(
    chain: Chain, comparison: binarizers.Comparison, channels: int, bound: int, context: Context
) -> binarizers.Comparison:
    """The comparison of the dot product that gives the same bit at every integer."""
    function = ew.ChainFunction(chain.elementwise, channels, context.opset)
    changes = np.zeros(channels, np.int64)
    last_change = np.full(channels, -bound, np.int64)  # the integer from which on the bit is the last one
    first = previous = None
    for integers, values in function.over_integers(bound):
        _refuse_nan(values)
        bits = _bits(comparison, values)
        if first is None:
            first, previous = bits[:, 0], bits[:, :1]
        differs = np.diff(np.concatenate([previous, bits], axis=1), axis=1)
        changes += differs.sum(axis=1)
        position = differs.shape[1] - 1 - differs[:, ::-1].argmax(axis=1)
        last_change = np.where(differs.any(axis=1), integers[position], last_change)
        previous = bits[:, -1:]
    if (changes > 1).any():
        channel = int((changes > 1).argmax())
        raise Unsuitable(
            f"the bit is no threshold of the sum: in channel {channel} it changes {changes[channel]} times"
        )
    rises, constant = ~first, changes == 0
    threshold = np.where(rises, last_change, last_change - 1)  # x >= t, or x <= t
    threshold = np.where(constant, np.where(first, -bound, bound + 1), threshold)
    direction = np.where(rises | constant, 1, -1).astype(np.int8)
    return binarizers.Comparison(chain.source, threshold.astype(np.float32), direction)


def _refuse_nan(values: np.ndarray) -> None:
    if np.isnan(values).any():
        raise Unsuitable("the parameters between the layer and the binarizer give NaN")


def _float_threshold(
    chain: Chain, comparison: binarizers.Comparison, channels: int, context: Context
) -> binarizers.Comparison:
    """The comparison of the float source that gives the same bit at every float32."""
    function = ew.ChainFunction(chain.elementwise, channels, context.opset)

    def bit(x: np.ndarray) -> np.ndarray:
        return _bits(comparison, function(x[:, None]))[:, 0]

    largest = np.full(channels, np.finfo(np.float32).max)
    _refuse_nan(function(np.array([[-largest[0], 0, largest[0]]])))
    at_bottom, at_top = bit(-largest), bit(largest)
    direction = np.where(at_bottom & ~at_top, -1, 1).astype(np.int8)
    sign = direction.astype(np.float32)
    threshold = sign * ew.smallest_float(lambda x: bit(sign * x), channels)
    return binarizers.Comparison(chain.source, threshold, direction, comparison.nan_bit)


# ---- Rebuilding --------------------------------------------------------------------------------------------


def _rebuild(
    graph: gs.Graph, signs: gs.Variable, chain: Chain, comparison: binarizers.Comparison, context: Context
) -> None:
    """Compare the source and pass the signs through the structural nodes of the chain, into the same tensor."""
    structural = [node for node in chain.nodes if is_structural(node)]
    directions = [_slope_after(chain, node, comparison, context) for node in structural]
    target = signs if not structural else g.fresh_name(graph, f"{signs.name}_early")
    tensor = binarizers.build(graph, comparison, target)
    for index, (node, direction) in enumerate(zip(structural, directions, strict=True)):
        last = index == len(structural) - 1
        shape = node.outputs[0].shape
        turned = direction is not None and (direction < 0).any()
        factor = None
        if turned:
            factor = g.per_channel_constant(g.fresh_name(graph, f"{node.name}_direction"), direction, len(shape))
            name = g.fresh_name(graph, f"{node.name}_turned")
            tensor = g.add_node(graph, "Mul", [tensor, factor], name, dtype=np.float32, shape=tensor.shape)
        moved = signs if last and not turned else g.fresh_name(graph, f"{node.name}_signs")
        tensor = g.add_node(graph, node.op, [tensor, *node.inputs[1:]], moved, attrs=dict(node.attrs),
                            dtype=np.float32, shape=shape)  # fmt: skip
        if turned:
            back = signs if last else g.fresh_name(graph, f"{node.name}_back")
            tensor = g.add_node(graph, "Mul", [tensor, factor], back, dtype=np.float32, shape=shape)


def _slope_after(chain: Chain, node: gs.Node, comparison: binarizers.Comparison, context: Context) -> np.ndarray | None:
    """Per channel +1 or -1: whether the bit rises or falls with the pool's input; None for reshapes.

    The bit rises with the source where comparison.direction is +1; if the pool's input falls with the source, the bit
    falls with it.
    """
    if node.op != "MaxPool":
        return None
    channels = comparison.direction.size
    function = ew.ChainFunction(chain.before(node), channels, context.opset)
    largest = np.float32(np.finfo(np.float32).max)
    layer = g.producer(chain.source)
    if layer is not None and bl.is_binary(layer):
        slope = _integer_slope(function, bl.fan_in(layer), node)
    else:
        ends = function(np.array([[-largest, largest]], np.float32))
        slope = np.where(ends[:, 1] < ends[:, 0], -1, 1)
    return (slope * comparison.direction).astype(np.float32)


def _integer_slope(function: ew.ChainFunction, bound: int, node: gs.Node) -> np.ndarray:
    """Per channel +1 where the function never falls over the integers, -1 where it never rises."""
    rises = np.zeros(function.channels, bool)
    falls = np.zeros(function.channels, bool)
    previous = None
    for _, values in function.over_integers(bound):
        if previous is not None:
            values = np.concatenate([previous, values], axis=1)
        steps = np.diff(values, axis=1)
        rises |= (steps > 0).any(axis=1)
        falls |= (steps < 0).any(axis=1)
        previous = values[:, -1:]
    if (rises & falls).any():
        raise Unsuitable(f"what lies before MaxPool '{node.name}' is not monotone")
    return np.where(falls, -1, 1)
