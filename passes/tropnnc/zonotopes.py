"""Zonotopes of ReLU layers: their Hausdorff distances, where they can be computed, and bounds that follow from them.

An output j of a layer is the difference of two tropical polynomials. Their extended Newton polytopes are the zonotopes
P_j and Q_j, sums of the segments [0, g] of its positive and negative generators |C_ji| (a_i, b_i). On the ball |x| <= r
an output changes by at most rho = sqrt(r^2 + 1) times the distance of the zonotopes (Proposition 10).
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import linprog, lsq_linear

from bnncc.passes.tropnnc.hidden_layer import HiddenLayer

MOST_GENERATORS = 12  # whose sums, 2^12, are all tried

# ---- Distances -----------------------------------------------------------------------------------------------


def distance_to_zonotope(point: np.ndarray, zonotope: np.ndarray) -> float:
    """Return the distance of a point [d] from the zonotope with generators [n, d]: a bounded least-squares problem."""
    if not len(zonotope):
        return float(np.linalg.norm(point))
    fit = lsq_linear(zonotope.T, point, (0, 1), method="bvls", tol=1e-13)
    return float(np.linalg.norm(zonotope.T @ fit.x - point))


def hausdorff_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Hausdorff distance H of two zonotopes, given by generators [n, d] and [k, d].

    By Lemma 8 it is attained at a vertex of one of them, and every vertex is a sum of some generators. Raises
    ValueError where there are too many of those.
    """
    return max(
        max(distance_to_zonotope(point, there) for point in _sums(here))
        for here, there in ((first, second), (second, first))
    )


def discrete_hausdorff_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Hausdorff distance DH of two zonotopes' sets of vertices (Misiakos et al., 2022)."""
    distances = np.linalg.norm(vertices(first)[:, None] - vertices(second)[None], axis=2)
    return float(max(distances.min(axis=1).max(), distances.min(axis=0).max()))


def vertices(zonotope: np.ndarray) -> np.ndarray:
    """Return the vertices [v, d] of the zonotope with generators [n, d].

    A sum of some generators is a vertex where a direction has a positive product with each of those and a negative one
    with all others; parallel generators count as one.
    """
    merged = _merge_parallel(zonotope)
    _check_count(merged)
    found, offset = [], zonotope.sum(axis=0) - merged.sum(axis=0)
    for signs in itertools.product((1, -1), repeat=len(merged)):
        sides = merged * np.array(signs)[:, None]
        if not len(merged) or _has_direction(sides):
            found.append(offset / 2 + merged[np.array(signs) > 0].sum(axis=0))
    return np.array(found).reshape(-1, zonotope.shape[1])


def _has_direction(rows: np.ndarray) -> bool:
    """Whether a direction has a positive product with every row."""
    result = linprog(np.zeros(rows.shape[1]), A_ub=-rows, b_ub=-np.ones(len(rows)), bounds=(None, None), method="highs")
    return result.status == 0


def _merge_parallel(zonotope: np.ndarray) -> np.ndarray:
    """Generators of the same zonotope moved by half of what the sums of both differ in, none of them parallel."""
    left = [row for row in zonotope if np.any(row)]
    merged: list[np.ndarray] = []
    for row in left:
        for k, other in enumerate(merged):
            cosine = row @ other / (np.linalg.norm(row) * np.linalg.norm(other))
            if abs(cosine) > 1 - 1e-12:
                merged[k] = other + np.sign(cosine) * row
                break
        else:
            merged.append(row)
    return np.array(merged).reshape(-1, zonotope.shape[1])


def _check_count(zonotope: np.ndarray) -> None:
    if len(zonotope) > MOST_GENERATORS:
        raise ValueError(f"{len(zonotope)} generators; their sums are tried for at most {MOST_GENERATORS}")


def _sums(zonotope: np.ndarray) -> np.ndarray:
    """All sums [2^n, d] of some of the generators."""
    _check_count(zonotope)
    chosen = np.array(list(itertools.product((0, 1), repeat=len(zonotope)))).reshape(2 ** len(zonotope), len(zonotope))
    return chosen @ zonotope


# ---- Bounds --------------------------------------------------------------------------------------------------


def ball_factor(radius: float) -> float:
    """Return rho = sqrt(r^2 + 1), by which distances of zonotopes bound changes on the ball |x| <= r."""
    return float(np.sqrt(radius**2 + 1))


def signed_generators(layer: HiddenLayer, output: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the generators of P_j and of Q_j for output j: |C_ji| (a_i, b_i) where C_ji is positive, negative."""
    weight, extended = layer.outputs[:, output], layer.extended
    return tuple(np.abs(weight[some])[:, None] * extended[some] for some in (weight > 0, weight < 0))


def theorem_11(layer: HiddenLayer, merged: HiddenLayer) -> float:
    """Return a bound of the L1 norm of the outputs' change, over rho: the sum of all H(P_j, P~_j) and H(Q_j, Q~_j)."""
    return sum(
        hausdorff_distance(here, there)
        for j in range(layer.outputs.shape[1])
        for here, there in zip(signed_generators(layer, j), signed_generators(merged, j), strict=True)
    )


def proposition_12(layer: HiddenLayer, labels: np.ndarray) -> float | None:
    """Return the bound of Algorithm 1's change, over rho: the sum over all neurons of min(|g_i|, delta_max).

    g_i are the generators, delta_max the largest distance of one from its cluster's mean. None where two generators of
    a cluster form an obtuse angle, for which it says nothing. Neurons without output weight (label -1) count nothing.
    """
    total, largest, lengths = 0.0, 0.0, []
    for rows in _clusters(layer, labels):
        if (rows @ rows.T < 0).any():
            return None
        largest = max(largest, float(np.linalg.norm(rows - rows.mean(axis=0), axis=1).max()))
        lengths.append(np.linalg.norm(rows, axis=1))
    for some in lengths:
        total += float(np.minimum(some, largest).sum())
    return total


def angle_bound(layer: HiddenLayer, labels: np.ndarray) -> float | None:
    """Return a tighter bound for Algorithm 1, over rho: half the sum of |g_i| sin(angle(g_i, s)), s the cluster's sum.

    It holds, and else None is returned, where all g_i of a cluster have non-negative products with s. For a vertex u of
    the cluster's zonotope, the sum over some members, the point of [0, s] with the same projection on s differs from u
    by the sum of those members' parts across s. All members' parts add up to nothing, so that those of some are as long
    as those of the others, and neither is longer than half the sum of all lengths.
    """
    total = 0.0
    for rows in _clusters(layer, labels):
        direction = rows.sum(axis=0)
        along = rows @ direction
        if (along < 0).any():
            return None
        if np.any(direction):
            across = rows - np.outer(along / (direction @ direction), direction)
            total += float(np.linalg.norm(across, axis=1).sum()) / 2
    return total


def _clusters(layer: HiddenLayer, labels: np.ndarray) -> list[np.ndarray]:
    """The generators of each cluster of a layer with one output."""
    rows = np.abs(layer.outputs) * layer.extended
    return [rows[labels == k] for k in range(labels.max() + 1)]


def proposition_14(layer: HiddenLayer, labels: np.ndarray, merged: HiddenLayer) -> float | None:
    """Return the bound of the sign-frozen variant's change (L1 norm, over rho), as Proposition 14 derives it.

    Its last step but two is used, which is tighter than the printed bound: for every output j, the sum over the members
    of min(|C_ji (a_i, b_i)|, |l_jk| / |I_jk| + |epsilon_ji|), and |C_ji (a_i, b_i)| for null neurons. l_jk: what
    C~_jk (a~_k, b~_k) differs by from the sum over I_jk, the members with the sign of C~_jk; epsilon_ji: what a member
    differs by from their mean. None where two input vectors of a cluster form an obtuse angle, or where C~_jk are not
    the least-squares weights, for which it says nothing.
    """
    extended, stands = layer.extended, merged.extended
    total = 0.0
    for k in range(labels.max() + 1):
        members = np.flatnonzero(labels == k)
        if (extended[members] @ extended[members].T < 0).any():
            return None
        for j in range(layer.outputs.shape[1]):
            weight, here = layer.outputs[members, j], merged.outputs[k, j]
            rows = weight[:, None] * extended[members]
            same = weight * here > 0
            total += float(np.linalg.norm(rows[~same], axis=1).sum())
            if not same.any():
                if here != 0:
                    return None
                continue
            error = here * stands[k] - rows[same].sum(axis=0)
            if abs(error @ stands[k]) > 1e-9 * (1 + abs(here)) * (stands[k] @ stands[k]):
                return None
            apart = np.linalg.norm(rows[same] - rows[same].mean(axis=0), axis=1)
            total += float(
                np.minimum(np.linalg.norm(rows[same], axis=1), np.linalg.norm(error) / same.sum() + apart).sum()
            )
    return total
