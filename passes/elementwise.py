"""Evaluating what lies between a layer and a binarizer, with the arithmetic of the original.

A chain is a list of nodes that each map one tensor, element by element, with constants that are equal along a
channel (axis 1). onnxruntime itself evaluates it, unoptimized, on the values asked for: thresholds found so fall as
they did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from bnncc.passes import graph as g

# Ops of one tensor and constants. Whether the chain is monotone is found by evaluation where the inputs are integers.
UNARY = (
    "Neg", "Abs", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "Tanh",
    "Softplus", "Softsign", "HardSwish", "Erf", "Exp", "Sqrt", "Floor", "Ceil", "Round", "Sign",
)  # fmt: skip
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow")
# Nondecreasing or nonincreasing per channel also in float arithmetic: a rounded monotone function is monotone.
MONOTONE = ("Neg", "Relu", "Add", "Sub", "Mul", "Clip", "BatchNormalization", "Max", "Min")

_CHUNK = 1 << 21  # float32 values evaluated at a time


def is_training_batchnorm(node: gs.Node) -> bool:
    """Whether a BatchNormalization updates statistics: then it does not compute a fixed function."""
    return bool(node.attrs.get("training_mode", 0)) or len([t for t in node.outputs if t.name]) > 1


def data_input(node: gs.Node) -> gs.Tensor | None:
    """The tensor that an elementwise node maps, all its other inputs being per-channel constants; else None."""
    if node.domain not in (None, "", "ai.onnx"):
        return None
    if node.op in UNARY:
        return node.inputs[0]
    if node.op == "BatchNormalization":
        constants = [g.constant(tensor) for tensor in node.inputs[1:]]
        usable = not is_training_batchnorm(node) and all(values is not None for values in constants)
        return node.inputs[0] if usable else None
    if node.op in ("Clip", "PRelu", *BINARY):
        variable = [t for t in node.inputs if not isinstance(t, gs.Constant) and t.name and g.filled_value(t) is None]
        if len(variable) != 1 or (node.op in ("Clip", "PRelu") and variable[0] is not node.inputs[0]):
            return None
        data = variable[0]
        others = [t for t in node.inputs if t is not data and t.name]
        usable = all(g.channel_vector(t, g.rank(data)) is not None and g.broadcasts_into(t, data) for t in others)
        return data if usable and g.rank(data) is not None else None
    return None


class ChainFunction:
    """A chain of elementwise nodes as a function of values [C, L] (one row per channel)."""

    def __init__(self, nodes: list[gs.Node], channels: int, opset: int) -> None:
        self.channels = channels
        self._session = _session(nodes, channels, opset) if nodes else None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """float32 [C, L] or [1, L] (the same for all channels) to float32 [C, L]."""
        values = np.broadcast_to(values, (self.channels, values.shape[1])).astype(np.float32)
        if self._session is None:
            return values
        return self._session.run(None, {"x": values[None, :, :, None]})[0][0, :, :, 0]

    def over_integers(self, bound: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (integers [L], values [C, L]) for the integers from -bound to bound, ascending, in chunks."""
        step = max(1, _CHUNK // self.channels)
        for start in range(-bound, bound + 1, step):
            integers = np.arange(start, min(start + step, bound + 1))
            yield integers, self(integers.astype(np.float32)[None, :])


def _session(nodes: list[gs.Node], channels: int, opset: int) -> ort.InferenceSession:
    protos, initializers, current = [], [], "x"
    for index, node in enumerate(nodes):
        data, names = data_input(node), []
        for position, tensor in enumerate(node.inputs):
            if tensor is data:
                names.append(current)
            elif not tensor.name:
                names.append("")
            else:
                name = f"c{index}_{position}"
                names.append(name)
                initializers.append(numpy_helper.from_array(_operand(node, tensor, data), name))
        current = f"v{index}"
        attrs = {key: value for key, value in node.attrs.items() if isinstance(value, int | float | str | list)}
        protos.append(helper.make_node(node.op, names, [current], **attrs))
    shape = [1, channels, None, 1]
    graph = helper.make_graph(
        protos,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(current, TensorProto.FLOAT, shape)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _operand(node: gs.Node, tensor: gs.Tensor, data: gs.Tensor) -> np.ndarray:
    if node.op == "BatchNormalization":
        return g.constant(tensor)
    values = g.channel_vector(tensor, g.rank(data))
    return values.reshape(()) if values.size == 1 else values.reshape(-1, 1, 1)


def smallest_float(predicate: Callable[[np.ndarray], np.ndarray], channels: int) -> np.ndarray:
    """Smallest finite float32 x per channel for which predicate holds, by bisection over the floats in order.

    predicate: float32 [C] -> bool [C], false then true as x grows. Returns float32 [C]: -inf where it always holds,
    +inf where it never does.
    """
    largest = np.full(channels, _LARGEST_ORDINAL, np.int64)
    low, high = -largest, largest
    at_low, at_high = predicate(_from_ordinal(low)), predicate(_from_ordinal(high))
    while (high - low > 1).any():
        middle = (low + high) // 2
        holds = predicate(_from_ordinal(middle))
        high, low = np.where(holds, middle, high), np.where(holds, low, middle)
    found = np.where(at_high, _from_ordinal(high), np.float32(np.inf))
    return np.where(at_low, np.float32(-np.inf), found).astype(np.float32)


# The position of a float32 among all finite floats in ascending order; -0 and +0 share position 0.
_LARGEST_ORDINAL = int(np.finfo(np.float32).max.view(np.int32))


def _from_ordinal(ordinals: np.ndarray) -> np.ndarray:
    magnitude = np.abs(ordinals).astype(np.int32).view(np.float32)
    return np.where(ordinals < 0, -magnitude, magnitude)
