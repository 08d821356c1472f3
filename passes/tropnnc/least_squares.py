"""Merging neurons beyond the paper, without data: output weights by least squares, for Gaussian inputs.

In closed form for linear layers and ReLU; over samples for any activation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bnncc.passes.tropnnc.hidden_layer import HiddenLayer, from_extended
from bnncc.passes.tropnnc.merging import merge_multi_output
from bnncc.passes.tropnnc.variance_matching import cosines


def arc_cosine_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return E relu(g x) relu(h x) for rows g of first [n, d] and h of second [k, d] and x ~ N(0, 1): [n, k].

    |g| |h| (sin t + (pi - t) cos t) / (2 pi), t being their angle: the arc-cosine kernel of the first degree (Cho and
    Saul, 2009).
    """
    cosine = cosines(np.vstack([first, second]))[: len(first), len(first) :]
    angle = np.arccos(cosine)
    size = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)
    return size * (np.sin(angle) + (np.pi - angle) * cosine) / (2 * np.pi)


def merge_least_squares(layer: HiddenLayer, labels: np.ndarray, ridge: float = 0.01) -> HiddenLayer:
    """Return Algorithm 2's layer with output weights of least squared error for Gaussian inputs.

    The inputs, and the constant that the bias goes with, are taken for independent standard Gaussians, so that the
    second moments of the ReLUs are those of arc_cosine_kernel; the weights are drawn to Algorithm 2's sums by `ridge`
    times their mean.
    """
    start = merge_multi_output(layer, labels)
    among = arc_cosine_kernel(start.extended, start.extended)
    towards = ridge * max(float(np.mean(np.diag(among))), 1e-30) * np.eye(len(among))
    across = arc_cosine_kernel(start.extended, layer.extended)
    outputs = np.linalg.solve(among + towards, across @ layer.outputs + towards @ start.outputs)
    return from_extended(start.extended, outputs)


_SAMPLES = 4096


def merge_sampled(
    layer: HiddenLayer,
    labels: np.ndarray,
    rows: Callable[[np.ndarray], np.ndarray],
    activation: Callable[[np.ndarray], np.ndarray],
    ridge: float = 0.01,
) -> tuple[HiddenLayer, np.ndarray]:
    """Return Algorithm 2's layer with output weights of least squared error behind another activation than ReLU.

    Pre-activations are sampled (seeded) for centered Gaussian inputs: rows gives, for input weights [n, d], rows whose
    products are covariances (see input_statistics.correlated). What is fitted are deviations from the means, drawn to
    Algorithm 2's sums by `ridge` times their mean variance; also returned is what the means then differ in, for each
    column of the output weights [m].
    """
    start = merge_multi_output(layer, labels)
    both = rows(np.vstack([layer.inputs, start.inputs]))
    drawn = np.random.default_rng(0).standard_normal((_SAMPLES, both.shape[1]))
    values = activation(drawn @ both.T + np.concatenate([layer.bias, start.bias]))
    mean = values.mean(axis=0)
    centered = values - mean
    old, new = centered[:, : layer.neurons], centered[:, layer.neurons :]
    among = new.T @ new / _SAMPLES
    towards = ridge * max(float(np.mean(np.diag(among))), 1e-30) * np.eye(len(among))
    across = new.T @ old / _SAMPLES
    outputs = np.linalg.solve(among + towards, across @ layer.outputs + towards @ start.outputs)
    shift = mean[: layer.neurons] @ layer.outputs - mean[layer.neurons :] @ outputs
    return HiddenLayer(start.inputs, start.bias, outputs), shift
