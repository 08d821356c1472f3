"""All hidden layers of a graph compressed: how many clusters each gets, of which vectors, and what stands for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes.tropnnc import clustering, graph_layers, merging, norm_matching
from bnncc.passes.tropnnc import variance_matching as vm
from bnncc.passes.tropnnc.certificates import certificates
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer

MODES = ("matched", "paper")
THRESHOLDS = {"v1": clustering.threshold_v1, "v2": clustering.threshold_v2, "v3": clustering.threshold_v3}


@dataclass(frozen=True)
class Choice:
    """How many clusters a hidden layer gets, by exactly one of four, and what stands for a cluster.

    keep: the share of neurons that are left, in (0, 1], by K-means; v1, v2, v3: the constant of the distance at which
    Ward's hierarchical clustering is cut (see clustering.threshold_v1 and its like), at least 0. mode: "matched" for
    variance matching where a batch-norm tells of the pre-activations, and elsewhere for norm matching, of convolutions,
    or least squares; "paper" for Algorithm 2 throughout. seed: of K-means. Raises ValueError for anything else.
    """

    keep: float | None = None
    v1: float | None = None
    v2: float | None = None
    v3: float | None = None
    mode: str = "matched"
    seed: int = 0

    def __post_init__(self) -> None:
        given = {name: value for name in ("keep", *THRESHOLDS) if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            raise ValueError(
                f"one of keep, {', '.join(THRESHOLDS)} is to be given, not {' and '.join(given) or 'none'}"
            )
        (name, value), *_ = given.items()
        if name == "keep" and not 0 < value <= 1:
            raise ValueError(f"keep is {value}; it is a share above 0 and at most 1")
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} is {value}; it is a distance of at least 0")
        if self.mode not in MODES:
            raise ValueError(f"mode '{self.mode}' is none of {', '.join(MODES)}")

    def labels(self, vectors: np.ndarray) -> np.ndarray:
        """Return the clusters of vectors [n, f]: int [n]."""
        if self.keep is not None:
            return clustering.kmeans_labels(vectors, max(1, round(self.keep * len(vectors))), self.seed)
        (name,) = (name for name in THRESHOLDS if getattr(self, name) is not None)
        distance = THRESHOLDS[name](vectors, getattr(self, name))
        return clustering.cut(clustering.merge_tree(vectors), distance)


@dataclass(frozen=True)
class Change:
    """What became of one hidden layer: the node before it, its channels before and after, and bounds of the change.

    bounds: by name, see certificates.
    """

    node: str
    before: int
    after: int
    bounds: dict[str, float] = field(default_factory=dict)


def compress(
    graph: gs.Graph,
    choice: Callable[[str], Choice],
    radius: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Change]:
    """Compress the hidden layers of a graph in its order; return what changed.

    choice: for the name of a layer's first node. radius: of the inputs that bounds are given for; None for no bounds.
    progress: told a line for every layer.

    A layer's clusters come from the weights that it has once the layers before it are compressed, before any batch-norm
    is folded into them, and without biases where there is one (the paper's section 6: consistently better).
    """
    layers, _ = graph_layers.find_layers(graph)
    changes = []
    for number, layer in enumerate(layers, 1):
        if progress is not None:
            progress(f"tropnnc: layer {number} of {len(layers)}: {layer.first.name}")
        changes.append(_compress_layer(graph, layer, choice(layer.first.name), radius))
    return changes


def _compress_layer(graph: gs.Graph, layer: graph_layers.GraphLayer, choice: Choice, radius: float | None) -> Change:
    before, fused = layer.channels, graph_layers.fused_layer(layer)
    labels = choice.labels(cluster_vectors(layer, choice.mode))
    after = int(labels.max()) + 1
    if after == before:  # nothing is merged, and nothing is to be rounded
        return Change(layer.first.name, before, after)
    merged, shift = stand_ins(layer, labels, choice.mode)
    bounds = {} if radius is None else certificates(fused, labels, merged, radius, shift)
    graph_layers.replace_layer(graph, layer, merged, shift)
    return Change(layer.first.name, before, after, bounds)


def cluster_vectors(layer: graph_layers.GraphLayer, mode: str) -> np.ndarray:
    """Return the vectors [n, f] whose clusters a mode merges: raw weights, balanced if matched."""
    norm = layer.norm is not None
    return clustering.neuron_vectors(graph_layers.raw_layer(layer), bias=not norm, balanced=mode == "matched")


def stand_ins(layer: graph_layers.GraphLayer, labels: np.ndarray, mode: str) -> tuple[HiddenLayer, np.ndarray | None]:
    """Return what stands for the clusters in a mode, fused, and what is to be added to the second node's bias."""
    fused = graph_layers.fused_layer(layer)
    if mode == "paper":
        return merging.merge_multi_output(fused, labels), None
    given = graph_layers.pre_activations(layer)
    if given is not None:
        result = vm.merge_variance_matched(fused, labels, given, graph_layers.output_channels(layer))
        return result.layer, result.shift
    if layer.first.op == "Conv":
        return norm_matching.merge_norm_rescaled(fused, labels), None
    return norm_matching.merge_least_squares(fused, labels), None
