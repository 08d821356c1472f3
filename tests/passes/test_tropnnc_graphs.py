"""TropNNC in graphs: which layers are found, why others are not, and that replacing one is exact where it should be."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.parser
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest

from bnncc.passes.tropnnc import graph_layers, merging
from bnncc.passes.tropnnc.compress import Choice, compress, find_layers
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer
from bnncc.passes.tropnnc.least_squares import merge_sampled
from bnncc.passes.tropnnc.modes import MODES
from bnncc.passes.tropnnc.rivals import RIVALS

COPIES = 3


def model(text: str, constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model from ONNX's text form, whose initializers are given as arrays."""
    made = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    made.graph.initializer.extend(
        onnx.numpy_helper.from_array(v if v.dtype == np.int64 else v.astype(np.float32), k)
        for k, v in constants.items()
    )
    for index, node in enumerate(made.graph.node):
        node.name = node.name or f"{node.op_type.lower()}{index}"
    return onnx.shape_inference.infer_shapes(made)


def run(made: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]


def copied(rng: np.random.Generator, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, ...] three times each, in one random order, as positive multiples; and which row each one is of."""
    labels = rng.permutation(np.repeat(np.arange(len(weights)), COPIES))
    labels = np.unique(labels, return_index=True)[0][labels]
    size = rng.uniform(0.5, 2, len(labels))
    return weights[labels] * size.reshape(-1, *[1] * (weights.ndim - 1)), labels


def norm(rng: np.random.Generator, name: str, channels: int) -> dict[str, np.ndarray]:
    values = (rng.uniform(0.5, 2, channels), rng.normal(size=channels), rng.normal(size=channels), rng.random(channels))
    return {f"{name}_{part}": value for part, value in zip(("gamma", "beta", "mean", "var"), values, strict=True)}


NETWORKS = {
    "conv, pool, relu, mean, gemm": """
        net (float[N, 3, 9, 9] x) => (float[N, 4] y) {
            a = Conv(x, w1, b1) b = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a) c = Relu(b)
            d = ReduceMean<axes = [2, 3], keepdims = 0>(c) y = Gemm(d, w2, b2)
        }""",
    "conv, mean pool, relu, reshape, gemm": """
        net (float[N, 3, 9, 9] x) => (float[N, 4] y) {
            a = Conv<strides = [2, 2]>(x, w1, b1) b = AveragePool<kernel_shape = [2, 2]>(a) c = Relu(b)
            d = Reshape(c, rows) y = Gemm<transB = 1>(d, w3)
        }""",
    "conv, batch-norm, pool, conv": """
        net (float[N, 3, 9, 9] x) => (float[N, 4, 4, 4] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1) b = BatchNormalization(a, n_gamma, n_beta, n_mean, n_var)
            c = Relu(b) d = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) y = Conv<pads = [1, 1, 1, 1]>(d, w2, b2)
        }""",
    "conv, flatten, gemm": """
        net (float[N, 3, 9, 9] x) => (float[N, 4] y) {
            a = Conv<strides = [2, 2]>(x, w1, b1) b = Relu(a) c = AveragePool<kernel_shape = [2, 2]>(b)
            d = Flatten(c) y = Gemm<transB = 1>(d, w2)
        }""",
    "conv, global pool, gemm": """
        net (float[N, 3, 9, 9] x) => (float[N, 4] y) {
            a = Conv(x, w1, b1) b = Relu(a) c = GlobalAveragePool(b) d = Flatten(c) y = Gemm(d, w2, b2)
        }""",
    "matmul, add, matmul": """
        net (float[N, 7] x) => (float[N, 4] y) {
            a = MatMul(x, w1) b = Add(a, b1) c = Relu(b) d = Identity(c) y = MatMul(d, w2)
        }""",
}


def network(kind: str, rng: np.random.Generator) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """A network, its hidden layer's true clusters (neurons that are multiples of one another), and inputs."""
    true = rng.normal(size=(5, 8 if kind.startswith("matmul") else 28))  # bias last
    rows, labels = copied(rng, true)
    n = len(rows)
    constants = {"b1": rows[:, -1], "b2": rng.normal(size=4)}
    if kind.startswith("matmul"):
        constants |= {"w1": rows[:, :-1].T, "w2": rng.normal(size=(n, 4))}
        x = rng.normal(size=(6, 7))
    else:
        constants["w1"] = rows[:, :-1].reshape(n, 3, 3, 3)
        x = rng.normal(size=(6, 3, 9, 9))
        if "batch-norm" in kind:
            given = norm(rng, "n", n)
            scale = given["n_gamma"] / np.sqrt(given["n_var"] + np.float32(1e-5))
            # So that what follows the batch-norm are the rows
            constants["w1"] = (rows[:, :-1] / scale[:, None]).reshape(n, 3, 3, 3)
            given["n_beta"] = rows[:, -1] + given["n_mean"] * scale
            constants |= given | {"w2": rng.normal(size=(4, n, 3, 3))}
        elif "reshape" in kind:
            constants |= {"w3": rng.normal(size=(4, n * 9)), "rows": np.array([0, -1])}
        elif "flatten" in kind:
            constants["w2"] = rng.normal(size=(4, n * 9))
        else:
            constants["w2"] = rng.normal(size=(n, 4))
    words = re.split(r"\W+", NETWORKS[kind])
    used = {name: value for name, value in constants.items() if name in words}
    return model(NETWORKS[kind], used), labels, x.astype(np.float32)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_parallel_neurons_of_networks_merge_exactly(kind, seed):
    """One of three is left, and the function: through batch-norm, pools, flattening, and shapes that are told."""
    rng = np.random.default_rng(seed)
    made, labels, x = network(kind, rng)
    expected = run(made, x)
    graph = gs.import_onnx(made)
    (layer,), notes = graph_layers.find_layers(graph)
    assert [note.text for note in notes] == ["the output layer"]
    assert layer.channels == len(labels)
    graph_layers.replace_layer(graph, layer, merging.merge_rank_one(graph_layers.fused_layer(layer), labels))
    merged = gs.export_onnx(graph)
    onnx.checker.check_model(merged, full_check=True)
    assert graph_layers.find_layers(graph)[0][0].channels == len(labels) // COPIES
    assert "BatchNormalization" not in [node.op for node in graph.nodes]
    # float32: a hundred products of size 1 to 10, rounded in another order
    np.testing.assert_allclose(run(merged, x), expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_all_neurons_in_another_order_and_a_shift(kind):
    rng = np.random.default_rng(7)
    made, labels, x = network(kind, rng)
    graph = gs.import_onnx(made)
    layer = graph_layers.find_layers(graph)[0][0]
    fused, order = graph_layers.fused_layer(layer), rng.permutation(len(labels))
    turned = HiddenLayer(fused.inputs[order], fused.bias[order], fused.outputs[order])
    shift = np.arange(4.0)
    expected = run(made, x) + shift.reshape(-1, *[1] * (run(made, x).ndim - 2))
    graph_layers.replace_layer(graph, layer, turned, shift)
    np.testing.assert_allclose(run(gs.export_onnx(graph), x), expected, rtol=1e-4, atol=2e-4)  # as above


@pytest.mark.parametrize("kind", NETWORKS)
def test_columns_of_outputs_go_to_the_channels_they_are_said_to(kind):
    """What one neuron's outgoing weights of one channel are put to arrives in that channel alone."""
    made, _, x = network(kind, np.random.default_rng(1))
    graph = gs.import_onnx(made)
    layer = graph_layers.find_layers(graph)[0][0]
    fused, channels = graph_layers.fused_layer(layer), graph_layers.output_channels(layer)
    assert channels.shape == (fused.outputs.shape[1],)
    outputs = np.where(channels == 2, fused.outputs, 0)
    before = run(made, x)
    graph_layers.replace_layer(graph, layer, HiddenLayer(fused.inputs, fused.bias, outputs), None)
    after = run(gs.export_onnx(graph), x)
    np.testing.assert_allclose(after[:, 2], before[:, 2], rtol=1e-4, atol=2e-4)
    rest = np.delete(after, 2, axis=1)
    assert np.ptp(rest.swapaxes(0, 1).reshape(3, -1), axis=1).max() < 1e-6  # their bias


REFUSED = {
    "several readers": ("a = Conv(x, w1) b = Relu(a) c = Conv(b, w2) d = Neg(b) e = Conv(d, w2) y = Mul(c, e)", "conv0",
                        "it has several readers (Conv, Neg)"),
    "sum": ("a = Conv(x, w1) b = Add(a, x) c = Relu(b) y = Conv(c, w2)", "conv0", "a sum of branches follows it"),
    "sum after relu": ("a = Conv(x, w1) b = Relu(a) c = Add(b, x) y = Conv(c, w2)", "conv0",
                       "a sum of branches follows its ReLU"),
    "other activation": ("a = Conv(x, w1) b = Sigmoid(a) y = Conv(b, w2)",
                          "conv0", "Sigmoid follows it, not ReLU (activations=any: a heuristic)"),
    "shared weights": ("a = Conv(x, w1) b = Relu(a) c = Conv(b, w1) y = Relu(c)", "conv0",
                       "it shares its weights with 'conv2'"),
    "indices read": ("a = Conv(x, w1) b = Relu(a) c, i = MaxPool<kernel_shape = [1, 1]>(b) d = Conv(c, w2)"
                     " e = Cast<to = 1>(i) y = Add(d, e)", "conv0",
                     "another output of 'maxpool2' than the first is read"),
    "rows of several samples": ("a = Conv(x, w1) b = Relu(a) c = Reshape(b, s15) d = MatMul(c, wm) y = Reshape(d, s4)",
                                "conv0", "'reshape2' is no flattening"),
    "groups": ("a = Conv<group = 3>(x, wg) b = Relu(a) y = Conv(b, w2)", "conv0", "a convolution in groups"),
    "groups behind": ("a = Conv(x, w1) b = Relu(a) y = Conv<group = 3>(b, wg)", "conv0",
                      "'conv2' reads it: a convolution in groups"),
    "transposed": ("a = ConvTranspose(x, w1) b = Relu(a) y = Conv(b, w2)", "convtranspose0",
                   "a transposed convolution"),
    "not finite": ("a = Conv(x, wn) b = Relu(a) y = Conv(b, w2)", "conv0", "weights not finite"),
    "weights": ("a = Conv(x, w1) b = Relu(a) c = ReduceMean<axes = [0], keepdims = 1>(b) y = Conv(c, w2)", "conv0",
                "ReduceMean follows its ReLU"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_why_layers_are_left_alone(case):
    body, name, reason = REFUSED[case]
    rng = np.random.default_rng(0)
    constants = {"w1": rng.normal(size=(3, 3, 1, 1)), "w2": rng.normal(size=(3, 3, 1, 1)),
                 "wg": rng.normal(size=(3, 1, 1, 1)), "wn": np.full((3, 3, 1, 1), np.nan),
                 "wm": rng.normal(size=(15, 15)), "s15": np.array([-1, 15]), "s4": np.array([1, 3, 5, 5])}  # fmt: skip
    used = {key: value for key, value in constants.items() if f"{key})" in body}
    made = model(f"net (float[1, 3, 5, 5] x) => (float[1, 3, 5, 5] y) {{ {body} }}", used)
    layers, notes = graph_layers.find_layers(gs.import_onnx(made))
    assert name not in [layer.first.name for layer in layers]
    assert {note.node: note.text for note in notes}[name] == reason


# ---- Whole graphs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    "choice",
    [
        *(Choice(amount, 0.0) for amount in ("distance", "v1", "v2", "v3")),
        *(Choice("keep", 1.0, mode) for mode in MODES.values() if not mode.single_output),
    ],
)
def test_compressing_to_all_channels_changes_nothing(kind, choice):
    made, labels, x = network(kind, np.random.default_rng(3))
    graph = gs.import_onnx(made)
    _, notes = graph_layers.find_layers(graph)
    changes = compress(graph, find_layers(graph)[0], lambda name: choice)
    assert [(change.before, change.after) for change in changes] == [(len(labels), len(labels))]
    assert [note.text for note in notes] == ["the output layer"]
    expected = run(made, x)
    np.testing.assert_allclose(run(gs.export_onnx(graph), x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_compressing_to_shares_and_distances():
    made, labels, x = network("conv, batch-norm, pool, conv", np.random.default_rng(3))
    for amount, value, clusters, least, most in (
        ("keep", 0.4, None, 6, 6),
        ("keep", 0.4, "average", 6, 6),
        ("keep", 0.01, None, 1, 1),
        ("v2", 1.5, None, 2, 14),
        ("v2", 1.5, "complete", 2, 14),
        ("v1", 9, None, 1, 1),
    ):
        graph, choice = gs.import_onnx(made), Choice(amount, value, clusters=clusters)
        (change,) = compress(graph, find_layers(graph)[0], lambda name, choice=choice: choice)
        assert change.before == len(labels)
        assert least <= change.after <= most
        assert graph_layers.find_layers(graph)[0][0].channels == change.after
        assert run(gs.export_onnx(graph), x).shape == run(made, x).shape


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (("share", 0.5), "amount 'share' is none of keep, distance, v1, v2, v3"),
        (("keep", 0), "keep is 0; it is a share above 0 and at most 1"),
        (("keep", 1.5), "keep is 1.5; it is a share above 0 and at most 1"),
        (("v1", -1), "v1 is -1; it is a distance of at least 0"),
        (("v2", float("nan")), "v2 is nan; it is a distance of at least 0"),
        (("v2", 1, MODES["svd"], "single"), "clusters 'single' is none of kmeans, ward, average, complete"),
        (("v2", 1, MODES["svd"], "kmeans"), "v2 is a distance of hierarchical clustering, and takes a linkage"),
        (("v2", 1, RIVALS["l1"]), "v2 is a distance of hierarchical clustering, and takes a linkage"),
    ],
)
def test_refused_choices(choice, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Choice(*choice)


# ---- Other modes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode", [mode for mode in MODES.values() if not mode.single_output], ids=lambda mode: mode.name
)
def test_every_mode_merges_equal_channels_exactly(mode):
    rng = np.random.default_rng(4)
    text = """
        net (float[N, 3, 9, 9] x) => (float[N, 4, 9, 9] y) {
            a = Conv<pads = [1, 1, 1, 1]>(x, w1) b = BatchNormalization(a, n_gamma, n_beta, n_mean, n_var) c = Relu(b)
            d = Conv<pads = [1, 1, 1, 1]>(c, w2, b2) e = Relu(d) y = Conv(e, w3)
        }"""
    given = {"w1": rng.normal(size=(5, 3, 3, 3)), **norm(rng, "n", 5), "b2": rng.normal(size=4)}
    copies = {name: np.repeat(values, 3, axis=0) for name, values in given.items()}
    copies["w2"] = np.repeat(np.repeat(rng.normal(size=(4, 5, 3, 3)), 3, axis=1), 3, axis=0)
    copies["w3"] = np.repeat(rng.normal(size=(4, 4, 1, 1)), 3, axis=1)
    made, x = model(text, copies), rng.normal(size=(3, 3, 9, 9)).astype(np.float32)
    graph = gs.import_onnx(made)
    changes = compress(graph, find_layers(graph)[0], lambda name: Choice("keep", 1 / 3, mode))
    assert [(change.before, change.after) for change in changes] == [(15, 5), (12, 4)]
    expected = run(made, x)
    # float32: sums of a hundred products in another order, twice
    np.testing.assert_allclose(run(gs.export_onnx(graph), x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def one_output(rng: np.random.Generator) -> onnx.ModelProto:
    text = "net (float[N, 4] x) => (float[N, 1] y) { a = Gemm<transB = 1>(x, w1, b1) b = Relu(a) y = Gemm(b, w2) }"
    near = np.repeat(rng.normal(size=(5, 4)), 2, axis=0) + 0.05 * rng.normal(size=(10, 4))
    weights = np.repeat([1.0, -2.0, 0.5, 3.0, -1.0], 2)[:, None]
    return model(text, {"w1": near, "b1": np.repeat(rng.normal(size=5), 2), "w2": weights})


@pytest.mark.parametrize("choice", [("keep", 0.5), ("v2", 0.2)])
def test_algorithm_1_in_a_graph_has_its_bounds(choice):
    rng = np.random.default_rng(6)
    made, radius = one_output(rng), 2.0
    graph = gs.import_onnx(made)
    mode = MODES["algorithm-1"]
    (change,) = compress(graph, find_layers(graph, mode)[0], lambda name: Choice(*choice, mode), radius)
    assert (change.before, change.after) == (10, 5)
    assert set(np.unique(graph.nodes[-1].inputs[1].values)) == {-1.0, 1.0}
    x = rng.normal(size=(2000, 4))
    x = (radius * x / np.linalg.norm(x, axis=1, keepdims=True) * rng.random((2000, 1)) ** 0.25).astype(np.float32)
    error = np.abs(run(gs.export_onnx(graph), x) - run(made, x)).max()
    assert set(change.bounds) == {"proposition_12", "angle", "lipschitz"}
    assert 0 < error <= change.bounds["angle"] < change.bounds["proposition_12"] < change.output_bound
    assert error <= change.bounds["lipschitz"]


def test_modes_for_one_output_leave_layers_with_several():
    made, *_ = network("conv, batch-norm, pool, conv", np.random.default_rng(3))
    layers, notes = find_layers(gs.import_onnx(made), MODES["algorithm-1"])
    assert not layers
    assert any(note.text.endswith("outputs for a channel, and algorithm-1 is for one") for note in notes)


def test_other_activations_on_request():
    """Copies of neurons behind tanh merge exactly by Algorithm 2, whatever mode is asked for; without bounds."""
    rng = np.random.default_rng(8)
    text = "net (float[N, 4] x) => (float[N, 3] y) { a = Gemm<transB = 1>(x, w1, b1) b = Tanh(a) y = Gemm(b, w2) }"
    rows, bias = np.repeat(rng.normal(size=(4, 4)), 3, axis=0), np.repeat(rng.normal(size=4), 3)
    made = model(text, {"w1": rows, "b1": bias, "w2": np.repeat(rng.normal(size=(4, 3)), 3, axis=0)})
    layers, notes = find_layers(gs.import_onnx(made))
    assert not layers
    assert notes[0].text == "Tanh follows it, not ReLU (activations=any: a heuristic)"
    x = rng.normal(size=(20, 4)).astype(np.float32)
    for mode in (MODES["matched"], MODES["paper"], MODES["svd"]):
        graph = gs.import_onnx(made)
        layers, _ = find_layers(graph, any_activation=True)
        (change,) = compress(graph, layers, lambda name, mode=mode: Choice("keep", 1 / 3, mode), radius=1.0)
        assert (change.before, change.after, change.bounds) == (12, 4, {})
        np.testing.assert_allclose(run(gs.export_onnx(graph), x), run(made, x), atol=1e-5)  # sums in float32


def test_biases_of_one_row():
    """Gemm's C may be [1, n] or a scalar; one of several rows is no bias."""
    rng = np.random.default_rng(9)
    text = "net (float[2, 4] x) => (float[2, 3] y) { a = Gemm<transB = 1>(x, w1, b1) b = Relu(a) y = Gemm(b, w2, b2) }"
    x = rng.normal(size=(2, 4)).astype(np.float32)
    weights = {"w1": np.repeat(rng.normal(size=(4, 4)), 2, axis=0), "w2": np.repeat(rng.normal(size=(4, 3)), 2, axis=0)}
    for first, second in (((1, 8), (1, 3)), ((), (1,)), ((8,), ())):
        bias = np.repeat(rng.normal(size=4), 2) if 8 in first else np.array(0.3)
        made = model(text, {**weights, "b1": bias.reshape(first), "b2": np.full(second, 0.7)})
        graph = gs.import_onnx(made)
        (change,) = compress(graph, find_layers(graph)[0], lambda name: Choice("keep", 0.5))
        assert change.after == 4
        np.testing.assert_allclose(run(gs.export_onnx(graph), x), run(made, x), atol=1e-5)  # float32
    made = model(text, {**weights, "b1": rng.normal(size=(2, 8)), "b2": np.zeros(3)})
    _, notes = find_layers(gs.import_onnx(made))
    assert notes[0].text == "its bias is not one number per channel"


@pytest.mark.parametrize("op", graph_layers.OTHER_ACTIVATIONS)
def test_other_activations_are_computed_as_onnxruntime_does(op):
    inputs = "b, low, high" if op == "Clip" else "b"
    made = onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 20]>
        net (float[N, 4] x) => (float[N, 2] y)
        <float[8, 4] w1 = {{{", ".join(["0.5"] * 32)}}}, float[8, 2] w2 = {{{", ".join(["1"] * 16)}}},
         float low = {{-0.4}}, float high = {{0.7}}>
        {{ b = Gemm<transB = 1>(x, w1) c = {op}({inputs}) y = Gemm(c, w2) }}""")
    rng = np.random.default_rng(0)
    for tensor, shape in zip(made.graph.initializer[:2], ((8, 4), (8, 2)), strict=True):
        tensor.CopyFrom(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), tensor.name))
    graph = gs.import_onnx(made)
    (layer,), _ = find_layers(graph, any_activation=True)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    fused = graph_layers.fused_layer(layer)
    y = graph_layers.activation_function(layer)(x @ fused.inputs.T) @ fused.outputs
    np.testing.assert_allclose(run(made, x), y, atol=1e-4)  # float32, and approximations of erf and the like
    assert len(graph.nodes) == 3


def test_sampled_least_squares_has_less_error_than_algorithm_2():
    rng = np.random.default_rng(3)
    layer = HiddenLayer(rng.normal(size=(30, 6)), rng.normal(size=30), rng.normal(size=(30, 4)))
    labels = np.arange(30) % 10
    merged, shift = merge_sampled(layer, labels, lambda rows: rows, np.tanh)
    x = rng.standard_normal((5000, 6))
    exact = np.tanh(x @ layer.inputs.T + layer.bias) @ layer.outputs

    def error(other: HiddenLayer, added: float | np.ndarray = 0.0) -> float:
        return float(np.mean((np.tanh(x @ other.inputs.T + other.bias) @ other.outputs + added - exact) ** 2))

    assert error(merged, shift) < 0.7 * error(merging.merge_multi_output(layer, labels))
    assert error(merged, shift) < error(merged)
    again, same = merge_sampled(layer, np.arange(30), lambda rows: rows, np.tanh, ridge=1e-9)
    np.testing.assert_allclose(again.outputs, layer.outputs, atol=1e-5)
    np.testing.assert_allclose(same, 0, atol=1e-6)
