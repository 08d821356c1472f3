"""What convolutions make of inputs that correlate: against sampled maps."""

from __future__ import annotations

import numpy as np

from bnncc.passes.tropnnc import input_statistics as stats


def test_covariances_and_means_are_those_of_samples():
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((5, 2, 3, 2))
    steps = [np.arange(size) for size in (3, 2)]
    roots = [np.linalg.cholesky(stats.CORRELATION ** np.abs(s[:, None] - s)) for s in steps]
    windows = np.einsum("yi,xj,scij->scyx", *roots, rng.standard_normal((200_000, 2, 3, 2))) + stats.MEAN
    given = np.einsum("ncyx,scyx->sn", kernels, windows)
    rows = stats.correlated(kernels)
    assert rows.shape == (5, 12)
    # The sample covariance of 200,000 is off by some 0.3% of the variances.
    np.testing.assert_allclose(rows @ rows.T, np.cov(given.T), atol=0.02 * np.max(rows @ rows.T))
    np.testing.assert_allclose(stats.means(kernels), given.mean(axis=0), atol=0.02 * np.abs(given).max())


def test_linear_layers_and_1d_convolutions():
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((4, 7))
    np.testing.assert_array_equal(stats.correlated(rows), rows)
    one_tap = rng.standard_normal((4, 7, 1))
    np.testing.assert_array_equal(stats.correlated(one_tap), one_tap[..., 0])
    flat = np.ones((1, 1, 4))  # the sum of four inputs in a row
    expected = 4 + 2 * (3 * 0.8 + 2 * 0.8**2 + 0.8**3)
    np.testing.assert_allclose(np.sum(stats.correlated(flat) ** 2), expected)
