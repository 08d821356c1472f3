"""Recognising a canonical binary layer: Conv, MatMul or Gemm of +-1 weights over signs.

The signs may pass through ops that only move or select them (MaxPool, Flatten, Reshape, Pad) on their way
from the binarizer to the layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import binarizers
from bnncc.passes import graph as g

# Ops that rearrange elements.
RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class SignPath:
    """How signs reach a tensor: the binarizer's output, the ops between in order, and the factor they carry."""

    signs: gs.Tensor
    nodes: tuple[gs.Node, ...]
    scale: np.float32


def sign_path(tensor: gs.Tensor) -> SignPath | None:
    """The way back from a tensor of values +-scale (or 0 where padded with zeros) to its binarizer, else None."""
    nodes: list[gs.Node] = []
    scale = np.float32(1)
    while binarizers.match(tensor) is None:
        node = g.producer(tensor)
        if node is None:
            return None
        if node.op == "Mul" and _turns_channels(node):
            source = node.inputs[0]
            nodes.append(node)
        elif node.op == "Mul":
            factors = [g.filled_value(source) for source in node.inputs]
            if all(factor is None for factor in factors):
                return None
            source = node.inputs[0 if factors[1] is not None else 1]
            factor = factors[1] if factors[1] is not None else factors[0]
            if factor.dtype != np.float32 or not factor > 0:
                return None
            scale = np.float32(scale * factor)
        elif node.op in (*RESHAPING, "MaxPool", "Pad"):
            source = node.inputs[0]
            nodes.append(node)
        else:
            return None
        tensor = source
    return SignPath(tensor, tuple(reversed(nodes)), scale)


def _turns_channels(node: gs.Node) -> bool:
    """Whether a Mul multiplies channels by +1 or -1, as around a MaxPool that takes minima in some channels."""
    factors = g.channel_vector(node.inputs[1], g.rank(node.inputs[0]))
    return factors is not None and bool(np.isin(factors, (-1, 1)).all() and (factors < 0).any())


def weights_of(node: gs.Node) -> np.ndarray | None:
    """Constant float32 weights of a layer with the output channel first: [M, C / group, ...] or [M, K]; else None."""
    if len(node.inputs) < 2:
        return None
    values = g.constant(node.inputs[1])
    if values is None or values.dtype != np.float32:
        return None
    if node.op == "Conv":
        return values
    if node.op == "MatMul":
        return values.T if values.ndim == 2 else None
    if node.op == "Gemm":
        return values if node.attrs.get("transB", 0) else values.T
    return None


def is_binary(node: gs.Node) -> bool:
    """Whether a node is a canonical binary layer: +-1 weights, no bias, over +-1 activations."""
    if node.op not in ("Conv", "MatMul") or (node.op == "Conv" and len(node.inputs) > 2):
        return False
    weights = weights_of(node)
    if weights is None or not np.isin(weights, (-1, 1)).all():
        return False
    path = sign_path(node.inputs[0])
    return path is not None and path.scale == 1


def fan_in(node: gs.Node) -> int:
    """Number of products in one output of a binary layer."""
    weights = weights_of(node)
    return int(weights.size // weights.shape[0])
