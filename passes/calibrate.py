"""calibrate: the statistics of what binarized layers give, taken anew from samples. No labels, no training.

Weights of two values change the mean and the deviation of each channel, and what is behind expects the old ones. In the
order of the graph, each correction seeing those before it:
- A BatchNormalization behind binarized layers gets the mean and variance that its input has now. The variance is the
  unbiased estimate, as torch's running one; that of a channel that does not vary is left.
- A binarized layer that no such BatchNormalization follows (an exporter folded it in, or there was none) gets the mean
  and deviation per channel that its output had in the float network: a factor on its two values, and a bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.errors import BadInput
from bnncc.passes import binary_layers as bl
from bnncc.passes import elementwise as ew
from bnncc.passes import graph as g
from bnncc.passes.base import Context, PassResult
from bnncc.passes.binarize_weights import Calibrated
from bnncc.passes.exact_sums import exact_in_sums
from bnncc.passes.stepping import Stepper

Feeds = Mapping[str, np.ndarray]

MOST_SAMPLES = 1000
"""Samples that statistics are taken from, the first of the data."""

FEW_SAMPLES = 100
"""Fewer are worth a note."""


class Calibrate:
    """Statistics of the binarized network from the context's samples."""

    name = "calibrate"
    requires = ("binarize-weights",)
    guarantees = "batch-norms behind binarized layers have the statistics of their inputs on the samples"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        """Re-estimate; the context's `binarization` says what.

        Raises BadInput without samples, and where statistics are not finite numbers.
        """
        if not context.samples:
            raise BadInput("calibrate: there are no samples to take statistics from (--data X.npz)")
        result, done = PassResult(lossy=True), context.binarization
        if done.samples:
            return result
        g.tidy(graph)
        norms, layers = _points(graph, {layer.node for layer in done.layers}, result)
        marked = {id(node) for node in (*norms, *layers)}
        points = [node for node in graph.nodes if id(node) in marked]
        samples = Stepper.that_fit(graph, points, context.samples, context.config.threads)
        wanted = _statistics_before(done.before, [node.name for node in layers], samples, context)
        stepper = Stepper(graph, samples, context.config.threads)
        for node in points:
            if context.progress is not None:
                context.progress(f"calibrate: {node.name}")
            stepper.advance(node)
            if node.op == "BatchNormalization":
                mean, variance = _statistics(stepper.value(node.inputs[0]), 1, node)
                _set_statistics(graph, node, mean, variance)
            else:
                mean, variance = _statistics(stepper.look(node), _channel_axis(node), node)
                _match(graph, node, (mean, variance), wanted[node.name])
            done.calibrated.append(Calibrated(node.name, node.op, mean.size))
        result.changed = bool(points)
        done.samples = _count(samples)
        if done.samples < FEW_SAMPLES:
            result.note("", f"statistics of {done.samples} samples only: {FEW_SAMPLES} or more are advised")
        return result


def _points(graph: gs.Graph, binarized: set[str], result: PassResult) -> tuple[list[gs.Node], list[gs.Node]]:
    """The batch-norms behind binarized layers, and those of these layers that none of them follows."""
    behind: set[int] = set()  # tensors that binarized layers have a part in
    norms = []
    for node in graph.nodes:
        changed = any(id(tensor) in behind for tensor in g.reads(node))
        if changed and node.op == "BatchNormalization":
            if ew.data_input(node) is None:
                result.note(node.name, "not calibrated: its statistics are not constants")
            else:
                norms.append(node)
        if changed or node.name in binarized:
            behind.update(id(tensor) for tensor in node.outputs)
    layers = []
    for node in graph.nodes:
        bias = g.optional_input(node, 2) if node.name in binarized else None
        if bias is not None and g.constant(bias) is None:
            result.note(node.name, "not calibrated: its bias is no constant")
        elif node.name in binarized and not _is_normalized(graph, node, norms):
            layers.append(node)
    return norms, layers


def _is_normalized(graph: gs.Graph, layer: gs.Node, norms: list[gs.Node]) -> bool:
    """Whether nothing but a batch-norm reads a layer's output, or that and a bias."""
    tensor = layer.outputs[0]
    while g.has_one_use(graph, tensor):
        reader = tensor.outputs[0]
        if any(reader is norm for norm in norms):
            return True
        if reader.op != "Add" or ew.data_input(reader) is not tensor:
            return False
        tensor = reader.outputs[0]
    return False


def _channel_axis(layer: gs.Node) -> int:
    return 1 if "Conv" in layer.op else -1


def _statistics(arrays: Iterable[np.ndarray], axis: int, node: gs.Node) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance per channel, float64 [C], over all batches."""
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for array in arrays:
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        own_mean = rows.mean(axis=1, dtype=np.float64)
        own_squares = np.square(rows - own_mean[:, None]).sum(axis=1)
        # Chan, Golub, LeVeque: the sum of squares about the mean of both parts
        step, total = own_mean - mean, count + rows.shape[1]
        squares = squares + own_squares + np.square(step) * (count * rows.shape[1] / total)
        mean, count = mean + step * (rows.shape[1] / total), total
    variance = squares / max(count - 1, 1)
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise BadInput(f"calibrate: node '{node.name}': its statistics on the samples are not finite numbers")
    return mean, variance


def _statistics_before(
    before: gs.Graph, names: list[str], samples: Sequence[Feeds], context: Context
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and variance per channel of layers' outputs in the float network."""
    stepper = Stepper(before, samples, context.config.threads)
    found = {}
    for node in [node for node in before.nodes if node.name in names]:
        stepper.advance(node)
        found[node.name] = _statistics(stepper.look(node), _channel_axis(node), node)
    return found


def _set_statistics(graph: gs.Graph, norm: gs.Node, mean: np.ndarray, variance: np.ndarray) -> None:
    old = g.constant(norm.inputs[4])
    variance = np.where(variance > 0, variance, old)
    for index, values, word in ((3, mean, "mean"), (4, variance, "variance")):
        name = g.fresh_name(graph, f"{norm.name}_{word}")
        norm.inputs[index] = gs.Constant(name, values.astype(norm.inputs[index].values.dtype))


def _match(
    graph: gs.Graph,
    layer: gs.Node,
    have: tuple[np.ndarray, np.ndarray],
    wanted: tuple[np.ndarray, np.ndarray],
) -> None:
    """Factors on the values of a layer's weights, and a bias, that give its output the mean and variance wanted."""
    scale = np.sqrt(np.divide(wanted[1], have[1], out=np.ones_like(have[1]), where=have[1] > 0))
    given = g.optional_input(layer, 2)
    beta = layer.attrs.get("beta", 1.0) if layer.op == "Gemm" else 1.0
    filters = bl.weights_of(layer)
    factors = scale.reshape(-1, *(1,) * (filters.ndim - 1))
    scaled = filters * factors
    size = np.abs(scaled).max(axis=tuple(range(1, scaled.ndim)), keepdims=True)
    weights = np.ascontiguousarray(bl.as_stored(layer, exact_in_sums(scaled, size, bl.fan_in_of(filters))))
    layer.inputs[1] = gs.Constant(g.fresh_name(graph, f"{layer.name}_calibrated"), weights)
    # Without its bias b the output has the mean m - b: scaled, the new bias is what is missing.
    shift = wanted[0] - scale * have[0]
    if layer.op == "MatMul":
        _add_behind(graph, layer, shift)
        return
    old = 0.0 if given is None else beta * given.values.astype(np.float64)
    bias = gs.Constant(g.fresh_name(graph, f"{layer.name}_calibrated_bias"), (scale * old + shift).astype(np.float32))
    layer.attrs.pop("beta", None)
    layer.inputs = [*layer.inputs[:2], bias]


def _add_behind(graph: gs.Graph, layer: gs.Node, shift: np.ndarray) -> None:
    """Add a shift per column to a product of matrices: to the bias behind it if there is one."""
    output, shape = layer.outputs[0], layer.outputs[0].shape
    reader = output.outputs[0] if g.has_one_use(graph, output) else None
    if reader is not None and reader.op == "Add":
        place = 1 if reader.inputs[0] is output else 0
        bias = g.constant(reader.inputs[place])
        if bias is not None and bias.size == shift.size and bias.shape[-1:] == shift.shape:
            name = g.fresh_name(graph, f"{layer.name}_calibrated_bias")
            reader.inputs[place] = gs.Constant(name, (bias + shift).astype(np.float32))
            return
    product = gs.Variable(g.fresh_name(graph, f"{layer.name}_product"), dtype=np.float32, shape=shape)
    constant = gs.Constant(g.fresh_name(graph, f"{layer.name}_shift"), shift.astype(np.float32))
    layer.outputs[0] = product
    place = next(index for index, node in enumerate(graph.nodes) if node is layer)
    name = g.fresh_name(graph, f"{layer.name}_calibration")
    graph.nodes.insert(place + 1, gs.Node("Add", name, inputs=[product, constant], outputs=[output]))


def _count(samples: Sequence[Feeds]) -> int:
    """How many samples there are: rows of the first input, where that is a batch."""
    first = [next(iter(feeds.values()), np.zeros(())) for feeds in samples]
    return sum(len(array) if array.ndim else 1 for array in first)
