"""The pass tropnnc: amounts, targets, patterns, costs as an independent count has them, bounds, refusals."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from small_networks import Network
from test_tropnnc_graphs import model, norm

from bnncc.config import Config
from bnncc.errors import BadInput
from bnncc.passes import run_passes
from bnncc.passes.tropnnc.certificates import certificates, output_bound
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer


def two_hidden(seed: int = 0, size: int = 8) -> onnx.ModelProto:
    """Conv, batch-norm, ReLU, pool, Conv, ReLU, Flatten, Gemm: hidden layers of 12 and 10 channels."""
    rng = np.random.default_rng(seed)
    half = size // 2
    text = f"""
        net (float[N, 3, {size}, {size}] x) => (float[N, 5] y) {{
            a = Conv<pads = [1, 1, 1, 1]>(x, w1) b = BatchNormalization(a, n_gamma, n_beta, n_mean, n_var) c = Relu(b)
            d = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c) e = Conv<pads = [1, 1, 1, 1]>(d, w2, b2)
            f = Relu(e) g = Flatten(f) y = Gemm<transB = 1>(g, w3, b3)
        }}"""
    constants = {
        "w1": rng.normal(size=(12, 3, 3, 3)), **norm(rng, "n", 12), "w2": rng.normal(size=(10, 12, 3, 3)),
        "b2": rng.normal(size=10), "w3": rng.normal(size=(5, 10 * half * half)), "b3": rng.normal(size=5),
    }  # fmt: skip
    made = model(text, constants)
    for node, name in zip(made.graph.node, ("conv1", "norm", "relu1", "pool", "conv2", "relu2", "flatten", "fc"),
                          strict=True):  # fmt: skip
        node.name = name
    return made


def channels(outcome) -> dict[str, tuple[int, int]]:
    return {change.node: (change.before, change.after) for change in outcome.compression.changes}


def counted(made: onnx.ModelProto) -> tuple[int, int]:
    """Parameters, and operations on one sample, from the file's tensors and from shapes that onnxruntime gives."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in made.graph.initializer}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in made.graph.initializer}
    layers = [node for node in made.graph.node if node.op_type in ("Conv", "Gemm")]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(made)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in layers)
    x = np.zeros([1, *(d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim[1:])], np.float32)
    outputs = ort.InferenceSession(exposed.SerializeToString()).run(None, {made.graph.input[0].name: x})
    flops = 0
    for node, y in zip(layers, outputs, strict=True):
        fan_in = math.prod(shapes[node.input[1]][1:])  # of a Gemm, those here have transB
        flops += 2 * y.size * fan_in
    norms = [name for node in made.graph.node if node.op_type == "BatchNormalization" for name in node.input[1:3]]
    return sum(sizes[name] for node in layers for name in node.input[1:]) + sum(sizes[name] for name in norms), flops


def test_amounts_and_other_amounts_for_some_layers():
    made = two_hidden()
    assert channels(run_passes(made, Config(tropnnc={"keep": 0.5}))) == {"conv1": (12, 6), "conv2": (10, 5)}
    layers = {"conv2": {"keep": 0.9}, "conv*": {"keep": 0.25}}
    outcome = run_passes(made, Config(tropnnc={"keep": 1.0, "layers": layers}))
    assert channels(outcome) == {"conv1": (12, 3), "conv2": (10, 9)}  # the first pattern that matches
    for distance in ("v1", "v2", "v3"):
        far, near = (channels(run_passes(made, Config(tropnnc={distance: value}))) for value in (50.0, 0.0))
        assert far == {"conv1": (12, 1), "conv2": (10, 1)}
        assert near == {"conv1": (12, 12), "conv2": (10, 10)}


def test_same_result_for_the_same_seed():
    made = two_hidden()
    first, again = (run_passes(made, Config(tropnnc={"keep": 0.4, "seed": 3})).model for _ in range(2))
    assert first.SerializeToString() == again.SerializeToString()


@pytest.mark.parametrize("mode", ["matched", "paper"])
def test_all_channels_kept_changes_nothing(mode):
    made = two_hidden()
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    outcome = run_passes(made, Config(tropnnc={"keep": 1.0, "mode": mode}, fold_batchnorm=False))
    before, after = (ort.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0] for m in (made, outcome.model))
    np.testing.assert_array_equal(after, before)
    assert not next(record for record in outcome.passes if record.name == "tropnnc").changed


def test_costs_are_those_of_an_independent_count():
    made = two_hidden()
    compression = run_passes(made, Config(tropnnc={"keep": 0.5})).compression
    assert (compression.params_before, compression.flops_before) == counted(made)
    # By hand: conv 27 and norm 2 a channel of 12, conv 108 and a bias a channel of 10, linear 160 and a bias of 5.
    assert compression.params_before == 12 * 29 + 10 * 109 + 5 * 161
    assert compression.flops_before == 2 * (12 * 27 * 64 + 10 * 108 * 16 + 5 * 160)
    clustered = run_passes(made, Config(tropnnc={"keep": 0.5}, fold_batchnorm=False)).reference
    assert (compression.params_after, compression.flops_after) == counted(clustered)


@pytest.mark.parametrize("target", ["target_params", "target_flops"])
@pytest.mark.parametrize("mode", ["matched", "paper"])
def test_targets_are_reached_and_not_overshot(target, mode):
    for share in (0.9, 0.5, 0.3):
        compression = run_passes(two_hidden(), Config(tropnnc={target: share, "mode": mode})).compression
        what = target.removeprefix("target_")
        whole, left = getattr(compression, f"{what}_before"), getattr(compression, f"{what}_after")
        assert left <= share * whole
        # One channel less at a time: conv1's are a twelfth of most of the operations.
        assert left > (share - 0.12) * whole
        assert compression.constant > 0


def test_a_whole_target_keeps_everything():
    assert channels(run_passes(two_hidden(), Config(tropnnc={"target_params": 1.0}))) == {
        "conv1": (12, 12), "conv2": (10, 10),
    }  # fmt: skip


def up_to(made: onnx.ModelProto, tensor: str) -> bytes:
    """The model with another output, as a file's bytes."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(made)
    del exposed.graph.output[:]
    exposed.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return exposed.SerializeToString()


@pytest.mark.parametrize("mode", ["matched", "paper"])
def test_bounds_are_never_exceeded(mode):
    """The change of the second layer's outputs, for inputs whose windows are as long as the radius at most.

    The first hidden layer alone is clustered, so that what conv2 reads is what the bound is about.
    """
    radius, rng = 1.5, np.random.default_rng(5)
    made = two_hidden(2)
    for share in (0.9, 0.5, 0.2):
        settings = {"keep": share, "mode": mode, "radius": radius, "layers": {"conv2": {"keep": 1.0}}}
        outcome = run_passes(made, Config(tropnnc=settings, fold_batchnorm=False))
        (bounds,) = (change.bounds for change in outcome.compression.changes if change.node == "conv1")
        inputs = rng.standard_normal((200, 3, 8, 8))
        # No window of nine pixels is longer than the nine longest pixels together.
        longest = np.sqrt(np.sort((inputs**2).sum(axis=1).reshape(200, -1), axis=1)[:, -9:].sum(axis=1))
        x = (inputs * (radius / longest * rng.uniform(0.2, 1, 200))[:, None, None, None]).astype(np.float32)
        before, after = (ort.InferenceSession(up_to(m, "e")).run(None, {"x": x})[0] for m in (made, outcome.reference))
        largest = np.abs(after - before).sum(axis=1).max()
        assert bounds
        assert 0 < largest <= min(bounds.values()) * (1 + 1e-5)  # float32 sums of some hundred terms


def test_small_layers_have_theorem_11():
    rng = np.random.default_rng(3)
    made = model(
        """net (float[N, 3] x) => (float[N, 2] y) {
            a = Gemm<transB = 1>(x, w1, b1) b = Relu(a) y = Gemm<transB = 1>(b, w2)
        }""",
        {"w1": rng.normal(size=(6, 3)), "b1": rng.normal(size=6), "w2": rng.normal(size=(2, 6))},
    )
    outcome = run_passes(made, Config(tropnnc={"keep": 0.5, "mode": "paper", "radius": 2.0}))
    (change,) = outcome.compression.changes
    assert change.bounds["theorem_11"] <= change.bounds["lipschitz"]
    x = rng.standard_normal((500, 3))
    x = (2 * x / np.linalg.norm(x, axis=1, keepdims=True) * rng.random((500, 1))).astype(np.float32)
    y, z = (ort.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0] for m in (made, outcome.model))
    assert 0 < np.abs(y - z).sum(axis=1).max() <= change.bounds["theorem_11"] * (1 + 1e-5)  # rounding in float32


def test_binary_layers_are_left_and_exact():
    """A float block, and a binary layer behind it whose bits are those of the clustered network."""
    n = Network(4)
    x = n.input(["N", 3, 8, 8])
    first = n.op("Conv", x, n.constant(n.normal(16, 3, 3, 3)), pads=[1, 1, 1, 1])
    hidden = n.op("Relu", n.batchnorm(first, 16, 5))
    second = n.op("Conv", hidden, n.constant(n.normal(8, 16, 3, 3)), pads=[1, 1, 1, 1])
    y = n.op("Conv", n.binarize(second), n.constant(n.signs(8, 8, 3, 3)))
    outcome = run_passes(n.model(y), Config(tropnnc={"keep": 0.5}))
    assert list(channels(outcome).values()) == [(16, 8)]
    assert [layer.status for layer in outcome.layers] == ["float", "float", "binary"]
    notes = [note.text for record in outcome.passes if record.name == "tropnnc" for note in record.notes]
    assert "its weights are binary" in notes
    assert outcome.sign_tensors


# ---- Refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0}, "keep is 0, not a share above 0 and at most 1"),
        ({"keep": 1.01}, "keep is 1.01, not a share above 0 and at most 1"),
        ({"keep": float("nan")}, "keep is nan, not a share"),
        ({"keep": True}, "keep is True, not a share"),
        ({"target_params": 2}, "target-params is 2, not a share"),
        ({"v2": -1}, "v2 is -1, not a distance of at least 0"),
        ({"v2": "far"}, "v2 is 'far', not a distance"),
        ({"mode": "paper"}, "one of keep, distance, v1, v2, v3, target-params, target-flops is to be given"),
        ({"keep": 0.5, "v1": 1}, "is to be given, not keep and v1"),
        (
            {"keep": 0.5, "mode": "fast"},
            "mode is 'fast', not matched, paper, algorithm-1, algorithm-3, svd or sign-frozen",
        ),
        ({"keep": 0.5, "fold": "last"}, "fold is 'last', not each or first"),
        ({"v2": 0.5, "clusters": "kmeans"}, "clusters=kmeans goes with keep, not with v2"),
        ({"v2": 0.5, "threshold": "v1"}, "threshold goes with target-params and target-flops"),
        ({"keep": 0.5, "seed": -1}, "seed is -1"),
        ({"keep": 0.5, "seed": 2**32}, "seed is 4294967296"),
        ({"keep": 0.5, "radius": 0}, "radius is 0"),
        ({"keep": 0.5, "ratio": 1}, "unknown option 'ratio'"),
        ({"keep": 0.5, "layers": 3}, "layers must be a table"),
        ({"keep": 0.5, "layers": {"a": 0.5}}, "layers 'a': must be a table"),
        ({"keep": 0.5, "layers": {"a": {"mode": "paper"}}}, "layers 'a': unknown option 'mode'"),
        ({"keep": 0.5, "layers": {"a": {}}}, "layers 'a': one of keep, distance, v1, v2, v3 is to be given"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(BadInput) as caught:
        Config(tropnnc=settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pattern_that_matches_nothing():
    config = Config(tropnnc={"keep": 0.5, "layers": {"conv1": {"keep": 1.0}, "fc*": {"keep": 1.0}}})
    with pytest.raises(BadInput, match=r"'fc\*': 'fc' cannot be compressed: the output layer$"):
        run_passes(two_hidden(), config)
    config = Config(tropnnc={"keep": 0.5, "layers": {"stem*": {"keep": 1.0}}})
    with pytest.raises(BadInput, match=r"no layer that can be compressed is named 'stem\*'; there are conv1, conv2$"):
        run_passes(two_hidden(), config)


def test_a_target_out_of_reach():
    with pytest.raises(BadInput, match=r"target-params=0.01 cannot be reached: with as few channels .* there are 0\.0"):
        run_passes(two_hidden(), Config(tropnnc={"target_params": 0.01}))


def test_operations_need_sizes():
    made = two_hidden()
    for dim in made.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "S"
    del made.graph.value_info[:]
    with pytest.raises(BadInput, match="target-flops needs the sizes of all tensors"):
        run_passes(made, Config(tropnnc={"target_flops": 0.5}))


def test_weights_that_are_not_finite():
    made = two_hidden()
    weight = next(tensor for tensor in made.graph.initializer if tensor.name == "w2")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    with pytest.raises(BadInput, match="node 'conv2': its weights are not all finite numbers"):
        run_passes(made, Config(tropnnc={"keep": 0.5}))


def test_nothing_to_compress():
    made = model("net (float[N, 3] x) => (float[N, 2] y) { y = Gemm<transB = 1>(x, w) }", {"w": np.ones((2, 3))})
    with pytest.raises(BadInput, match=r"no hidden ReLU layer that can be compressed \(gemm0: "):
        run_passes(made, Config(tropnnc={"keep": 0.5}))


# ---- Other options -------------------------------------------------------------------------------------------


def test_folding_first_or_each():
    """Folded first, the batch-norm is in the clusters' vectors and unknown to matching: other results, same sizes."""
    made, x = two_hidden(), np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    results = {}
    for fold in ("each", "first"):
        for keep in (1.0, 0.5):
            outcome = run_passes(made, Config(tropnnc={"keep": keep, "fold": fold}))
            assert outcome.compression.params_before == counted(made)[0]
            results[fold, keep] = ort.InferenceSession(outcome.model.SerializeToString()).run(None, {"x": x})[0]
    expected = ort.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]
    for fold in ("each", "first"):
        # Folding rounds scaled weights to float32.
        np.testing.assert_allclose(results[fold, 1.0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert not np.allclose(results["each", 0.5], results["first", 0.5], rtol=1e-3)


def test_words():
    made = two_hidden()
    ward = run_passes(made, Config(tropnnc={"keep": 0.5, "clusters": "ward"}))
    assert channels(ward) == {"conv1": (12, 6), "conv2": (10, 5)}
    v1 = run_passes(made, Config(tropnnc={"target_params": 0.5, "threshold": "v1", "clusters": "complete"}))
    assert v1.compression.params_after <= 0.5 * v1.compression.params_before
    again = run_passes(made, Config(tropnnc={"v1": v1.compression.constant, "clusters": "complete"}))
    assert again.compression.params_after == v1.compression.params_after


def test_sign_frozen_has_proposition_14():
    rng = np.random.default_rng(3)
    near = np.repeat(rng.normal(size=(3, 3)), 2, axis=0) + 0.01 * rng.normal(size=(6, 3))
    leaving = np.repeat(rng.normal(size=(2, 3)), 2, axis=1)
    made = model(
        """net (float[N, 3] x) => (float[N, 2] y) {
            a = Gemm<transB = 1>(x, w1, b1) b = Relu(a) y = Gemm<transB = 1>(b, w2)
        }""",
        {"w1": near, "b1": np.repeat(rng.normal(size=3), 2), "w2": leaving},
    )
    (change,) = run_passes(made, Config(tropnnc={"keep": 0.5, "mode": "sign-frozen"})).compression.changes
    assert set(change.bounds) == {"lipschitz", "theorem_11", "proposition_14"}
    assert 0 < change.bounds["theorem_11"] <= change.bounds["proposition_14"] < 0.2 * change.output_bound


def test_other_activations_are_said():
    made = two_hidden()
    next(node for node in made.graph.node if node.name == "relu2").op_type = "Tanh"
    assert channels(run_passes(made, Config(tropnnc={"keep": 0.5}))) == {"conv1": (12, 6)}
    outcome = run_passes(made, Config(tropnnc={"keep": 0.5, "activations": "any"}))
    assert channels(outcome) == {"conv1": (12, 6), "conv2": (10, 5)}
    notes = {note.node: note.text for record in outcome.passes if record.name == "tropnnc" for note in record.notes}
    assert notes["conv2"] == "Tanh, not ReLU: clustering is a heuristic"
    assert [bool(change.bounds) for change in outcome.compression.changes] == [True, False]


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_targets_are_reached_at_any_scale_of_weights(size):
    """v1 and distance depend on it."""
    rng = np.random.default_rng(0)
    made = model(
        """net (float[N, 6] x) => (float[N, 5] y) {
            a = Gemm<transB = 1>(x, w1) b = Relu(a) y = Gemm<transB = 1>(b, w2)
        }""",
        {"w1": size * rng.normal(size=(40, 6)), "w2": size * rng.normal(size=(5, 40))},
    )
    for threshold in ("v1", "distance"):
        settings = {"target_params": 0.7, "threshold": threshold, "mode": "paper"}
        compression = run_passes(made, Config(tropnnc=settings)).compression
        assert 0.67 < compression.params_after / compression.params_before <= 0.7


@pytest.mark.parametrize("kind", ["scaled", "two values"])
def test_layers_that_become_binary_are_left(kind):
    """Weights of two values in every filter, as folded batch-norms leave them."""
    n = Network(7)
    x = n.input(["N", 6, 8, 8])
    signs, alpha = n.signs(16, 6, 3, 3), np.linspace(0.5, 2, 16, dtype=np.float32).reshape(-1, 1, 1, 1)
    weights = alpha * signs if kind == "scaled" else np.where(signs > 0, alpha, -0.3 * alpha).astype(np.float32)
    hidden = n.op("Relu", n.batchnorm(n.op("Conv", n.binarize(x), n.constant(weights)), 16, 5))
    second = n.op("Relu", n.op("Conv", hidden, n.constant(n.normal(12, 16, 3, 3))))
    y = n.op("Conv", second, n.constant(n.normal(4, 12, 1, 1)))
    outcome = run_passes(n.model(y), Config(tropnnc={"keep": 0.5}))
    assert list(channels(outcome).values()) == [(12, 6)]
    assert [layer.status for layer in outcome.layers] == ["binary", "float", "float"]


def test_bounds_behind_maxima_are_those_that_hold():
    """Each channel's maximum may be at another position: Theorem 11 says nothing, and would be exceeded here."""
    made = model(
        """net (float[1, 1, 1, 4] x) => (float[1, 1, 1, 1] y) {
            a = Conv(x, w1, b1) b = Relu(a) c = MaxPool<kernel_shape = [1, 4]>(b) y = Conv(c, w2)
        }""",
        {"w1": np.array([[[[20.0]]], [[[-20.0]]]]), "b1": np.zeros(2), "w2": np.array([[[[2.0]], [[2.5]]]])},
    )
    for mode in ("paper", "matched", "algorithm-1", "svd", "sign-frozen"):
        outcome = run_passes(made, Config(tropnnc={"v2": 50, "mode": mode, "radius": 10.0}, fold_batchnorm=False))
        (change,) = outcome.compression.changes
        assert set(change.bounds) == {"lipschitz"}, mode
        if change.after == change.before:
            continue
        errors = []
        for x in ([10, -10, 0, 0], [10, 10, 10, 10], [-10, 0, 0, 0]):
            fed = {"x": np.array(x, np.float32).reshape(1, 1, 1, 4)}
            y, z = (ort.InferenceSession(m.SerializeToString()).run(None, fed)[0] for m in (made, outcome.reference))
            errors.append(float(np.abs(y - z).sum()))
        assert 0 < max(errors) <= change.bounds["lipschitz"] * (1 + 1e-5)


def test_bounds_count_shifts():
    """A layer whose outputs' change is a constant but for rounding: without it the bound would be exceeded."""
    layer = HiddenLayer(np.zeros((2, 3)), np.array([1.0, 1.0]), np.array([[1.0], [2.0]]))
    merged = HiddenLayer(np.zeros((1, 3)), np.array([1.0]), np.array([[3.0]]))
    bounds = certificates(layer, np.zeros(2, int), merged, 2.0, np.array([-4.0]))
    assert bounds == {"lipschitz": pytest.approx(4.0)}
    assert output_bound(layer, 2.0) == pytest.approx(np.sqrt(5) * 3)


def test_additions_behind_matrices_are_parameters():
    rng = np.random.default_rng(0)
    made = model(
        "net (float[N, 4] x) => (float[N, 3] y) {"
        " a = MatMul(x, w1) b = Add(a, b1) c = Relu(b) d = MatMul(c, w2) y = Add(d, b2) }",
        {"w1": rng.normal(size=(4, 20)), "b1": rng.normal(size=20), "w2": rng.normal(size=(20, 3)), "b2": np.ones(3)},
    )
    compression = run_passes(made, Config(tropnnc={"keep": 0.5})).compression
    assert compression.params_before == 4 * 20 + 20 + 20 * 3 + 3
    assert compression.params_after == 4 * 10 + 10 + 10 * 3 + 3


@pytest.mark.parametrize("mode", ["matched", "paper"])
@pytest.mark.parametrize(("name", "value"), [("n_gamma", np.nan), ("n_var", -1.0), ("n_mean", np.inf)])
def test_batchnorms_that_are_not_finite(mode, name, value):
    made = two_hidden()
    tensor = next(tensor for tensor in made.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[3] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    with pytest.raises(BadInput, match=r"node 'conv1': its weights and bias, .* are not all finite numbers"):
        run_passes(made, Config(tropnnc={"keep": 0.5, "mode": mode}))
