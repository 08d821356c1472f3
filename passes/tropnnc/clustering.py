"""Clusters of neurons: K-means for a given number, hierarchical clustering for a given distance.

Labels are int [n], numbers 0 to K - 1 in the order in which the clusters' first members come, so that equal clusters
have equal labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from bnncc.passes.tropnnc.hidden_layer import HiddenLayer

LINKAGES = ("ward", "average", "complete")
_STARTS, _FEW_STEPS = 10, 20  # of K-means
_MANY_PRODUCTS = 10**9  # of coordinates, for all distances
_MANY_IN_KMEANS = 3 * 10**9  # of coordinates, for the distances of all vectors from all centers


def neuron_vectors(layer: HiddenLayer, *, bias: bool = True, balanced: bool = False) -> np.ndarray:
    """Return the vectors (a_i, b_i, C_:,i) [n, d + 1 + m] that Algorithm 2 clusters, or those without the bias.

    balanced: input and output weights of every neuron are scaled to the same norm, as relu lets them be:
    a sqrt(|c| / |a|) and c sqrt(|a| / |c|); neurons without inputs or outputs are left as they are.
    """
    inputs = layer.extended if bias else layer.inputs
    if not balanced:
        return np.hstack([inputs, layer.outputs])
    a, c = np.linalg.norm(inputs, axis=1), np.linalg.norm(layer.outputs, axis=1)
    both = (a > 0) & (c > 0)
    factor = np.sqrt(np.divide(c, a, out=np.ones_like(a), where=both), where=both, out=np.ones_like(a))[:, None]
    return np.hstack([inputs * factor, layer.outputs / factor])


def kmeans_labels(vectors: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Return labels of `count` clusters of the rows of vectors [n, f], by K-means (scikit-learn's).

    The best of ten starts; where n * count * f is so large that they would take minutes, twenty steps from Ward's
    clusters. Where fewer rows differ than clusters are asked for, there are as many clusters as differing rows. Raises
    ValueError unless 1 <= count <= n.
    """
    _check_count(vectors, count)
    from sklearn.cluster import KMeans  # heavy to import

    if count == len(vectors):
        return np.arange(count)
    first, equal = np.unique(vectors, axis=0, return_inverse=True)
    if count >= len(first):
        return in_order(equal.reshape(-1))
    rows = _in_fewer_dimensions(vectors)
    if rows.size * count < _MANY_IN_KMEANS:
        return in_order(KMeans(count, n_init=_STARTS, random_state=seed).fit_predict(rows))
    start = hierarchical_labels(rows, count)
    centers = np.array([rows[start == k].mean(axis=0) for k in range(start.max() + 1)])
    return in_order(KMeans(len(centers), init=centers, n_init=1, max_iter=_FEW_STEPS).fit_predict(rows))


def _in_fewer_dimensions(vectors: np.ndarray) -> np.ndarray:
    """Rows [n, n] at the same distances from each other as many long vectors [n, f], to 1e-5 of their lengths.

    Others are left as they are.
    """
    n, f = vectors.shape
    if f <= n or n**2 * f < _MANY_PRODUCTS:
        return vectors
    products = vectors @ vectors.T
    products[np.diag_indices(n)] += 1e-10 * np.trace(products) / n  # so that equal vectors do not make it singular
    return np.linalg.cholesky(products).astype(np.float32)


def hierarchical_labels(vectors: np.ndarray, count: int, method: str = "ward") -> np.ndarray:
    """Return labels of `count` clusters of the rows of vectors [n, f], by hierarchical clustering.

    Fewer, where several merges happen at the same distance. Raises ValueError unless 1 <= count <= n.
    """
    _check_count(vectors, count)
    if len(vectors) == 1:
        return np.zeros(1, int)
    return in_order(fcluster(merge_tree(vectors, method), count, "maxclust"))


def _check_count(vectors: np.ndarray, count: int) -> None:
    if not 1 <= count <= len(vectors):
        raise ValueError(f"{count} clusters of {len(vectors)} neurons")


def labels_by_groups(
    groups: Sequence[np.ndarray], neurons: int, cluster: Callable[[int, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return labels [neurons] of clusters within groups: those of a group follow the one before; -1 in no group.

    groups: indices of neurons, disjoint; cluster: gives the labels of a group, by its number and indices.
    """
    labels, used = np.full(neurons, -1), 0
    for number, members in enumerate(groups):
        labels[members] = used + cluster(number, members)
        used = int(labels.max()) + 1
    return labels


def shares_of(sizes: Sequence[int], count: int) -> list[int]:
    """Return how many of `count` clusters each of one or two groups gets: in proportion, rounded down, 1 at least.

    An odd one is left out: with Algorithm 1 and few clusters, one more for one sign does more harm than good (3 of
    1000 neurons of the networks of Table 1: 98.78% with it, 99.42% without). Raises ValueError where there are more
    groups than `count`.
    """
    if count < len(sizes):
        raise ValueError(f"{count} clusters of {len(sizes)} groups of neurons")
    whole = sum(sizes)
    return [max(1, min(count, whole) * size // whole) for size in sizes]


def merge_tree(vectors: np.ndarray, method: str = "ward") -> np.ndarray:
    """Return the hierarchical clustering of the rows of vectors [n, f]: scipy's linkage matrix [n - 1, 4]."""
    if method not in LINKAGES:
        raise ValueError(f"linkage '{method}' is none of {', '.join(LINKAGES)}")
    if len(vectors) < 2:
        return np.zeros((0, 4))
    if vectors.shape[0] ** 2 * vectors.shape[1] < _MANY_PRODUCTS:
        return linkage(vectors, method)
    from sklearn.metrics import pairwise_distances  # heavy to import

    # By matrix products, many times as fast; vectors that are nearly the same lose digits of their distance.
    distances = pairwise_distances(vectors)
    np.fill_diagonal(distances, 0)
    return linkage(squareform(distances, checks=False), method)


def cut(tree: np.ndarray, distance: float) -> np.ndarray:
    """Return labels of the clusters that a merge tree has joined at distances up to `distance`."""
    if not len(tree):
        return np.zeros(1, int)
    return in_order(fcluster(tree, distance, "distance"))


def threshold_v1(vectors: np.ndarray, constant: float) -> float:
    """Return the paper's first variant of a layer's distance: constant * sqrt(dimension) (its section 6)."""
    return constant * float(np.sqrt(vectors.shape[1]))


def threshold_v2(vectors: np.ndarray, constant: float) -> float:
    """Return its second variant: constant * the mean norm of the vectors."""
    return constant * float(np.linalg.norm(vectors, axis=1).mean())


def threshold_v3(vectors: np.ndarray, constant: float) -> float:
    """Return a distance between the two, v1^0.3 v2^0.7: constant * sqrt(dimension)^0.3 * mean norm^0.7.

    With variance matching, both trained residual networks that it was tried on, of 20 and 56 layers on CIFAR-10, keep
    0.1 to 1.5 points more accuracy than with the second at the same number of parameters.
    """
    return constant * threshold_v1(vectors, 1) ** 0.3 * threshold_v2(vectors, 1) ** 0.7


def in_order(labels: np.ndarray) -> np.ndarray:
    """Return the labels numbered in the order of the clusters' first members."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), int)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(-1)]
