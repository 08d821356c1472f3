"""Hidden ReLU layers of a graph: where there are any, why other layers have none, and putting smaller ones in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

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

    affine: the per-channel additions and batch-norms between `first` and the activation; after: the nodes from the
    activation to `second`. block: inputs of `second` for each channel, more than one behind a flattening.
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
        return self.after[0].op == "Relu"

    @property
    def norm(self) -> gs.Node | None:
        """Return the batch-norm that comes first after the layer, if one does."""
        norms = [node for node in self.affine if node.op == "BatchNormalization"]
        return norms[-1] if norms and self.affine[-1] is norms[-1] else None


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
    node, tensor = first, first.outputs[0]
    while True:
        node = _only_reader(graph, tensor)
        if layer.after and node.op in LAYER_OPS:
            break
        if not layer.after:
            _step_to_activation(layer, node, tensor, any_activation)
        else:
            _step_to_second(layer, node)
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
    layer.block = inputs // channels
    return layer


def _check(node: gs.Node) -> None:
    """Raise Unsuitable unless a layer's weights are those of a float convolution or matrix that clusters can change."""
    weights = g.constant(node.inputs[1])
    if node.op == "ConvTranspose":
        raise Unsuitable("a transposed convolution")
    if weights is None:
        raise Unsuitable("its weights are not constants")
    if np.isin(weights, (-1, 1)).all():
        raise Unsuitable("its weights are binary")
    if weights.dtype != np.float32 or not np.isfinite(weights).all():
        raise Unsuitable(f"its weights are {weights.dtype}" if weights.dtype != np.float32 else "weights not finite")
    bias = g.optional_input(node, 2)
    if bias is not None and (g.constant(bias) is None or not np.isfinite(g.constant(bias)).all()):
        raise Unsuitable("its bias is no constant of finite numbers")
    if node.op == "Conv" and node.attrs.get("group", 1) != 1:
        raise Unsuitable("a convolution in groups")
    if node.op == "Gemm" and (
        node.attrs.get("transA", 0) or node.attrs.get("alpha", 1.0) != 1 or node.attrs.get("beta", 1.0) != 1
    ):
        raise Unsuitable("a Gemm with transA, alpha or beta")
    if node.op != "Conv" and (weights.ndim != 2 or (node.op == "MatMul" and g.rank(node.inputs[0]) != 2)):
        raise Unsuitable("no product of [N, K] activations and a matrix")


def _only_reader(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node:
    if g.is_graph_output(graph, tensor):
        raise Unsuitable("the output layer" if not tensor.outputs else "it is an output of the network")
    if not g.has_one_use(graph, tensor):
        readers = sorted({reader.op for reader in tensor.outputs})
        raise Unsuitable(f"it has several readers ({', '.join(readers)})" if readers else "nothing reads it")
    return tensor.outputs[0]


def _step_to_activation(layer: GraphLayer, node: gs.Node, tensor: gs.Tensor, any_activation: bool) -> None:
    affine = node.op in ("Add", "BatchNormalization") and ew.data_input(node) is tensor
    if node.op == "Relu" or (any_activation and node.op in OTHER_ACTIVATIONS and node.inputs[0] is tensor):
        layer.after.append(node)
    elif affine or node.op in ("Dropout", "Identity"):
        layer.affine.append(node)
    elif node.op == "Add":
        raise Unsuitable("a sum of branches follows it")
    else:
        possible = node.op in OTHER_ACTIVATIONS and not any_activation
        raise Unsuitable(f"{node.op} follows it, not ReLU" + (" (activations=any: a heuristic)" if possible else ""))


def _step_to_second(layer: GraphLayer, node: gs.Node) -> None:
    if node.op in ("Flatten", "Reshape"):
        _check_flattening(node)
    elif node.op not in (*POOLS, "Dropout", "Identity"):
        raise Unsuitable("a sum of branches follows its ReLU" if node.op == "Add" else f"{node.op} follows its ReLU")
    layer.after.append(node)


def _check_flattening(node: gs.Node) -> None:
    result = g.rank(node.outputs[0])
    if node.op == "Flatten" and node.attrs.get("axis", 1) == 1:
        return
    shape = g.constant(node.inputs[1]) if node.op == "Reshape" else None
    source = node.inputs[0].shape
    one_row_each = (
        shape is not None
        and len(shape) == 2
        and source is not None
        and (shape[0] in (0, -1) or shape[0] == source[0])
        and result in (None, 2)
    )
    if not one_row_each:
        raise Unsuitable(f"'{node.name}' is no flattening")


# ---- Weights -------------------------------------------------------------------------------------------------


def _columns(node: gs.Node) -> np.ndarray:
    """The weights that leave each input [k, m, ...] of a layer."""
    return np.swapaxes(bl.weights_of(node), 0, 1)


def raw_layer(layer: GraphLayer) -> HiddenLayer:
    """Return the hidden layer as the first node's own weights and bias have it, before any batch-norm."""
    rows = bl.weights_of(layer.first).astype(np.float64)
    bias = g.optional_input(layer.first, 2)
    given = np.zeros(len(rows)) if bias is None else np.broadcast_to(g.constant(bias), len(rows))
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
    bias = None if old is None else g.constant(old).astype(np.float64)
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
            if node.op in ("Flatten", "Reshape"):
                width = count * layer.block
            if node.op == "Reshape":
                shape = g.constant(node.inputs[1]).copy()
                if shape[1] > 0:
                    shape[1] = width
                    node.inputs[1] = gs.Constant(f"{node.inputs[1].name}_{node.name}_clustered", shape)
            tensor = node.outputs[0]
        if tensor.shape is not None and len(tensor.shape) > 1:
            tensor.shape = [tensor.shape[0], width, *tensor.shape[2:]]
