"""Thresholds repeat the original arithmetic: at every integer, at every float, and through pools."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from small_networks import Network, compile_and_compare, ops, session

from bnncc.passes import elementwise as ew


def thresholds_of(outcome) -> np.ndarray:
    """The integer thresholds of the one BinaryConvThreshold or BinaryLinearThreshold."""
    (node,) = [n for n in outcome.model.graph.node if n.op_type.endswith("Threshold")]
    values = {t.name: gs.import_onnx(outcome.model).tensors()[t.name].values for t in outcome.model.graph.initializer}
    return values[node.input[2]]


def one_layer(n: Network, norm) -> str:
    dot = n.op("MatMul", n.binarize(n.input(["N", 63])), n.constant(n.signs(63, 5)))
    return n.op("MatMul", n.binarize(norm(dot)), n.constant(n.signs(5, 2)))


def test_a_tie_falls_as_in_the_original():
    """gamma * (dot - mean) is exactly 0 at dot = mean: +1 there for a rising and for a falling slope."""
    n = Network(seed=1)
    gamma = np.array([1, -1, 2, -2, 0], np.float32)
    mean = np.array([3, 3, -5, -5, 1], np.float32)
    zeros, ones = np.zeros(5, np.float32), np.ones(5, np.float32)
    y = one_layer(n, lambda d: n.op("BatchNormalization", d, *(n.constant(v) for v in (gamma, zeros, mean, ones))))
    x = {"x": n.normal(400, 63)}
    outcome = compile_and_compare(n.model(y), x)
    # Falling slopes compare -dot, by weights turned; slope 0 gives 0 >= 0, always +1.
    assert thresholds_of(outcome).tolist() == [3, -3, -5, 5, -63]


@pytest.mark.parametrize(("shift", "always"), [(1e9, True), (-1e9, False)])
def test_a_threshold_out_of_reach_is_a_constant(shift, always):
    n = Network(seed=2)
    y = one_layer(n, lambda d: n.op("Add", d, n.scalar(shift)))
    outcome = compile_and_compare(n.model(y), {"x": n.normal(5, 63)})
    assert set(thresholds_of(outcome).tolist()) == {-63 if always else 64}


def test_smallest_float_finds_the_exact_boundary():
    """x * s + b >= 0 in float32, against both neighbours of the float found."""
    rng = np.random.default_rng(3)
    scale = np.abs(rng.standard_normal(1000)).astype(np.float32)
    bias = (rng.standard_normal(1000) * 10.0 ** rng.integers(-30, 30, 1000)).astype(np.float32)

    def holds(x):
        with np.errstate(over="ignore"):
            return x * scale + bias >= 0

    found = ew.smallest_float(holds, 1000)
    assert holds(found).all()
    assert not holds(np.nextafter(found, np.float32(-np.inf))).any()


def test_smallest_float_at_the_ends():
    constant = np.array([True, False])
    assert ew.smallest_float(lambda x: constant, 2).tolist() == [-np.inf, np.inf]
    assert ew.smallest_float(lambda x: x > np.float32(0), 1).tolist() == [np.float32(1e-45)]
    assert ew.smallest_float(lambda x: x >= np.float32(0), 1).tolist() == [0]


def test_float_layer_and_batchnorm_become_a_threshold_per_channel():
    """A stem convolution: the comparison moves before its batch-norm, to the very float where the bit changes."""
    n = Network(seed=4)
    stem = n.conv(n.input(["N", 3, 9, 9]), n.normal(7, 3, 3, 3))
    y = n.conv(n.binarize(n.batchnorm(n.op("MaxPool", stem, kernel_shape=[2, 2]), 7, 3)), n.signs(4, 7, 3, 3))
    outcome = compile_and_compare(n.model(y), {"x": n.normal(4, 3, 9, 9)})
    assert ops(outcome) == ["Conv", "Binarize", "MaxPoolSigns", "BinaryConv"]


def test_float_thresholds_hold_at_the_neighbouring_floats():
    """The original and the compiled model agree at each channel's threshold and at the floats just beside it."""
    n = Network(seed=5)
    gamma = np.array([1, -1, 0.3, -0.2, 3, -5, 0], np.float32)
    rest = [n.normal(7), n.normal(7), n.rng.uniform(0.5, 2, 7).astype(np.float32)]
    norm = n.op("BatchNormalization", n.input(["N", 7, 1, 1]), n.constant(gamma), *(n.constant(v) for v in rest))
    model = n.model(n.conv(n.binarize(norm), n.signs(4, 7, 1, 1)))
    outcome = compile_and_compare(model, {"x": n.normal(3, 7, 1, 1)})
    assert ops(outcome) == ["Binarize", "BinaryConv"]
    compile_and_compare(model, {"x": _boundaries(outcome)})


def _boundaries(outcome) -> np.ndarray:
    """[3, C, 1, 1]: the thresholds of the Binarize node, and the floats just below and above."""
    node = next(n for n in outcome.model.graph.node if n.op_type == "Binarize")
    tensors = gs.import_onnx(outcome.model).tensors()
    t = np.nan_to_num(tensors[node.input[1]].values, posinf=1, neginf=-1)  # a channel of slope 0 has none
    inf = np.float32(np.inf)
    return np.stack([np.nextafter(t, -inf), t, np.nextafter(t, inf)])[:, :, None, None].astype(np.float32)


def test_nan_inputs_become_what_the_comparison_says():
    """GreaterOrEqual(NaN, 0) is false, -1; Less(NaN, 0) is false as well, which gives +1."""
    for op, chosen, other in (("GreaterOrEqual", 1, -1), ("Less", -1, 1)):
        n = Network(seed=6)
        x = n.input(["N", 4, 3, 3])
        signs = n.op("Where", n.op(op, x, n.scalar(0)), n.scalar(chosen), n.scalar(other))
        model = n.model(n.conv(signs, n.signs(4, 4, 2, 2)))
        values = n.normal(2, 4, 3, 3)
        values[0, :, 1, 1] = np.nan
        compile_and_compare(model, {"x": values})


def test_batchnorm_chain_is_evaluated_as_onnxruntime_does():
    """The chain evaluator and a session of the original give the same floats, bit for bit."""
    n = Network(seed=7)
    y = n.batchnorm(n.op("Mul", n.input(["N", 8, 50, 1]), n.constant(n.normal(8, 1, 1))), 8, 5)
    model = n.model(y)
    graph = gs.import_onnx(model)
    integers = np.arange(-25, 25, dtype=np.float32)
    direct = session(model, library=False).run(None, {"x": np.broadcast_to(integers[:, None], (1, 8, 50, 1))})[0]
    chain = ew.ChainFunction(list(graph.nodes), 8, 17)(integers[None, :])
    assert np.array_equal(direct[0, :, :, 0], chain)
