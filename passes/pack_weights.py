"""pack-weights: float layers whose weights take two values per filter store one bit for each.

The weights become what UnpackWeights (runtime/functions.py) gives of the bits and the two values of each filter: the
same floats, bit for bit. onnxruntime computes them once, when it makes a session, with the library or without. The
layers run as before; only the file is smaller.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from bnncc.errors import BadInput
from bnncc.passes import binary_layers as bl
from bnncc.passes import graph as g
from bnncc.passes.base import LAYER_OPS, Context, PassResult
from bnncc.runtime.functions import DOMAIN, all_functions

UNPACK = "UnpackWeights"
# What a node and three initializers take in a file beside their values, about: names, types, shapes.
_NODE_BYTES = 200


@dataclass
class _Packed:
    """Weights of two values: bits uint8 [ceil(count / 8)]; high, low float32, of shapes that broadcast to theirs."""

    weights: gs.Constant
    readers: list[gs.Node]
    bits: np.ndarray
    high: np.ndarray
    low: np.ndarray

    @property
    def size(self) -> int:
        return self.bits.nbytes + self.high.nbytes + self.low.nbytes

    @property
    def saved(self) -> int:
        return self.weights.values.nbytes - self.size - _NODE_BYTES


class PackWeights:
    """Bits and two values per filter in the place of float weights, where that makes the file smaller."""

    name = "pack-weights"
    requires = ("lower",)
    guarantees = "float32 weights of two values per filter are stored as bits"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        result = PassResult()
        found = [packed for packed in _candidates(graph, result) if packed.saved > 0]
        if sum(packed.saved for packed in found) <= _definition_bytes(context.opset):
            return result
        for packed in found:
            _replace(graph, packed)
            for node in packed.readers:
                _record(context, node, packed)
        g.tidy(graph)
        result.changed = True
        return result


def _candidates(graph: gs.Graph, result: PassResult) -> list[_Packed]:
    """The weights that could be packed, each once, with the layers that read them."""
    found: dict[int, _Packed] = {}
    for node in graph.nodes:
        weights = node.inputs[1] if node.op in LAYER_OPS and len(node.inputs) > 1 else None
        if not isinstance(weights, gs.Constant) or id(weights) in found:
            continue
        if any(output is weights for output in graph.outputs):
            continue  # they stay, whatever else reads
        filters = bl.weights_of(node)
        if filters is None or not filters.size or not all(g.is_own(graph, reader) for reader in weights.outputs):
            continue
        values = _two_values(filters)
        if values is None:
            continue
        high, low = values
        if any((np.signbit(value) & (value == 0)).any() for value in values):
            result.note(node.name, "not packed: -0 is among its weights, and would become 0")
            continue
        readers = [reader for reader in weights.outputs if reader.op in LAYER_OPS and reader.inputs[1] is weights]
        is_high = _bits(filters) == _bits(high)[:, None].reshape(-1, *(1,) * (filters.ndim - 1))
        stored = bl.as_stored(node, is_high)
        found[id(weights)] = _Packed(
            weights,
            readers,
            np.packbits(stored.reshape(-1), bitorder="little"),
            _shortest(node, high, filters.shape),
            _shortest(node, low, filters.shape),
        )
    return list(found.values())


def _bits(values: np.ndarray) -> np.ndarray:
    """The bit patterns of float32 values."""
    return np.ascontiguousarray(values).view(np.int32)


def _two_values(filters: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The higher and the lower value of each filter, float32 [M], where no filter has a third bit pattern."""
    rows = np.ascontiguousarray(filters.reshape(filters.shape[0], -1))
    patterns = _bits(rows)
    first = patterns[:, :1]
    is_other = patterns != first
    second = np.take_along_axis(patterns, is_other.argmax(axis=1)[:, None], axis=1)
    if (is_other & (patterns != second)).any():
        return None
    one, other = (np.ascontiguousarray(values[:, 0]).view(np.float32) for values in (first, second))
    above = one >= other
    return np.where(above, one, other), np.where(above, other, one)


def _shortest(node: gs.Node, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values [M] of the filters of a layer as they lie in its weights, axes along which they are equal 1 long."""
    inner = shape[1] if node.op == "ConvTranspose" else 1  # where groups lie side by side
    ones = (1,) * (len(shape) - 2)
    filters = np.broadcast_to(values.reshape(-1, 1, *ones), (len(values), inner, *ones))
    stored = bl.as_stored(node, filters)
    for axis in range(stored.ndim):
        first = np.take(stored, [0], axis=axis)
        if np.array_equal(_bits(np.broadcast_to(first, stored.shape)), _bits(stored)):
            stored = first
    return np.ascontiguousarray(stored)


def _definition_bytes(opset: int) -> int:
    """What the function's definition takes in a file."""
    return next(function for function in all_functions(opset) if function.name == UNPACK).ByteSize()


def _replace(graph: gs.Graph, packed: _Packed) -> None:
    weights = packed.weights
    name = g.fresh_name(graph, f"{weights.name}_unpack")
    inputs = [
        gs.Constant(g.fresh_name(graph, f"{weights.name}_{word}"), values)
        for word, values in (("packed", packed.bits), ("high", packed.high), ("low", packed.low))
    ]
    unpacked = g.add_node(
        graph, UNPACK, inputs, g.fresh_name(graph, f"{weights.name}_unpacked"), name=name, domain=DOMAIN,
        attrs={"weight_shape": list(weights.shape)}, dtype=np.float32, shape=list(weights.shape),
    )  # fmt: skip
    g.replace_uses(graph, weights, unpacked)


def _record(context: Context, node: gs.Node, packed: _Packed) -> None:
    record = context.layers.get(node.name)
    if record is None:
        return
    others = [g.constant(tensor) for tensor in node.inputs[2:]]
    record.weight_bits, record.compiled_node = 1, g.producer(node.inputs[1]).name
    record.size_after = packed.size + sum(values.nbytes for values in others if values is not None)


def check_packed_weights(model: onnx.ModelProto, name: str) -> None:
    """Raise BadInput, naming the node, for packed weights of float layers whose sizes do not fit together.

    onnxruntime finds that out when it runs the model, and does not say where.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.domain != DOMAIN or node.op_type != UNPACK:
            continue
        where = f"{name}: node {node.name!r}"
        if len(node.input) != 3 or any(tensor not in constants for tensor in node.input):
            raise BadInput(f"{where}: its packed weights are not three initializers")
        shape = next((list(item.ints) for item in node.attribute if item.name == "weight_shape"), [])
        packed, high, low = (list(constants[tensor].dims) for tensor in node.input)
        needed = (math.prod(shape) + 7) // 8
        if not shape or min(shape) < 1 or packed != [needed]:
            raise BadInput(f"{where}: weights {shape} take {needed} packed bytes, not {packed}")
        for values in (high, low):
            if len(values) != len(shape) or any(
                size not in (1, whole) for size, whole in zip(values, shape, strict=True)
            ):
                raise BadInput(f"{where}: values of shape {values} do not go with weights {shape}")
