"""Every form in which binarizers and binary weights arrive is recognised, and compiles to the same bits."""

import numpy as np
import onnx
import pytest
from small_networks import SHAPE, Network, compile_and_compare, feed, ops, statuses

from bnncc.config import Config
from bnncc.passes import run_passes

# ---- Binarized activations ---------------------------------------------------------------------------------


def sign(n: Network, x: str) -> str:
    return n.op("Sign", x)


def where_greater_or_equal(n, x):
    return n.op("Where", n.op("GreaterOrEqual", x, n.scalar(0)), n.scalar(1), n.scalar(-1))


def where_greater_scalar_threshold(n, x):
    return n.op("Where", n.op("Greater", x, n.scalar(0.25)), n.scalar(1), n.scalar(-1))


def where_greater_threshold_per_channel(n, x):
    threshold = n.constant(n.normal(1, 6, 1, 1))
    return n.op("Where", n.op("Greater", x, threshold), n.scalar(1), n.scalar(-1))


def where_less(n, x):
    return n.op("Where", n.op("Less", x, n.scalar(0)), n.scalar(-1), n.scalar(1))


def where_less_or_equal_turned(n, x):
    return n.op("Where", n.op("LessOrEqual", x, n.scalar(0.5)), n.scalar(1), n.scalar(-1))


def constant_on_the_left(n, x):
    return n.op("Where", n.op("LessOrEqual", n.scalar(0), x), n.scalar(1), n.scalar(-1))


def not_less(n, x):
    return n.op("Where", n.op("Not", n.op("Less", x, n.scalar(0))), n.scalar(1), n.scalar(-1))


def cast_arithmetic(n, x):
    bits = n.op("Cast", n.op("GreaterOrEqual", x, n.scalar(0)), to=onnx.TensorProto.FLOAT)
    return n.op("Sub", n.op("Mul", bits, n.scalar(2)), n.scalar(1))


def cast_arithmetic_add(n, x):
    bits = n.op("Cast", n.op("Greater", x, n.scalar(0)), to=onnx.TensorProto.FLOAT)
    return n.op("Add", n.scalar(-1), n.op("Mul", n.scalar(2), bits))


def full_tensor_constants(n, x):
    ones = n.constant(np.ones((3, 6, 8, 8), np.float32))
    minus = n.constant(-np.ones((3, 6, 8, 8), np.float32))
    return n.op("Where", n.op("GreaterOrEqual", x, n.constant(np.zeros((3, 6, 8, 8), np.float32))), ones, minus)


def ones_like(n, x):
    value = onnx.numpy_helper.from_array(np.ones(1, np.float32))
    ones = n.op("ConstantOfShape", n.op("Shape", x), value=value)
    minus = n.op("ConstantOfShape", n.op("Shape", x), value=onnx.numpy_helper.from_array(-np.ones(1, np.float32)))
    return n.op("Where", n.op("GreaterOrEqual", x, n.scalar(0)), ones, minus)


def straight_through_clip(n, x):
    clipped = n.op("Clip", x, n.scalar(-1), n.scalar(1))
    return n.op("Add", clipped, n.op("Sub", n.op("Sign", x), clipped))


def straight_through_two_clips(n, x):
    first, second = (n.op("Clip", x, n.scalar(-1), n.scalar(1)) for _ in range(2))
    return n.op("Add", n.op("Sub", where_greater_or_equal(n, x), first), second)


def straight_through_sum_first(n, x):
    return n.op("Sub", n.op("Add", where_greater_or_equal(n, x), x), x)


def bireal_polynomial(n, x):
    """sign(x).detach() - p(x).detach() + p(x), p the piecewise polynomial of Bi-Real-Net's backward pass."""

    def polynomial():
        def mask(bound):
            return n.op("Cast", n.op("Less", x, n.scalar(bound)), to=onnx.TensorProto.FLOAT)

        def choose(m, a, b):
            rest = n.op("Sub", n.scalar(1), m)
            return n.op("Add", n.op("Mul", a, m), n.op("Mul", b, rest))

        square, double = n.op("Mul", x, x), n.op("Mul", x, n.scalar(2))
        rising, falling = n.op("Add", square, double), n.op("Sub", double, square)
        one = choose(mask(-1.0), n.scalar(-1), rising)
        two = choose(mask(0.0), one, falling)
        return choose(mask(1.0), two, n.scalar(1))

    return n.op("Add", n.op("Sub", n.op("Sign", x), polynomial()), polynomial())


def sign_of_sign_plus_tenth(n, x):
    return n.op("Sign", n.op("Add", n.op("Sign", x), n.scalar(0.1)))


def clip_before(n, x):
    return n.op("Sign", n.op("Clip", x, n.scalar(-1), n.scalar(1)))


def tanh_before(n, x):
    return where_greater_or_equal(n, n.op("Tanh", x))


def scaled(n, x):
    return n.op("Where", n.op("GreaterOrEqual", x, n.scalar(0)), n.scalar(0.5), n.scalar(-0.5))


def times_scalar(n, x):
    return n.op("Mul", n.op("Sign", x), n.scalar(0.25))


def identity_after(n, x):
    return n.op("Identity", n.op("Sign", x))


ACTIVATIONS = [
    sign, where_greater_or_equal, where_greater_scalar_threshold, where_greater_threshold_per_channel, where_less,
    where_less_or_equal_turned, constant_on_the_left, not_less, cast_arithmetic, cast_arithmetic_add,
    full_tensor_constants, ones_like, straight_through_clip, straight_through_two_clips, straight_through_sum_first,
    bireal_polynomial, sign_of_sign_plus_tenth, clip_before, tanh_before, scaled, times_scalar, identity_after,
]  # fmt: skip


@pytest.mark.parametrize("form", ACTIVATIONS, ids=lambda form: form.__name__)
def test_activation_form(form):
    """Both binarizers, on a float input and behind a binary layer, are recognised and exact."""
    n = Network(seed=3)
    first = form(n, n.input([3, *SHAPE[1:]] if form is full_tensor_constants else SHAPE))
    hidden = n.conv(first, n.signs(6, 6, 3, 3), pads=[1, 1, 1, 1])
    second = form(n, n.batchnorm(hidden, 6, spread=7))
    y = n.conv(second, n.signs(5, 6, 3, 3), pads=[0, 0, 0, 0])
    outcome = compile_and_compare(n.model(y), feed())
    assert statuses(outcome) == ["binary", "binary"]
    assert [op for op in ops(outcome) if op.startswith("Binary")] == ["BinaryConvThreshold", "BinaryConv"]
    assert len(ops(outcome)) == 3  # and Binarize: nothing of the form is left


@pytest.mark.parametrize("domain", ["qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"])
def test_bipolar_quant_on_activations_and_weights(domain):
    n = Network(seed=4)
    quantized = n.op("BipolarQuant", n.input(SHAPE), n.scalar(0.5), domain=domain)
    weights = n.op("BipolarQuant", n.constant(n.normal(8, 6, 3, 3)), n.scalar(1.0), domain=domain)
    model = n.model(n.op("Conv", quantized, weights), extra_imports=((domain, 1),))
    model.graph.output[0].type.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(4))
    outcome = compile_and_compare(model, feed())
    assert statuses(outcome) == ["binary"]


# ---- Binary weights ----------------------------------------------------------------------------------------


def plus_minus_one(n, m, c):
    return n.constant(n.signs(m, c, 3, 3))


def plus_minus_alpha(n, m, c):
    return n.constant(n.signs(m, c, 3, 3) * n.rng.uniform(0.1, 2, (m, 1, 1, 1)).astype(np.float32))


def int8_cast(n, m, c):
    return n.op("Cast", n.constant(n.signs(m, c, 3, 3).astype(np.int8)), to=onnx.TensorProto.FLOAT)


def sign_of_latent(n, m, c):
    return n.op("Sign", n.constant(n.normal(m, c, 3, 3)))


def where_of_latent(n, m, c):
    return where_greater_or_equal(n, n.constant(n.normal(m, c, 3, 3)))


def alpha_times_sign(n, m, c):
    alpha = n.constant(n.rng.uniform(0.1, 2, (m, 1, 1, 1)).astype(np.float32))
    return n.op("Mul", alpha, n.op("Sign", n.constant(n.normal(m, c, 3, 3))))


def straight_through_on_latent(n, m, c):
    return straight_through_clip(n, n.constant(n.rng.uniform(-1, 1, (m, c, 3, 3)).astype(np.float32)))


def alpha_beta(n, m, c):
    """DAB-Net: two values of any sign per filter."""
    chosen = n.signs(m, c, 3, 3) > 0
    alpha, beta = (n.normal(m, 1, 1, 1) for _ in range(2))
    return n.constant(np.where(chosen, alpha, beta))


WEIGHTS = [plus_minus_one, plus_minus_alpha, int8_cast, sign_of_latent, where_of_latent, alpha_times_sign,
           straight_through_on_latent, alpha_beta]  # fmt: skip


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1]], ids=["valid", "padded"])
@pytest.mark.parametrize("form", WEIGHTS, ids=lambda form: form.__name__)
def test_weight_form(form, pads):
    n = Network(seed=5)
    signs = n.binarize(n.input(SHAPE))
    y = n.op("Conv", signs, form(n, 7, 6), n.constant(n.normal(7)), pads=pads)
    outcome = compile_and_compare(n.model(y), feed())
    assert statuses(outcome) == ["binary"]
    assert "Conv" not in ops(outcome)


def test_batchnorm_folded_into_the_weights_by_the_exporter():
    """Weights of exactly +-c per channel, c's sign that of gamma, and a bias; the binarizer after it still fuses."""
    n = Network(seed=6)
    factor = n.normal(8, 1, 1, 1)
    weights = n.constant(n.signs(8, 6, 3, 3) * factor)
    hidden = n.op("Conv", n.binarize(n.input(SHAPE)), weights, n.constant(n.normal(8)))
    y = n.conv(n.binarize(hidden), n.signs(4, 8, 3, 3))
    outcome = compile_and_compare(n.model(y), feed())
    assert statuses(outcome) == ["binary", "binary"]
    assert ops(outcome) == ["Binarize", "BinaryConvThreshold", "BinaryConv"]


def matmul(n, x, weights):
    return n.op("MatMul", x, n.constant(np.ascontiguousarray(weights.T)))


def matmul_of_transposed(n, x, weights):
    return n.op("MatMul", x, n.op("Transpose", n.constant(weights), perm=[1, 0]))


def gemm(n, x, weights):
    return n.op("Gemm", x, n.constant(np.ascontiguousarray(weights.T)), n.constant(n.normal(len(weights))))


def gemm_transposed_scaled(n, x, weights):
    bias = n.constant(n.normal(1, len(weights)))
    return n.op("Gemm", x, n.constant(weights), bias, transB=1, alpha=0.5, beta=0.25)


@pytest.mark.parametrize("form", [matmul, matmul_of_transposed, gemm, gemm_transposed_scaled])
def test_linear_form(form):
    """Binary linear layers after a convolution and Flatten, and one another."""
    n = Network(seed=7)
    hidden = n.batchnorm(n.conv(n.binarize(n.input(SHAPE)), n.signs(5, 6, 3, 3), pads=[1, 1, 1, 1]), 5, 7)
    flat = n.op("Flatten", n.op("MaxPool", n.binarize(hidden), kernel_shape=[2, 2], strides=[2, 2]))
    wide = n.batchnorm(form(n, flat, n.signs(37, 80)), 37, 9)
    y = form(n, n.binarize(wide), n.signs(10, 37))
    outcome = compile_and_compare(n.model(y), feed())
    assert statuses(outcome) == ["binary"] * 3
    assert ops(outcome) == [
        "Binarize", "BinaryConvThreshold", "MaxPoolSigns", "BinaryLinearThreshold", "BinaryLinear",
    ]  # fmt: skip


def test_reshape_computed_from_the_shape():
    """Old exporters flatten through Shape, Gather, Unsqueeze, Concat and Reshape."""
    n = Network(seed=8)
    signs = n.binarize(n.batchnorm(n.conv(n.binarize(n.input(SHAPE)), n.signs(4, 6, 3, 3)), 4, 7))
    batch = n.op("Gather", n.op("Shape", signs), n.constant(np.array(0, np.int64)), axis=0)
    batch = n.op("Unsqueeze", batch, n.constant(np.array([0], np.int64)))
    target = n.op("Concat", batch, n.constant(np.array([-1], np.int64)), axis=0)
    flat = n.op("Reshape", signs, target)
    outcome = compile_and_compare(n.model(matmul(n, flat, n.signs(10, 144))), feed())
    assert statuses(outcome) == ["binary", "binary"]


# ---- Around the layers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_explicit_pad(value, scale):
    n = Network(seed=9)
    signs = n.binarize(n.input(SHAPE))
    signs = signs if scale == 1 else n.op("Mul", signs, n.scalar(scale))
    padded = n.op("Pad", signs, n.constant(np.array([0, 0, 1, 2, 0, 0, 0, 1], np.int64)), n.scalar(value * scale))
    outcome = compile_and_compare(n.model(n.conv(padded, n.signs(5, 6, 3, 3))), feed())
    assert statuses(outcome) == ["binary"]
    assert ops(outcome)[:2] == ["Binarize", "BinaryConv"]


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(mode):
    n = Network(seed=10)
    y = n.conv(n.binarize(n.input(SHAPE)), n.signs(5, 6, 2, 3), auto_pad=mode, strides=[2, 1])
    assert statuses(compile_and_compare(n.model(y), feed())) == ["binary"]


def test_popcount_outputs_and_scales_in_any_order():
    """(dot + K) / 2, then scale and shift as separate ops, then a binarizer."""
    n = Network(seed=11)
    dot = n.conv(n.binarize(n.input(SHAPE)), n.signs(5, 6, 3, 3))
    count = n.op("Div", n.op("Add", n.scalar(54), dot), n.scalar(2))
    scaled_ = n.op("Sub", n.constant(n.normal(5, 1, 1) + 27), n.op("Mul", count, n.constant(n.normal(5, 1, 1))))
    y = n.conv(n.op("Sign", scaled_), n.signs(4, 5, 3, 3))
    outcome = compile_and_compare(n.model(y), feed())
    assert ops(outcome) == ["Binarize", "BinaryConvThreshold", "BinaryConv"]


@pytest.mark.parametrize("order", ["pool-norm", "norm-pool", "pool-signs", "norm-pool-norm"])
def test_max_pool_before_and_after_the_binarizer(order):
    """Slopes of both signs: pooling before a falling batch-norm is a minimum of signs."""
    n = Network(seed=12)
    hidden = n.conv(n.binarize(n.input(SHAPE)), n.signs(9, 6, 3, 3), pads=[1, 1, 1, 1])

    def pool(x):
        return n.op("MaxPool", x, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])

    if order == "pool-norm":
        signs = n.binarize(n.batchnorm(pool(hidden), 9, 7))
    elif order == "norm-pool":
        signs = n.binarize(pool(n.batchnorm(hidden, 9, 7)))
    elif order == "norm-pool-norm":
        signs = n.binarize(n.batchnorm(pool(n.batchnorm(hidden, 9, 7)), 9, 1))
    else:
        signs = pool(n.binarize(n.batchnorm(hidden, 9, 7)))
    outcome = compile_and_compare(n.model(n.conv(signs, n.signs(4, 9, 3, 3))), feed())
    assert ops(outcome) == ["Binarize", "BinaryConvThreshold", "MaxPoolSigns", "BinaryConv"]


def test_nonlinear_activations_before_the_binarizer():
    """PRelu, HardTanh and the like are part of the threshold; what is not monotone stays in float, and says so."""
    n = Network(seed=13)
    hidden = n.batchnorm(n.conv(n.binarize(n.input(SHAPE)), n.signs(5, 6, 3, 3)), 5, 7)
    prelu = n.op("PRelu", hidden, n.constant(n.rng.uniform(0.1, 1, (5, 1, 1)).astype(np.float32)))
    shifted = n.op("Add", n.op("Clip", prelu, n.scalar(-1), n.scalar(1)), n.constant(n.normal(5, 1, 1) / 4))
    signs = n.binarize(shifted)
    hidden = n.conv(signs, n.signs(5, 5, 3, 3))
    y = n.conv(n.binarize(n.op("Sub", n.op("Abs", hidden), n.scalar(3.5))), n.signs(4, 5, 3, 3))
    outcome = compile_and_compare(n.model(y), feed())
    assert statuses(outcome) == ["binary"] * 3
    assert (
        ops(outcome)
        == ["Binarize", "BinaryConvThreshold", "BinaryConv", "Abs", "Sub", "Binarize", "BinaryConv"][:4]
        + ops(outcome)[4:]
    )
    notes = [note.text for record in outcome.passes for note in record.notes]
    assert any("no threshold of the sum" in text for text in notes)


def test_residual_network_gives_floats_and_bits_where_both_are_needed():
    n = Network(seed=14)
    x = n.batchnorm(n.conv(n.input(SHAPE), n.normal(6, 6, 3, 3), pads=[1, 1, 1, 1]), 6, 5)
    for _ in range(3):
        x = n.op("Add", n.batchnorm(n.conv(n.binarize(x), n.signs(6, 6, 3, 3), pads=[1, 1, 1, 1]), 6, 7), x)
    outcome = compile_and_compare(n.model(x), feed(), fold_batchnorm=False)
    assert statuses(outcome) == ["float"] + ["binary"] * 3
    # A batch-norm that feeds a binarizer and a residual sum: one op gives both.
    n = Network(seed=15)
    dot = n.batchnorm(n.conv(n.binarize(n.input(SHAPE)), n.signs(6, 6, 3, 3), pads=[1, 1, 1, 1]), 6, 7)
    y = n.op("Add", n.batchnorm(n.conv(n.binarize(dot), n.signs(6, 6, 3, 3), pads=[1, 1, 1, 1]), 6, 7), dot)
    outcome = compile_and_compare(n.model(y), feed())
    assert ops(outcome) == ["Binarize", "BinaryConvDual", "BinaryConvSteps"]


def test_graph_outputs_in_the_middle_keep_their_names_and_values():
    n = Network(seed=16)
    signs = n.binarize(n.input(SHAPE))
    dot = n.conv(signs, n.signs(6, 6, 3, 3))
    norm = n.batchnorm(dot, 6, 7)
    again = n.binarize(norm)
    y = n.conv(again, n.signs(4, 6, 3, 3))
    for outputs in ((signs, y), (dot, y), (norm, y), (again, y), (signs, dot, norm, again, y)):
        outcome = compile_and_compare(n.model(*outputs), feed())
        assert statuses(outcome) == ["binary", "binary"]


def test_signs_that_a_float_layer_reads_too_are_unpacked():
    n = Network(seed=17)
    signs = n.binarize(n.batchnorm(n.conv(n.binarize(n.input(SHAPE)), n.signs(6, 6, 3, 3)), 6, 7))
    y = n.op("Add", n.conv(signs, n.signs(4, 6, 3, 3)), n.conv(signs, n.normal(4, 6, 3, 3)))
    outcome = compile_and_compare(n.model(y), feed())
    assert statuses(outcome) == ["binary", "binary", "float"]
    assert "UnpackSigns" in ops(outcome)


def test_shared_weights_serve_every_layer_that_reads_them():
    n = Network(seed=18)
    weights = n.constant(n.signs(6, 6, 3, 3))
    x = n.input(SHAPE)
    hidden = n.op("Conv", n.binarize(x), weights, pads=[1, 1, 1, 1])
    float_use = n.op("Conv", x, weights, pads=[1, 1, 1, 1])
    y = n.op("Add", n.op("Conv", n.binarize(n.batchnorm(hidden, 6, 7)), weights, pads=[1, 1, 1, 1]), float_use)
    outcome = compile_and_compare(n.model(y, weights), feed())
    assert statuses(outcome) == ["binary", "weight-binary", "binary"]


@pytest.mark.parametrize("gamma", [0.0, -1.0])
def test_batchnorm_of_zero_or_negative_slope(gamma):
    n = Network(seed=19)
    slopes = np.array([1, gamma, -1, gamma, 1, gamma], np.float32)
    dot = n.conv(n.binarize(n.input(SHAPE)), n.signs(6, 6, 3, 3))
    y = n.conv(n.binarize(n.batchnorm(dot, 6, 7, gamma=slopes)), n.signs(4, 6, 3, 3))
    outcome = compile_and_compare(n.model(y), feed())
    assert ops(outcome) == ["Binarize", "BinaryConvThreshold", "BinaryConv"]


def test_zero_channel_of_a_folded_batchnorm():
    """gamma = 0 folded by the exporter: the whole filter is 0 and counts with scale 0."""
    n = Network(seed=20)
    factor = n.normal(5, 1, 1, 1)
    factor[2] = 0
    y = n.op("Conv", n.binarize(n.input(SHAPE)), n.constant(n.signs(5, 6, 3, 3) * factor), n.constant(n.normal(5)))
    assert statuses(compile_and_compare(n.model(y), feed())) == ["binary"]


# ---- The whole ----


def test_float_network_is_left_alone():
    n = Network(seed=30)
    y = n.op("Relu", n.conv(n.input(SHAPE), n.normal(4, 6, 3, 3)))
    outcome = compile_and_compare(n.model(y), feed())
    assert statuses(outcome) == ["float"]
    assert ops(outcome) == ["Conv", "Relu"]


def test_passes_are_idempotent():
    """Without lowering, compiling the result again changes nothing."""
    n = Network(seed=31)
    hidden = n.batchnorm(n.conv(straight_through_clip(n, n.input(SHAPE)), n.signs(6, 6, 3, 3)), 6, 7)
    pooled = n.op("MaxPool", hidden, kernel_shape=[2, 2])
    y = n.batchnorm(n.conv(n.op("Sign", pooled), n.normal(4, 6, 3, 3)), 4, 1)
    once = run_passes(n.model(y), Config(lower=False))
    twice = run_passes(once.model, Config(lower=False))
    assert [record.name for record in twice.passes if record.changed] == []
    assert once.model.graph.node == twice.model.graph.node
