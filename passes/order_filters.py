"""order-filters: a tree over the filters of every binary convolution, from which a kernel may count them one by one.

The tree goes into the file as attributes of the node, hints that its function body ignores and that change no result:
tree_nodes (nodes of each group's tree), tree_parents (one per node, group after group: its parent in that group's tree,
or -1, the filter of zeros) and tree_flipped (which filters are complemented, as bytes of packed signs). A group's nodes
are its filters and then virtual filters, whose bits follow from the rest. Beside it the report gets the counts of
MST-compression: the paper's tree is for counting, the other for counting fast.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from bnncc.passes import graph as g
from bnncc.passes.base import Context, LayerRecord, PassResult
from bnncc.passes.filter_tree import FilterTree, TreeOptions, engine_tree, paper_tree, size_with_positions
from bnncc.runtime.functions import DOMAIN

ATTRIBUTES = ("tree_nodes", "tree_parents", "tree_flipped")

MOST_FILTERS = 1 << 12  # of a group: distances between all pairs are kept
MOST_STEINER_WORK = 1 << 34  # filters squared times bits: the search takes some ten seconds then


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
    if filters > MOST_FILTERS:
        result.note(node.name, f"no filter tree: {filters} filters are more than {MOST_FILTERS}")
        return
    if options.steiner and filters * filters * length > MOST_STEINER_WORK:
        result.note(node.name, "no virtual filters in its tree: too many filters to search them in seconds")
        options = replace(options, steiner=False)
    packed = g.constant(node.inputs[1]).reshape(groups, filters, -1)
    trees = [engine_tree(group, length, options) for group in packed]
    attributes = tree_attributes(trees)
    result.changed |= any(node.attrs.get(name) != value for name, value in attributes.items())
    node.attrs.update(attributes)
    record = context.layers.get(node.name)
    if record is not None:
        record.size_after += sum(onnx.helper.make_attribute(*item).ByteSize() for item in attributes.items())
        _count(record, trees, [paper_tree(group, length) for group in packed])


def tree_attributes(trees: list[FilterTree]) -> dict[str, list[int]]:
    """The attributes that say the trees of a convolution's groups."""
    flipped = np.concatenate([tree.flipped[: tree.filter_count] for tree in trees])
    return {
        "tree_nodes": [len(tree.parents) for tree in trees],
        "tree_parents": np.concatenate([tree.parents for tree in trees]).tolist(),
        "tree_flipped": np.packbits(flipped, bitorder="little").tolist(),
    }


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
