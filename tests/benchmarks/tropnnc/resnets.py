"""The paper's Tables 4 and 6, ResNet-20, and an ablation, on trained residual networks and CIFAR-10's test set.

BNNCC_DATA=... python tests/benchmarks/tropnnc/resnets.py [--cifar10 FOLDER] [--table 4|6|resnet-20|ablation] [--json F]

The networks are Y. Idelbayev's, from $BNNCC_DATA/models/resnet-cifar10-float; FOLDER has test_batch.bin. Nothing is
trained, and no data is used but for the accuracy. Every size is reached as `--tropnnc target-params` reaches it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from bnncc.config import Config
from bnncc.models import data as datasets
from bnncc.passes.fold_batchnorm import FoldBatchNorm
from bnncc.passes.tropnnc import clustering, graph_layers, merging
from bnncc.passes.tropnnc import variance_matching as vm
from bnncc.passes.tropnnc.compress import Choice, compress, find_layers, reach
from bnncc.passes.tropnnc.cost import count_flops, count_params
from bnncc.passes.tropnnc.graph_layers import GraphLayer
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer, from_extended
from bnncc.passes.tropnnc.modes import MODES, Merging, Reduced, fused_vectors, of_fused
from bnncc.passes.tropnnc.rivals import RIVALS, kernel_norms
from bnncc.tropnnc_judge import Judge, load_network

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # that the networks were trained with
CUP, PAPER, MATCHED = RIVALS["cup"], MODES["paper"], MODES["matched"]


@dataclass
class Case:
    """A way to compress, to at most `limit` parameters, or that share of them; `wanted`: accuracy, %, at least."""

    label: str
    mode: Merging
    limit: float
    wanted: float | None = None
    paper: str = ""
    threshold: str | None = None
    linkage: str | None = None
    fold_first: bool = False


@dataclass
class Row:
    """What came of a case."""

    table: str
    label: str
    constant: float
    params: int
    flops: int | None
    smallest_layer: int
    accuracy: float
    wanted: float | None
    paper: str


class Network:
    """A trained network and the test set."""

    def __init__(self, name: str, folder: Path | None) -> None:
        path = Path(os.environ["BNNCC_DATA"]) / "models" / "resnet-cifar10-float" / f"{name}_cifar10.onnx"
        network = load_network(path, Config())
        self.graph, self.context = network.graph, network.context
        test = datasets.load("cifar10", "test", folder)
        pixels = (test.images / 255.0 - MEAN[:, None, None]) / STD[:, None, None]
        with tempfile.TemporaryDirectory() as temporary:
            data = Path(temporary) / "test.npz"
            np.savez(data, **{self.graph.inputs[0].name: pixels.astype(np.float32), "labels": test.labels})
            self.judge = Judge(network, data, 0)
        self.params = count_params(self.graph)

    def measure(self, table: str, case: Case) -> Row:
        """Compress to the size asked for, and run all images."""
        whole = self.graph.copy()
        if case.fold_first:
            FoldBatchNorm().apply(whole, self.context)
        threshold = case.threshold or case.mode.threshold

        def smaller(constant: float) -> tuple[gs.Graph, int]:
            copy, choice = whole.copy(), Choice(threshold, constant, case.mode, case.linkage)
            changes = compress(copy, find_layers(copy, case.mode)[0], lambda node: choice)
            return copy, min(change.after for change in changes)

        limit = case.limit if case.limit > 1 else case.limit * self.params
        constant = reach(lambda constant: count_params(smaller(constant)[0]), limit)
        made, smallest = smaller(constant)
        return Row(
            table,
            case.label,
            constant,
            count_params(made),
            count_flops(made),
            smallest,
            100 * self.judge.accuracy(made),
            case.wanted,
            case.paper,
        )


# ---- Variants of the ablation --------------------------------------------------------------------------------


def raw_with_bias(layer: GraphLayer) -> np.ndarray:
    """Raw weights, and the bias that follows from the batch-norm."""
    raw, fused = graph_layers.raw_layer(layer), graph_layers.fused_layer(layer)
    return clustering.neuron_vectors(HiddenLayer(raw.inputs, fused.bias, raw.outputs))


def fused_without_bias(layer: GraphLayer) -> np.ndarray:
    """Weights with the batch-norm in them."""
    return clustering.neuron_vectors(graph_layers.fused_layer(layer), bias=False)


def mean_outputs(layer: HiddenLayer, labels: np.ndarray) -> HiddenLayer:
    """Algorithm 2 with the mean of the output weights: Neural Path K-means."""
    return merging.merge_neural_path_kmeans(layer, labels)


def sum_inputs(layer: HiddenLayer, labels: np.ndarray) -> HiddenLayer:
    """Sums of the input weights as well (the paper's section 5.2.1 names it as worse)."""
    return from_extended(
        merging.sums_of_clusters(labels, layer.extended), merging.sums_of_clusters(labels, layer.outputs)
    )


def norms_matched(layer: HiddenLayer, labels: np.ndarray) -> HiddenLayer:
    """N1: Algorithm 2 with input weights and biases as long as their members' are on average."""
    start = merging.merge_multi_output(layer, labels)
    lengths = np.linalg.norm(layer.inputs, axis=1, keepdims=True)
    wanted = merging.sums_of_clusters(labels, lengths) / np.bincount(labels)[:, None]
    there = np.linalg.norm(start.inputs, axis=1, keepdims=True)
    return from_extended(start.extended * np.divide(wanted, there, out=np.ones_like(wanted), where=there > 0),
                         start.outputs)  # fmt: skip


def rescaled(layer: GraphLayer, labels: np.ndarray) -> Reduced:
    """N2: merged pre-activations have their members' mean variance."""
    fused, given = graph_layers.fused_layer(layer), graph_layers.pre_activations(layer)
    return vm.merge_rescaled(fused, labels, given)[0], None


def matched_without(**changed: object):
    """Variance matching with something else than usual."""

    def merge(layer: GraphLayer, labels: np.ndarray) -> Reduced:
        fused, given = graph_layers.fused_layer(layer), graph_layers.pre_activations(layer)
        result = vm.merge_variance_matched(fused, labels, given, graph_layers.output_channels(layer), **changed)
        return result.layer, result.shift

    return merge


def without_shift(layer: GraphLayer, labels: np.ndarray) -> Reduced:
    """Variance matching, but the means of the outputs are left as they come."""
    return MATCHED.merge(layer, labels)[0], None


def ablation(limit: float) -> list[Case]:
    """Return all variants at a size: each differs from one of the two modes in one thing."""
    return [
        Case("Algorithm 2 (mode=paper): raw vectors, no bias, Ward, v2", PAPER, limit),
        Case("  vectors: raw, with bias", replace(PAPER, vectors=raw_with_bias), limit),
        Case("  vectors: fused, no bias", replace(PAPER, vectors=fused_without_bias), limit),
        Case("  vectors: fused, with bias", replace(PAPER, vectors=fused_vectors), limit),
        Case("  vectors: CUP's norms of kernels", replace(PAPER, vectors=kernel_norms), limit),
        Case("  vectors: raw, balanced", replace(PAPER, vectors=MATCHED.vectors), limit),
        Case("  linkage: average", PAPER, limit, linkage="average"),
        Case("  linkage: complete", PAPER, limit, linkage="complete"),
        Case("  outputs: mean, not sum", replace(PAPER, merge=of_fused(mean_outputs)), limit),
        Case("  inputs: sum, not mean", replace(PAPER, merge=of_fused(sum_inputs)), limit),
        Case("  stands for it: its largest channel (CUP's)", replace(PAPER, merge=CUP.merge), limit),
        Case("  threshold: v1", PAPER, limit, threshold="v1"),
        Case("  threshold: v3", PAPER, limit, threshold="v3"),
        Case("  folded first (fused model)", PAPER, limit, fold_first=True),
        Case("  folded first, no bias", replace(PAPER, vectors=fused_without_bias), limit, fold_first=True),
        Case("  Algorithm 3", MODES["algorithm-3"], limit),
        Case("  its limit (SVD)", MODES["svd"], limit),
        Case("  its sign-frozen variant", MODES["sign-frozen"], limit),
        Case("  norms matched (N1)", replace(PAPER, merge=of_fused(norms_matched)), limit),
        Case("  variance of pre-activations matched (N2)", replace(PAPER, merge=rescaled), limit),
        Case("Variance matching (mode=matched): balanced vectors, v3", MATCHED, limit),
        Case("  vectors: raw", replace(MATCHED, vectors=PAPER.vectors), limit),
        Case("  threshold: v1", MATCHED, limit, threshold="v1"),
        Case("  threshold: v2", MATCHED, limit, threshold="v2"),
        Case("  linkage: average", MATCHED, limit, linkage="average"),
        Case("  linkage: complete", MATCHED, limit, linkage="complete"),
        Case("  outputs: sums, not least squares", replace(MATCHED, merge=matched_without(ridge=1e9)), limit),
        Case("  outputs' variance not matched", replace(MATCHED, merge=matched_without(most_scale=(1.0, 1.0))), limit),
        Case("  outputs' mean not matched", replace(MATCHED, merge=without_shift), limit),
    ]


# ---- Tables --------------------------------------------------------------------------------------------------

M = 1e6
TABLES: dict[str, tuple[str, list[Case]]] = {
    "6": (
        "resnet56",
        [
            Case("CUP", CUP, 0.725 * M, 85.32, ".72 M, .20 G: 87.32"),
            Case("CUP", CUP, 0.635 * M, 76.83, ".63 M, .17 G: 78.83"),
            Case("CUP", CUP, 0.545 * M, None, ".54 M, .15 G: 71.48"),
            Case("Algorithm 2, v2", PAPER, 0.71 * M, 91.0, ".71 M, .19 G: 90.53"),
            Case("Algorithm 2, v2", PAPER, 0.61 * M, 86.5, "-, .17 G: 87.04"),
            Case("Algorithm 2, v1", PAPER, 0.49 * M, None, ".49 M, .19 G: 82.70", threshold="v1"),
            Case("matched", MATCHED, 0.71 * M, 92.5, ".71 M: 90.53"),
            Case("matched", MATCHED, 0.63 * M, 91.3),
            Case("matched", MATCHED, 0.54 * M, 89.7),
            Case("matched", MATCHED, 0.49 * M, 88.0, ".49 M: 82.70"),
        ],
    ),
    "4": (
        "resnet56",
        [
            Case("CUP, fused", replace(CUP, vectors=kernel_norms), 0.79 * M, None, ".79 M, .18 G: 45.89",
                 fold_first=True),
            Case("Algorithm 2, v2, fused", PAPER, 0.65 * M, None, ".65 M, .18 G: 76.50", fold_first=True),
            Case("the same without bias", replace(PAPER, vectors=fused_without_bias), 0.65 * M, None, "",
                 fold_first=True),
            Case("matched, fused", MATCHED, 0.65 * M, None, "", fold_first=True),
            Case("matched, folded one by one", MATCHED, 0.65 * M),
        ],
    ),
    "resnet-20": (
        "resnet20",
        [Case(label, mode, share, 84.0 if (share, mode) == (0.74, MATCHED) else None)
         for label, mode in (("CUP", CUP), ("Algorithm 2, v2", PAPER), ("matched", MATCHED))
         for share in (0.84, 0.74, 0.63)],
    ),
    "ablation": ("resnet56", [*ablation(0.71 * M), *ablation(0.54 * M)]),
}  # fmt: skip


def main() -> None:
    """Measure the tables asked for and print them; exit status 1 where an accuracy is below what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", type=Path, metavar="FOLDER", help="[default: $BNNCC_DATA/data/cifar10]")
    parser.add_argument("--table", choices=sorted(TABLES), action="append", help="[default: all]")
    parser.add_argument("--json", type=Path, metavar="F.json")
    options = parser.parse_args()
    rows = []
    with G_LOGGER.suppress():
        for table in options.table or TABLES:
            name, cases = TABLES[table]
            network = Network(name, options.cifar10)
            print(f"\n{name}, {network.params:,} parameters, {100 * network.judge.accuracy(network.graph):.2f}%")
            print(f"{'Table ' + table:<58} constant     params   MFLOPs  least   acc. %  wanted  paper")
            for case in cases:
                row = network.measure(table, case)
                rows.append(row)
                wanted = "" if row.wanted is None else f"{row.wanted:.2f}"
                missed = " MISSED" if row.wanted is not None and row.accuracy < row.wanted else ""
                print(f"{row.label:<58} {row.constant:8.4f} {row.params:10,} {row.flops / M:8.1f} "
                      f"{row.smallest_layer:6} {row.accuracy:8.2f}  {wanted:>6}  {row.paper}{missed}",
                      flush=True)  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if any(row.wanted is not None and row.accuracy < row.wanted for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
