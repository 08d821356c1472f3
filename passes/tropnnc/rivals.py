"""The methods that TropNNC is compared with: each does what its paper says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bnncc.passes import binary_layers as bl
from bnncc.passes.tropnnc import graph_layers, merging
from bnncc.passes.tropnnc.graph_layers import GraphLayer
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer
from bnncc.passes.tropnnc.modes import Merging, Mode, Reduced, Selection, fused_vectors, generator_vectors, of_fused
from bnncc.passes.tropnnc.thinet import select_channels


def subset(layer: GraphLayer, chosen: np.ndarray, scale: np.ndarray | None = None) -> HiddenLayer:
    """Return the fused layer with some channels alone, their output weights scaled by `scale` if given."""
    fused = graph_layers.fused_layer(layer)
    outputs = fused.outputs[chosen] if scale is None else fused.outputs[chosen] * scale[:, None]
    return HiddenLayer(fused.inputs[chosen], fused.bias[chosen], outputs)


def kernel_norms(layer: GraphLayer) -> np.ndarray:
    """Return the Frobenius norms of the kernels that enter and leave each channel [n, inputs + outputs]."""
    rows = bl.weights_of(layer.first).astype(np.float64)
    rows = np.linalg.norm(rows.reshape(*rows.shape[:2], -1), axis=2)
    columns = np.swapaxes(bl.weights_of(layer.second).astype(np.float64), 0, 1)
    columns = np.linalg.norm(columns.reshape(*columns.shape[:2], -1), axis=2)
    return np.hstack([rows, columns.reshape(len(rows), -1)])


def keep_largest(layer: GraphLayer, labels: np.ndarray) -> Reduced:
    """Cluster pruning (Duggal et al., 2021): the channel of the largest feature stands for its cluster, as it is."""
    length = np.linalg.norm(kernel_norms(layer), axis=1)
    members = (np.flatnonzero(labels == k) for k in range(labels.max() + 1))
    return subset(layer, np.sort([some[np.argmax(length[some])] for some in members])), None


def _largest(layer: GraphLayer, count: int, seed: int, activations: Callable | None) -> tuple[np.ndarray, None]:
    score = np.abs(graph_layers.raw_layer(layer).inputs).sum(axis=1)
    return np.sort(np.argsort(-score, kind="stable")[:count]), None


def _random(layer: GraphLayer, count: int, seed: int, activations: Callable | None) -> tuple[np.ndarray, None]:
    return np.sort(np.random.default_rng(seed).choice(layer.channels, count, replace=False)), None


def _thinet(layer: GraphLayer, count: int, seed: int, activations: Callable) -> tuple[np.ndarray, np.ndarray]:
    return select_channels(layer, count, activations(), seed)


RIVALS: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Merging("neural-path", "Neural Path K-means (Misiakos et al., 2022)", fused_vectors,
                of_fused(merging.merge_neural_path_kmeans), any_activation=True),
        Merging("zonotope", "Zonotope K-means (the same; one output)", generator_vectors,
                of_fused(merging.merge_zonotope_kmeans), single_output=True),
        Merging("cup", "CUP: Ward on kernels' norms, the largest stands for its cluster", kernel_norms, keep_largest,
                threshold="distance", clusters="ward", any_activation=True),
        Selection("thinet", "ThiNet: greedy selection on data, outputs rescaled", _thinet, needs_data=True),
        Selection("l1", "the channels of the largest weights", _largest),
        Selection("random", "channels at random", _random),
    )
}  # fmt: skip
