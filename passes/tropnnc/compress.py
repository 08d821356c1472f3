"""All hidden layers of a graph compressed: how many channels each keeps, which are clustered, what stands for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.errors import BadInput
from bnncc.passes.base import Note
from bnncc.passes.tropnnc import clustering, graph_layers, merging
from bnncc.passes.tropnnc.certificates import certificates, output_bound
from bnncc.passes.tropnnc.graph_layers import GraphLayer
from bnncc.passes.tropnnc.modes import MODES, Merging, Mode
from bnncc.passes.tropnnc.rivals import subset

THRESHOLDS = {
    "distance": lambda vectors, constant: constant,
    "v1": clustering.threshold_v1,
    "v2": clustering.threshold_v2,
    "v3": clustering.threshold_v3,
}
CLUSTERS = ("kmeans", *clustering.LINKAGES)
_FARTHEST = 1e15  # constants that a target is sought among
_PRECISION = 1.002  # of the constant

Recorder = Callable[[gs.Graph, str], np.ndarray]


@dataclass(frozen=True)
class Choice:
    """How many channels of a hidden layer are left, and what stands for the others.

    amount: "keep", and value the share of channels that is left, in (0, 1]; or one of THRESHOLDS, and value its
    constant, at least 0: hierarchical clustering is cut at that distance (see clustering.threshold_v1 and its like).
    clusters: one of CLUSTERS, for hierarchical clustering a linkage; None for what is usual. seed: of K-means and of
    selections. Raises ValueError for anything else.
    """

    amount: str
    value: float
    mode: Mode = MODES["matched"]
    clusters: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.amount != "keep" and self.amount not in THRESHOLDS:
            raise ValueError(f"amount '{self.amount}' is none of keep, {', '.join(THRESHOLDS)}")
        if self.amount == "keep" and not 0 < self.value <= 1:
            raise ValueError(f"keep is {self.value}; it is a share above 0 and at most 1")
        if not 0 <= self.value < np.inf:
            raise ValueError(f"{self.amount} is {self.value}; it is a distance of at least 0")
        if self.clusters is not None and self.clusters not in CLUSTERS:
            raise ValueError(f"clusters '{self.clusters}' is none of {', '.join(CLUSTERS)}")
        if self.amount != "keep" and (self.clusters == "kmeans" or not isinstance(self.mode, Merging)):
            raise ValueError(f"{self.amount} is a distance of hierarchical clustering, and takes a linkage")

    def count(self, channels: int) -> int:
        """Return how many of so many channels a share is, one at least."""
        return max(1, round(self.value * channels))

    def labels(self, layer: GraphLayer) -> np.ndarray:
        """Return the clusters of a layer's channels: int [n], -1 for channels to be dropped."""
        vectors = self.mode.vectors(layer)
        groups = [np.arange(len(vectors))]
        if self.mode.single_output:
            groups = merging.sign_groups(graph_layers.fused_layer(layer))
            if not groups:  # all output weights are 0
                return np.arange(len(vectors))
        if self.amount == "keep":
            count = max(self.count(len(vectors)), len(groups))
            shares = clustering.shares_of([len(some) for some in groups], count)
            return clustering.labels_by_groups(
                groups, len(vectors), lambda k, some: self._share(vectors[some], shares[k])
            )
        distance = THRESHOLDS[self.amount](vectors, self.value)
        linkage = self.clusters or "ward"
        return clustering.labels_by_groups(
            groups,
            len(vectors),
            lambda _, some: clustering.cut(clustering.merge_tree(vectors[some], linkage), distance),
        )

    def _share(self, vectors: np.ndarray, count: int) -> np.ndarray:
        clusters = self.clusters or self.mode.clusters
        if clusters == "kmeans":
            return clustering.kmeans_labels(vectors, count, self.seed)
        return clustering.hierarchical_labels(vectors, count, clusters)


@dataclass(frozen=True)
class Change:
    """What became of one hidden layer: the node before it, its channels before and after, and bounds of the change.

    bounds: by name, see certificates; output_bound: the one by Lipschitz constants for the outputs themselves, which
    the others are small or large against. Neither without a radius, clusters, or ReLU.
    """

    node: str
    before: int
    after: int
    bounds: dict[str, float] = field(default_factory=dict)
    output_bound: float | None = None


# ---- Layers --------------------------------------------------------------------------------------------------


def find_layers(
    graph: gs.Graph, mode: Mode = MODES["matched"], any_activation: bool = False
) -> tuple[list[GraphLayer], list[Note]]:
    """Return the hidden layers of a graph that a mode can be used on, in its order, and why others are left alone."""
    layers, notes = graph_layers.find_layers(graph, any_activation)
    if not isinstance(mode, Merging) or not mode.single_output:
        return layers, notes
    usable, others = [], []
    for layer in layers:
        outputs = graph_layers.output_count(layer)
        if outputs == 1 and layer.is_relu:
            usable.append(layer)
        elif outputs == 1:
            others.append(Note(layer.first.name, f"{layer.activation.op} follows it, and {mode.name} is for ReLU"))
        else:
            text = f"'{layer.second.name}' has {outputs} outputs for a channel, and {mode.name} is for one"
            others.append(Note(layer.first.name, text))
    return usable, others + notes


def no_layers(notes: list[Note]) -> BadInput:
    """Return the error for a graph without a layer that can be compressed."""
    reasons = "; ".join(f"{note.node}: {note.text}" for note in notes[:3]) or "no layers with constant weights"
    more = f"; and {len(notes) - 3} more" if len(notes) > 3 else ""
    return BadInput(f"tropnnc: no hidden ReLU layer that can be compressed ({reasons}{more})")


# ---- Compressing ---------------------------------------------------------------------------------------------


def compress(
    graph: gs.Graph,
    layers: list[GraphLayer],
    choice: Callable[[str], Choice],
    radius: float | None = None,
    progress: Callable[[str], None] | None = None,
    record: Recorder | None = None,
) -> list[Change]:
    """Compress hidden layers of a graph in its order; return what changed.

    layers: as find_layers gives them. choice: for the name of a layer's first node. radius: of the inputs that bounds
    are given for; None for no bounds. progress: told a line for every layer. record: gives a tensor of the graph as it
    is then, by name, for samples; needed by modes that need data.

    A layer's clusters come from the weights that it has once the layers before it are compressed.
    """
    changes = []
    for number, layer in enumerate(layers, 1):
        name = layer.first.name
        if progress is not None:
            progress(f"tropnnc: layer {number} of {len(layers)}: {name}")
        asked = choice(name)
        if isinstance(asked.mode, Merging):
            changes.append(_merge_layer(graph, layer, asked, radius))
        else:
            changes.append(_select_channels(graph, layer, asked, record))
    return changes


def _merge_layer(graph: gs.Graph, layer: GraphLayer, choice: Choice, radius: float | None) -> Change:
    if not layer.is_relu and not choice.mode.any_activation:
        choice = replace(choice, mode=MODES["paper"])
    node, before, fused = layer.first.name, layer.channels, graph_layers.fused_layer(layer)
    labels = choice.labels(layer)
    after = int(labels.max()) + 1
    if after == before:  # nothing is merged, and nothing is to be rounded
        return Change(node, before, after)
    merged, shift = choice.mode.merge(layer, labels)
    bounds, largest = {}, None
    if radius is not None and layer.is_relu:
        bounds = certificates(
            fused, labels, merged, radius, shift, single_output=choice.mode.single_output, maxima=layer.takes_maxima
        )
        largest = output_bound(fused, radius)
    graph_layers.replace_layer(graph, layer, merged, shift)
    return Change(node, before, after, bounds, largest)


def _select_channels(graph: gs.Graph, layer: GraphLayer, choice: Choice, record: Recorder | None) -> Change:
    node, before, count = layer.first.name, layer.channels, choice.count(layer.channels)
    if count == before:
        return Change(node, before, before)
    name = layer.second.inputs[0].name
    activations = None if record is None else lambda: record(graph, name)
    chosen, scale = choice.mode.select(layer, count, choice.seed, activations)
    graph_layers.replace_layer(graph, layer, subset(layer, chosen, scale))
    return Change(node, before, count)


# ---- Target sizes --------------------------------------------------------------------------------------------


class OutOfReach(BadInput):
    """A size that no choice gives."""


def reach(cost: Callable[[float], float], limit: float) -> float | None:
    """Return the smallest constant, nearly, at whose distance the cost is within a limit; None where none is.

    cost: of the constant, falling. Constants are sought from 1 on, by tens, up and down to where they cannot matter.
    """
    high = 1.0
    while cost(high) > limit:
        high *= 10
        if high > _FARTHEST:
            return None
    low = high / 10
    while cost(low) <= limit:
        high, low = low, low / 10
        if low < 1 / _FARTHEST:
            return high
    while high / low > _PRECISION:
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if cost(middle) > limit else (low, middle)
    return high
