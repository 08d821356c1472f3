"""What lies between a binarizer and the layer before it: chains of elementwise ops, pooling and reshapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import binarizers
from bnncc.passes import binary_layers as bl
from bnncc.passes import elementwise as ew
from bnncc.passes import graph as g


@dataclass
class Chain:
    """What lies between `source` and a binarizer, in the order of computation."""

    source: gs.Tensor
    nodes: list[gs.Node] = field(default_factory=list)

    @property
    def elementwise(self) -> list[gs.Node]:
        return [node for node in self.nodes if not is_structural(node)]

    def before(self, node: gs.Node) -> list[gs.Node]:
        """The elementwise nodes before a node of the chain."""
        return [n for n in self.nodes[: self.nodes.index(node)] if not is_structural(n)]


def is_structural(node: gs.Node) -> bool:
    """Whether a node of a chain moves or selects elements rather than mapping them."""
    return node.op == "MaxPool" or node.op in bl.RESHAPING


def integer_chain(comparison: binarizers.Comparison) -> Chain | None:
    """The chain from a binary layer to the comparison, else None."""
    return chain_to(comparison.source, comparison.threshold.size > 1 or comparison.direction.size > 1)


def gives_integers(tensor: gs.Tensor) -> bool:
    """Whether a tensor is what a binary layer gives."""
    node = g.producer(tensor)
    return node is not None and bl.is_binary(node)


def chain_to(
    tensor: gs.Tensor, per_channel: bool = False, is_source: Callable[[gs.Tensor], bool] = gives_integers
) -> Chain | None:
    """The chain from a source to a tensor, else None. per_channel: what comes next differs between channels."""
    nodes: list[gs.Node] = []
    while True:
        if is_source(tensor):
            return Chain(tensor, nodes[::-1])
        node = g.producer(tensor)
        if node is None:
            return None
        step = _step_back(node, per_channel)
        if step is None:
            return None
        tensor, differs = step
        per_channel |= differs
        nodes.append(node)


def _step_back(node: gs.Node, per_channel_after: bool) -> tuple[gs.Tensor, bool] | None:
    """The input of a node that a binarizer can move past, and whether the node treats channels differently.

    per_channel_after: something between the node and the binarizer differs from channel to channel; a reshape that
    mixes axis 1 with others cannot be passed then.
    """
    if node.op == "MaxPool":
        plain = len(node.outputs) == 1 and not node.attrs.get("storage_order", 0)
        # Its direction may differ from channel to channel.
        return (node.inputs[0], True) if plain else None
    if node.op in bl.RESHAPING:
        source, result = node.inputs[0], node.outputs[0]
        keeps_channels = g.channels(source) is not None and source.shape[:2] == (result.shape or ())[:2]
        return (source, False) if keeps_channels or not per_channel_after else None
    data = ew.data_input(node)
    if data is None:
        return None
    vectors = (g.channel_vector(t, g.rank(data)) for t in node.inputs if t is not data and t.name)
    return data, node.op == "BatchNormalization" or any(v is not None and v.size > 1 for v in vectors)


def float_chain(graph: gs.Graph, comparison: binarizers.Comparison) -> Chain | None:
    """The longest chain of monotone ops that only this binarizer reads, where moving past it saves work; else None."""
    nodes: list[gs.Node] = []
    tensor = comparison.source
    per_channel = comparison.threshold.size > 1 or comparison.direction.size > 1
    while g.has_one_use(graph, tensor) or (not nodes and len(set(map(id, tensor.outputs))) == 1):
        node = g.producer(tensor)
        if node is None or not (is_structural(node) or node.op in ew.MONOTONE):
            break
        step = _step_back(node, per_channel)
        if step is None:
            break
        tensor, differs = step
        per_channel |= differs
        nodes.append(node)
    while nodes and nodes[-1].op in bl.RESHAPING:
        tensor = nodes.pop().outputs[0]
    useful = any(node.op == "MaxPool" or not is_structural(node) for node in nodes)
    if not useful or g.constant(tensor) is not None or tensor.dtype not in (None, np.float32):
        return None
    return Chain(tensor, nodes[::-1])
