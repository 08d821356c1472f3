"""The ops in onnxruntime: kernels against function bodies, on every instruction set, exact."""

from __future__ import annotations

import time

import numpy as np
import pytest
from op_models import OUTPUTS, op_model, random_bits, run_both, session

from bnncc import runtime
from bnncc.passes.order_filters import tree_text
from bnncc.runtime import functions

ISAS = ["portable", "avx2", "avx512bw", "avx512vpopcntdq"]


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    if request.param not in runtime.isas():
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv("BNNCC_ISA", request.param)
    return request.param


def epilogue(rng: np.random.Generator, op: str, filters: int, spread: float) -> dict[str, np.ndarray]:
    """Scale and shift, threshold, or both, as the op wants; sometimes one value for all channels."""
    constants = {}
    if not op.endswith("Threshold"):
        constants["scale"] = rng.standard_normal(filters if rng.random() < 0.7 else 1).astype(np.float32)
        constants["shift"] = rng.standard_normal(filters if rng.random() < 0.7 else 1).astype(np.float32)
    if op.endswith(("Threshold", "Dual")):
        constants["threshold"] = rng.integers(-spread, spread + 1, filters).astype(np.int32)
    return constants


CONVOLUTIONS = [op for op in OUTPUTS if op.startswith("BinaryConv")]


def random_steps(rng: np.random.Generator, op: str, filters: int) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """The constants and attributes of steps in any order, at most one of them the residual's."""
    names = [name for name in functions.STEPS if name != "residual"]
    kinds = [functions.STEP_NUMBERS[name] for name in rng.choice(names, int(rng.integers(0, 6)))]
    if not kinds or rng.random() < 0.8:
        kinds.insert(int(rng.integers(0, len(kinds) + 1)), functions.STEP_NUMBERS["residual"])
    operands = rng.standard_normal((len(kinds), filters if rng.random() < 0.7 else 1)).astype(np.float32)
    constants, attributes = {"operands": operands}, {"steps": kinds}
    if op.endswith("Dual"):
        constants["threshold"] = rng.standard_normal(filters if rng.random() < 0.7 else 1).astype(np.float32)
        constants["direction"] = rng.choice(np.array([-1, 1], np.int8), filters if rng.random() < 0.7 else 1)
        attributes["nan_bit"] = int(rng.integers(0, 2))
    return constants, attributes


def conv_feeds(rng: np.random.Generator, op: str, shape: list[int], attributes: dict) -> dict[str, np.ndarray]:
    """Packed signs and, for an op with steps, a residual of the output's shape, NaN and infinities in it."""
    feeds = {"x": random_bits(rng, *shape)}
    if "Steps" in op:
        sizes = (shape[2], attributes["width"])
        kernel, pads = attributes["weight_shape"][2:], attributes["pads"]
        out = [
            (size + pads[i] + pads[i + 2] - (kernel[i] - 1) * attributes["dilations"][i] - 1)
            // attributes["strides"][i] + 1
            for i, size in enumerate(sizes)
        ]  # fmt: skip
        residual = rng.standard_normal((shape[0], attributes["weight_shape"][0], *out)).astype(np.float32)
        for value in (np.nan, np.inf, -np.inf, 0):
            residual[rng.random(residual.shape) < 0.03] = value
        feeds["residual"] = residual
    return feeds


def conv_constants(rng: np.random.Generator, op: str, attributes: dict, length: int) -> dict[str, np.ndarray]:
    """Weights and epilogue of a convolution; adds the attributes of its steps, where it has any."""
    filters = attributes["weight_shape"][0]
    weight = {"weight": random_bits(rng, filters, -(-length // 8))}
    if "Steps" not in op:
        return weight | epilogue(rng, op, filters, length**0.5)
    constants, extra = random_steps(rng, op, filters)
    attributes |= extra
    return weight | epilogue(rng, "BinaryConv", filters, length**0.5) | constants


def random_conv(rng: np.random.Generator, op: str):
    """A model of one convolution and an input for it."""
    group = int(rng.choice([1, 1, 2, 3]))
    channels, filters = group * int(rng.integers(1, 40)), group * int(rng.integers(1, 30))
    kernel = rng.integers(1, 4, 2).tolist()
    dilations = rng.integers(1, 3, 2).tolist()
    pads = rng.integers(0, 3, 4).tolist()
    smallest = [
        max(1, (k - 1) * d + 1 - p - q) for k, d, p, q in zip(kernel, dilations, pads[:2], pads[2:], strict=True)
    ]
    height, width = (int(s + rng.integers(0, 14)) for s in smallest)
    length = channels // group * kernel[0] * kernel[1]
    attributes = {
        "weight_shape": [filters, channels // group, *kernel],
        "width": width,
        "strides": rng.integers(1, 4, 2).tolist(),
        "pads": pads,
        "dilations": dilations,
        "group": group,
        "pad_value": int(rng.integers(-1, 2)),
    }
    constants = conv_constants(rng, op, attributes, length)
    batch = int(rng.integers(1, 4))
    shape = [batch, channels, height, -(-width // 8)]
    declared = ["N", channels, "H" if rng.random() < 0.5 else height, shape[3]]
    return op_model(op, declared, constants, attributes), conv_feeds(rng, op, shape, attributes)


def random_linear(rng: np.random.Generator, op: str):
    rows, width, filters = int(rng.integers(1, 9)), int(rng.integers(1, 70)), int(rng.integers(1, 90))
    length = rows * width
    constants = {"weight": random_bits(rng, filters, -(-length // 8)), **epilogue(rng, op, filters, length**0.5)}
    batch = int(rng.integers(1, 5))
    shape = [batch, rows, -(-width // 8)] if rng.random() < 0.7 else [batch, rows, 1, -(-width // 8)]
    model = op_model(op, ["N", *shape[1:]], constants, {"weight_shape": [filters, length], "width": width})
    return model, {"x": random_bits(rng, *shape)}


def random_pool(rng: np.random.Generator, op: str):
    kernel = rng.integers(1, 8, 2).tolist()
    pads = [int(rng.integers(0, k)) for k in (*kernel, *kernel)]
    dilations = rng.integers(1, 3, 2).tolist()
    smallest = [
        max(1, (k - 1) * d + 1 - p - q) for k, d, p, q in zip(kernel, dilations, pads[:2], pads[2:], strict=True)
    ]
    height, width = (int(s + rng.integers(0, 14)) for s in smallest)
    channels = int(rng.integers(1, 9))
    attributes = {
        "width": width,
        "kernel_shape": kernel,
        "strides": rng.integers(1, 4, 2).tolist(),
        "pads": pads,
        "dilations": dilations,
        "ceil_mode": int(rng.integers(0, 2)),
    }
    direction = rng.choice(np.array([-1, 1], np.int8), channels if rng.random() < 0.7 else 1)
    shape = [int(rng.integers(1, 4)), channels, height, -(-width // 8)]
    model = op_model(op, ["N", channels, "H", shape[3]], {"direction": direction}, attributes)
    return model, {"x": random_bits(rng, *shape)}


def random_binarize(rng: np.random.Generator, op: str):
    shape = rng.integers(1, 23, int(rng.integers(2, 6))).tolist()
    count = shape[1] if rng.random() < 0.6 else 1
    constants = {
        "threshold": np.round(rng.standard_normal(count), 1).astype(np.float32),
        "direction": rng.choice(np.array([-1, 1], np.int8), count if rng.random() < 0.6 else 1),
    }
    x = np.round(rng.standard_normal(shape), 1).astype(np.float32)  # many values on a threshold
    x[rng.random(shape) < 0.05] = np.nan
    x[rng.random(shape) < 0.02] = np.inf
    x[rng.random(shape) < 0.02] = -np.inf
    return op_model(op, ["N", *shape[1:]], constants, {"nan_bit": int(rng.integers(0, 2))}), {"x": x}


def random_unpack(rng: np.random.Generator, op: str):
    width = int(rng.integers(1, 100))
    shape = [*rng.integers(1, 7, int(rng.integers(1, 4))).tolist(), -(-width // 8)]
    return op_model(op, ["N", *shape[1:]], {}, {"width": width}), {"x": random_bits(rng, *shape)}


CASES = {
    **dict.fromkeys(CONVOLUTIONS, random_conv),
    **dict.fromkeys(("BinaryLinear", "BinaryLinearThreshold", "BinaryLinearDual"), random_linear),
    "MaxPoolSigns": random_pool,
    "Binarize": random_binarize,
    "UnpackSigns": random_unpack,
}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal values, NaN where NaN is."""
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


@pytest.mark.parametrize("op", sorted(OUTPUTS))
def test_kernel_equals_body(op, isa):
    """Random shapes and attributes; bits and floats are the same, to the bit: the body rounds as the kernel does."""
    rng = np.random.default_rng(sum(op.encode()))
    for _ in range(25):
        model, feeds = CASES[op](rng, op)
        for kernel, body in zip(*run_both(model, feeds), strict=True):
            assert kernel.dtype == body.dtype
            assert same(kernel, body), model.graph.node[0]


def test_pooling_does_not_visit_the_padding():
    """A window of 2^24 taps with one of them inside the input takes no longer than one of few."""
    for axis in (0, 1):
        kernel, pads = [1, 1], [0, 0, 0, 0]
        kernel[axis], pads[axis] = 1 << 24, (1 << 24) - 1
        attributes = {"width": 1, "kernel_shape": kernel, "strides": [1, 1], "pads": pads, "dilations": [1, 1]}
        constants = {"direction": np.ones(1, np.int8)}
        made = session(op_model("MaxPoolSigns", ["N", 64, "H", 1], constants, {**attributes, "ceil_mode": 0}))
        x = np.arange(64, dtype=np.uint8).reshape(1, 64, 1, 1) % 2
        started = time.perf_counter()
        assert np.array_equal(made.run(None, {"x": x})[0], x)
        assert time.perf_counter() - started < 10  # every tap of every channel would be 2^30 steps, or 2^48


def random_tree(rng: np.random.Generator, filters: int, group: int) -> str:
    """Return the attribute of random trees over a layer's filters, some virtual, some complemented."""
    trees = []
    for _ in range(group):
        count = filters // group + int(rng.integers(0, 6))
        order = rng.permutation(count)
        above = [order[rng.integers(place)] if place and rng.random() < 0.7 else -1 for place in range(count)]
        parents = np.empty(count, np.int64)
        parents[order] = above
        trees.append((parents, rng.integers(0, 2, filters // group)))
    return tree_text(trees)


def random_tree_conv(rng: np.random.Generator, op: str):
    """A model of one convolution with trees, small or as wide as the kernels' lanes, and an input for it."""
    group = int(rng.choice([1, 1, 2, 3]))
    channels, filters = group * int(rng.integers(1, 40)), group * int(rng.integers(1, 30))
    kernel, dilations = rng.integers(1, 4, 2).tolist(), rng.integers(1, 3, 2).tolist()
    height = int(rng.integers(5, 16))
    width = int(rng.choice([5, 7, 8, 14, 16, 28, 33, 56, 64, 70, 130]))
    attributes = {
        "weight_shape": [filters, channels // group, *kernel],
        "width": width,
        "strides": rng.choice([1, 1, 2, 3], 2).tolist(),
        "pads": rng.integers(0, 3, 4).tolist(),
        "dilations": dilations,
        "group": group,
        "pad_value": int(rng.integers(-1, 2)),
        "tree": random_tree(rng, filters, group),
    }
    constants = conv_constants(rng, op, attributes, channels // group * kernel[0] * kernel[1])
    shape = [int(rng.choice([1, 1, 2, 9])), channels, height, -(-width // 8)]
    model = op_model(op, ["N", channels, "H", shape[3]], constants, attributes)
    return model, conv_feeds(rng, op, shape, attributes)


@pytest.mark.parametrize("kernel", ["planes", "channels", "auto"])
@pytest.mark.parametrize("op", CONVOLUTIONS)
def test_convolution_with_trees_equals_body(op, kernel, isa, monkeypatch):
    """Whichever kernel serves a layer that has trees, with one thread or three, bits and floats are the body's."""
    monkeypatch.setenv("BNNCC_KERNEL", kernel)
    rng = np.random.default_rng(sum(op.encode()))
    for _ in range(15):
        model, feeds = random_tree_conv(rng, op)
        one, body = run_both(model, feeds)
        many = session(model, threads=3).run(None, feeds)
        for a, b, expected in zip(one, many, body, strict=True):
            assert same(a, expected), model.graph.node[0]
            assert same(b, expected), model.graph.node[0]


@pytest.mark.parametrize("op", sorted(OUTPUTS))
def test_threads_do_not_change_a_bit(op):
    rng = np.random.default_rng(5)
    for _ in range(10):
        model, feeds = CASES[op](rng, op)
        feeds = {name: np.concatenate([x] * 8) for name, x in feeds.items()}
        one, many = (session(model, threads=threads).run(None, feeds) for threads in (1, 3))
        assert all(same(a, b) for a, b in zip(one, many, strict=True))


@pytest.mark.parametrize("op", sorted(OUTPUTS))
def test_empty_batch(op):
    rng = np.random.default_rng(6)
    model, feeds = CASES[op](rng, op)
    for library in (True, False):
        parts = (feeds, {name: x[:0] for name, x in feeds.items()})
        full, empty = (session(model, library).run(None, part) for part in parts)
        assert [a.shape for a in empty] == [(0, *a.shape[1:]) for a in full]


def test_bodies_do_not_compute_in_int8():
    """onnxruntime 1.18 to 1.20 have no comparisons of int8: what is given in int8 is cast before anything else."""
    takers = [
        (function.name, node.op_type)
        for function in functions.all_functions(functions.MIN_OPSET)
        for node in function.node
        if "direction" in node.input
    ]
    assert sorted(takers) == [("Binarize", "Cast"), ("BinaryConvStepsDual", "Binarize"), ("MaxPoolSigns", "Cast")]


@pytest.mark.parametrize("op", sorted(OUTPUTS))
def test_shapes_are_inferred(op):
    """What onnxruntime infers before a run is what a run gives; the batch stays symbolic."""
    rng = np.random.default_rng(7)
    for _ in range(10):
        model, feeds = CASES[op](rng, op)
        attributes = {attribute.name: attribute.i for attribute in model.graph.node[0].attribute}
        if attributes.get("ceil_mode"):
            continue  # a symbolic height divided and rounded up has no name
        made = session(model)
        for value, result in zip(made.get_outputs(), made.run(None, feeds), strict=True):
            assert len(value.shape) == result.ndim
            known = [(a, b) for a, b in zip(value.shape, result.shape, strict=True) if isinstance(a, int)]
            assert all(a == b for a, b in known)
            assert value.shape[-1] == result.shape[-1]
