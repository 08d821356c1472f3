"""order-filters: a tree over the filters of every binary convolution, from which a kernel may count them one by one.

The tree goes into the file as an attribute of the node, `tree`: a hint that its function body ignores and that changes
no result. It has the form that runtime/src/ort/tree_attribute.c gives. Beside it the report gets the counts of
MST-compression: the paper's tree is for counting, the other for counting fast.
"""

from __future__ import annotations

import math
import string

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from bnncc.passes import graph as g
from bnncc.passes.base import Context, LayerRecord, PassResult
from bnncc.passes.filter_tree import (
    FilterTree,
    TreeOptions,
    engine_tree,
    feasible_options,
    paper_tree,
    size_with_positions,
)
from bnncc.runtime.functions import DOMAIN

ATTRIBUTE = "tree"
_ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"


class OrderFilters:
    """Trees over filters for binary convolutions, and what they save for the report."""

    name = "order-filters"
    requires = ("lower",)
    guarantees = "binary convolutions say in which order their filters are best counted"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        result = PassResult()
        options = tree_options(context.config)
        for node in graph.nodes:
            if node.domain == DOMAIN and node.op.startswith("BinaryConv"):
                _order(node, options, context, result)
        return result


def tree_options(config: object) -> TreeOptions:
    """What a config's options allow a tree."""
    return TreeOptions(
        shared_root=config.tree_shared_root,
        complement=config.tree_complement,
        steiner=config.tree_steiner,
        ripple=config.tree_ripple,
        max_depth=config.tree_max_depth,
    )


def _order(node: gs.Node, options: TreeOptions, context: Context, result: PassResult) -> None:
    shape = node.attrs["weight_shape"]
    groups, length = node.attrs["group"], math.prod(shape[1:])
    filters = shape[0] // groups
    feasible = feasible_options(filters, length, options)
    if feasible is None:
        result.note(node.name, f"no filter tree: {filters} filters are too many to compare them all")
        return
    if feasible != options:
        result.note(node.name, "no virtual filters in its tree: too many filters to search them in seconds")
    packed = g.constant(node.inputs[1]).reshape(groups, filters, -1)
    trees = [engine_tree(group, length, feasible) for group in packed]
    text = tree_text([(tree.parents, tree.flipped[:filters]) for tree in trees])
    result.changed |= node.attrs.get(ATTRIBUTE) != text
    node.attrs[ATTRIBUTE] = text
    record = context.layers.get(node.name)
    if record is not None:
        record.size_after += onnx.helper.make_attribute(ATTRIBUTE, text).ByteSize()
        _count(record, trees, [paper_tree(group, length) for group in packed])


def tree_text(trees: list[tuple[np.ndarray, np.ndarray]]) -> str:
    """The attribute that says the trees of a convolution's groups, as read by runtime/src/ort/tree_attribute.c.

    Each is (parents [nodes], -1 for the filter of zeros; whether each filter is complemented [filters]).
    """
    bits = []
    for parents, flipped in trees:
        virtual = len(parents) - len(flipped)
        bits += [_low_bits(virtual, 16), np.asarray(flipped, bool)]
        bits.append(_low_bits(1 + np.asarray(parents), len(parents).bit_length()))
    stream = np.concatenate(bits)
    sextets = np.packbits(np.resize(np.pad(stream, (0, 5)), (-(-len(stream) // 6), 6)), axis=1, bitorder="little")
    return "".join(_ALPHABET[sextet] for sextet in sextets[:, 0])


def read_tree_text(text: str, groups: int, filters: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What `tree_text` was given, (parents int32, flipped bool) of each group; `filters` are those of one group.

    Raises ValueError for text that holds no such trees.
    """
    sextets = np.array([_ALPHABET.index(character) for character in text], np.int64)
    stream, at, trees = _low_bits(sextets, 6), 0, []
    for _ in range(groups):
        if len(stream) < at + 16:
            raise ValueError("text that ends too early")
        nodes = filters + int(_numbers(stream[at : at + 16], 16)[0])
        if len(stream) < at + 16 + filters + nodes * nodes.bit_length():
            raise ValueError("text that ends too early")
        flipped = stream[at + 16 : at + 16 + filters]
        at += 16 + filters
        width = nodes.bit_length()
        trees.append((_numbers(stream[at : at + nodes * width], width) - 1, flipped))
        at += nodes * width
    return trees


def _numbers(bits: np.ndarray, width: int) -> np.ndarray:
    """int32 numbers of `width` bits each, lowest first."""
    return (bits.reshape(-1, width) << np.arange(width)).sum(axis=1, dtype=np.int32)


def _low_bits(values: np.ndarray | int, count: int) -> np.ndarray:
    """The lowest bits of each value, one after the other, each value's lowest first."""
    return (np.atleast_1d(values)[:, None] >> np.arange(count) & 1).astype(bool).ravel()


def _count(record: LayerRecord, trees: list[FilterTree], paper: list[FilterTree]) -> None:
    """What the trees of a layer's groups save; bit operations where the number of output positions is known."""
    positions = record.bit_ops_dense // record.weight_count
    record.mst_bits = sum(tree.planes for tree in paper)
    record.mst_depth = max(tree.depth for tree in paper)
    record.mst_size_bits = math.ceil(sum(map(size_with_positions, paper)))
    record.tree_bits = sum(tree.planes for tree in trees)
    record.tree_fraction = record.tree_bits / record.weight_count
    record.tree_depth = max(tree.depth for tree in trees)
    record.tree_counters = max(tree.slot_count for tree in trees)
    record.tree_virtual = sum(tree.virtual_count for tree in trees)
    if positions:
        record.bit_ops_mst = positions * record.mst_bits
        record.bit_ops_tree = positions * record.tree_bits
