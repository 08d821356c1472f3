"""Bounds of what a compression changes in a layer's outputs, for all inputs in a ball: what holds of which layer."""

from __future__ import annotations

import numpy as np

from bnncc.passes.tropnnc import zonotopes
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer

# Zonotopes whose sums are all tried are of so many generators, and there may be so many of them.
_MOST_GENERATORS, _MOST_OUTPUTS = 8, 16


def certificates(
    layer: HiddenLayer,
    labels: np.ndarray,
    merged: HiddenLayer,
    radius: float,
    shift: np.ndarray | None = None,
    *,
    single_output: bool = False,
    maxima: bool = False,
) -> dict[str, float]:
    """Return bounds, by name, of the L1 norm of the change of a layer's outputs on the ball |x| <= radius.

    labels: [n], -1 for neurons that are dropped; shift: what is added to the outputs besides. "lipschitz" holds of any
    layer (see lipschitz_bound). "theorem_11" is there where the zonotopes are small enough for their exact Hausdorff
    distances, "proposition_14" where its conditions hold; both of layers without a shift. single_output: the layer is
    merged by Algorithm 1: "proposition_12" and "angle" (see zonotopes.angle_bound) are there where their conditions
    hold, and Proposition 14 is about something else. maxima: the second layer reads maxima over positions, which need
    not be the same of all neurons: then "lipschitz" is all there is. All bounds are of exact arithmetic.
    """
    rho = zonotopes.ball_factor(radius)
    if single_output:
        found = {"lipschitz": _generator_bound(layer, labels, merged)}
        if not maxima:
            found["proposition_12"] = zonotopes.proposition_12(layer, labels)
            found["angle"] = zonotopes.angle_bound(layer, labels)
            if layer.neurons <= _MOST_GENERATORS:
                found["theorem_11"] = zonotopes.theorem_11(layer, merged)
        return {name: rho * bound for name, bound in found.items() if bound is not None}
    bounds = {"lipschitz": rho * lipschitz_bound(layer, labels, merged)}
    if shift is not None and np.any(shift):
        bounds["lipschitz"] += float(np.abs(shift).sum())
        return bounds
    if maxima:
        return bounds
    if layer.neurons <= _MOST_GENERATORS and layer.outputs.shape[1] <= _MOST_OUTPUTS:
        bounds["theorem_11"] = rho * zonotopes.theorem_11(layer, merged)
    sign_frozen = zonotopes.proposition_14(layer, labels, merged)
    if sign_frozen is not None:
        bounds["proposition_14"] = rho * sign_frozen
    return bounds


def output_bound(layer: HiddenLayer, radius: float) -> float:
    """Return a bound of the L1 norm of a layer's outputs on the ball |x| <= radius: rho sum |C_ji| |(a_i, b_i)|."""
    lengths = np.linalg.norm(layer.extended, axis=1)
    return zonotopes.ball_factor(radius) * float(np.abs(layer.outputs).sum(axis=1) @ lengths)


def _generator_bound(layer: HiddenLayer, labels: np.ndarray, merged: HiddenLayer) -> float:
    """Return a bound for Algorithm 1 by Lipschitz constants, over rho: the sum of what generators differ in.

    What stands for n neurons is as good as n equal ones, with the n-th part of its generator each; that of each of them
    differs from that of a member, and the outputs by no more.
    """
    rows, total = np.abs(layer.outputs) * layer.extended, 0.0
    for k, stands in enumerate(merged.extended):
        members = rows[labels == k]
        total += float(np.linalg.norm(members - stands / len(members), axis=1).sum())
    return total


def lipschitz_bound(layer: HiddenLayer, labels: np.ndarray, merged: HiddenLayer) -> float:
    """Return a bound of the L1 norm of the outputs' change, over rho, that needs nothing of weights or clusters.

    With g_i = (a_i, b_i) and g~_k what stands for its cluster, relu being 1-Lipschitz and 0 at 0,

        sum over j, k of   sum over I_k of |C_ji| |g_i - g~_k|   +   |sum over I_k of C_ji - C~_jk| |g~_k|.

    It holds as well behind max and average pools, which are 1-Lipschitz in the largest difference of their inputs.
    """
    extended, stands = layer.extended, merged.extended
    apart = np.linalg.norm(extended - stands[labels], axis=1)
    lost = merged.outputs.copy()
    np.subtract.at(lost, labels, layer.outputs)
    inputs = float(np.abs(layer.outputs).sum(axis=1) @ apart)
    return inputs + float(np.abs(lost).sum(axis=1) @ np.linalg.norm(stands, axis=1))
