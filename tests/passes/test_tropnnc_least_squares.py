"""Least squares under the arc-cosine kernel: kernels against samples, exactness, and no worse than Algorithm 2."""

from __future__ import annotations

import numpy as np
import pytest

from bnncc.passes.tropnnc import least_squares as ls
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer
from bnncc.passes.tropnnc.merging import merge_multi_output


def random_layer(rng: np.random.Generator, neurons: int = 12, inputs: int = 5, outputs: int = 4) -> HiddenLayer:
    shapes = ((neurons, inputs), (neurons,), (neurons, outputs))
    return HiddenLayer(*(rng.standard_normal(shape) for shape in shapes))


def value(layer: HiddenLayer, extended: np.ndarray) -> np.ndarray:
    """What a layer gives for inputs [s, d + 1] that end in what the bias goes with."""
    return np.maximum(extended @ layer.extended.T, 0) @ layer.outputs


def test_kernel_is_what_samples_say():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    x = rng.standard_normal((400_000, 3))
    sampled = np.maximum(x @ first.T, 0).T @ np.maximum(x @ second.T, 0) / len(x)
    kernel = ls.arc_cosine_kernel(first, second)
    # The sample mean of 400,000 products of that size is off by some 0.5%.
    np.testing.assert_allclose(kernel, sampled, atol=0.02 * kernel.max())


def test_kernel_of_parallel_opposite_and_zero_vectors():
    g = np.array([[3.0, 4.0]])
    assert ls.arc_cosine_kernel(g, g)[0, 0] == pytest.approx(25 / 2)
    assert ls.arc_cosine_kernel(g, 2 * g)[0, 0] == pytest.approx(25)
    assert ls.arc_cosine_kernel(g, -g)[0, 0] == pytest.approx(0, abs=1e-12)
    assert ls.arc_cosine_kernel(g, 0 * g)[0, 0] == 0


def test_equal_neurons_merge_exactly():
    rng = np.random.default_rng(1)
    base = random_layer(rng, 4)
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3, 3])
    layer = HiddenLayer(base.inputs[labels], base.bias[labels], rng.standard_normal((9, 4)))
    x = np.hstack([rng.standard_normal((50, 5)), np.ones((50, 1))])
    np.testing.assert_allclose(value(ls.merge_least_squares(layer, labels), x), value(layer, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_least_squares_has_less_error_on_gaussian_inputs(seed):
    rng = np.random.default_rng(seed)
    layer, labels = random_layer(rng, 30), np.arange(30) % 10
    x = rng.standard_normal((20_000, 6))
    exact = value(layer, x)
    ours, algorithm_2 = (
        np.mean((value(merged, x) - exact) ** 2)
        for merged in (ls.merge_least_squares(layer, labels, ridge=1e-6), merge_multi_output(layer, labels))
    )
    assert ours < 0.9 * algorithm_2


def test_a_large_ridge_is_algorithm_2():
    rng = np.random.default_rng(3)
    layer, labels = random_layer(rng), np.arange(12) % 4
    merged = ls.merge_least_squares(layer, labels, ridge=1e9)
    np.testing.assert_allclose(merged.outputs, merge_multi_output(layer, labels).outputs, rtol=1e-6)
