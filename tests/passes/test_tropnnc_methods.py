"""Methods that TropNNC is compared with: each does what its paper says, and all are exact where nothing is left out."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from test_cluster_channels import two_hidden
from test_tropnnc_graphs import model, run

from bnncc.passes.tropnnc import graph_layers
from bnncc.passes.tropnnc.compress import Choice, compress, find_layers
from bnncc.passes.tropnnc.modes import MODES, Mode
from bnncc.passes.tropnnc.rivals import RIVALS, kernel_norms
from bnncc.passes.tropnnc.thinet import contributions, select_channels

SEVERAL_OUTPUTS = [mode for mode in (*MODES.values(), *RIVALS.values()) if not getattr(mode, "single_output", False)]


def reduce_channels(graph: gs.Graph, mode: Mode, keep: float, seed: int = 0, record=None):
    return compress(
        graph, find_layers(graph, mode)[0], lambda name: Choice("keep", keep, mode, seed=seed), record=record
    )


def recorder(x: np.ndarray):
    """What reduce_channels asks for a graph's inner tensors."""

    def record(graph: gs.Graph, name: str) -> np.ndarray:
        made = gs.export_onnx(graph)
        del made.graph.output[:]
        made.graph.output.append(onnx.ValueInfoProto(name=name))
        return run(made, x).astype(np.float64)

    return record


def inputs(seed: int, count: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("mode", SEVERAL_OUTPUTS, ids=lambda mode: mode.name)
def test_shares_of_channels(mode):
    made, x = two_hidden(), inputs(1)
    expected = run(made, x)
    for keep, counts in ((1.0, [12, 10]), (0.5, [6, 5]), (0.01, [1, 1])):
        graph = gs.import_onnx(made)
        changes = reduce_channels(graph, mode, keep, 3, recorder(x))
        assert [change.after for change in changes] == counts
        found = run(gs.export_onnx(graph), x)
        assert found.shape == expected.shape
        if keep == 1:
            np.testing.assert_array_equal(found, expected)
        else:
            assert not np.allclose(found, expected)


def silenced(made: onnx.ModelProto, dead: list[int]) -> onnx.ModelProto:
    """The network with channels of conv1 that nothing comes out of."""
    weight = next(tensor for tensor in made.graph.initializer if tensor.name == "w2")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, dead] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    return made


def test_thinet_leaves_out_what_adds_nothing():
    dead, x = [1, 4, 7, 8, 10, 11], inputs(2)
    made = silenced(two_hidden(), dead)
    (layer, _), _ = graph_layers.find_layers(gs.import_onnx(made))
    activations = recorder(x)(gs.import_onnx(made), layer.second.inputs[0].name)
    chosen, scale = select_channels(layer, 6, activations, 0)
    assert sorted({*range(12)} - {*chosen}) == dead
    np.testing.assert_allclose(scale, 1, atol=1e-9)


def test_thinet_sums_contributions_to_outputs():
    """The sum over all channels is the second node's output without its bias, at some position."""
    made, x = two_hidden(), inputs(3, 4)
    graph = gs.import_onnx(made)
    for layer in graph_layers.find_layers(graph)[0]:
        record = recorder(x)
        activations = record(graph, layer.second.inputs[0].name)
        outputs = record(graph, layer.second.outputs[0].name)
        bias = layer.second.inputs[2].values
        plain = outputs - bias.reshape(1, -1, *[1] * (outputs.ndim - 2))
        sums = contributions(layer, activations, np.random.default_rng(0)).sum(axis=1)
        nearest = np.abs(plain.reshape(-1)[None] - sums[:, None]).min(axis=1)
        assert nearest.max() < 1e-4 * np.abs(plain).max()  # float32 against float64


def test_thinet_on_one_axis():
    rng = np.random.default_rng(4)
    text = """net (float[N, 2, 20] x) => (float[N, 3, 9] y) {
        a = Conv<pads = [1, 1]>(x, w1, b1) b = Relu(a) y = Conv<strides = [2], dilations = [2]>(b, w2, b2) }"""
    made = model(text, {"w1": rng.normal(size=(8, 2, 3)), "b1": rng.normal(size=8), "w2": rng.normal(size=(3, 8, 2)),
                        "b2": np.zeros(3)})  # fmt: skip
    graph, x = gs.import_onnx(made), rng.standard_normal((6, 2, 20)).astype(np.float32)
    (layer,), _ = graph_layers.find_layers(graph)
    sums = contributions(layer, recorder(x)(graph, "b"), np.random.default_rng(0)).sum(axis=1)
    outputs = run(made, x)
    assert np.abs(outputs.reshape(-1)[None] - sums[:, None]).min(axis=1).max() < 1e-4 * np.abs(outputs).max()
    (change,) = reduce_channels(graph, RIVALS["thinet"], 0.5, record=recorder(x))
    assert change.after == 4


def test_l1_keeps_the_largest():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 4)) * np.array([5, 0.1, 3, 0.2, 4, 0.3])[:, None]
    made = model("net (float[N, 4] x) => (float[N, 3] y) { a = Gemm<transB = 1>(x, w1) b = Relu(a) y = Gemm(b, w2) }",
                 {"w1": weight, "w2": rng.normal(size=(6, 3))})  # fmt: skip
    graph = gs.import_onnx(made)
    reduce_channels(graph, RIVALS["l1"], 0.5)
    (layer,), _ = graph_layers.find_layers(graph)
    np.testing.assert_allclose(graph_layers.raw_layer(layer).inputs, weight[[0, 2, 4]].astype(np.float32))


def test_cup_keeps_the_largest_of_each_cluster():
    """Two groups of channels by the norms of their kernels; of each the longest is left, as it is."""
    rng = np.random.default_rng(1)
    size = np.array([1.0, 1.02, 0.98, 4.0, 4.1, 3.9])
    columns = np.array([1, 1.001, 1.002, 1.003])  # weights of two values would be those of a binary layer
    leaving = np.linspace(2, 2.005, 6)[:, None] * np.ones(3)
    directions = np.sign(rng.normal(size=(6, 4)))  # norms of single weights do not see signs
    made = model("net (float[N, 4] x) => (float[N, 3] y) { a = Gemm<transB = 1>(x, w1) b = Relu(a) y = Gemm(b, w2) }",
                 {"w1": directions * size[:, None] * columns, "w2": leaving})  # fmt: skip
    graph = gs.import_onnx(made)
    (layer,), _ = graph_layers.find_layers(graph)
    np.testing.assert_allclose(kernel_norms(layer), np.hstack([size[:, None] * columns, leaving]), rtol=1e-6)
    reduce_channels(graph, RIVALS["cup"], 2 / 6)
    (left,), _ = graph_layers.find_layers(graph)
    np.testing.assert_allclose(np.abs(graph_layers.raw_layer(left).inputs[:, 0]), [1.02, 4.1], rtol=1e-6)


def test_zonotope_kmeans_has_means_where_algorithm_1_has_sums():
    rng = np.random.default_rng(2)
    text = "net (float[N, 4] x) => (float[N, 1] y) { a = Gemm<transB = 1>(x, w1, b1) b = Relu(a) y = Gemm(b, w2) }"
    made = model(text, {"w1": rng.normal(size=(10, 4)), "b1": rng.normal(size=10), "w2": rng.normal(size=(10, 1))})
    rows = []
    for mode in (RIVALS["zonotope"], MODES["algorithm-1"]):
        graph = gs.import_onnx(made)
        (change,) = reduce_channels(graph, mode, 0.4)
        assert (change.before, change.after) == (10, 3)  # of 4, two for the sign of five, and one of two
        assert set(np.unique(graph.nodes[-1].inputs[1].values)) <= {-1.0, 1.0}
        rows.append(np.column_stack([graph.nodes[0].inputs[1].values, graph.nodes[0].inputs[2].values]))
        layers, notes = find_layers(gs.import_onnx(two_hidden()), mode)
        assert not layers
        assert f"'conv2' has 90 outputs for a channel, and {mode.name} is for one" in [note.text for note in notes]
    times = rows[1] / rows[0]
    np.testing.assert_allclose(times, np.round(times[:, :1]) * np.ones(5), rtol=1e-5)  # float32
    assert np.round(times[:, 0]).sum() == 10
