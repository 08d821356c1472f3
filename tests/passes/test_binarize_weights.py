"""binarize-weights and calibrate: the three methods, which layers they take, and statistics taken anew."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from small_networks import SHAPE, Network, compile_and_compare, feed, session, with_outputs

from bnncc.config import Config
from bnncc.errors import BadInput
from bnncc.passes import Outcome, run_passes
from bnncc.passes.base import Context
from bnncc.passes.binarize_weights import BinarizeWeights, read_settings
from bnncc.passes.calibrate import Calibrate
from bnncc.passes.two_values import METHODS, bihalf, dab, xnor


def squared_error(rows: np.ndarray, values) -> np.ndarray:
    chosen = np.where(values.upper, values.high[:, None], values.low[:, None])
    return np.square(rows - chosen).sum(axis=1)


# ---- The methods ---------------------------------------------------------------------------------------------


def test_known_vectors():
    rows = np.array([[-1.0, -1, -1, 3], [1, 2, 9, 10]])
    found = dab(rows)
    np.testing.assert_array_equal(found.upper, [[False, False, False, True], [False, False, True, True]])
    np.testing.assert_array_equal([found.high, found.low], [[3, 9.5], [-1, 1.5]])
    np.testing.assert_allclose(squared_error(rows, found), [0, 1])
    signs = xnor(rows[:1])
    assert (signs.high[0], signs.low[0], squared_error(rows[:1], signs)[0]) == (1.5, -1.5, 3)
    np.testing.assert_array_equal(bihalf(np.array([[5.0, 1, 1, 4, 1]])).upper, [[True, True, False, True, False]])


@pytest.mark.parametrize("n", range(1, 11))
def test_dab_is_the_best_of_all_ways_to_split(n):
    rows = np.random.default_rng(n).standard_normal((5, n)) + 0.7
    least = np.full(5, np.inf)
    for bits in itertools.product((False, True), repeat=n):
        part = np.array(bits)
        errors = [np.square(rows[:, side] - rows[:, side].mean(axis=1, keepdims=True)).sum(axis=1)
                  for side in (part, ~part) if side.any()]  # fmt: skip
        least = np.minimum(least, sum(errors))
    np.testing.assert_allclose(squared_error(rows, dab(rows)), least, atol=1e-12)


def test_dab_is_never_worse_than_the_others():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 27)) * rng.uniform(0.1, 3, (200, 1)) + rng.standard_normal((200, 1))
    best = squared_error(rows, dab(rows))
    for other in (xnor, bihalf):
        assert (best <= squared_error(rows, other(rows)) + 1e-12).all()


def test_dab_far_from_zero():
    """Sums of squares of large numbers would hide the difference."""
    rows = 1e8 + np.array([[0.0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(dab(rows).upper, [[False, False, True, True, True]])


@pytest.mark.parametrize("n", [1, 2, 7, 18])
def test_bihalf_has_as_many_of_both_and_does_not_see_a_shift(n):
    rows = np.random.default_rng(n).standard_normal((20, n))
    found, moved = bihalf(rows), bihalf(rows * 3 + 0.5)
    assert (found.upper.sum(axis=1) == (n + 1) // 2).all()
    np.testing.assert_array_equal(found.upper, moved.upper)
    np.testing.assert_allclose(moved.high, found.high * 3 + 0.5)
    np.testing.assert_allclose(moved.low, found.low * 3 + 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_filters_of_equal_weights(method):
    for value in (0.0, 2.0, -2.0):
        rows = np.full((3, 4), value)
        np.testing.assert_array_equal(METHODS[method](rows).weights, rows)


def test_dab_is_the_one_of_the_training():
    torch = pytest.importorskip("torch")
    from bnncc.models.quantizers.dab import two_means

    rows = np.random.default_rng(3).standard_normal((40, 33))
    rows[0] += 1e8  # where sums of squares would cancel
    found, (upper, alpha, beta) = dab(rows), two_means(torch.from_numpy(rows))
    np.testing.assert_array_equal(found.upper, upper.numpy())
    np.testing.assert_allclose(found.high, alpha.numpy())
    np.testing.assert_allclose(found.low, beta.numpy())


def test_filters_are_taken_in_parts(monkeypatch):
    """However many are taken at a time, values and errors are those of all."""
    model = all_kinds()
    whole = binarized(model).binarization.layers
    monkeypatch.setattr("bnncc.passes.binarize_weights._WEIGHTS_AT_ONCE", 200)
    for expected, found in zip(whole, binarized(model).binarization.layers, strict=True):
        np.testing.assert_array_equal(found.values, expected.values)
        assert found.error == pytest.approx(expected.error, rel=1e-12)  # sums in another order


# ---- The pass ------------------------------------------------------------------------------------------------


def all_kinds(seed: int = 3, opset: int = 17) -> onnx.ModelProto:
    """Convolutions (plain, in groups, 1-D, transposed), matrix products in all layouts; x ["N", 6, 9, 9]."""
    n = Network(seed, opset)
    y = n.op("Relu", n.conv(n.input(["N", 6, 9, 9]), n.normal(16, 6, 3, 3)))
    y = n.conv(y, n.normal(16, 4, 3, 3), group=4, pads=[1, 1, 1, 1])
    y = n.op("Relu", n.batchnorm(y, 16))
    y = n.op("Relu", n.op("ConvTranspose", y, n.constant(n.normal(16, 5, 3, 3)), group=2, name="transposed_groups"))
    y = n.op("ConvTranspose", y, n.constant(n.normal(10, 7, 3, 3)), name="transposed")
    y = n.conv(n.op("Reshape", y, n.constant(np.array([0, 7, -1]))), n.normal(9, 7, 5))
    y = n.op("Flatten", n.op("MatMul", y, n.constant(n.normal(117, 30)), name="product"))
    y = n.op("Gemm", y, n.constant(n.normal(33, 270)), n.constant(n.normal(33)), transB=1, alpha=0.5, beta=2.0)
    y = n.op("Gemm", y, n.constant(n.normal(33, 21)), name="gemm")
    return n.model(n.op("Gemm", y, n.constant(n.normal(21, 4)), name="last"))


def binarized(model: onnx.ModelProto, samples=None, **settings) -> Outcome:
    config = Config(binarize={"method": "dab", **settings}, fold_batchnorm=False, pack_weights=False)
    return run_passes(model, config, samples=samples)


def notes_of(outcome: Outcome, name: str = "binarize-weights") -> dict[str, str]:
    (record,) = (record for record in outcome.passes if record.name == name)
    return {note.node: note.text for note in record.notes}


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {node.name: values[node.input[1]] for node in model.graph.node if node.input[1:] and node.input[1] in values}


# Where the output channels are, and with what groups of filters, by hand.
FILTERS = {
    "n_conv_5": lambda w: w.reshape(16, -1),
    "n_transposed_groups": lambda w: np.stack([w[8 * (m // 5) :, m % 5][:8].reshape(-1) for m in range(10)]),
    "n_transposed": lambda w: np.stack([w[:, m].reshape(-1) for m in range(7)]),
    "n_conv_18": lambda w: w.reshape(9, -1),
    "n_product": lambda w: w.T,
    "n_gemm": lambda w: w.T,
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_two_values_for_each_output_channel(method):
    made = all_kinds()
    before = weights(made)
    outcome = binarized(made, method=method)
    after, layers = weights(outcome.reference), {layer.node: layer for layer in outcome.binarization.layers}
    assert set(FILTERS) < set(layers)
    assert {"n_conv_2", "n_last"}.isdisjoint(layers)
    for name, filters in FILTERS.items():
        rows = filters(before[name]).astype(np.float64)
        found = METHODS[method](rows)
        exact = np.where(found.upper, found.high[:, None], found.low[:, None])
        np.testing.assert_array_equal(filters(after[name]), found.weights)
        # Rounded so that float sums are exact: by K * 2**-23 of the larger value at most.
        np.testing.assert_allclose(found.weights, exact, atol=rows.shape[1] * 2.0**-23 * np.abs(exact).max())
        np.testing.assert_allclose(layers[name].error, np.linalg.norm(rows - found.weights) / np.linalg.norm(rows))
        assert layers[name].weights == before[name].size
    np.testing.assert_array_equal(after["n_last"], before["n_last"])


def test_names_with_brackets_are_taken_as_they_stand():
    model = all_kinds()
    model.graph.node[-1].name = "last[1]"
    (layer,) = binarized(model, layers=["last[1]"]).binarization.layers
    assert layer.node == "last[1]"


def test_which_layers():
    def names(**settings) -> list[str]:
        return [layer.node for layer in binarized(all_kinds(), **settings).binarization.layers]

    everything = [layer.name for layer in run_passes(all_kinds(), Config()).layers]
    assert names() == everything[1:-1]
    assert names(layers=["*"]) == everything
    assert names(layers=["n_conv*", "n_last"]) == ["n_conv_2", "n_conv_5", "n_conv_18", "n_last"]
    notes = notes_of(binarized(all_kinds()))
    assert notes["n_conv_2"] == "not binarized: a first layer (--layers names it)"
    assert notes["n_last"] == "not binarized: a last layer (--layers names it)"


def test_layers_that_cannot_be():
    n = Network(1)
    x = n.input(["N", 8])
    y = n.op("MatMul", x, n.constant(n.normal(8, 8)), name="first")
    y = n.op("MatMul", y, n.constant(n.signs(8, 8)), name="binary")
    y = n.op("MatMul", y, n.constant(n.normal(8, 8)), name="middle")
    y = n.op("Reshape", n.op("MatMul", y, n.constant(n.normal(8, 8)), name="wide"), n.constant(np.array([0, 8, 1, 1])))
    y = n.op("Conv", y, n.constant(n.normal(8, 1, 1, 1)), group=8, name="one_each")
    y = n.op("MatMul", n.constant(n.normal(3, 8)), n.op("Reshape", y, n.constant(np.array([0, 8, 1]))), name="left")
    y = n.op("MatMul", n.op("Reshape", y, n.constant(np.array([0, 1, 3]))), n.constant(n.normal(1, 3, 5)), name="stack")
    y = n.op("Cast", y, to=onnx.TensorProto.DOUBLE)
    y = n.op("MatMul", y, n.constant(n.normal(5, 5).astype(np.float64)), name="doubles")
    y = n.op("Cast", y, to=onnx.TensorProto.FLOAT)
    outcome = binarized(n.model(n.op("MatMul", y, n.constant(n.normal(5, 4)), name="last")))
    assert [layer.node for layer in outcome.binarization.layers] == ["n_middle", "n_wide"]
    notes = notes_of(outcome)
    assert "n_binary" not in notes  # nothing is left to do
    assert notes["n_doubles"] == "not binarized: its weights are float64"
    assert notes["n_one_each"] == "not binarized: one weight per filter"
    assert notes["n_left"] == "not binarized: its weights are the left operand"
    assert notes["n_stack"] == "not binarized: its weights are no filters or matrix"


def test_shared_weights_stay_shared():
    n = Network(1)
    shared = n.constant(n.normal(8, 8))
    y = n.op("MatMul", n.input(["N", 8]), n.constant(n.normal(8, 8)), name="first")
    for name in ("a", "b"):
        y = n.op("MatMul", y, shared, name=name)
    y = n.op("Gemm", y, shared, name="c")
    y = n.op("Gemm", y, shared, transB=1, name="rows")  # other filters
    outcome = binarized(n.model(n.op("MatMul", y, n.constant(n.normal(8, 4)), name="last")))
    inputs = {node.name: node.input[1] for node in outcome.reference.graph.node if len(node.input) > 1}
    assert inputs["n_a"] == inputs["n_b"] == inputs["n_c"] != inputs["n_rows"]
    alone = binarized(n.model(y), layers=["n_a"]).reference
    inputs = {node.name: node.input[1] for node in alone.graph.node if len(node.input) > 1}
    assert inputs["n_a"] != inputs["n_b"] == shared


def test_layers_behind_binarizers_become_binary():
    n = Network(2)
    y = n.binarize(n.batchnorm(n.conv(n.input(SHAPE), n.normal(12, 6, 3, 3)), 12))
    y = n.binarize(n.batchnorm(n.conv(y, n.normal(16, 12, 3, 3), pads=[1, 1, 1, 1]), 16, 4))
    y = n.op("Flatten", n.batchnorm(n.conv(y, n.normal(8, 16, 3, 3)), 8, 4))
    model = n.model(n.op("MatMul", y, n.constant(n.normal(128, 5))))
    for method in METHODS:
        outcome = compile_and_compare(model, feed(), binarize={"method": method})
        assert [layer.status for layer in outcome.layers] == ["float", "binary", "binary", "float"]
        assert [layer.weight_bits for layer in outcome.layers] == [32, 1, 1, 32]


def test_layers_in_branches_are_left():
    n = Network(0)
    x = n.input(["N", 8])
    inner = [
        helper.make_graph([helper.make_node("MatMul", ["h", "inner"], [name], name=f"n_{name}")], name, [],
                          [helper.make_empty_tensor_value_info(name)]) for name in ("then", "else")
    ]  # fmt: skip
    n.constant(n.normal(8, 8), "inner")
    n.nodes.append(helper.make_node("MatMul", [x, n.constant(n.normal(8, 8))], ["h0"], name="n_first"))
    n.nodes.append(helper.make_node("MatMul", ["h0", n.constant(n.normal(8, 8))], ["h"], name="n_middle"))
    positive = n.op("Greater", n.op("ReduceMax", x, keepdims=0), n.scalar(0))
    y = n.op("If", positive, then_branch=inner[0], else_branch=inner[1], name="chosen")
    model = n.model(n.op("MatMul", y, n.constant(n.normal(8, 4)), name="last"))
    outcome = binarized(model, [{"x": np.ones((200, 8), np.float32)}], layers=["*"], calibrate=True)
    assert [layer.node for layer in outcome.binarization.layers] == ["n_first", "n_middle", "n_last"]
    assert notes_of(outcome)["n_then"] == "not binarized: inside a branch of If, Loop or Scan"
    compile_and_compare(model, {"x": np.ones((2, 8), np.float32)}, binarize={"method": "xnor"})


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"method": "sign"}, "method must be one of dab, bihalf, xnor, not 'sign'"),
        ({}, "method must be one of dab, bihalf, xnor, not None"),
        ({"method": "dab", "layers": "conv*"}, "layers must be a list of patterns"),
        ({"method": "dab", "calibrate": 1}, "calibrate must be true or false"),
        ({"method": "dab", "layer": []}, "unknown option 'layer'; known: method, layers, calibrate"),
    ],
)
def test_settings_that_cannot_be(settings, cause):
    with pytest.raises(BadInput, match=cause.replace("*", r"\*")):
        read_settings(settings)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"layers": ["stem*"]}, r"no layer that can be binarized is named 'stem\*'; there are n_first, n_middle, n_l"),
        ({"layers": ["n_binary"]}, "'n_binary' cannot be binarized: its weights take two values per filter already"),
        ({"calibrate": True}, "there are no samples"),
    ],
)  # fmt: skip
def test_patterns_and_samples_that_cannot_be(settings, cause):
    n = Network(1)
    y = n.op("MatMul", n.input(["N", 8]), n.constant(n.normal(8, 8)), name="first")
    y = n.op("MatMul", y, n.constant(n.signs(8, 8)), name="binary")
    y = n.op("MatMul", y, n.constant(n.normal(8, 8)), name="middle")
    with pytest.raises(BadInput, match=cause):
        binarized(n.model(n.op("MatMul", y, n.constant(n.normal(8, 4)), name="last")), **settings)


def test_nothing_to_binarize():
    n = Network(1)
    y = n.op("MatMul", n.input(["N", 8]), n.constant(n.normal(8, 8)), name="first")
    model = n.model(n.op("MatMul", y, n.constant(n.normal(8, 4)), name="last"))
    with pytest.raises(
        BadInput, match=r"only first and last layers could be \(n_first, n_last\); name them with --layers"
    ):
        binarized(model)
    n = Network(1)
    with pytest.raises(BadInput, match=r"no layer can be binarized \(n_b: its weights take two values"):
        binarized(n.model(n.op("MatMul", n.input(["N", 8]), n.constant(n.signs(8, 8)), name="b")))


def test_weights_that_are_not_finite():
    n = Network(1)
    broken = n.normal(8, 8)
    broken[3, 4] = np.inf
    model = n.model(n.op("MatMul", n.input(["N", 8]), n.constant(broken), name="broken"))
    with pytest.raises(BadInput, match="node 'n_broken': its weights are not all finite"):
        binarized(model, layers=["*"])


def test_idempotent():
    graph = gs.import_onnx(all_kinds())
    samples = [feed(shape=(8, 6, 9, 9))]
    context = Context(Config(), 17, samples=samples)
    for node in graph.nodes:
        context.layers[node.name] = None
    settings = read_settings({"method": "dab", "calibrate": True})
    first = [step.apply(graph, context).changed for step in (BinarizeWeights(settings), Calibrate())]
    once = gs.export_onnx(graph, do_type_check=False)
    again = [step.apply(graph, context).changed for step in (BinarizeWeights(settings), Calibrate())]
    assert (first, again) == ([True, True], [False, False])
    assert gs.export_onnx(graph, do_type_check=False) == once


# ---- Calibration ---------------------------------------------------------------------------------------------


def values(model: onnx.ModelProto, x: np.ndarray, names: list[str]) -> list[np.ndarray]:
    exposed = with_outputs(model, dict.fromkeys(names, onnx.TensorProto.FLOAT))
    return session(exposed, library=False).run(names, {"x": x})


@pytest.mark.parametrize("batch", [400, 100, 7])
def test_batch_norms_get_the_statistics_of_their_inputs(batch):
    """Of each other's corrected outputs, in order, whatever the batches."""
    n = Network(4)
    y = n.op("Relu", n.batchnorm(n.conv(n.input(SHAPE), n.normal(8, 6, 3, 3)), 8))
    inputs = []
    for _ in range(3):
        inputs.append(n.conv(y, n.normal(8, 8, 3, 3), pads=[1, 1, 1, 1]))
        y = n.op("Add", y, n.op("Relu", n.batchnorm(inputs[-1], 8)))
    model = n.model(n.conv(y, n.normal(3, 8, 6, 6)))
    x = feed(shape=(400, 6, 8, 8))["x"]
    samples = [{"x": x[i : i + batch]} for i in range(0, 400, batch)]
    outcome = binarized(model, samples, calibrate=True)
    assert [item.node for item in outcome.binarization.calibrated] == [
        f"n_{node.output[0]}" for node in model.graph.node if node.op_type == "BatchNormalization"
    ][1:]  # the first has no binarized layer before it
    assert outcome.binarization.samples == 400
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in outcome.reference.graph.initializer}
    norms = [node for node in outcome.reference.graph.node if node.op_type == "BatchNormalization"][1:]
    for norm, seen in zip(norms, values(outcome.reference, x, inputs), strict=True):
        seen = seen.astype(np.float64)
        np.testing.assert_allclose(tensors[norm.input[3]], seen.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(tensors[norm.input[4]], seen.var(axis=(0, 2, 3), ddof=1), rtol=1e-4)


def test_layers_without_batch_norm_keep_their_mean_and_deviation():
    model = all_kinds()
    x = np.random.default_rng(5).standard_normal((150, 6, 9, 9)).astype(np.float32)
    plain, corrected = (
        binarized(model, [{"x": x[:100]}, {"x": x[100:]}], layers=["*"], calibrate=calibrate)
        for calibrate in (False, True)
    )
    kinds = {item.op for item in corrected.binarization.calibrated}
    assert kinds == {"Conv", "ConvTranspose", "MatMul", "Gemm", "BatchNormalization"}
    for name, axes in {
        "conv_18": (0, 2),
        "transposed_groups": (0, 2, 3),
        "product": (0, 1),
        "gemm": 0,
        "last": 0,
    }.items():
        (before,), (after,) = (values(m, x, [name]) for m in (model, corrected.reference))
        spread = before.std(axis=axes)
        np.testing.assert_allclose(after.mean(axis=axes) / spread, before.mean(axis=axes) / spread, atol=1e-4)
        np.testing.assert_allclose(after.std(axis=axes), spread, rtol=1e-3)
    for name, filters in FILTERS.items():  # still two values, in the same places
        rows = filters(weights(corrected.reference)[name])
        assert max(len(np.unique(row)) for row in rows) == 2
        upper = filters(weights(plain.reference)[name])
        np.testing.assert_array_equal(rows == rows.max(1, keepdims=True), upper == upper.max(1, keepdims=True))


def test_a_bias_behind_a_product_takes_the_shift():
    n = Network(6)
    biased = n.op(
        "Add", n.constant(n.normal(1, 24)), n.op("MatMul", n.input(["N", 5, 16]), n.constant(n.normal(16, 24)))
    )
    plain = n.op("MatMul", n.op("Relu", biased), n.constant(n.normal(24, 9)))
    model = n.model(plain)
    x = np.random.default_rng(5).standard_normal((150, 5, 16)).astype(np.float32)
    outcome = binarized(model, [{"x": x}], layers=["*"], calibrate=True)
    assert sum(node.op_type == "Add" for node in outcome.reference.graph.node) == 2
    for name in (biased, plain):
        (before,), (after,) = (values(m, x, [name]) for m in (model, outcome.reference))
        # The scaled weights are rounded by 24 * 2**-23 of the largest at most, and outputs are sums of 24.
        np.testing.assert_allclose(after.mean(axis=(0, 1)), before.mean(axis=(0, 1)), atol=1e-3)
        np.testing.assert_allclose(after.std(axis=(0, 1)), before.std(axis=(0, 1)), rtol=1e-4)


def test_channels_that_do_not_vary_and_few_samples():
    n = Network(4)
    y = n.op("Relu", n.conv(n.input(SHAPE), n.normal(8, 6, 3, 3)))
    middle = n.normal(8, 8, 3, 3)
    middle[5] = 0
    norm = n.batchnorm(n.conv(y, middle), 8)
    model = n.model(n.conv(n.op("Relu", norm), n.normal(3, 8, 4, 4)))
    outcome = binarized(model, [feed(shape=(20, 6, 8, 8))], calibrate=True)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in outcome.reference.graph.initializer}
    (found,) = (node for node in outcome.reference.graph.node if node.op_type == "BatchNormalization")
    (old,) = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert tensors[found.input[3]][5] == 0
    assert tensors[found.input[4]][5] == given[old.input[4]][5]
    assert notes_of(outcome, "calibrate") == {"": "statistics of 20 samples only: 100 or more are advised"}


def test_samples_that_fit_into_memory(monkeypatch):
    """Held at one time: a sample's input of 6 x 8 x 8 floats, and the batch-norm's of 8 x 4 x 4."""
    n = Network(4)
    y = n.op("Relu", n.conv(n.input(SHAPE), n.normal(8, 6, 3, 3)))
    model = n.model(n.conv(n.op("Relu", n.batchnorm(n.conv(y, n.normal(8, 8, 3, 3)), 8)), n.normal(3, 8, 4, 4)))
    each = 4 * (6 * 8 * 8 + 8 * 4 * 4)
    batches = [feed(seed, shape=(10, 6, 8, 8)) for seed in range(5)]
    for room, count in ((50 * each, 50), (49 * each, 40), (20 * each, 20), (each, 10)):
        monkeypatch.setattr("bnncc.passes.stepping.MOST_BYTES", room)
        assert binarized(model, batches, calibrate=True).binarization.samples == count


def test_calibrating_brings_outputs_nearer():
    model = all_kinds(seed=8)
    x = np.random.default_rng(6).standard_normal((300, 6, 9, 9)).astype(np.float32)
    wanted = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x[200:]})[0]
    errors = []
    for calibrate in (False, True):
        made = binarized(model, [{"x": x[:200]}], layers=["n_product", "n_gemm"], calibrate=calibrate).reference
        found = ort.InferenceSession(made.SerializeToString()).run(None, {"x": x[200:]})[0]
        errors.append(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    assert errors[1] < errors[0]


# ---- Layers between binarizers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
def test_layers_between_signs_give_the_same_in_float_as_counted(method, kind):
    """Nothing between the layers: sums of exactly 0 are 0 either way, since float sums of the values are exact."""
    n = Network(seed=3)
    tensor = n.input(SHAPE) if kind == "Conv" else n.input([None, 64])
    size = SHAPE[1] if kind == "Conv" else 64
    for _ in range(3):
        weights = n.rng.standard_normal((size, size, 3, 3) if kind == "Conv" else (size, size)).astype(np.float32)
        tensor = n.op("Sign", tensor)
        tensor = n.conv(tensor, weights) if kind == "Conv" else n.op("MatMul", tensor, n.constant(weights))
    feeds = feed() if kind == "Conv" else {"x": n.rng.standard_normal((8, 64)).astype(np.float32)}
    outcome = compile_and_compare(n.model(tensor), feeds, binarize={"method": method, "layers": ["*"]})
    kernel, body = (session(outcome.model, library).run(None, feeds)[0] for library in (True, False))
    expected = session(outcome.reference, library=False).run(None, feeds)[0]
    np.testing.assert_array_equal(kernel, expected)
    np.testing.assert_array_equal(body, expected)


def test_rounded_values_are_as_close_as_said():
    # Steps are powers of two: how much a value moves depends on where its size is between two of them.
    scales = np.exp2(np.linspace(0, 1, 20))[:, None]
    rows = np.random.default_rng(5).standard_normal((20, 4608)) * scales
    for method in METHODS.values():
        values = method(rows)
        size = np.maximum(np.abs(values.high), np.abs(values.low))[:, None]
        exact = np.where(values.upper, values.high[:, None], values.low[:, None])
        assert (np.abs(values.weights - exact) <= 4608 * 2.0**-23 * size).all()
        sums = [values.weights[:, order].astype(np.float32).cumsum(axis=1, dtype=np.float32)[:, -1]
                for order in (slice(None), slice(None, None, -1))]  # fmt: skip
        np.testing.assert_array_equal(sums[0], sums[1])
        np.testing.assert_array_equal(sums[0], values.weights.astype(np.float64).sum(axis=1))


def test_no_value_is_minus_zero():
    """A mean that rounding takes to 0 from below: no bit stands for -0, and the layer would stay as large as it was."""
    rows = np.random.default_rng(3).normal(0, 0.02, (2000, 576))
    rows[:, 0] = 8
    weights = dab(rows).weights
    assert (weights == 0).any()
    assert not (np.signbit(weights) & (weights == 0)).any()
