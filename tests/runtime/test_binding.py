"""The library from NumPy, without onnxruntime: against plain arithmetic, and its errors."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from bnncc import runtime
from bnncc.errors import BadInput


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice(np.array([-1, 1], np.float32), shape)


def direct_conv(x: np.ndarray, weight: np.ndarray, pad: int, pad_value: float) -> np.ndarray:
    """Stride 1, no groups; the sum over taps, one tap at a time."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=pad_value)
    kh, kw = weight.shape[2:]
    height, width = x.shape[2] - kh + 1, x.shape[3] - kw + 1
    y = np.zeros((x.shape[0], weight.shape[0], height, width), np.float32)
    for i in range(kh):
        for j in range(kw):
            y += np.einsum("nchw,mc->nmhw", x[:, :, i : i + height, j : j + width], weight[:, :, i, j])
    return y


def test_pack_and_unpack_are_inverse():
    rng = np.random.default_rng(0)
    for width in (1, 7, 8, 9, 64, 65, 200):
        x = signs(rng, 3, 2, width)
        packed = runtime.pack_signs(x)
        assert packed.shape == (3, 2, -(-width // 8))
        assert np.array_equal(runtime.unpack_signs(packed, width), x)


@pytest.mark.parametrize("isa", runtime.isas())
@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_conv2d(isa, pad_value):
    rng = np.random.default_rng(1)
    x, weight = signs(rng, 2, 70, 6, 9), signs(rng, 11, 70, 3, 3)
    expected = direct_conv(x, weight, 1, pad_value)
    scale, shift = rng.standard_normal((2, 11)).astype(np.float32)
    threshold = rng.integers(-20, 20, 11).astype(np.int32)
    conv = runtime.Conv2d(
        runtime.pack_signs(weight.reshape(11, -1)), weight_shape=weight.shape, width=9, pads=[1, 1, 1, 1],
        pad_value=pad_value, scale=scale, shift=shift, threshold=threshold, isa=isa,
    )  # fmt: skip
    assert f"/{isa}" in conv.kernel
    y, bits = conv(runtime.pack_signs(x))
    assert np.array_equal(y, expected * scale[:, None, None] + shift[:, None, None])
    assert np.array_equal(runtime.unpack_signs(bits, 9) > 0, expected >= threshold[:, None, None])


@pytest.mark.parametrize("isa", runtime.isas())
def test_conv2d_with_steps(isa):
    rng = np.random.default_rng(4)
    x, weight = signs(rng, 2, 20, 6, 9), signs(rng, 11, 20, 3, 3)
    residual = rng.standard_normal((2, 11, 6, 9)).astype(np.float32)
    slope, shift = rng.standard_normal((2, 11)).astype(np.float32)
    operands = np.stack([np.zeros(11, np.float32), slope, shift])
    steps = runtime.Steps(["residual", "prelu", "add"], operands, threshold=0.5, direction=-1)
    conv = runtime.Conv2d(
        runtime.pack_signs(weight.reshape(11, -1)), weight_shape=weight.shape, width=9, pads=[1, 1, 1, 1], scale=0.25,
        steps=steps, isa=isa,
    )  # fmt: skip
    y, bits = conv(runtime.pack_signs(x), residual)
    total = direct_conv(x, weight, 1, 0) * np.float32(0.25) + residual
    expected = np.where(total > 0, total, total * slope[:, None, None]) + shift[:, None, None]
    assert np.array_equal(y, expected)
    assert np.array_equal(runtime.unpack_signs(bits, 9) > 0, expected <= 0.5)


@pytest.mark.parametrize("isa", runtime.isas())
@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_conv2d_with_sums_of_windows(isa, pad_value):
    """Two groups: each filter gets the sum of what it sees."""
    rng = np.random.default_rng(5)
    x, weight = signs(rng, 2, 20, 6, 9), signs(rng, 8, 10, 3, 3)
    factor, scale = rng.standard_normal((2, 8)).astype(np.float32)
    conv = runtime.Conv2d(
        runtime.pack_signs(weight.reshape(8, -1)), weight_shape=weight.shape, width=9, pads=[1, 1, 1, 1], group=2,
        pad_value=pad_value, scale=scale, steps=runtime.Steps(["window_sum"], factor[None]), isa=isa,
    )  # fmt: skip
    for group in range(2):
        of_group, seen = slice(4 * group, 4 * group + 4), x[:, 10 * group : 10 * group + 10]
        dots = direct_conv(seen, weight[of_group], 1, pad_value)
        sums = direct_conv(seen, np.ones((1, 10, 3, 3), np.float32), 1, pad_value)
        expected = dots * scale[of_group, None, None] + factor[of_group, None, None] * sums
        assert np.array_equal(conv(runtime.pack_signs(x))[:, of_group], expected)


def test_errors_of_steps():
    with pytest.raises(BadInput, match="'square' is no step"):
        runtime.Steps(["square"], np.zeros((1, 1), np.float32))
    with pytest.raises(BadInput, match="a row for each of 2 steps"):
        runtime.Steps(["add", "residual"], np.zeros((1, 1), np.float32))
    conv = runtime.Conv2d(
        np.zeros((4, 18), np.uint8), weight_shape=[4, 16, 3, 3], width=10,
        steps=runtime.Steps(["residual"], np.zeros((1, 1), np.float32)),
    )  # fmt: skip
    x = np.zeros((1, 16, 8, 2), np.uint8)
    with pytest.raises(BadInput, match="residual is NULL"):
        conv(x)
    with pytest.raises(BadInput, match="residual has shape"):
        conv(x, np.zeros((1, 4, 1, 1), np.float32))


@pytest.mark.parametrize("isa", runtime.isas())
def test_conv2d_with_a_tree(isa, monkeypatch):
    """Filter 1 from filter 0, filter 2 from a virtual one, filter 3 by its complement; runs repeated."""
    monkeypatch.setenv("BNNCC_KERNEL", "planes")
    rng = np.random.default_rng(4)
    x, weight = signs(rng, 2, 5, 6, 9), signs(rng, 4, 5, 3, 3)
    tree = runtime.ConvTree([5], [-1, 0, 4, 4, -1], [False, False, False, True])
    conv = runtime.Conv2d(
        runtime.pack_signs(weight.reshape(4, -1)), weight_shape=weight.shape, width=9, pads=[1, 1, 1, 1], tree=tree,
        isa=isa,
    )  # fmt: skip
    assert conv.kernel.startswith(f"planes/{isa}")
    packed = runtime.pack_signs(x)
    run, result = conv.bind(packed)
    run()
    assert np.array_equal(result, direct_conv(x, weight, 1, 0))
    packed[:] = runtime.pack_signs(-x)
    run()
    assert np.array_equal(result, -direct_conv(x, weight, 1, 0))


@pytest.mark.parametrize(
    ("tree", "cause"),
    [
        (runtime.ConvTree([4, 0], [-1] * 4, [0] * 4), "group_nodes has 2 values, not 1"),
        (runtime.ConvTree([5], [-1] * 4, [0] * 4), "there are 4 parents"),
        (runtime.ConvTree([-4], [-1] * 4, [0] * 4), "there are 4 parents"),
        (runtime.ConvTree([4], [-1] * 4, [0] * 3), "flipped has 3 values"),
        (runtime.ConvTree([4], [-1] * 4, [0, 0, 0, 2]), "flipped is 2"),
        (runtime.ConvTree([4], [1, 0, -1, -1], [0] * 4), "tree"),
        (runtime.ConvTree([4], [-1, 0.5, 0, 0], [0] * 4), "int32 cannot hold"),
    ],
)
def test_bad_trees(tree, cause):
    with pytest.raises(BadInput, match=cause):
        runtime.Conv2d(np.zeros((4, 18), np.uint8), weight_shape=[4, 16, 3, 3], width=10, tree=tree)


@pytest.mark.parametrize("isa", runtime.isas())
def test_linear(isa):
    rng = np.random.default_rng(2)
    x, weight = signs(rng, 3, 4, 33), signs(rng, 21, 132)
    linear = runtime.Linear(runtime.pack_signs(weight), weight_shape=weight.shape, width=33, isa=isa)
    assert np.array_equal(linear(runtime.pack_signs(x)), x.reshape(3, -1) @ weight.T)


def test_binarize_and_pool():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 5, 6, 9)).astype(np.float32)
    threshold, direction = rng.standard_normal(5).astype(np.float32), np.array([1, -1, 1, -1, 1], np.int8)
    bits = runtime.binarize(x, threshold, direction)
    expected = np.where(direction[:, None, None] > 0, x >= threshold[:, None, None], x <= threshold[:, None, None])
    assert np.array_equal(runtime.unpack_signs(bits, 9) > 0, expected)
    pooled = runtime.max_pool_signs(bits, width=9, kernel_shape=[2, 3], strides=[2, 3], direction=direction)
    windows = expected.reshape(2, 5, 3, 2, 3, 3)
    extreme = np.where(direction[:, None, None] > 0, windows.any(axis=(3, 5)), windows.all(axis=(3, 5)))
    assert np.array_equal(runtime.unpack_signs(pooled, 3) > 0, extreme)


def test_errors_are_bad_input_with_the_cause():
    weight = np.zeros((4, 18), np.uint8)
    shape = {"weight_shape": [4, 16, 3, 3], "width": 10}
    with pytest.raises(BadInput, match="pad"):
        runtime.Conv2d(weight, **shape, pads=[-1, 0, 0, 0])
    with pytest.raises(BadInput, match="weight"):
        runtime.Conv2d(weight[:, :17], **shape)
    with pytest.raises(BadInput, match="threshold"):
        runtime.Conv2d(weight, **shape, threshold=np.zeros(3, np.int32))
    with pytest.raises(BadInput, match="channels"):
        runtime.Conv2d(weight, **shape)(np.zeros((1, 15, 8, 2), np.uint8))
    with pytest.raises(BadInput, match="isa"):
        runtime.Conv2d(weight, **shape, isa="neon9000")
    with pytest.raises(BadInput, match="element type"):
        runtime.Conv2d(weight.astype(np.int32), **shape)


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [("BNNCC_LIBRARY", "/nowhere/libbnncc.so", "no such file"), ("BNNCC_LIBRARY", sys.executable, "cannot be loaded")],
)
def test_a_library_that_cannot_be_loaded(name, value, cause, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=cause):
        runtime.version()


def test_instruction_set_from_the_environment():
    """In a process of its own, since a library may be asked at any time."""
    code = "from bnncc import runtime; print(runtime.selected_isa())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "BNNCC_ISA": "portable"}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "portable", done.stderr
