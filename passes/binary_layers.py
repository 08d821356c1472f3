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
    """How signs reach a tensor: the binarizer's output, the ops between in order, and the factor they carry.

    obstacle: why the values at the end are not +-scale (or 0 where padded with zeros) after all; "" where they are.
    """

    signs: gs.Tensor
    nodes: tuple[gs.Node, ...]
    scale: np.float32
    obstacle: str = ""


def sign_path(tensor: gs.Tensor) -> SignPath | None:
    """The way back from a tensor to the one binarizer that its values come from, else None."""
    nodes: list[gs.Node] = []
    while binarizers.match(tensor) is None:
        node = g.producer(tensor)
        if node is None:
            return None
        if node.op in (*RESHAPING, "MaxPool", "Pad") or (node.op == "Mul" and _turns_channels(node)):
            source = node.inputs[0]
        elif node.op == "Mul" and _scale_of(node) is not None:
            source = _scaled_input(node)
        else:
            return None
        nodes.append(node)
        tensor = source
    scale, obstacle = np.float32(1), ""
    for node in reversed(nodes):
        if node.op == "Mul" and not _turns_channels(node):
            scale = np.float32(scale * _scale_of(node))
        elif node.op == "Pad" and pad_value(node) not in (0, scale, -scale):
            obstacle = f"Pad '{node.name}' pads signs with something other than 0, +1 or -1"
    kept = tuple(node for node in reversed(nodes) if node.op != "Mul" or _turns_channels(node))
    return SignPath(tensor, kept, scale, obstacle)


def pad_value(pad: gs.Node) -> np.float32 | None:
    """What a Pad node pads with, where that is a constant, else None."""
    if pad.attrs.get("mode", "constant") != "constant":
        return None
    value = g.optional_input(pad, 2)
    return np.float32(0) if value is None else g.filled_value(value)


def _scaled_input(node: gs.Node) -> gs.Tensor:
    """The data input of a Mul by a scalar constant."""
    return node.inputs[0 if g.filled_value(node.inputs[1]) is not None else 1]


def _scale_of(node: gs.Node) -> np.float32 | None:
    """The positive float32 scalar that a Mul multiplies signs by, else None."""
    for operand, data in (node.inputs, reversed(node.inputs)):
        factor = g.filled_value(data)
        if factor is not None and g.filled_value(operand) is None and g.broadcasts_into(data, operand):
            return factor if factor.dtype == np.float32 and factor > 0 else None
    return None


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
    return filters_first(node, values)


def filters_first(node: gs.Node, values: np.ndarray) -> np.ndarray | None:
    """Weights as a layer stores them with the output channel first; None for what is no filters and no matrix."""
    if node.op == "Conv":
        return values
    if node.op == "ConvTranspose" and values.ndim > 2:  # stored [C, M / group, ...]
        group = node.attrs.get("group", 1)
        grouped = values.reshape(group, -1, *values.shape[1:])
        return grouped.swapaxes(1, 2).reshape(-1, grouped.shape[1], *values.shape[2:])
    if node.op in ("Gemm", "MatMul") and values.ndim == 2:
        return values if _has_rows(node) else values.T
    return None


def as_stored(node: gs.Node, filters: np.ndarray) -> np.ndarray:
    """Weights with the output channel first as a layer stores them: the other way from `filters_first`."""
    if node.op == "ConvTranspose":
        group = node.attrs.get("group", 1)
        grouped = filters.reshape(group, -1, *filters.shape[1:])
        return grouped.swapaxes(1, 2).reshape(-1, grouped.shape[1], *filters.shape[2:])
    return filters if node.op == "Conv" or _has_rows(node) else filters.T


def _has_rows(node: gs.Node) -> bool:
    """Whether a matrix product stores a row per output."""
    return node.op == "Gemm" and bool(node.attrs.get("transB", 0))


def is_binary(node: gs.Node) -> bool:
    """Whether a node is a canonical binary layer: a 2-D Conv or [N, K] MatMul of +-1 weights, no bias, over signs."""
    if node.op not in ("Conv", "MatMul") or g.optional_input(node, 2) is not None:
        return False
    weights = weights_of(node)
    rank = 4 if node.op == "Conv" else 2
    if weights is None or weights.ndim != rank or not weights.size or g.rank(node.inputs[0]) != rank:
        return False
    if not np.isin(weights, (-1, 1)).all():
        return False
    path = sign_path(node.inputs[0])
    return path is not None and path.scale == 1 and not path.obstacle


def fan_in(node: gs.Node) -> int:
    """Number of products in one output of a binary layer."""
    return fan_in_of(weights_of(node))


def fan_in_of(weights: np.ndarray) -> int:
    """Number of products in one output of a layer of weights [M, ...]."""
    return int(weights.size // weights.shape[0])


def is_padded(node: gs.Node) -> bool:
    """Whether padding leaves out products of a binary layer at the edges; a Pad with signs is taken for such."""
    padded = node.op == "Conv" and (any(node.attrs.get("pads", [])) or "auto_pad" in node.attrs)
    return padded or any(step.op == "Pad" for step in sign_path(node.inputs[0]).nodes)
