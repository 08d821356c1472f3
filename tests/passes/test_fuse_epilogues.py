"""What follows a binary convolution becomes steps of its op: exact, in order, and only where it can be.

Results are compared with onnxruntime on the original without optimizations, bits exactly, and floats exactly where the
layers' own sums are (weights of +-1, one batch-norm at most before the steps).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Network, compile_and_compare, feed, ops, session

from bnncc.config import Config
from bnncc.passes import Outcome, run_passes
from bnncc.runtime.functions import STEPS

C = 6
SHAPE = ["N", C, 8, 8]


def conv(n: Network, x: str, out: int = C, **attributes) -> str:
    """Signs of x through a binary convolution that keeps the size."""
    return n.conv(n.binarize(x), n.signs(out, C, 3, 3), **({"pads": [1, 1, 1, 1]} | attributes))


def norm(n: Network, x: str) -> str:
    return n.batchnorm(x, C, 7)


def per_channel(n: Network, scale: float = 1) -> str:
    return n.constant(n.normal(C, 1, 1) * np.float32(scale))


def rprelu(n: Network, x: str) -> str:
    moved = n.op("Add", x, per_channel(n))
    return n.op("Add", n.op("PRelu", moved, per_channel(n)), per_channel(n))


def steps(outcome: Outcome) -> list[list[str]]:
    """The names of the steps of each op that has any."""
    names = list(STEPS)
    return [
        [names[kind] for attribute in node.attribute if attribute.name == "steps" for kind in attribute.ints]
        for node in outcome.model.graph.node
        if "Steps" in node.op_type
    ]


def notes(outcome: Outcome) -> list[str]:
    return [note.text for record in outcome.passes if record.name == "fuse-epilogues" for note in record.notes]


def compile_exactly(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Outcome:
    """compile_and_compare, with equal floats (NaN where NaN is) with and without the library."""
    outcome = compile_and_compare(model, feeds)
    assert_equal_floats(outcome, feeds)
    return outcome


def assert_equal_floats(outcome: Outcome, feeds: dict[str, np.ndarray]) -> None:
    expected = session(outcome.reference, library=False).run(None, feeds)
    for library in (True, False):
        for want, got in zip(expected, session(outcome.model, library).run(None, feeds), strict=True):
            np.testing.assert_array_equal(got, want, err_msg=f"library: {library}")


STEPS_OF = {
    "add": (lambda n, y: n.op("Add", y, per_channel(n)), ["add"]),
    "add, constant first": (lambda n, y: n.op("Add", per_channel(n), y), ["add"]),
    "sub": (lambda n, y: n.op("Sub", y, per_channel(n)), ["add"]),
    "sub from": (lambda n, y: n.op("Sub", per_channel(n), y), ["multiply", "add"]),
    "mul": (lambda n, y: n.op("Mul", y, n.scalar(0.3)), ["multiply"]),
    "batchnorm": (norm, ["multiply", "add"]),
    "relu": (lambda n, y: n.op("Relu", y), ["maximum"]),
    "leaky relu": (lambda n, y: n.op("LeakyRelu", y, alpha=0.3), ["prelu"]),
    "prelu": (lambda n, y: n.op("PRelu", y, per_channel(n)), ["prelu"]),
    "prelu, one slope": (lambda n, y: n.op("PRelu", y, n.constant(np.float32([0.25]))), ["prelu"]),
    "rprelu": (rprelu, ["add", "prelu", "add"]),
    "hardtanh": (lambda n, y: n.op("Clip", y, n.scalar(-1), n.scalar(1)), ["maximum", "minimum"]),
    "relu6": (lambda n, y: n.op("Clip", y, n.scalar(0), n.scalar(6)), ["maximum", "minimum"]),
    "clip above only": (lambda n, y: n.op("Clip", y, "", n.scalar(0.7)), ["minimum"]),
}


@pytest.mark.parametrize("form", sorted(STEPS_OF))
def test_each_step_after_a_shortcut(form):
    """The shortcut's sum through one op, its bits to the next layer and its floats to the next shortcut."""
    make, names = STEPS_OF[form]
    n = Network(seed=len(form))
    x = n.input(SHAPE)
    first = make(n, n.op("Add", norm(n, conv(n, x)), x))
    second = n.op("Add", first, norm(n, conv(n, first)))
    outcome = compile_exactly(n.model(second), feed(shape=(2, C, 8, 8)))
    assert ops(outcome) == ["Binarize", "BinaryConvStepsDual", "BinaryConvSteps"]
    assert steps(outcome) == [["residual", *names], ["residual"]]
    assert notes(outcome) == []


def test_activation_and_norm_before_the_shortcut():
    """The order of steps is the network's own (QuickNet: activation, batch-norm, sum)."""
    n = Network(seed=2)
    x = n.input(SHAPE)
    y = n.op("Add", norm(n, n.op("Relu", conv(n, x))), x)
    outcome = compile_exactly(n.model(conv(n, y), y), feed(shape=(3, C, 8, 8)))
    assert steps(outcome) == [["maximum", "multiply", "add", "residual"]]


def test_steps_without_a_shortcut():
    n = Network(seed=3)
    y = n.op("Clip", norm(n, conv(n, n.input(SHAPE))), n.scalar(-1), n.scalar(1))
    outcome = compile_exactly(n.model(n.op("GlobalAveragePool", y)), feed(shape=(3, C, 8, 8)))
    assert ops(outcome) == ["Binarize", "BinaryConvSteps", "GlobalAveragePool"]


def prelu_keeps_infinities() -> bool:
    """Whether this onnxruntime's PRelu does; older ones (1.23, say) make NaN of them, the library's step does not."""
    n = Network(seed=0)
    y = n.op("PRelu", n.input([1, 1, 1, 8]), n.constant(np.full((1, 1, 1), 0.5, np.float32)))
    model, x = n.model(y), np.array([-np.inf, np.inf, -1, 1] * 2, np.float32).reshape(1, 1, 1, 8)
    made = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return bool(np.isinf(made.run(None, {"x": x})[0]).sum() == 4)


def test_values_that_are_not_finite():
    """NaN and infinities of a shortcut come through every step as through the ops; so do their bits."""
    n = Network(seed=4)
    x = n.input(SHAPE)
    y = n.op("Add", norm(n, conv(n, x)), x)
    y = n.op("Clip", rprelu(n, y), n.scalar(-3), n.scalar(3))
    outcome = run_passes(n.model(conv(n, y), y), Config())
    assert steps(outcome) == [["residual", "add", "prelu", "add", "maximum", "minimum"]]
    values = feed(shape=(2, C, 8, 8))["x"]
    infinities = (np.inf, -np.inf) if prelu_keeps_infinities() else ()
    for value in (np.nan, *infinities, 0, -0.0):
        values[n.rng.random(values.shape) < 0.03] = value
    assert_equal_floats(outcome, {"x": values})


def test_a_binarizer_with_thresholds_of_its_own():
    """ReActNet's: the sign of a shifted sum, whose shift only the sign reads, is a threshold per channel."""
    n = Network(seed=5)
    x = n.input(SHAPE)
    y = rprelu(n, n.op("Add", norm(n, conv(n, x)), x))
    z = n.op("Add", norm(n, conv(n, n.op("Add", y, per_channel(n)))), y)
    outcome = compile_exactly(n.model(z), feed(shape=(2, C, 8, 8)))
    assert ops(outcome) == ["Binarize", "BinaryConvStepsDual", "BinaryConvSteps"]


def test_two_binarizers_of_one_sum():
    """One is the op's; the other, with thresholds of its own, stays."""
    n = Network(seed=6)
    x = n.input(SHAPE)
    y = n.op("Add", norm(n, conv(n, x)), x)
    z = n.op("Concat", conv(n, n.op("Add", y, per_channel(n))), conv(n, n.op("Add", y, per_channel(n))), y, axis=1)
    outcome = compile_exactly(n.model(z), feed(shape=(2, C, 8, 8)))
    assert ops(outcome).count("BinaryConvStepsDual") == 1
    assert ops(outcome).count("Binarize") == 2


def test_two_convolutions_added():
    """The first in the graph takes the other's output as its shortcut."""
    n = Network(seed=7)
    x = n.input(SHAPE)
    y = n.op("Add", norm(n, conv(n, x)), norm(n, conv(n, n.op("Relu", x))))
    outcome = compile_exactly(n.model(conv(n, y)), feed(shape=(2, C, 8, 8)))
    assert sorted(op for op in ops(outcome) if op.startswith("Binary")) == [
        "BinaryConv", "BinaryConv", "BinaryConvStepsDual",
    ]  # fmt: skip


def test_a_shortcut_that_depends_on_the_convolution():
    """y + f(sign(y)): the sum belongs to the second convolution; the first one cannot wait for it."""
    n = Network(seed=8)
    y = norm(n, conv(n, n.input(SHAPE)))
    outcome = compile_exactly(n.model(n.op("Add", y, norm(n, conv(n, y)))), feed(shape=(2, C, 8, 8)))
    assert ops(outcome) == ["Binarize", "BinaryConvDual", "BinaryConvSteps"]
    n = Network(seed=9)
    x = n.input(SHAPE)
    y = n.op("Add", norm(n, conv(n, x)), x)
    outcome = compile_exactly(n.model(n.op("Add", y, norm(n, conv(n, y)))), feed(shape=(2, C, 8, 8)))
    assert ops(outcome) == ["Binarize", "BinaryConvStepsDual", "BinaryConvSteps"]


def test_bits_of_the_dot_product_come_before_steps():
    """An activation that a binarizer was moved past stays: the op gives floats and bits of the dot product."""
    n = Network(seed=18)
    y = n.op("PRelu", norm(n, conv(n, n.input(SHAPE))), n.constant(np.abs(n.normal(C, 1, 1))))
    outcome = compile_exactly(n.model(conv(n, y), y), feed(shape=(2, C, 8, 8)))
    assert sorted(ops(outcome)) == ["Binarize", "BinaryConv", "BinaryConvDual", "PRelu"]
    assert "its dot product is binarized" in notes(outcome)[0]


@pytest.mark.parametrize(("low", "high", "fused"), [(-1, 1, True), (0, 1, False), (-1, 0, True)])
def test_a_binarizer_beside_a_saturation(low, high, fused):
    """The sign of a sum is that of the saturated sum, where the bounds leave the threshold inside."""
    n = Network(seed=19)
    x = n.input(SHAPE)
    total = n.op("Add", norm(n, conv(n, x)), x)
    y = n.op("Clip", total, n.scalar(low), n.scalar(high))
    outcome = compile_exactly(n.model(n.op("Concat", conv(n, total), y, axis=1)), feed(shape=(2, C, 8, 8)))
    assert steps(outcome) == [["residual", "maximum", "minimum"] if fused else ["residual"]]


@pytest.mark.parametrize("shape", [(1, C, 1, 1), (1, C, 8, 8), (C, 8, 8), (1, 1, 8, 8)])
def test_broadcast_shortcuts_stay(shape):
    """Only a tensor of the output's own shape is a shortcut; the note says why another is none."""
    n = Network(seed=10)
    x = n.input(SHAPE)
    other = n.input(list(shape), name="other")
    y = n.op("Add", norm(n, conv(n, x)), other)
    feeds = feed(shape=(2, C, 8, 8)) | {"other": np.ones(shape, np.float32)}
    outcome = compile_exactly(n.model(y), feeds)
    assert ops(outcome) == ["Binarize", "BinaryConv", "Add"]
    assert "'other' is not known to be of the same shape" in notes(outcome)[0]


def test_an_operand_that_is_not_per_channel_stays():
    n = Network(seed=11)
    y = n.op("Relu", n.op("Add", n.op("Relu", conv(n, n.input(SHAPE))), n.constant(n.normal(8, 8))))
    outcome = compile_exactly(n.model(y), feed(shape=(2, C, 8, 8)))
    assert ops(outcome) == ["Binarize", "BinaryConvSteps", "Add", "Relu"]


def test_sums_that_something_else_reads_end_the_steps():
    """A graph output in the middle, or a second reader, is the op's float output."""
    n = Network(seed=12)
    x = n.input(SHAPE)
    middle = n.op("Add", norm(n, conv(n, x)), x)
    y = n.op("Relu", middle)
    outcome = compile_exactly(n.model(middle, y), feed(shape=(2, C, 8, 8)))
    assert ops(outcome) == ["Binarize", "BinaryConvSteps", "Relu"]
    assert "is read elsewhere, too" in notes(outcome)[0]


def test_a_second_shortcut_stays():
    n = Network(seed=13)
    x = n.input(SHAPE)
    y = n.op("Add", n.op("Add", norm(n, conv(n, x)), x), n.op("Abs", x))
    outcome = compile_exactly(n.model(y), feed(shape=(2, C, 8, 8)))
    assert steps(outcome) == [["residual"]]
    assert "adds another tensor already" in notes(outcome)[0]


def test_no_more_steps_than_the_kernel_takes():
    n = Network(seed=14)
    y = n.op("Relu", conv(n, n.input(SHAPE)))
    for _ in range(20):
        y = n.op("Add", y, per_channel(n))
    outcome = compile_exactly(n.model(y), feed(shape=(2, C, 8, 8)))
    assert [len(names) for names in steps(outcome)] == [16]
    assert "16 steps" in notes(outcome)[0]


def test_the_sum_with_itself_is_no_shortcut():
    n = Network(seed=15)
    dot = norm(n, conv(n, n.input(SHAPE)))
    outcome = compile_exactly(n.model(n.op("Add", dot, dot)), feed(shape=(2, C, 8, 8)))
    assert ops(outcome) == ["Binarize", "BinaryConv", "Add"]


def test_switched_off():
    n = Network(seed=16)
    x = n.input(SHAPE)
    model = n.model(n.op("Add", norm(n, conv(n, x)), x))
    assert ops(run_passes(model, Config(fuse_epilogues=False))) == ["Binarize", "BinaryConv", "Add"]
    assert ops(run_passes(model, Config())) == ["Binarize", "BinaryConvSteps"]


def test_compiled_twice_is_the_same():
    """What the pass has fused offers it nothing more."""
    import onnx_graphsurgeon as gs

    from bnncc.passes.base import Context
    from bnncc.passes.fuse_epilogues import FuseEpilogues

    n = Network(seed=17)
    x = n.input(SHAPE)
    for _ in range(2):
        x = n.op("Add", norm(n, conv(n, x)), x)
    outcome = run_passes(n.model(x), Config())
    assert not FuseEpilogues().apply(gs.import_onnx(outcome.model), Context(Config(), 17)).changed


@st.composite
def networks(draw):
    """Binary convolutions with shortcuts and steps in any order; some tensors are read twice or are outputs."""
    n = Network(seed=draw(st.integers(0, 2**32 - 1)))
    batch, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 12)), draw(st.integers(1, 70))
    shape = (batch, C, height, width)
    x = n.input(["N" if draw(st.booleans()) else batch, C, height, width])
    outputs, tensors = [], [x]
    for _ in range(draw(st.integers(1, 3))):
        y = conv(n, x)
        if draw(st.booleans()):
            y = norm(n, y)
        added = False
        for name in draw(st.lists(st.sampled_from(["residual", *sorted(STEPS_OF)]), max_size=4)):
            if name == "residual":
                operands = [y, draw(st.sampled_from(tensors))]
                y = n.op("Add", *(operands if draw(st.booleans()) else operands[::-1]))
            else:
                y = STEPS_OF[name][0](n, y)
            added = True
            if draw(st.integers(0, 4)) == 0:
                (outputs if draw(st.booleans()) else tensors).append(y)
        if not added:  # an affine tail of several ops becomes one scale and shift, which round once
            y = n.op("Relu", y)
        tensors.append(y)
        x = y
    values = n.rng.standard_normal(shape).astype(np.float32)
    return n.model(*dict.fromkeys([*outputs, x])), {"x": values}


@settings(max_examples=120, derandomize=True, deadline=None, print_blob=True)
@given(networks())
def test_random_steps(case):
    """No bit differs, and floats are within rounding, with the library and through the function bodies."""
    model, feeds = case
    outcome = compile_and_compare(model, feeds)
    assert {layer.status for layer in outcome.layers} == {"binary"}
