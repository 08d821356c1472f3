"""The pass that gives convolutions their trees: what it writes, what it counts, and what it leaves alone."""

from __future__ import annotations

import math
import os
import string
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from filter_sets import some_filters
from onnx import numpy_helper
from small_networks import Network, compile_and_compare

from bnncc.config import Config
from bnncc.passes import filter_tree, order_filters, run_passes
from bnncc.passes.base import Context
from bnncc.passes.filter_tree import TreeOptions, engine_tree, paper_tree
from bnncc.runtime import trees

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = {  # and what is left of all bit operations: by the minimum spanning tree, with virtual filters
    "vgg_small_fashion_mnist": (0.42, 0.27),
    "bireal_resnet_fashion_mnist": (0.42, 0.27),
    "vgg_small_mst_fashion_mnist": (0.25, 0.17),  # a quarter: what it was trained for
}


def network(size: int | str = 10) -> onnx.ModelProto:
    """Every form of the binary convolution, one with groups, one depthwise, and a linear layer."""
    n = Network(seed=5)
    x = n.input(["N", 8, size, 10])
    x = n.batchnorm(n.conv(n.binarize(x), n.signs(24, 8, 3, 3), pads=[1, 1, 1, 1]), 24, 9)
    y = n.batchnorm(n.conv(n.binarize(x), n.signs(24, 12, 3, 3), pads=[1, 1, 1, 1], group=2), 24, 9)
    x = n.op("Add", x, y)
    x = n.batchnorm(n.conv(n.binarize(x), n.signs(24, 1, 3, 3), group=24, strides=[2, 2]), 24, 3)
    x = n.batchnorm(n.conv(n.binarize(x), n.signs(5, 24, 1, 2)), 5, 4)
    if isinstance(size, int):
        flat = n.op("Flatten", n.binarize(x))
        return n.model(n.op("MatMul", flat, n.constant(n.signs(60, 7))))
    return n.model(x)


def convolutions(model: onnx.ModelProto) -> dict[str, dict]:
    """Attributes and packed weight of every binary convolution of a compiled model."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        node.name: {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        | {"weight": tensors[node.input[1]]}
        for node in model.graph.node
        if node.op_type.startswith("BinaryConv")
    }


def read_trees(text: str, groups: int, filters: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(parents, which filters are complemented) of each group, from the attribute's text."""
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    bits = "".join(f"{alphabet.index(character):06b}"[::-1] for character in text)
    trees, at = [], 0

    def take(width: int) -> int:
        nonlocal at
        at += width
        return int(bits[at - width : at][::-1] or "0", 2)

    for _ in range(groups):
        nodes = filters + take(16)
        flipped = np.array([take(1) for _ in range(filters)], bool)
        trees.append((np.array([take(nodes.bit_length()) - 1 for _ in range(nodes)], np.int32), flipped))
    assert len(text) == -(-at // 6)
    return trees


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tree_shared_root": False},
        {"tree_complement": False},
        {"tree_steiner": False},
        {"tree_ripple": 12},
        {"tree_max_depth": 2},
        {"tree_shared_root": False, "tree_complement": False, "tree_steiner": False},
    ],
    ids=str,
)
def test_files_hold_the_trees(options):
    """From the attributes alone follows what is counted: the trees of the groups' filters, virtual ones included."""
    outcome = run_passes(network(), Config(**options))
    records = {record.name: record for record in outcome.layers}
    found = convolutions(outcome.model)
    assert [node["group"] for node in found.values()] == [1, 2, 24, 1]
    for name, node in found.items():
        groups, length = node["group"], math.prod(node["weight_shape"][1:])
        filters = node["weight_shape"][0] // groups
        planes = papers = 0
        decoded = read_trees(node["tree"].decode(), groups, filters)
        for tree, other in zip(
            order_filters.read_tree_text(node["tree"].decode(), groups, filters), decoded, strict=True
        ):
            assert [part.tolist() for part in tree] == [part.tolist() for part in other]
        for group, (parents, flipped) in enumerate(decoded):
            mine = slice(group * filters, (group + 1) * filters)
            config = Config(**options)
            tree = engine_tree(node["weight"][mine], length, order_filters.tree_options(config))
            np.testing.assert_array_equal(parents, tree.parents)
            np.testing.assert_array_equal(flipped, tree.flipped[:filters])
            if config.tree_shared_root:
                bits = trees.virtual_filters(node["weight"][mine], length, parents, flipped, shared_root=True)
                np.testing.assert_array_equal(bits, tree.bits)
            planes += tree.planes
            papers += paper_tree(node["weight"][mine], length).planes
        record = records[name]
        positions = record.bit_ops_dense // record.weight_count
        assert positions > 0
        assert (record.mst_bits, record.tree_bits) == (papers, planes)
        assert (record.bit_ops_mst, record.bit_ops_tree) == (positions * papers, positions * planes)
        assert record.tree_fraction == planes / record.weight_count
        assert record.mst_size_bits >= record.mst_bits


def test_trees_change_no_bit():
    x = np.random.default_rng(0).standard_normal((3, 8, 10, 10)).astype(np.float32)
    outcome = compile_and_compare(network(), {"x": x})
    assert all("tree" in node for node in convolutions(outcome.model).values())
    linear = [node for node in outcome.model.graph.node if node.op_type.startswith("BinaryLinear")]
    assert len(linear) == 1
    assert not {attribute.name for attribute in linear[0].attribute} & {order_filters.ATTRIBUTE}
    assert [layer.tree_bits is None for layer in outcome.layers] == [False, False, False, False, True]


def test_no_tree():
    outcome = run_passes(network(), Config(tree=False))
    assert not any("tree" in node for node in convolutions(outcome.model).values())
    assert all(layer.bit_ops_mst is None and layer.tree_bits is None for layer in outcome.layers)


def test_idempotent():
    graph = gs.import_onnx(run_passes(network(), Config()).model)
    context = Context(Config(), 17)
    assert not order_filters.OrderFilters().apply(graph, context).changed
    next(node for node in graph.nodes if node.op.startswith("BinaryConv")).attrs["tree"] = "AAAA"
    assert order_filters.OrderFilters().apply(graph, context).changed


def test_operations_are_not_counted_where_the_height_is_dynamic():
    for layer in run_passes(network("H"), Config()).layers:
        assert layer.bit_ops_mst is None
        assert layer.bit_ops_tree is None
        assert layer.mst_bits > 0


def notes_of(outcome) -> list[str]:
    (record,) = (record for record in outcome.passes if record.name == "order-filters")
    return [note.text for note in record.notes]


def test_layers_too_large_for_a_search_say_so(monkeypatch):
    monkeypatch.setattr(filter_tree, "MOST_FILTERS", 20)
    outcome = run_passes(network(), Config())
    texts = notes_of(outcome)
    assert texts == ["no filter tree: 24 filters are too many to compare them all"]
    monkeypatch.setattr(filter_tree, "MOST_FILTERS", 1 << 12)
    monkeypatch.setattr(filter_tree, "MOST_STEINER_WORK", 12 * 12 * 108)
    outcome = run_passes(network(), Config())
    assert [text.split(":")[0] for text in notes_of(outcome)] == ["no virtual filters in its tree"]
    assert next(iter(outcome.layers)).tree_virtual == 0


# ---- What trees save ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_trained_networks_that_are_shipped(name):
    model = onnx.load(ROOT / "models" / "shipped" / f"{name}.onnx")
    fractions = []
    for steiner in (False, True):
        layers = [layer for layer in run_passes(model, Config(tree_steiner=steiner)).layers if layer.tree_bits]
        assert len(layers) >= 5
        dense, mst, tree = (sum(getattr(x, f"bit_ops_{name}") for x in layers) for name in ("dense", "mst", "tree"))
        fractions.append(tree / dense)
        assert tree < mst
        assert mst <= SHIPPED[name][0] * dense
    assert fractions[0] <= SHIPPED[name][0]
    assert fractions[1] <= SHIPPED[name][1]


def test_trained_imagenet_layers():
    folder = Path(os.environ.get("BNNCC_DATA", ROOT / ".." / "shared")) / "models" / "imagenet-bnn-layers"
    if not folder.is_dir():
        pytest.skip(f"no trained layers at {folder} (set BNNCC_DATA)")
    layers = np.load(folder / "layers.npz")
    dense = spanning = steiner = 0
    for side, channels in ((56, 64), (28, 128), (14, 256), (7, 512)):
        filters, length = layers[f"{side}x{side}x{channels}_weight"], 9 * channels
        dense += side * side * channels * length
        spanning += side * side * engine_tree(filters, length, TreeOptions(steiner=False)).planes
        steiner += side * side * engine_tree(filters, length).planes
    assert spanning <= 0.42 * dense
    assert steiner <= 0.28 * dense


@pytest.mark.parametrize(("count", "length"), [(64, 576), (128, 1152), (256, 2304), (512, 4608)])
def test_virtual_filters_on_filters_trained_for_the_tree(count, length):
    """One centre, 12% flips."""
    filters = np.packbits(some_filters(0, count, length, "centre"), axis=1, bitorder="little")
    start = time.perf_counter()
    steiner = engine_tree(filters, length)
    assert time.perf_counter() - start < 10
    assert engine_tree(filters, length, TreeOptions(steiner=False)).planes >= 1.25 * steiner.planes
    assert paper_tree(filters, length).planes >= 1.25 * steiner.planes


def vgg_small() -> onnx.ModelProto:
    """The binary layers of VGG-small for 32x32 images."""
    n = Network(seed=3)
    x, inputs = n.input([1, 128, 32, 32]), 128
    for layer, outputs in enumerate((128, 256, 256, 512, 512)):
        x = n.conv(n.binarize(x), n.signs(outputs, inputs, 3, 3), pads=[1, 1, 1, 1])
        if layer % 2 == 0:
            x = n.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = n.batchnorm(x, outputs, inputs)
        inputs = outputs
    return n.model(x)


def resnet18() -> onnx.ModelProto:
    """The sixteen 3x3 layers after the stem of ResNet-18 for 224x224 images, without shortcuts."""
    n = Network(seed=2)
    x, inputs = n.input([1, 64, 56, 56]), 64
    for outputs in [64] * 4 + [128] * 4 + [256] * 4 + [512] * 4:
        strides = [1 if inputs == outputs else 2] * 2
        x = n.conv(n.binarize(x), n.signs(outputs, inputs, 3, 3), pads=[1, 1, 1, 1], strides=strides)
        x = n.batchnorm(x, outputs, inputs)
        inputs = outputs
    return n.model(x)


@pytest.mark.parametrize(
    ("network", "layers", "bits", "operations"),
    [(vgg_small, 5, 4_571_136, 603_979_776), (resnet18, 16, 10_985_472, 1_676_279_808)],
)
def test_published_networks(network, layers, bits, operations):
    """Published size and operations without trees, on random filters less with them, and all passes in seconds."""
    start = time.perf_counter()
    outcome = run_passes(network(), Config())
    assert time.perf_counter() - start < 15
    assert [layer.status for layer in outcome.layers] == ["binary"] * layers
    assert sum(layer.weight_count for layer in outcome.layers) == bits
    assert sum(layer.bit_ops_dense for layer in outcome.layers) == operations
    assert sum(layer.mst_bits for layer in outcome.layers) < 0.48 * bits
    assert sum(layer.bit_ops_mst for layer in outcome.layers) < 0.48 * operations
    assert sum(layer.bit_ops_tree for layer in outcome.layers) < 0.33 * operations
