"""Affine ops behind a layer as one scale and shift per channel."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import elementwise as ew
from bnncc.passes import graph as g


def affine_tail(
    graph: gs.Graph, tensor: gs.Variable, readers: list[gs.Node], count: int, rank: int
) -> tuple[np.ndarray, np.ndarray, gs.Variable, int]:
    """Scale and shift [count] from the affine ops behind a tensor, where they end, and their constants in bytes.

    readers: the nodes that take the tensor, of that rank, as floats.
    """
    tail: list[gs.Node] = []
    while (
        len(readers) == 1
        and not g.is_graph_output(graph, tensor)
        and g.is_own(graph, readers[0])
        and _is_affine(readers[0], tensor)
    ):
        tail.append(readers[0])
        tensor = readers[0].outputs[0]
        readers = tensor.outputs
    if len(tail) == 1 and tail[0].op == "BatchNormalization":
        scale, shift = batchnorm(tail[0], np.float32)
        return scale, shift, tensor, g.constant_bytes(tail)
    scale, shift = np.ones(count), np.zeros(count)
    for node in tail:
        if node.op == "BatchNormalization":
            factor, addend = batchnorm(node, np.float64)
            scale, shift = scale * factor, shift * factor + addend
            continue
        first = node.inputs[0] is not next(t for t in node.inputs if isinstance(t, gs.Constant))
        value = g.channel_vector(node.inputs[1 if first else 0], rank).astype(np.float64)
        if node.op == "Mul":
            scale, shift = scale * value, shift * value
        elif node.op == "Div":
            scale, shift = scale / value, shift / value
        elif node.op == "Add":
            shift = shift + value
        else:  # Sub
            scale, shift = (scale, shift - value) if first else (-scale, value - shift)
    return np.broadcast_to(scale, count), np.broadcast_to(shift, count), tensor, g.constant_bytes(tail)


def _is_affine(node: gs.Node, data: gs.Tensor) -> bool:
    if node.op not in ("Add", "Sub", "Mul", "Div", "BatchNormalization") or ew.data_input(node) is not data:
        return False
    if node.op == "BatchNormalization":
        return True
    return isinstance(node.inputs[1], gs.Constant) or (node.op != "Div" and isinstance(node.inputs[0], gs.Constant))


def batchnorm(node: gs.Node, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift [C] of a BatchNormalization as onnxruntime's CPU kernel forms them, in the given precision."""
    gamma, beta, mean, variance = (g.constant(tensor).astype(dtype) for tensor in node.inputs[1:])
    inverse = dtype(1) / np.sqrt(variance + dtype(np.float32(node.attrs.get("epsilon", 1e-5))))
    scale = inverse * gamma
    return scale, beta - mean * scale
