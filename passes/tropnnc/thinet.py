"""ThiNet (Luo et al., 2017): the channels whose sum is nearest to all channels' sum, on samples."""

from __future__ import annotations

import numpy as np

from bnncc.passes import binary_layers as bl
from bnncc.passes.geometry import explicit_pads
from bnncc.passes.tropnnc.graph_layers import GraphLayer

_POSITIONS = 10  # of a sample's outputs


def select_channels(layer: GraphLayer, count: int, activations: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` channels in their order, and the factors [count] of their output weights.

    activations: what the second node reads [samples, ...]. Outputs at random positions are sums over the channels;
    channels are taken out one after the other, each so that what is missing is least (the paper's Algorithm 1), and the
    rest are scaled by least squares (its equation 7).
    """
    parts = contributions(layer, activations, np.random.default_rng(seed))
    squares, missing = np.square(parts).sum(axis=0), np.zeros(len(parts))
    left = np.ones(parts.shape[1], bool)
    for _ in range(parts.shape[1] - count):
        cost = np.where(left, squares + 2 * (missing @ parts), np.inf)
        out = int(np.argmin(cost))
        left[out] = False
        missing += parts[:, out]
    chosen = np.flatnonzero(left)
    scale, *_ = np.linalg.lstsq(parts[:, chosen], parts.sum(axis=1), rcond=None)
    return chosen, scale


def contributions(layer: GraphLayer, activations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what each channel adds to some outputs of the second node [positions, n], without its bias."""
    weights = bl.weights_of(layer.second).astype(np.float64)
    rows = np.repeat(np.arange(len(activations)), _POSITIONS)
    outputs = rng.integers(len(weights), size=len(rows))
    if layer.second.op != "Conv":
        products = activations[rows] * weights[outputs]
        return products.reshape(len(rows), layer.channels, layer.block).sum(axis=2)
    kernel, attributes = weights.shape[2:], layer.second.attrs
    axes = len(kernel)
    strides, dilations = attributes.get("strides", [1] * axes), attributes.get("dilations", [1] * axes)
    pads = explicit_pads(layer.second, layer.second.inputs[0], list(kernel))
    padded = np.pad(activations, ((0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)))
    sizes = [
        (size - (extent - 1) * dilation - 1) // stride + 1
        for size, extent, dilation, stride in zip(padded.shape[2:], kernel, dilations, strides, strict=True)
    ]
    parts = np.empty((len(rows), layer.channels))
    for i, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        taps = [
            int(rng.integers(size)) * stride + dilation * np.arange(extent)
            for size, stride, dilation, extent in zip(sizes, strides, dilations, kernel, strict=True)
        ]
        window = padded[row][np.ix_(np.arange(layer.channels), *taps)]
        parts[i] = (window * weights[output]).reshape(layer.channels, -1).sum(axis=1)
    return parts
