"""Random networks of binary layers against onnxruntime on the original, unoptimized: no bit may flip.

Hypothesis draws the structure, so that a failure shrinks to a small network; weights come from a seed that it draws
too.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Network, compile_and_compare, statuses

SEEDED = settings(max_examples=200, derandomize=True, deadline=None, print_blob=True)


@st.composite
def geometries(draw, height: int, width: int):
    """Attributes of a convolution or pooling that fits the input."""
    kernel = [draw(st.integers(1, min(4, height))), draw(st.integers(1, min(4, width)))]
    dilations = [
        draw(st.integers(1, 2)) if (k - 1) * 2 < size else 1 for k, size in zip(kernel, (height, width), strict=True)
    ]
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    strides = [draw(st.integers(1, 3)) for _ in range(2)]
    sizes = [
        (size + pads[axis] + pads[axis + 2] - (kernel[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1
        for axis, size in enumerate((height, width))
    ]
    return kernel, strides, pads, dilations, sizes


def integer_batchnorm(n: Network, x: str, channels: int) -> str:
    """A batch-norm that is exactly 0 at an integer of each channel: a tie for the binarizer behind it."""
    gamma = n.rng.choice(np.array([-2, -1, 0, 1, 2], np.float32), channels)
    mean = n.rng.integers(-4, 5, channels).astype(np.float32)
    zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    return n.op("BatchNormalization", x, n.constant(gamma), n.constant(zeros), n.constant(mean), n.constant(ones))


def pooled_size(size: int, extent: int, stride: int, pads: int, dilation: int, ceil_mode: int) -> int:
    """ONNX MaxPool's output size along an axis; ceil_mode comes without padding here."""
    room = size + pads - (extent - 1) * dilation - 1
    count = -(-room // stride) + 1 if ceil_mode else room // stride + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= size else count  # the last window starts inside


BINARIZERS = {
    "sign>=0": lambda n, x: n.op("Where", n.op("GreaterOrEqual", x, n.scalar(0)), n.scalar(1), n.scalar(-1)),
    ">t": lambda n, x: n.op("Where", n.op("Greater", x, n.scalar(0.5)), n.scalar(1), n.scalar(-1)),
    "<=t": lambda n, x: n.op("Where", n.op("LessOrEqual", x, n.scalar(1)), n.scalar(1), n.scalar(-1)),
    "!<0": lambda n, x: n.op("Where", n.op("Less", x, n.scalar(0)), n.scalar(-1), n.scalar(1)),
    "0.5*": lambda n, x: n.op("Where", n.op("GreaterOrEqual", x, n.scalar(0)), n.scalar(0.5), n.scalar(-0.5)),
}


@st.composite
def networks(draw):
    """A chain of binary convolutions with pooling, batch-norms, residual sums, and perhaps linear layers."""
    n = Network(seed=draw(st.integers(0, 2**32 - 1)))
    batch = draw(st.integers(1, 3))
    channels, height, width = draw(st.integers(1, 9)), draw(st.integers(1, 11)), draw(st.integers(1, 19))
    shape = (batch, channels, height, width)
    x = n.input(["N" if draw(st.booleans()) else batch, channels, height, width])
    for _ in range(draw(st.integers(1, 4))):
        binarize = BINARIZERS[draw(st.sampled_from(sorted(BINARIZERS)))]
        signs = binarize(n, x)
        group = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
        out = group * draw(st.integers(1, 12))
        kernel, strides, pads, dilations, sizes = draw(geometries(height, width))
        if draw(st.booleans()):  # padding as a node of its own, with either sign
            full = n.constant(np.array([0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]], np.int64))
            value = 0.5 if binarize is BINARIZERS["0.5*"] else 1.0
            signs = n.op("Pad", signs, full, n.scalar(draw(st.sampled_from([0.0, value, -value]))))
            pads = [0, 0, 0, 0]
        weights = n.signs(out, channels // group, *kernel)
        if draw(st.booleans()):  # powers of two keep the original's float sums exact
            weights = weights * np.float32(2.0) ** n.rng.integers(-2, 3, (out, 1, 1, 1)).astype(np.float32)
        y = n.conv(signs, weights, strides=strides, pads=pads, dilations=dilations, group=group)
        residual = sizes == [height, width] and out == channels and draw(st.booleans())
        previous, x = x, y
        channels, (height, width) = out, sizes
        spread = float(np.sqrt(weights[0].size))
        pool_first = draw(st.booleans())
        for step in ("pool", "norm") if pool_first else ("norm", "pool"):
            if step == "norm":
                kind = draw(st.sampled_from(["none", "integer", "random"]))
                if kind == "integer":
                    x = integer_batchnorm(n, x, channels)
                elif kind == "random":
                    x = n.batchnorm(x, channels, spread)
            elif draw(st.booleans()) and not residual:
                kernel, strides, pads, dilations, sizes = draw(geometries(height, width))
                pads = [min(pad, extent - 1) for pad, extent in zip(pads, (*kernel, *kernel), strict=True)]
                extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
                # Beyond these, ONNX and onnxruntime differ on the size, and the layer stays float.
                clear = not any(pads) and all(s <= e for s, e in zip(strides, extents, strict=True))
                ceil_mode = draw(st.integers(0, 1)) if clear else 0
                x = n.op(
                    "MaxPool",
                    x,
                    kernel_shape=kernel,
                    strides=strides,
                    pads=pads,
                    dilations=dilations,
                    ceil_mode=ceil_mode,
                )
                height, width = (
                    pooled_size(
                        size, kernel[axis], strides[axis], pads[axis] + pads[axis + 2], dilations[axis], ceil_mode
                    )
                    for axis, size in enumerate((height, width))
                )
        if residual:
            x = n.op("Add", x, previous)
    if draw(st.booleans()):
        x = n.op("Flatten", BINARIZERS["sign>=0"](n, x))
        features = channels * height * width
        for _ in range(draw(st.integers(1, 2))):
            out = draw(st.integers(1, 21))
            x = n.batchnorm(n.op("MatMul", x, n.constant(n.signs(features, out))), out, float(np.sqrt(features)))
            features = out
            x = BINARIZERS[">t"](n, x) if draw(st.booleans()) else BINARIZERS["sign>=0"](n, x)
        x = n.op("MatMul", x, n.constant(n.normal(features, 3)))
    values = n.rng.standard_normal(shape).astype(np.float32)
    if draw(st.booleans()):
        values = np.round(values * 2) / 2  # many inputs exactly on a threshold
    return n.model(x), {"x": values}


@SEEDED
@given(networks())
def test_random_network_is_exact(case):
    """Bits equal, floats within 1e-5 of the output's scale, with the library and through the function bodies."""
    model, feeds = case
    outcome = compile_and_compare(model, feeds)
    last_is_float = outcome.layers[-1].op == "MatMul"
    assert set(statuses(outcome)[: -1 if last_is_float else None]) == {"binary"}
