"""Filters of two values {a, b} (DAB-Net): signs with a scale, and a multiple of the sum of the window as a step.

Results are compared with onnxruntime on the original without optimizations: exactly where a and b are multiples of 1/8,
since all sums are exact then, whatever their order; otherwise bits exactly, and floats within the rounding of the
original's sums. The library and the function bodies always give the same floats.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from small_networks import SHAPE, Network, compile_and_compare, feed, ops, session, statuses

from bnncc.passes import Outcome
from bnncc.runtime.functions import STEPS

WINDOW_SUM = "window_sum"


def two_values(n: Network, *shape: int, exact: bool = False) -> np.ndarray:
    """Weights [M, ...] of two values in each filter, of any sign, both of them present; multiples of 1/8 if exact."""
    first, second = n.rng.uniform(-2, 2, (2, shape[0], *(1,) * (len(shape) - 1)))
    if exact:
        first = np.round(8 * first) / 8
        second = np.where(np.round(8 * second) / 8 == first, first + 0.625, np.round(8 * second) / 8)
    chosen = n.signs(*shape) > 0
    chosen.reshape(shape[0], -1)[:, 0] = True
    chosen.reshape(shape[0], -1)[:, -1] = False  # the only one, where there is one
    return np.where(chosen, first, second).astype(np.float32)


def steps(outcome: Outcome) -> list[list[str]]:
    """The names of the steps of each convolution."""
    nodes = [node for node in outcome.model.graph.node if node.op_type.startswith("BinaryConv")]
    names = list(STEPS)
    return [[names[k] for a in node.attribute if a.name == "steps" for k in a.ints] for node in nodes]


def operands(outcome: Outcome, index: int = 0) -> np.ndarray:
    """The operands of the steps of a convolution, [steps, 1 or M]."""
    nodes = [node for node in outcome.model.graph.node if "Steps" in node.op_type]
    tensors = {tensor.name: tensor for tensor in outcome.model.graph.initializer}
    return numpy_helper.to_array(tensors[nodes[index].input[4]])


def notes(outcome: Outcome, name: str) -> list[str]:
    return [note.text for record in outcome.passes if record.name == name for note in record.notes]


def compile_same(model: onnx.ModelProto, feeds: dict[str, np.ndarray], exact: bool = False, **config) -> Outcome:
    """compile_and_compare, with floats of the library that equal the bodies', and the original's if `exact`."""
    outcome = compile_and_compare(model, feeds, **config)
    kernels, bodies = (session(outcome.model, library).run(None, feeds) for library in (True, False))
    original = session(outcome.reference, library=False).run(None, feeds)
    for kernel, body, expected in zip(kernels, bodies, original, strict=True):
        np.testing.assert_array_equal(kernel, body)
        if exact:
            np.testing.assert_array_equal(kernel, expected)
    return outcome


@pytest.mark.parametrize(
    "attributes",
    [{}, {"pads": [1, 1, 1, 1]}, {"pads": [0, 2, 1, 0]}, {"strides": [2, 1]}, {"dilations": [1, 2], "pads": [1] * 4}],
    ids=["valid", "padded", "one-sided", "stride", "dilation"],
)
@pytest.mark.parametrize("group", [1, 2, 3, 6])
def test_convolution(attributes, group):
    """The sum of the window is counted once for a group, with zero padding over the taps inside only."""
    n = Network(seed=group)
    weights = two_values(n, 12, 6 // group, 3, 3, exact=True)
    model = n.model(n.conv(n.binarize(n.input(SHAPE)), weights, group=group, **attributes))
    outcome = compile_same(model, feed(), exact=True)
    assert statuses(outcome) == ["binary"]
    assert ops(outcome) == ["Binarize", "BinaryConvSteps"]
    assert steps(outcome) == [[WINDOW_SUM]]
    flat = weights.reshape(12, -1)
    middle = (flat.min(axis=1) + flat.max(axis=1)) / 2
    np.testing.assert_array_equal(operands(outcome)[0], middle)
    assert outcome.layers[0].weight_bits == 1


def test_some_filters_only():
    """Filters of -c and +c, and of one value, are not given the sum; one of zeros and c is."""
    n = Network(seed=1)
    weights = two_values(n, 8, 6, 3, 3, exact=True)
    weights[1] = n.signs(6, 3, 3) * 0.75
    weights[2], weights[3], weights[4] = 1.5, -0.25, 0
    weights[5] = (n.signs(6, 3, 3) > 0) * 0.5
    outcome = compile_same(n.model(n.conv(n.binarize(n.input(SHAPE)), weights, pads=[1] * 4)), feed(), exact=True)
    given = operands(outcome)[0] != 0
    assert given.tolist() == [True, False, False, False, False, True, True, True]
    (note,) = notes(outcome, "canonicalize-weights")
    assert "not -c and +c in 4 of 8 filters" in note


def test_no_sum_where_no_filter_needs_it():
    n = Network(seed=2)
    weights = n.signs(5, 6, 3, 3) * np.float32(0.5)
    weights[2] = -1.25
    outcome = compile_same(n.model(n.conv(n.binarize(n.input(SHAPE)), weights)), feed(), exact=True)
    assert ops(outcome) == ["Binarize", "BinaryConv"]
    assert notes(outcome, "canonicalize-weights") == []


def test_all_around_it():
    """Bias, batch-norm, activation and shortcut follow the sum in their order; the next layer reads bits."""
    n = Network(seed=3)
    x = n.input(SHAPE)
    bias = n.constant(n.normal(6))
    y = n.op("Conv", n.binarize(x), n.constant(two_values(n, 6, 6, 3, 3)), bias, pads=[1] * 4)
    y = n.op("Add", n.op("Relu", n.batchnorm(y, 6, 8)), x)
    outcome = compile_same(n.model(n.conv(n.binarize(y), two_values(n, 4, 6, 1, 1)), y), feed())
    assert ops(outcome) == ["Binarize", "BinaryConvStepsDual", "BinaryConvSteps"]
    assert steps(outcome) == [[WINDOW_SUM, "add", "multiply", "add", "maximum", "residual"], [WINDOW_SUM]]
    assert [sign.exact for sign in outcome.sign_tensors] == [False, False]
    assert notes(outcome, "fuse-epilogues") == []


@pytest.mark.parametrize("group", [1, 2])
def test_batchnorm_behind(group):
    """It is a step as well, and no pass says that it could not be folded."""
    n = Network(seed=15)
    y = n.batchnorm(n.conv(n.binarize(n.input(SHAPE)), two_values(n, 4, 6 // group, 3, 3), group=group), 4, 8)
    outcome = compile_same(n.model(y), feed())
    assert steps(outcome) == [[WINDOW_SUM, "multiply", "add"]]
    assert [record.name for record in outcome.passes if record.notes] == ["canonicalize-weights"]


@pytest.mark.parametrize("group", [1, 2])
def test_batchnorm_and_binarizer_behind(group):
    """The bits compare floats: batch-norm becomes their threshold."""
    n = Network(seed=4)
    y = n.binarize(n.input(SHAPE))
    for channels in (6, 8):
        y = n.conv(y, two_values(n, 8, channels // group, 3, 3), pads=[1] * 4, group=group)
        y = n.op("MaxPool", n.binarize(n.batchnorm(y, 8, 8)), kernel_shape=[2, 2], strides=[2, 2])
    outcome = compile_same(n.model(n.conv(y, n.signs(4, 8, 1, 1))), feed())
    assert ops(outcome) == ["Binarize", *["BinaryConvStepsDual", "MaxPoolSigns"] * 2, "BinaryConv"]
    assert steps(outcome) == [[WINDOW_SUM], [WINDOW_SUM], []]


def test_signs_that_two_layers_read():
    n = Network(seed=5)
    signs = n.binarize(n.input(SHAPE))
    left = n.conv(signs, two_values(n, 5, 6, 3, 3, exact=True), pads=[1] * 4)
    right = n.conv(signs, two_values(n, 5, 6, 1, 1, exact=True))
    outcome = compile_same(n.model(n.op("Add", left, right)), feed(), exact=True)
    assert statuses(outcome) == ["binary", "binary"]
    assert sorted(ops(outcome)) == ["Binarize", "BinaryConvSteps", "BinaryConvSteps"]
    assert sorted(steps(outcome)) == [[WINDOW_SUM], [WINDOW_SUM, "residual"]]


@pytest.mark.parametrize("value", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_padding_with_signs_and_signs_with_a_scale(value, scale):
    n = Network(seed=6)
    signs = n.binarize(n.input(SHAPE))
    signs = signs if scale == 1 else n.op("Mul", signs, n.scalar(scale))
    padded = n.op("Pad", signs, n.constant(np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64)), n.scalar(value * scale))
    outcome = compile_same(n.model(n.conv(padded, two_values(n, 5, 6, 3, 3, exact=True))), feed(), exact=True)
    assert steps(outcome) == [[WINDOW_SUM]]


@pytest.mark.parametrize("group", [1, 3])
def test_without_fused_epilogues(group):
    """The sum is then a convolution of its own."""
    n = Network(seed=7)
    y = n.conv(n.binarize(n.input(SHAPE)), two_values(n, 6, 6 // group, 3, 3, exact=True), pads=[1] * 4, group=group)
    outcome = compile_same(n.model(y), feed(), exact=True, fuse_epilogues=False)
    assert statuses(outcome) == ["binary"]
    assert ops(outcome).count("BinaryConv") == 2
    shapes = [list(a.ints) for node in outcome.model.graph.node for a in node.attribute if a.name == "weight_shape"]
    assert sorted(shape[0] for shape in shapes) == [group, 6]


@pytest.mark.parametrize("filters", [1, 7])
def test_one_filter(filters):
    """Of a layer with a single filter the sum is a second one."""
    n = Network(seed=8)
    y = n.conv(n.binarize(n.input(SHAPE)), two_values(n, filters, 6, 3, 3, exact=True))
    assert statuses(compile_same(n.model(y), feed(), exact=True)) == ["binary"]


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers(bias):
    n = Network(seed=9)
    flat = n.op("Flatten", n.binarize(n.input(SHAPE)))
    weights, more = two_values(n, 10, 384, exact=True), [n.constant(n.rng.integers(-9, 9, 10).astype(np.float32))]
    if bias:
        y = n.op("Gemm", flat, n.constant(weights), *more, transB=1, alpha=0.5)
    else:
        y = n.op("MatMul", flat, n.constant(np.ascontiguousarray(weights.T)))
    outcome = compile_same(n.model(y), feed(), exact=True)
    assert statuses(outcome) == ["binary"]
    assert [op for op in ops(outcome) if op in ("MatMul", "Gemm")] == []


def test_report_says_so_and_what_it_costs():
    n = Network(seed=10)
    signs = n.binarize(n.input(SHAPE))
    y, z = n.conv(signs, two_values(n, 4, 6, 3, 3)), n.conv(signs, two_values(n, 6, 2, 3, 3), group=3)
    outcome = compile_same(n.model(y, z), feed())
    first, second = notes(outcome, "canonicalize-weights")
    what = "filters: the sum of the window is added to these, which costs as much as"
    assert first.endswith(f"4 of 4 {what} 1 filter more")
    assert second.endswith(f"6 of 6 {what} 3 filters more")
    assert [layer.reason for layer in outcome.layers] == ["", ""]


@pytest.mark.parametrize("group", [1, 2])
def test_three_values_are_refused(group):
    n = Network(seed=11)
    weights = two_values(n, 4, 6 // group, 3, 3)
    weights[1, 0, 0, 0] = 5
    outcome = compile_and_compare(n.model(n.conv(n.binarize(n.input(SHAPE)), weights, group=group)), feed())
    assert statuses(outcome) == ["float"]
    assert outcome.layers[0].reason == "weights take 3 values in channel 1; not binary"


def test_sign_of_its_output_can_be_zero():
    """Nothing moves the values off 0: Sign has a third value, and the next layer stays float."""
    n = Network(seed=12)
    weights = (n.signs(5, 6, 3, 3) > 0).astype(np.float32)
    hidden = n.op("Sign", n.conv(n.binarize(n.input(SHAPE)), weights))
    outcome = compile_same(n.model(n.conv(hidden, n.signs(4, 5, 3, 3))), feed(), exact=True)
    assert statuses(outcome) == ["binary", "weight-binary"]
    assert any("can be exactly 0" in text for text in notes(outcome, "restore-signs"))


def test_a_sum_that_is_not_of_these_windows_is_a_shortcut():
    """Multiples of the sums of other windows are added, but not by the step that counts its own."""
    n = Network(seed=13)
    signs = n.binarize(n.input(SHAPE))
    y = n.conv(signs, n.signs(5, 6, 3, 3), pads=[1] * 4)
    total = n.conv(signs, np.ones((1, 6, 1, 1), np.float32))
    term = n.op("Mul", total, n.constant(n.normal(5, 1, 1)))
    outcome = compile_same(n.model(n.op("Add", y, term)), feed())
    assert sorted(map(tuple, steps(outcome))) == [(), ("residual",)]


def test_sums_written_out_in_the_model():
    """XNOR dot product and sum, as DAB-Net writes its inference: the same step."""
    n = Network(seed=14)
    signs = n.binarize(n.input(SHAPE))
    y = n.op("Mul", n.conv(signs, n.signs(5, 6, 3, 3), pads=[1] * 4), n.constant(n.normal(5, 1, 1)))
    total = n.conv(signs, np.ones((1, 6, 3, 3), np.float32), pads=[1] * 4)
    outcome = compile_same(n.model(n.op("Add", n.op("Mul", total, n.constant(n.normal(5, 1, 1))), y)), feed())
    assert ops(outcome) == ["Binarize", "BinaryConvSteps"]
    assert steps(outcome) == [[WINDOW_SUM]]


@st.composite
def layers(draw):
    """One convolution of random geometry whose filters take two values, some of them -c and +c or one only."""
    n = Network(seed=draw(st.integers(0, 2**32 - 1)))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    channels, filters = group * draw(st.integers(1, 20)), group * draw(st.integers(1, 9))
    kernel = [draw(st.integers(1, 3)) for _ in range(2)]
    height, width = draw(st.integers(3, 12)), draw(st.integers(3, 70))
    weights = two_values(n, filters, channels // group, *kernel)
    for m in range(filters):
        kind = draw(st.integers(0, 5))
        if kind == 0:
            weights[m] = n.signs(*weights[m].shape) * np.float32(0.3)
        elif kind == 1:
            weights[m] = n.normal(1)
    y = n.conv(
        n.binarize(n.input(["N", channels, height, width])), weights, group=group,
        pads=[draw(st.integers(0, 2)) for _ in range(4)], strides=[draw(st.integers(1, 2)) for _ in range(2)],
    )  # fmt: skip
    if draw(st.booleans()):
        y = n.batchnorm(y, filters, 5)
    outputs = [y]
    if draw(st.booleans()):
        outputs = [n.conv(n.binarize(n.batchnorm(y, filters, 5)), two_values(n, 3, filters, 2, 2), pads=[1] * 4)]
    return n.model(*outputs), feed(draw(st.integers(0, 99)), (draw(st.integers(1, 3)), channels, height, width))


@settings(max_examples=60, derandomize=True, deadline=None, print_blob=True)
@given(layers())
def test_random_layers(case):
    model, feeds = case
    outcome = compile_same(model, feeds)
    assert set(statuses(outcome)) == {"binary"}
    assert "Conv" not in ops(outcome)
