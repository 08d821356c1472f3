"""What stands for a cluster of a graph's channels: the paper's algorithms, what goes beyond them, and their rivals.

A way to reduce a hidden layer either merges clusters of channels (Merging) or keeps some channels as they are
(Selection). Both give the fused layer that is left, and what is to be added to the second node's bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bnncc.passes import binary_layers as bl
from bnncc.passes.tropnnc import clustering, graph_layers, merging
from bnncc.passes.tropnnc import variance_matching as vm
from bnncc.passes.tropnnc.graph_layers import GraphLayer
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer
from bnncc.passes.tropnnc.input_statistics import correlated
from bnncc.passes.tropnnc.least_squares import merge_least_squares, merge_sampled

Reduced = tuple[HiddenLayer, "np.ndarray | None"]
ITERATIONS = 10  # of Algorithm 3 and the sign-frozen variant


@dataclass(frozen=True)
class Merging:
    """Clusters of channels become one channel each.

    vectors: [n, f], what is clustered. merge: from labels [n] to what is left. single_output: for layers with one
    output only; clusters are sought among channels of positive and of negative output weight, and others dropped.
    threshold: the kind of distance whose constant a target size is solved for. clusters: how a share of channels is
    found, "kmeans" or a linkage, unless a choice says otherwise. any_activation: whether it makes sense without ReLU.
    """

    name: str
    what: str
    vectors: Callable[[GraphLayer], np.ndarray]
    merge: Callable[[GraphLayer, np.ndarray], Reduced]
    single_output: bool = False
    threshold: str = "v2"
    clusters: str = "kmeans"
    any_activation: bool = False


@dataclass(frozen=True)
class Selection:
    """Some channels are kept, by their fused weights.

    select: from the number of channels, a seed and the samples' activations (a function; None without samples) to the
    channels and factors of their output weights, or None.
    """

    name: str
    what: str
    select: Callable[[GraphLayer, int, int, Callable[[], np.ndarray] | None], tuple[np.ndarray, np.ndarray | None]]
    needs_data: bool = False


Mode = Merging | Selection


# ---- Vectors -------------------------------------------------------------------------------------------------


def raw_vectors(layer: GraphLayer) -> np.ndarray:
    """Return weights before batch-norm is folded in, without biases where there is one (the paper's section 6)."""
    return clustering.neuron_vectors(graph_layers.raw_layer(layer), bias=layer.norm is None)


def matched_vectors(layer: GraphLayer) -> np.ndarray:
    """Return raw weights without biases, input and output weights of each channel scaled to one norm.

    Of linear layers without batch-norm, Algorithm 2's vectors: few clusters of others mix what differs. Without ReLU
    too, since only with it neurons may be scaled.
    """
    if not layer.is_relu or (layer.first.op != "Conv" and layer.norm is None):
        return raw_vectors(layer)
    return clustering.neuron_vectors(graph_layers.raw_layer(layer), bias=False, balanced=True)


def fused_vectors(layer: GraphLayer) -> np.ndarray:
    """Return weights and biases with everything up to the activation in them."""
    return clustering.neuron_vectors(graph_layers.fused_layer(layer))


def generator_vectors(layer: GraphLayer) -> np.ndarray:
    """Return the generators of the single output's zonotopes."""
    return merging.generators(graph_layers.fused_layer(layer))


# ---- What stands for a cluster -------------------------------------------------------------------------------


def of_fused(merge: Callable[[HiddenLayer, np.ndarray], HiddenLayer]) -> Callable[[GraphLayer, np.ndarray], Reduced]:
    """Return the merge of a graph's layer that merges its fused weights."""
    return lambda layer, labels: (merge(graph_layers.fused_layer(layer), labels), None)


def merge_matched(layer: GraphLayer, labels: np.ndarray) -> Reduced:
    """Variance matching for convolutions, and where a batch-norm tells of the pre-activations; else least squares."""
    if not layer.is_relu:
        return _merge_sampled(layer, labels)
    fused, given = graph_layers.fused_layer(layer), graph_layers.pre_activations(layer)
    if given is not None:
        result = vm.merge_variance_matched(fused, labels, given, graph_layers.output_channels(layer))
        return result.layer, result.shift
    return merge_least_squares(fused, labels), None


def _merge_sampled(layer: GraphLayer, labels: np.ndarray) -> Reduced:
    kernel = bl.weights_of(layer.first).shape[1:]
    merged, shift = merge_sampled(
        graph_layers.fused_layer(layer),
        labels,
        lambda rows: correlated(rows.reshape(-1, *kernel)),
        graph_layers.activation_function(layer),
    )
    return merged, np.bincount(graph_layers.output_channels(layer), shift)


def iterated(merge: Callable[[HiddenLayer, np.ndarray, int], HiddenLayer]) -> Callable:
    """Return a merge that iterates so many times."""
    return of_fused(lambda layer, labels: merge(layer, labels, ITERATIONS))


MODES: dict[str, Merging] = {
    mode.name: mode
    for mode in (
        Merging("matched", "TropNNC, variances matched, or least squares", matched_vectors, merge_matched,
                threshold="v3", any_activation=True),
        Merging("paper", "TropNNC, Algorithm 2", raw_vectors, of_fused(merging.merge_multi_output),
                any_activation=True),
        Merging("algorithm-1", "TropNNC, Algorithm 1 (one output)", generator_vectors,
                of_fused(merging.merge_single_output), single_output=True),
        Merging("algorithm-3", f"TropNNC, Algorithm 3, {ITERATIONS} iterations", raw_vectors,
                iterated(merging.merge_iterative)),
        Merging("svd", "TropNNC, what Algorithm 3 tends to", raw_vectors, of_fused(merging.merge_rank_one)),
        Merging("sign-frozen", f"TropNNC, Algorithm 3 with frozen signs, {ITERATIONS} iterations", raw_vectors,
                iterated(merging.merge_sign_frozen)),
    )
}  # fmt: skip
"""TropNNC's own, by the names that users give them."""
