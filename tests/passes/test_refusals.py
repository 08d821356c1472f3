"""What is not binary, or only looks so: the layer stays as it is, the answers stay, and the report says why."""

import numpy as np
import onnx
import pytest
from small_networks import SHAPE, Network, compile_and_compare, feed, ops, statuses

from bnncc.config import Config
from bnncc.passes import run_passes


def refused(n: Network, y: str, text: str, status: str = "float", feeds=None):
    outcome = compile_and_compare(n.model(y), feeds or feed())
    layer = outcome.layers[-1]
    notes = " | ".join([layer.reason] + [f"{note.node}: {note.text}" for r in outcome.passes for note in r.notes])
    assert layer.status == status
    assert text in notes, notes
    return outcome


@pytest.mark.parametrize(
    ("before", "text"),
    [
        (lambda n, x: n.op("Relu", x), "after Relu"),
        (lambda n, x: n.op("Clip", x, n.scalar(0), n.scalar(6)), "with the bound 0"),
        (lambda n, x: n.op("Max", x, n.scalar(0)), "after Max"),
        (lambda n, x: n.op("MaxPool", n.op("Relu", x), kernel_shape=[2, 2]), "after Relu"),
        (lambda n, x: n.op("Pad", x, n.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))), "with zeros"),
    ],
    ids=["relu", "clip", "max", "pooled-relu", "zero-padding"],
)
def test_sign_of_exact_zeros_is_refused(before, text):
    n = Network(seed=21)
    y = n.conv(n.op("Sign", before(n, n.input(SHAPE))), n.signs(4, 6, 3, 3))
    outcome = refused(n, y, text, status="weight-binary")
    assert "Sign" in ops(outcome)


def test_sign_of_an_even_sum_is_refused():
    """A sum of an even number of signs can be exactly 0, which Sign keeps."""
    n = Network(seed=22)
    dot = n.conv(n.binarize(n.input(SHAPE)), n.signs(6, 6, 3, 3))
    outcome = refused(n, n.conv(n.op("Sign", dot), n.signs(4, 6, 3, 3)), "exactly 0", status="weight-binary")
    assert outcome.layers[0].status == "binary"
    assert "Sign" in ops(outcome)


def test_sign_of_an_odd_sum_is_a_binarizer():
    n = Network(seed=23)
    dot = n.conv(n.binarize(n.input(["N", 5, 8, 8])), n.signs(6, 5, 3, 3))
    y = n.conv(n.op("Sign", dot), n.signs(4, 6, 3, 3))
    outcome = compile_and_compare(n.model(y), feed(shape=(3, 5, 8, 8)))
    assert ops(outcome) == ["Binarize", "BinaryConvThreshold", "BinaryConv"]


def test_weights_of_three_values_are_refused():
    n = Network(seed=24)
    weights = n.signs(4, 6, 3, 3)
    weights[3, 0, 0, 0] = 0
    refused(n, n.conv(n.binarize(n.input(SHAPE)), weights), "weights take 3 values in channel 3; not binary")


def test_zero_one_activations_are_refused():
    n = Network(seed=25)
    bits = n.op("Cast", n.op("GreaterOrEqual", n.input(SHAPE), n.scalar(0)), to=onnx.TensorProto.FLOAT)
    refused(n, n.conv(bits, n.signs(4, 6, 3, 3)), "takes the values 0, 1, 1", status="weight-binary")


def test_pad_with_another_value_is_refused():
    n = Network(seed=26)
    pads = n.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    padded = n.op("Pad", n.binarize(n.input(SHAPE)), pads, n.scalar(0.5))
    refused(n, n.conv(padded, n.signs(4, 6, 3, 3)), "pads signs with something other than 0, +1 or -1")


def test_dynamic_width_is_refused_unless_fixed():
    n = Network(seed=27)
    y = n.conv(n.binarize(n.input(["N", 6, "H", "W"])), n.signs(4, 6, 3, 3))
    refused(n, y, "dynamic")


def test_transposed_convolution_is_refused():
    n = Network(seed=28)
    y = n.op("ConvTranspose", n.binarize(n.input(SHAPE)), n.constant(n.signs(6, 4, 3, 3)))
    refused(n, y, "transposed convolutions have no binary kernel")


def test_batched_matmul_is_refused():
    n = Network(seed=29)
    y = n.op("MatMul", n.binarize(n.input(["N", 4, 6])), n.constant(n.signs(6, 5)))
    refused(n, y, "only matrix products of [N, K]", feeds=feed(shape=(3, 4, 6)))


def unchanged(n: Network, *outputs: str, feeds=None):
    """Compiles to the same answers, with nothing lowered."""
    outcome = compile_and_compare(n.model(*outputs), feeds or feed())
    assert not any(op.startswith("Binar") for op in ops(outcome)), ops(outcome)
    return outcome


def keep_positive(n: Network, x: str) -> str:
    return n.op("Where", n.op("Greater", x, n.scalar(0)), x, n.scalar(0))


SUMS = {
    "two binary layers": lambda n, s: n.op(
        "Add", *(n.conv(s, n.signs(6, 6, 3, 3), pads=[1, 1, 1, 1]) for _ in range(2))
    ),
    "a layer and its signs": lambda n, s: n.op("Add", n.conv(s, n.signs(6, 6, 3, 3), pads=[1, 1, 1, 1]), s),
    "an average of signs": lambda n, s: n.op("AveragePool", s, kernel_shape=[2, 2]),
    "an average of ReLUs": lambda n, s: n.op(
        "AveragePool", n.op("Relu", n.op("Sub", s, n.scalar(1))), kernel_shape=[2, 2]
    ),
    "HardSwish": lambda n, s: n.op("HardSwish", n.op("Mul", s, n.scalar(4))),
    "Where with 0": lambda n, s: keep_positive(n, n.conv(s, n.normal(6, 6, 3, 3))),
}


@pytest.mark.parametrize("source", SUMS)
def test_sign_of_sums_that_can_be_zero_stays_a_sign(source):
    n = Network(seed=40)
    total = SUMS[source](n, n.binarize(n.input(SHAPE)))
    outcome = refused(n, n.conv(n.op("Sign", total), n.signs(4, 6, 3, 3)), "exactly 0", status="weight-binary")
    assert "Sign" in ops(outcome)


def test_a_step_with_another_value_at_zero_is_no_binarizer():
    n = Network(seed=41)
    sign_ = n.op("Sign", n.input(SHAPE))
    y = n.conv(n.op("Where", n.op("Equal", sign_, n.scalar(0)), n.scalar(5), sign_), n.signs(4, 6, 3, 3))
    unchanged(n, y, feeds={"x": np.round(feed()["x"])})


def test_integer_division_truncates():
    n = Network(seed=42)
    bits = n.op("Cast", n.op("GreaterOrEqual", n.input(SHAPE), n.scalar(0)), to=onnx.TensorProto.INT32)
    half = n.op("Cast", n.op("Div", bits, n.constant(np.array(2, np.int32))), to=onnx.TensorProto.FLOAT)
    unchanged(n, n.conv(n.op("Sub", n.op("Mul", half, n.scalar(4)), n.scalar(1)), n.signs(4, 6, 3, 3)))


def test_a_pad_between_the_layers_spoils_the_threshold_too():
    """Sums behind a padding of 0.25 are no integers: the batch-norm after the layer must stay."""
    n = Network(seed=43)
    pads = n.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    padded = n.op("Pad", n.binarize(n.input(SHAPE)), pads, n.scalar(0.25))
    dot = n.batchnorm(n.conv(padded, n.signs(6, 6, 3, 3)), 6, 2)
    unchanged(n, n.op("AveragePool", n.binarize(dot), kernel_shape=[2, 2]))


@pytest.mark.parametrize("rank", [3, 5])
def test_convolutions_of_other_ranks_stay_float(rank):
    n = Network(seed=44)
    shape = [2, 6, *[7] * (rank - 2)]
    weights = n.signs(4, 6, *[3] * (rank - 2))
    y = n.conv(
        n.binarize(n.batchnorm(n.conv(n.binarize(n.input(shape)), n.signs(6, 6, *[3] * (rank - 2))), 6, 7)), weights
    )
    outcome = unchanged(n, y, feeds=feed(shape=shape))
    assert statuses(outcome) == ["float", "float"]


@pytest.mark.parametrize("where", ["add", "scale", "threshold", "constants"])
def test_operands_that_widen_the_tensor(where):
    """Constants that broadcast to more channels or pixels than the tensor has are no per-channel constants."""
    n = Network(seed=45)
    x = n.input(["N", 1, 6, 6])
    if where == "add":
        dot = n.conv(n.binarize(x), n.signs(1, 1, 3, 3))
        signs = n.binarize(n.op("Add", dot, n.constant(np.full((1, 6, 1, 1), 0.5, np.float32))))
    elif where == "scale":
        signs = n.op("Mul", n.binarize(x), n.constant(np.full((1, 6, 1, 1), 0.5, np.float32)))
    elif where == "threshold":
        signs = n.op("Where", n.op("GreaterOrEqual", x, n.constant(n.normal(6, 1, 1))), n.scalar(1), n.scalar(-1))
    else:
        ones = np.ones((1, 6, 1, 1), np.float32)
        signs = n.op("Where", n.op("GreaterOrEqual", x, n.scalar(0)), n.constant(ones), n.constant(-ones))
    compile_and_compare(n.model(n.conv(signs, n.signs(4, 6, 3, 3))), feed(shape=(3, 1, 6, 6)))


def test_values_read_inside_a_branch_keep_their_places():
    """If branches read tensors of the outer graph: a batch-norm's input, a dot product, signs."""
    n = Network(seed=46)
    signs = n.binarize(n.input(SHAPE))
    dot = n.conv(signs, n.signs(6, 6, 3, 3))
    two = n.scalar(2)
    n.inputs.append(onnx.helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, []))

    def branch(name: str, op: str, *inputs: str) -> onnx.GraphProto:
        node = onnx.helper.make_node(op, list(inputs), [name], name=f"n_{name}")
        return onnx.helper.make_graph([node], name, [], [onnx.helper.make_empty_tensor_value_info(name)])

    n.nodes.append(
        onnx.helper.make_node(
            "If",
            ["flag"],
            ["y"],
            name="if",
            then_branch=branch("t", "Mul", dot, two),
            else_branch=branch("e", "Neg", signs),
        )
    )
    model = n.model("y", dot)
    for flag in (True, False):
        compile_and_compare(model, {**feed(), "flag": np.array(flag)})


def test_pools_of_unclear_size_stay_float():
    n = Network(seed=47)
    signs = n.binarize(n.conv(n.binarize(n.input(SHAPE)), n.signs(6, 6, 3, 3), pads=[1, 1, 1, 1]))
    pooled = n.op("MaxPool", signs, kernel_shape=[3, 2], strides=[1, 3], pads=[1, 0, 2, 0], ceil_mode=1)
    refused(n, n.conv(pooled, n.signs(4, 6, 1, 1)), "differs between ONNX and onnxruntime")


def test_random_numbers_are_not_folded():
    n = Network(seed=48)
    noise = n.op("RandomNormal", dtype=1, shape=[6, 1, 1])
    outcome = run_passes(n.model(n.op("Add", n.input(SHAPE), noise)), Config())
    assert "RandomNormal" in ops(outcome)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_layers_of_other_float_types_stay_as_they_are(dtype):
    n = Network(seed=49)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    x = n.op("Cast", n.input(["N", 6]), to=kind)
    parameters = [n.constant(np.ones(5, dtype) * value) for value in (2, 1, 3, 1)]
    norm = n.op("BatchNormalization", n.op("MatMul", x, n.constant(n.normal(6, 5).astype(dtype))), *parameters)
    product = n.op("MatMul", n.op("Sign", norm), n.constant(n.signs(5, 3).astype(dtype)))
    outcome = unchanged(n, n.op("Cast", product, to=onnx.TensorProto.FLOAT), feeds=feed(shape=(3, 6)))
    assert "BatchNormalization" in ops(outcome)


def test_scaled_weights_are_recorded_as_inexact_sums():
    """Sums of +-0.1 are rounded, those of +-0.25 are not; a bias is added somewhere in between."""
    for scale, bias, exact in ((0.25, 0, True), (0.1, 0, False), (1.0, 0.5, False), (1.0, 0, True)):
        n = Network(seed=50)
        weights = n.constant(n.signs(6, 6, 3, 3) * np.float32(scale))
        dot = n.op("Conv", n.binarize(n.input(SHAPE)), weights, n.constant(np.full(6, bias, np.float32)))
        model = n.model(n.conv(n.binarize(n.op("Add", dot, n.scalar(0.03))), n.signs(4, 6, 3, 3)))
        tensors = run_passes(model, Config()).sign_tensors
        assert [tensor.exact for tensor in tensors] == [False, exact]
