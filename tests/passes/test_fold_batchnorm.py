"""Batch-norm folds into every kind of float layer, before and after, and is left alone where folding is not exact."""

import numpy as np
import onnx
import pytest
from small_networks import Network, compile_and_compare, ops

CHANNELS, SIZE = 6, 7


def feed(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(2).standard_normal(shape).astype(np.float32)}


def folded(n: Network, y: str, *shape: int) -> list[str]:
    return ops(compile_and_compare(n.model(y), feed(*shape)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 2, 6])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_after_a_convolution(op, group, bias):
    n = Network(seed=1)
    x = n.input(["N", CHANNELS, SIZE, SIZE])
    shape = (12, CHANNELS // group, 3, 2) if op == "Conv" else (CHANNELS, 12 // group, 3, 2)
    inputs = [n.constant(n.normal(*shape))] + ([n.constant(n.normal(12))] if bias else [])
    y = n.batchnorm(n.op(op, x, *inputs, group=group, pads=[1, 0, 1, 0], strides=[2, 1]), 12)
    assert folded(n, y, 2, CHANNELS, SIZE, SIZE) == [op]


@pytest.mark.parametrize("transposed", [0, 1])
def test_after_gemm(transposed):
    n = Network(seed=2)
    weights = n.normal(9, CHANNELS) if transposed else n.normal(CHANNELS, 9)
    attributes = {"transB": transposed, "alpha": 0.5, "beta": 2.0}
    y = n.op("Gemm", n.input(["N", CHANNELS]), n.constant(weights), n.constant(n.normal(9)), **attributes)
    assert folded(n, n.batchnorm(y, 9), 3, CHANNELS) == ["Gemm"]


@pytest.mark.parametrize("bias", [False, True])
def test_after_matmul(bias):
    n = Network(seed=3)
    y = n.op("MatMul", n.input(["N", CHANNELS]), n.constant(n.normal(CHANNELS, 9)))
    y = n.op("Add", y, n.constant(n.normal(9))) if bias else y
    assert folded(n, n.batchnorm(y, 9), 3, CHANNELS) == ["MatMul", "Add"]


@pytest.mark.parametrize("op", ["Conv", "Gemm", "MatMul"])
def test_before_a_layer(op):
    n = Network(seed=4)
    if op == "Conv":
        y = n.batchnorm(n.input(["N", CHANNELS, SIZE, SIZE]), CHANNELS)
        y = n.op("Conv", y, n.constant(n.normal(12, CHANNELS // 2, 3, 3)), n.constant(n.normal(12)), group=2)
        assert folded(n, y, 2, CHANNELS, SIZE, SIZE) == ["Conv"]
    else:
        y = n.batchnorm(n.input(["N", CHANNELS]), CHANNELS)
        y = n.op(op, y, n.constant(n.normal(CHANNELS, 9)))
        assert folded(n, y, 2, CHANNELS) == (["Gemm"] if op == "Gemm" else ["MatMul", "Add"])


def refusal(n: Network, y: str, *shape: int, **config) -> str:
    outcome = compile_and_compare(n.model(y), feed(*shape), **config)
    assert "BatchNormalization" in ops(outcome)
    (text,) = [note.text for record in outcome.passes if record.name == "fold-batchnorm" for note in record.notes]
    return text


def test_not_before_a_zero_padded_convolution():
    """The padding is 0 after the batch-norm, not before it."""
    n = Network(seed=5)
    y = n.batchnorm(n.input(["N", CHANNELS, SIZE, SIZE]), CHANNELS)
    y = n.conv(y, n.normal(4, CHANNELS, 3, 3), pads=[1, 1, 1, 1])
    assert "pads with zeros" in refusal(n, y, 2, CHANNELS, SIZE, SIZE)


def test_not_in_training_mode():
    n = Network(seed=6)
    y = n.batchnorm(n.conv(n.input(["N", CHANNELS, SIZE, SIZE]), n.normal(4, CHANNELS, 3, 3)), 4)
    n.nodes[-1].attribute.append(onnx.helper.make_attribute("training_mode", 1))
    n.nodes[-1].output.extend(["running_mean", "running_var"])
    assert "training mode" in refusal(n, y, 2, CHANNELS, SIZE, SIZE)


def test_not_where_the_layer_has_other_readers():
    n = Network(seed=7)
    conv = n.conv(n.input(["N", CHANNELS, SIZE, SIZE]), n.normal(4, CHANNELS, 3, 3))
    y = n.op("Add", n.batchnorm(conv, 4), conv)
    assert "other readers" in refusal(n, y, 2, CHANNELS, SIZE, SIZE)


def test_not_into_binary_weights_over_float_activations():
    n = Network(seed=8)
    y = n.conv(n.batchnorm(n.input(["N", CHANNELS, SIZE, SIZE]), CHANNELS), n.signs(4, CHANNELS, 3, 3))
    assert "binary weights" in refusal(n, y, 2, CHANNELS, SIZE, SIZE)


def test_switched_off():
    n = Network(seed=9)
    y = n.batchnorm(n.conv(n.input(["N", CHANNELS, SIZE, SIZE]), n.normal(4, CHANNELS, 3, 3)), 4)
    outcome = compile_and_compare(n.model(y), feed(2, CHANNELS, SIZE, SIZE), fold_batchnorm=False)
    assert ops(outcome) == ["Conv", "BatchNormalization"]


def test_shared_weights_keep_their_other_use():
    n = Network(seed=10)
    x, weights = n.input(["N", CHANNELS, SIZE, SIZE]), n.constant(n.normal(4, CHANNELS, 3, 3))
    y = n.op("Sub", n.batchnorm(n.op("Conv", x, weights), 4), n.op("Conv", x, weights))
    assert sorted(folded(n, y, 2, CHANNELS, SIZE, SIZE)) == ["Conv", "Conv", "Sub"]


def test_branches_that_share_their_source_are_looked_at_once():
    n = Network(seed=9)
    x = n.input(["N", CHANNELS, SIZE, SIZE])
    y = n.op("Conv", n.op("Sign", x), n.constant(n.signs(CHANNELS, CHANNELS, 3, 3)), pads=[1, 1, 1, 1])
    for _ in range(60):  # of two branches each: 2^60 paths
        y = n.op("Add", y, n.op("PRelu", y, n.constant(np.full((CHANNELS, 1, 1), 0.25, np.float32))))
        y = n.op("Mul", y, n.constant(np.full((1, CHANNELS, 1, 1), 0.5, np.float32)))
    kinds = folded(n, n.batchnorm(y, CHANNELS), 1, CHANNELS, SIZE, SIZE)
    assert kinds.count("PRelu") >= 59
