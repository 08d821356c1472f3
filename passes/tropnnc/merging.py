"""From clusters of neurons to a smaller layer: the paper's Algorithms 1, 2 and 3, and what the third one tends to.

Names as in the paper: C~_:,k, a~_k and b~_k are the weights of the neuron that stands for cluster k, I_k its members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from bnncc.passes.tropnnc.hidden_layer import HiddenLayer, from_extended

# ---- One output ----------------------------------------------------------------------------------------------


def generators(layer: HiddenLayer) -> np.ndarray:
    """Return |c_i| (a_i, b_i) [n, d + 1], the generators of a single output's zonotopes."""
    if layer.outputs.shape[1] != 1:
        raise ValueError(f"the layer has {layer.outputs.shape[1]} outputs, not one")
    return np.abs(layer.outputs) * layer.extended


def sign_groups(layer: HiddenLayer) -> list[np.ndarray]:
    """Return the indices of neurons with positive and with negative output weight, each where there are some.

    Algorithm 1 clusters within them; neurons of weight 0 are in none.
    """
    if layer.outputs.shape[1] != 1:
        raise ValueError(f"the layer has {layer.outputs.shape[1]} outputs, not one")
    weight = layer.outputs[:, 0]
    return [some for some in (np.flatnonzero(weight > 0), np.flatnonzero(weight < 0)) if len(some)]


def merge_single_output(layer: HiddenLayer, labels: np.ndarray) -> HiddenLayer:
    """Algorithm 1: each cluster's generator is the sum of its members', its output weight their sign.

    labels: of clusters within sign_groups; neurons with the label -1 are dropped.
    """
    return _merge_generators(layer, labels, np.add.reduce)


def merge_zonotope_kmeans(layer: HiddenLayer, labels: np.ndarray) -> HiddenLayer:
    """Zonotope K-means (Misiakos et al., 2022), the baseline of Algorithm 1: the mean in place of the sum."""
    return _merge_generators(layer, labels, lambda rows: rows.mean(axis=0))


def _merge_generators(
    layer: HiddenLayer, labels: np.ndarray, representative: Callable[[np.ndarray], np.ndarray]
) -> HiddenLayer:
    rows, signs = generators(layer), np.sign(layer.outputs[:, 0])
    clusters = [np.flatnonzero(labels == k) for k in range(labels.max() + 1)]
    merged = np.array([representative(rows[some]) for some in clusters]).reshape(-1, rows.shape[1])
    return from_extended(merged, np.array([signs[some[0]] for some in clusters]).reshape(-1, 1))


# ---- Several outputs -----------------------------------------------------------------------------------------


def sums_of_clusters(labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the sums [K, f] of the rows [n, f] of each cluster."""
    sums = np.zeros((labels.max() + 1, rows.shape[1]))
    np.add.at(sums, labels, rows)
    return sums


def merge_multi_output(layer: HiddenLayer, labels: np.ndarray) -> HiddenLayer:
    """Algorithm 2: the mean of a cluster's input weights and biases, the sum of its output weights."""
    sizes = np.bincount(labels)[:, None]
    return from_extended(sums_of_clusters(labels, layer.extended) / sizes, sums_of_clusters(labels, layer.outputs))


def merge_neural_path_kmeans(layer: HiddenLayer, labels: np.ndarray) -> HiddenLayer:
    """Neural Path K-means (Misiakos et al., 2022), the baseline of Algorithm 2: means of input and output weights."""
    sizes = np.bincount(labels)[:, None]
    return from_extended(
        sums_of_clusters(labels, layer.extended) / sizes, sums_of_clusters(labels, layer.outputs) / sizes
    )


def cluster_matrices(layer: HiddenLayer, labels: np.ndarray) -> list[np.ndarray]:
    """Return, for every cluster, the sums S_j = sum over I_k of C_ji (a_i, b_i) of all outputs: [m, d + 1]."""
    extended = layer.extended
    return [layer.outputs[labels == k].T @ extended[labels == k] for k in range(labels.max() + 1)]


def objectives(layer: HiddenLayer, labels: np.ndarray, merged: HiddenLayer) -> np.ndarray:
    """Return the criterion of section 5.2.2 for every cluster [K]: sum over j of |C~_jk (a~_k, b~_k) - S_j|^2."""
    extended = merged.extended
    return np.array(
        [
            np.sum((np.outer(merged.outputs[k], extended[k]) - sums) ** 2)
            for k, sums in enumerate(cluster_matrices(layer, labels))
        ]
    )


def merge_iterative(layer: HiddenLayer, labels: np.ndarray, iterations: int) -> HiddenLayer:
    """Algorithm 3: from Algorithm 2, output and input weights are fitted in turns, so many times.

    Where the weights that a step divides by are all zero, what it would give is left as it is.
    """
    start = merge_multi_output(layer, labels)
    extended, outputs = start.extended, start.outputs.copy()
    for k, leaving, entering in _clusters_of_several(layer, labels):
        for _ in range(iterations):  # the sums S_j are leaving^T entering
            if np.any(extended[k]):
                outputs[k] = leaving.T @ (entering @ extended[k]) / (extended[k] @ extended[k])
            if np.any(outputs[k]):
                extended[k] = (leaving @ outputs[k]) @ entering / (outputs[k] @ outputs[k])
    return from_extended(extended, outputs)


def merge_rank_one(layer: HiddenLayer, labels: np.ndarray) -> HiddenLayer:
    """What Algorithm 3 tends to: each cluster's sums [m, d + 1] by their best approximation of rank one, from the SVD.

    Such an approximation has one sign to choose, since relu does not: of u v^T and (-u)(-v)^T the one whose direction v
    lies on the side of the cluster's mean. Its size is shared as Algorithm 2 shares it, v as long as the mean.
    """
    start = merge_multi_output(layer, labels)
    extended, outputs = start.extended, start.outputs.copy()
    for k, leaving, entering in _clusters_of_several(layer, labels):
        # The sums have no higher rank than the cluster members: their SVD is one of a small matrix.
        (left_basis, left_part), (right_basis, right_part) = np.linalg.qr(leaving.T), np.linalg.qr(entering.T)
        left, values, right = np.linalg.svd(left_part @ right_part.T)
        length, direction = np.linalg.norm(extended[k]), right_basis @ right[0]
        if values[0] == 0 or length == 0:
            continue
        side = 1 if direction @ extended[k] >= 0 else -1
        extended[k] = side * length * direction
        outputs[k] = side * values[0] / length * (left_basis @ left[:, 0])
    return from_extended(extended, outputs)


def _clusters_of_several(layer: HiddenLayer, labels: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Number, output weights [r, m] and extended input weights [r, d + 1] of clusters of r > 1; others are fitted."""
    extended = layer.extended
    for k in np.flatnonzero(np.bincount(labels) > 1):
        members = labels == k
        yield int(k), layer.outputs[members], extended[members]


def merge_sign_frozen(layer: HiddenLayer, labels: np.ndarray, iterations: int) -> HiddenLayer:
    """The variant of Algorithm 3 for which Proposition 14 holds (its appendix A.6).

    The sign of every C~_jk is that of Algorithm 2's sum. Only the members whose C_ji has it enter the sums of output j,
    by their absolute values, and |C~_jk| is fitted to those, or 0 where that would be negative.
    """
    start = merge_multi_output(layer, labels)
    extended, outputs = start.extended, np.abs(start.outputs)
    signs = np.sign(start.outputs)
    for k, leaving, entering in _clusters_of_several(layer, labels):
        same = np.abs(leaving) * (np.sign(leaving) == signs[k])
        for _ in range(iterations):
            if np.any(outputs[k]):
                extended[k] = (same @ outputs[k]) @ entering / (outputs[k] @ outputs[k])
            if np.any(extended[k]):
                outputs[k] = np.maximum(same.T @ (entering @ extended[k]) / (extended[k] @ extended[k]), 0)
    return from_extended(extended, signs * outputs)
