"""Ways to leave so many channels of every hidden layer: TropNNC's, and those that it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from scipy.cluster.hierarchy import fcluster

from bnncc.errors import BadInput
from bnncc.passes import binary_layers as bl
from bnncc.passes.tropnnc import clustering, graph_layers, merging
from bnncc.passes.tropnnc.compress import Change, cluster_vectors, stand_ins
from bnncc.passes.tropnnc.graph_layers import GraphLayer
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer
from bnncc.passes.tropnnc.thinet import select_channels

Reduced = tuple[HiddenLayer, "np.ndarray | None"]


@dataclass(frozen=True)
class Task:
    """A hidden layer of which `count` channels are to be left.

    activations: gives what the second node reads, for the samples at hand; None where there are none.
    """

    layer: GraphLayer
    count: int
    seed: int
    activations: Callable[[], np.ndarray] | None


@dataclass(frozen=True)
class Method:
    """A way to reduce a layer: gives the fused layer that is left, and what is added to the second node's bias."""

    name: str
    what: str
    reduce: Callable[[Task], Reduced]
    needs_data: bool = False


# ---- Clusters ------------------------------------------------------------------------------------------------


def _kmeans(task: Task, mode: str) -> np.ndarray:
    return clustering.kmeans_labels(cluster_vectors(task.layer, mode), task.count, task.seed)


def _tropnnc(task: Task) -> Reduced:
    return stand_ins(task.layer, _kmeans(task, "matched"), "matched")


def _tropnnc_ward(task: Task) -> Reduced:
    return stand_ins(task.layer, _ward(cluster_vectors(task.layer, "matched"), task.count), "matched")


def _tropnnc_paper(task: Task) -> Reduced:
    return stand_ins(task.layer, _kmeans(task, "paper"), "paper")


def _neural_path(task: Task) -> Reduced:
    fused = graph_layers.fused_layer(task.layer)
    labels = clustering.kmeans_labels(clustering.neuron_vectors(fused), task.count, task.seed)
    return merging.merge_neural_path_kmeans(fused, labels), None


def _single_output(merge: Callable[[HiddenLayer, np.ndarray], HiddenLayer], name: str) -> Callable[[Task], Reduced]:
    def reduce(task: Task) -> Reduced:
        fused = graph_layers.fused_layer(task.layer)
        if fused.outputs.shape[1] != 1:
            raise BadInput(
                f"method {name}: '{task.layer.second.name}' has {fused.outputs.shape[1]} outputs for a channel of "
                f"'{task.layer.first.name}', not one"
            )
        signs = np.unique(np.sign(fused.outputs[fused.outputs != 0]))
        return merge(fused, merging.signed_labels(fused, max(task.count, len(signs)), task.seed)), None

    return reduce


def _ward(vectors: np.ndarray, count: int) -> np.ndarray:
    tree = clustering.merge_tree(vectors)
    return clustering.in_order(fcluster(tree, count, "maxclust")) if len(tree) else np.zeros(1, int)


# ---- Pruning -------------------------------------------------------------------------------------------------


def _subset(layer: GraphLayer, chosen: np.ndarray) -> HiddenLayer:
    fused, chosen = graph_layers.fused_layer(layer), np.sort(chosen)
    return HiddenLayer(fused.inputs[chosen], fused.bias[chosen], fused.outputs[chosen])


def _cup(task: Task) -> Reduced:
    """Cluster pruning (Duggal et al., 2019): the channel of the largest feature stands for its cluster, as it is."""
    features = kernel_norms(task.layer)
    labels, length = _ward(features, task.count), np.linalg.norm(features, axis=1)
    members = (np.flatnonzero(labels == k) for k in range(labels.max() + 1))
    return _subset(task.layer, np.array([some[np.argmax(length[some])] for some in members])), None


def kernel_norms(layer: GraphLayer) -> np.ndarray:
    """Return the Frobenius norms of the kernels that enter and leave each channel [n, inputs + outputs]."""
    rows = bl.weights_of(layer.first).astype(np.float64)
    rows = np.linalg.norm(rows.reshape(*rows.shape[:2], -1), axis=2)
    columns = np.swapaxes(bl.weights_of(layer.second).astype(np.float64), 0, 1)
    columns = np.linalg.norm(columns.reshape(*columns.shape[:2], -1), axis=2)
    return np.hstack([rows, columns.reshape(len(rows), -1)])


def _l1(task: Task) -> Reduced:
    score = np.abs(graph_layers.raw_layer(task.layer).inputs).sum(axis=1)
    return _subset(task.layer, np.argsort(-score, kind="stable")[: task.count]), None


def _random(task: Task) -> Reduced:
    rng = np.random.default_rng(task.seed)
    return _subset(task.layer, rng.choice(task.layer.channels, task.count, replace=False)), None


def _thinet(task: Task) -> Reduced:
    chosen, scale = select_channels(task.layer, task.count, task.activations(), task.seed)
    left = _subset(task.layer, chosen)
    return HiddenLayer(left.inputs, left.bias, left.outputs * scale[:, None]), None


METHODS = {
    method.name: method
    for method in (
        Method("tropnnc", "TropNNC, variance, norms or least squares matched", _tropnnc),
        Method("tropnnc-ward", "the same, of Ward's clusters", _tropnnc_ward),
        Method("tropnnc-paper", "TropNNC, Algorithm 2", _tropnnc_paper),
        Method("tropnnc-single", "TropNNC, Algorithm 1 (one output)",
               _single_output(merging.merge_single_output, "tropnnc-single")),
        Method("neural-path", "Neural Path K-means (Misiakos et al., 2022)", _neural_path),
        Method("zonotope", "Zonotope K-means (the same; one output)",
               _single_output(merging.merge_zonotope_kmeans, "zonotope")),
        Method("cup", "CUP: Ward on kernels' norms, the largest stands for its cluster", _cup),
        Method("thinet", "ThiNet: greedy selection on data, outputs rescaled", _thinet, needs_data=True),
        Method("l1", "the channels of the largest weights", _l1),
        Method("random", "channels at random", _random),
    )
}  # fmt: skip


def reduce_channels(
    graph: gs.Graph,
    method: Method,
    keep: float,
    seed: int = 0,
    record: Callable[[gs.Graph, str], np.ndarray] | None = None,
) -> list[Change]:
    """Leave a share of the channels of every hidden layer of a graph, one at least; return what changed.

    record: gives a tensor of the graph as it is then, by name, for samples; needed by methods that need data. Where a
    method finds fewer clusters than asked for, fewer channels are left.
    """
    changes = []
    for layer in graph_layers.find_layers(graph)[0]:
        before = layer.channels
        count = max(1, round(keep * before))
        if count < before:
            name = layer.second.inputs[0].name
            activations = None if record is None else (lambda name=name: record(graph, name))
            merged, shift = method.reduce(Task(layer, count, seed, activations))
            graph_layers.replace_layer(graph, layer, merged, shift)
        changes.append(Change(layer.first.name, before, layer.channels))
    return changes
