"""Hidden ReLU layers of a graph: where there are any, why other layers have none, and putting smaller ones in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx.reference import ReferenceEvaluator

from bnncc.passes import binary_layers as bl
from bnncc.passes import elementwise as ew
from bnncc.passes import graph as g
from bnncc.passes.affine import batchnorm
from bnncc.passes.base import LAYER_OPS, Note, Unsuitable
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer
from bnncc.passes.tropnnc.input_statistics import correlated, means
from bnncc.passes.tropnnc.variance_matching import PreActivations, cosines

POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
OTHER_ACTIVATIONS = (
    "Celu", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Selu", "Sigmoid", "Softplus",
    "Softsign", "Tanh", "ThresholdedRelu",
)  # fmt: skip
"""Functions of single elements besides ReLU, behind which clustering is a heuristic (the paper's section 7.4)."""


@dataclass
class GraphLayer:
    """The channels (or neurons) between two layers of a graph, which a cluster of may be replaced by one.

    affine: the per-channel additions and batch-norms behind `first`, which become one with it; after: the nodes from
    there to `second`, the activation among them, and pools before or after it. block: inputs of `second` for each
    channel, more than one behind a flattening.
    """

    first: gs.Node
    second: gs.Node
    affine: list[gs.Node] = field(default_factory=list)
    after: list[gs.Node] = field(default_factory=list)
    block: int = 1

    @property
    def channels(self) -> int:
        """Return how many channels there are."""
        return len(bl.weights_of(self.first))

    @property
    def is_relu(self) -> bool:
        """Return whether the activation is ReLU, which all theory is about."""
        return self.activation.op == "Relu"

    @property
    def activation(self) -> gs.Node:
        """Return the node of the activation."""
        return next(node for node in self.after if node.op == "Relu" or node.op in OTHER_ACTIVATIONS)

    @property
    def takes_maxima(self) -> bool:
        """Return whether maxima are taken of the channels' values at several positions."""
        return any(node.op in ("MaxPool", "GlobalMaxPool") for node in self.after)

    @property
    def norm(self) -> gs.Node | None:
        """Return the batch-norm whose outputs are the pre-activations, if there is one."""
        last = self.affine[-1] if self.affine else None
        return last if last is not None and last.op == "BatchNormalization" else None


# ---- Finding -------------------------------------------------------------------------------------------------


def find_layers(graph: gs.Graph, any_activation: bool = False) -> tuple[list[GraphLayer], list[Note]]:
    """Return the hidden layers of a graph in its order, and one note for each other layer: why it is left alone.

    any_activation: those with other activations than ReLU too.
    """
    found, notes = [], []
    for node in graph.nodes:
        if node.op not in LAYER_OPS or len(node.inputs) < 2 or g.constant(node.inputs[1]) is None:
            continue
        try:
            found.append(_layer_from(graph, node, any_activation))
        except Unsuitable as reason:
            notes.append(Note(node.name, str(reason)))
    return found, notes


def _layer_from(graph: gs.Graph, first: gs.Node, any_activation: bool) -> GraphLayer:
    _check(first)
    layer = GraphLayer(first, first)
    node, tensor, active = first, first.outputs[0], False
    while True:
        node = _only_reader(graph, tensor)
        if active and node.op in LAYER_OPS:
            break
        if any(output.outputs or g.is_graph_output(graph, output) for output in node.outputs[1:]):
            raise Unsuitable(f"another output of '{node.name}' than the first is read")
        if active:
            _step_to_second(layer, node)
        else:
            active = _step_to_activation(layer, node, tensor, any_activation)
        tensor = node.outputs[0]
    layer.second = node
    if node.inputs[0] is not tensor:
        raise Unsuitable(f"'{node.name}' takes its channels for weights")
    try:
        _check(node)
    except Unsuitable as reason:
        raise Unsuitable(f"'{node.name}' reads it: {reason}") from None
    inputs, channels = len(_columns(node)), layer.channels
    if inputs % channels:
        raise Unsuitable(f"'{node.name}' has {inputs} inputs for {channels} channels")
    if node.op == "Conv" and inputs != channels:
        raise Unsuitable(f"'{node.name}' has {inputs} input channels for {channels} channels")
    layer.block = inputs // channels
    return layer


def _check(node: gs.Node) -> None:
    """Raise Unsuitable unless a layer's weights are those of a float convolution or matrix that clusters can change."""
    weights = g.constant(node.inputs[1])
    if node.op == "ConvTranspose":
        raise Unsuitable("a transposed convolution")
    if weights is None:
        raise Unsuitable("its weights are not constants")
    if _is_binary(bl.weights_of(node)):
        raise Unsuitable("its weights are binary")
    for tensor in node.inputs[1:3]:
        others = [reader.name for reader in tensor.outputs if reader is not node]
        if isinstance(tensor, gs.Constant) and others:
            raise Unsuitable(f"it shares its weights with '{others[0]}'")
    if weights.dtype != np.float32 or not np.isfinite(weights).all():
        raise Unsuitable(f"its weights are {weights.dtype}" if weights.dtype != np.float32 else "weights not finite")
    bias = g.optional_input(node, 2)
    if bias is not None and (g.constant(bias) is None or not np.isfinite(g.constant(bias)).all()):
        raise Unsuitable("its bias is no constant of finite numbers")
    if bias is not None and np.shape(g.constant(bias)) not in ((), (1,), (1, 1), *_per_channel(node)):
        raise Unsuitable("its bias is not one number per channel")
    if node.op == "Conv" and node.attrs.get("group", 1) != 1:
        raise Unsuitable("a convolution in groups")
    if node.op == "Gemm" and (
        node.attrs.get("transA", 0) or node.attrs.get("alpha", 1.0) != 1 or node.attrs.get("beta", 1.0) != 1
    ):
        raise Unsuitable("a Gemm with transA, alpha or beta")
    if node.op != "Conv" and (weights.ndim != 2 or (node.op == "MatMul" and g.rank(node.inputs[0]) != 2)):
        raise Unsuitable("no product of [N, K] activations and a matrix")


def _is_binary(rows: np.ndarray) -> bool:
    """Whether every output channel takes two values at most, as layers do that become binary ones."""
    rows = rows.reshape(len(rows), -1)
    low, high = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)
    two = bool(((rows == low) | (rows == high)).all())
    return two and (rows.shape[1] > 2 or bool(np.isin(rows, (-1, 1)).all()))  # any two weights take two values


def _per_channel(node: gs.Node) -> tuple[tuple[int, ...], ...]:
    count = len(bl.weights_of(node))
    return (count,), (1, count)


def _only_reader(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node:
    if g.is_graph_output(graph, tensor):
        raise Unsuitable("the output layer" if not tensor.outputs else "it is an output of the network")
    if not g.has_one_use(graph, tensor):
        readers = sorted({reader.op for reader in tensor.outputs})
        raise Unsuitable(f"it has several readers ({', '.join(readers)})" if readers else "nothing reads it")
    return tensor.outputs[0]


def _step_to_activation(layer: GraphLayer, node: gs.Node, tensor: gs.Tensor, any_activation: bool) -> bool:
    """Take in a node before the activation, or that; return whether it was.

    Pools may come first: maxima change places with the activation, which is monotonic, and averages are linear.
    """
    affine = node.op in ("Add", "BatchNormalization") and ew.data_input(node) is tensor
    if node.op == "Relu" or (any_activation and node.op in OTHER_ACTIVATIONS and node.inputs[0] is tensor):
        layer.after.append(node)
        return True
    if node.op in POOLS or (layer.after and _does_nothing(node)):
        layer.after.append(node)
    elif not layer.after and (affine or _does_nothing(node)):
        layer.affine.append(node)
    elif node.op == "Add":
        raise Unsuitable("a sum of branches follows it")
    else:
        possible = node.op in OTHER_ACTIVATIONS and not any_activation
        raise Unsuitable(f"{node.op} follows it, not ReLU" + (" (activations=any: a heuristic)" if possible else ""))
    return False


def _step_to_second(layer: GraphLayer, node: gs.Node) -> None:
    if node.op in ("Flatten", "Reshape"):
        _check_flattening(node)
    elif not (node.op in POOLS or _does_nothing(node) or _is_global_mean(node)):
        raise Unsuitable("a sum of branches follows its ReLU" if node.op == "Add" else f"{node.op} follows its ReLU")
    layer.after.append(node)


def _does_nothing(node: gs.Node) -> bool:
    """Whether a node gives what it takes when the network is used."""
    if node.op == "Dropout":
        training = g.optional_input(node, 2)
        return training is None or (g.constant(training) is not None and not np.any(g.constant(training)))
    return node.op == "Identity"


def _is_global_mean(node: gs.Node) -> bool:
    """Whether a node is the mean over all positions of each channel, as PyTorch's newer exporter writes it."""
    rank = g.rank(node.inputs[0])
    if node.op != "ReduceMean" or rank is None:
        return False
    given = g.optional_input(node, 1)
    axes = node.attrs.get("axes") if given is None else g.constant(given)
    return axes is not None and sorted(int(axis) % rank for axis in np.ravel(axes)) == list(range(2, rank))


def _check_flattening(node: gs.Node) -> None:
    """Raise Unsuitable unless a node makes one row of each sample."""
    source = node.inputs[0].shape
    if node.op == "Flatten" and node.attrs.get("axis", 1) == 1:
        return
    shape = g.constant(node.inputs[1]) if node.op == "Reshape" else None
    if shape is None or len(shape) != 2 or source is None or len(source) < 2:
        raise Unsuitable(f"'{node.name}' is no flattening")
    sizes = [g.static(size) for size in source[1:]]
    row = None if None in sizes else int(np.prod(sizes))
    batch = (shape[0] == 0 and not node.attrs.get("allowzero", 0)) or shape[0] == g.static(source[0])
    if not ((row is not None and shape[1] == row and (batch or shape[0] == -1)) or (batch and shape[1] == -1)):
        raise Unsuitable(f"'{node.name}' is no flattening")


# ---- Weights -------------------------------------------------------------------------------------------------


def _columns(node: gs.Node) -> np.ndarray:
    """The weights that leave each input [k, m, ...] of a layer."""
    return np.swapaxes(bl.weights_of(node), 0, 1)


def raw_layer(layer: GraphLayer) -> HiddenLayer:
    """Return the hidden layer as the first node's own weights and bias have it, before any batch-norm."""
    rows = bl.weights_of(layer.first).astype(np.float64)
    bias = g.optional_input(layer.first, 2)
    given = np.zeros(len(rows)) if bias is None else np.broadcast_to(np.ravel(g.constant(bias)), len(rows))
    columns = _columns(layer.second).astype(np.float64)
    return HiddenLayer(rows.reshape(len(rows), -1), given.astype(np.float64), columns.reshape(len(rows), -1))


def fused_layer(layer: GraphLayer) -> HiddenLayer:
    """Return the hidden layer with all that lies between the first node and the ReLU in its weights and bias."""
    raw = raw_layer(layer)
    scale, shift = np.ones(raw.neurons), raw.bias
    for node in layer.affine:
        if node.op == "BatchNormalization":
            factor, addend = batchnorm(node, np.float64)
            scale, shift = scale * factor, shift * factor + addend
        elif node.op == "Add":
            constant = next(t for t in node.inputs if isinstance(t, gs.Constant))
            shift = shift + g.channel_vector(constant, g.rank(node.outputs[0]))
    return HiddenLayer(raw.inputs * scale[:, None], shift, raw.outputs)


def pre_activations(layer: GraphLayer) -> PreActivations | None:
    """Return what the pre-activations are like, as far as that is known; None for linear layers without batch-norm.

    A batch-norm right before the ReLU says mean and deviation; otherwise they, and correlations in any case, are those
    of what a convolution makes of inputs as input_statistics has them.
    """
    fused, norm = fused_layer(layer), layer.norm
    kernels = fused.inputs.reshape(bl.weights_of(layer.first).shape)
    rows = correlated(kernels)
    if norm is not None:
        gamma, beta, _, variance = (g.constant(tensor).astype(np.float64) for tensor in norm.inputs[1:])
        std = np.abs(gamma) * np.sqrt(variance / (variance + norm.attrs.get("epsilon", 1e-5)))
        return PreActivations(beta, std, cosines(rows))
    if layer.first.op != "Conv":
        return None
    return PreActivations(fused.bias + means(kernels), np.linalg.norm(rows, axis=1), cosines(rows))


def activation_function(layer: GraphLayer) -> Callable[[np.ndarray], np.ndarray]:
    """Return the activation as a function of float64 arrays, as ONNX's reference implementation has it."""
    node = layer.activation
    source, target = gs.Variable("x", np.float32), gs.Variable("y", np.float32)
    alone = gs.Node(node.op, attrs=dict(node.attrs), inputs=[source, *node.inputs[1:]], outputs=[target])
    # From 13 on, which all models here have, until 20, which brings Gelu, none of these ops has another form.
    model = gs.export_onnx(gs.Graph([alone], [source], [target], opset=20), do_type_check=False)
    alone.inputs.clear()
    evaluator = ReferenceEvaluator(model)
    return lambda values: evaluator.run(None, {"x": values.astype(np.float32)})[0].astype(np.float64)


def output_count(layer: GraphLayer) -> int:
    """Return how many weights leave each channel."""
    columns = _columns(layer.second)
    return int(columns.size) // layer.channels


def output_channels(layer: GraphLayer) -> np.ndarray:
    """Return, for each column of the hidden layer's output weights, the channel of the second node that it goes to."""
    columns = _columns(layer.second)
    each = int(np.prod(columns.shape[2:]))
    return np.tile(np.repeat(np.arange(columns.shape[1]), each), layer.block)


# ---- Replacing -----------------------------------------------------------------------------------------------


def replace_layer(graph: gs.Graph, layer: GraphLayer, merged: HiddenLayer, shift: np.ndarray | None = None) -> None:
    """Put a smaller hidden layer in the place of one, its affine nodes included.

    merged: fused, of the dimensions of fused_layer but for the number of neurons; shift: [channels of the second node],
    what is added to its bias.
    """
    rows, columns = bl.weights_of(layer.first), _columns(layer.second)
    count, block = merged.neurons, layer.block
    first = merged.inputs.reshape(count, *rows.shape[1:])
    second = np.swapaxes(merged.outputs.reshape(count * block, *columns.shape[1:]), 0, 1)
    old = g.optional_input(layer.second, 2)
    bias = None if old is None else np.ravel(g.constant(old)).astype(np.float64)
    if shift is not None and np.any(shift):
        bias = shift if bias is None else bias + shift
    end = (layer.affine or [layer.first])[-1].outputs[0]
    for node in layer.affine:
        node.outputs.clear()
    layer.first.outputs.clear()
    layer.first.outputs.append(end)
    _set_weights(graph, layer.first, first, merged.bias)
    _set_weights(graph, layer.second, second, bias)
    _resize(layer, end, count)
    g.tidy(graph)


def _set_weights(graph: gs.Graph, node: gs.Node, rows: np.ndarray, bias: np.ndarray | None) -> None:
    """Give a layer other weights [m, k, ...] and a bias [m]; a MatMul that gets one becomes a Gemm."""
    by_rows = node.op == "Conv" or (node.op == "Gemm" and node.attrs.get("transB", 0))
    weights = np.ascontiguousarray(rows if by_rows else rows.T, np.float32)
    node.inputs[1] = gs.Constant(g.fresh_name(graph, f"{node.name}_clustered_weight"), weights)
    if bias is None:
        return
    if node.op == "MatMul":
        node.op = "Gemm"
    constant = gs.Constant(g.fresh_name(graph, f"{node.name}_clustered_bias"), np.ascontiguousarray(bias, np.float32))
    if len(node.inputs) > 2:
        node.inputs[2] = constant
    else:
        node.inputs.append(constant)


def _resize(layer: GraphLayer, tensor: gs.Variable, count: int) -> None:
    """The shapes between the two nodes, and those that a Reshape is told."""
    width = count
    for node in [None, *layer.after]:
        if node is not None:
            if node.op in ("Flatten", "Reshape"):  # behind a mean or pool over all positions, a block of 1
                width = count * layer.block
            if node.op == "Reshape":
                shape = g.constant(node.inputs[1]).copy()
                if shape[1] > 0:
                    shape[1] = width
                    node.inputs[1] = gs.Constant(f"{node.inputs[1].name}_{node.name}_clustered", shape)
            tensor = node.outputs[0]
        if tensor.shape is not None and len(tensor.shape) > 1:
            tensor.shape = [tensor.shape[0], width, *tensor.shape[2:]]
