"""The paper's Tables 1 to 3 and Figures 7 and 9: networks for MNIST and Fashion-MNIST, hidden layers made smaller.

BNNCC_DATA=... python tests/benchmarks/tropnnc/mnist.py [--folder build/tropnnc] [--seeds 5] [--only NAME] [--json F]

Means and standard deviations over trained networks (train_networks.py trains those that are missing) on the test sets;
no method trains. Exit status 1 where TropNNC falls short of what is wanted: a mean, or its drop from the whole network,
more than 0.5 points worse than the paper's; a mean below Neural Path K-means' where the paper's is above, and in the
figures anywhere.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from train_networks import FOLDER, NETWORKS, SEEDS, trained

from bnncc.models import data as datasets
from bnncc.tropnnc_table import TableReport, TableRow, Which, draw_table, tropnnc_table

SLACK = 0.5  # points


@dataclass
class Experiment:
    """A network whose layers of a pattern are left with shares of neurons, by several methods.

    paper: its means, %, by method, for each share, and of the whole network under "". own: the methods that are held
    against the paper's and Neural Path K-means' (or what RIVAL says): where the paper gives no figures, the default.
    """

    network: str
    pattern: str
    keeps: tuple[float, ...]
    methods: tuple[str, ...]
    paper: dict[str, list[float]]
    own: tuple[str, ...] = ("tropnnc",)
    any_activation: bool = False


PAIR_KEEPS = (0.1, 0.05, 0.01, 0.005, 0.003)
PAIR_METHODS = ("zonotope", "tropnnc-algorithm-1", "neural-path", "tropnnc-paper", "tropnnc", "tropnnc-ward")
TABLE_3_KEEPS = (0.5, 0.25, 0.1, 0.05)
TABLE_3_METHODS = ("neural-path", "tropnnc-paper", "tropnnc", "tropnnc-ward")
FIGURE_KEEPS = (0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
FIGURE_METHODS = ("tropnnc", "tropnnc-paper", "tropnnc-algorithm-3", "neural-path", "thinet", "l1", "random")
LENET_METHODS = ("tropnnc", "tropnnc-paper", "neural-path", "thinet", "l1", "random")
LINEAR, CONVOLUTIONS = "*/Gemm", "*/Conv"

EXPERIMENTS: dict[str, Experiment] = {
    "table-1": Experiment("cnn-3-5", "/hidden/Gemm", PAIR_KEEPS, PAIR_METHODS, {
        "": [99.42], "zonotope": [99.38, 99.37, 99.33, 99.12, 95.98],
        "tropnnc-algorithm-1": [99.43, 99.42, 99.41, 99.43, 99.43],
        "neural-path": [99.41, 99.37, 99.32, 99.40, 98.39], "tropnnc-paper": [99.34, 99.31, 99.33, 99.37, 99.39],
    }, ("tropnnc-algorithm-1", "tropnnc-paper", "tropnnc", "tropnnc-ward")),
    "table-2": Experiment("cnn-4-9", "/hidden/Gemm", PAIR_KEEPS, PAIR_METHODS, {
        "": [99.55], "zonotope": [99.60, 99.56, 99.35, 98.03, 86.38],
        "tropnnc-algorithm-1": [99.54, 99.54, 99.54, 99.54, 99.54],
        "neural-path": [99.52, 99.52, 99.49, 99.01, 94.25], "tropnnc-paper": [99.50, 99.50, 99.47, 99.48, 99.47],
    }, ("tropnnc-algorithm-1", "tropnnc-paper", "tropnnc", "tropnnc-ward")),
    "table-3-mnist": Experiment("cnn-mnist", "/hidden/Gemm", TABLE_3_KEEPS, TABLE_3_METHODS, {
        "": [98.54], "neural-path": [97.85, 96.69, 96.25, 95.17], "tropnnc-paper": [98.49, 98.36, 97.96, 97.06],
    }, ("tropnnc-paper", "tropnnc", "tropnnc-ward")),
    "table-3-fashion": Experiment("cnn-fashion", "/hidden/Gemm", TABLE_3_KEEPS, TABLE_3_METHODS, {
        "": [89.16], "neural-path": [88.17, 86.33, 84.91, 81.48], "tropnnc-paper": [89.00, 88.70, 88.24, 87.42],
    }, ("tropnnc-paper", "tropnnc", "tropnnc-ward")),
    **{
        f"figure-7-{name}-{data}": Experiment(f"{name}-{data}", pattern, FIGURE_KEEPS, FIGURE_METHODS, {})
        for name, pattern in (("deepnn", LINEAR), ("deepcnn2d", CONVOLUTIONS))
        for data in ("mnist", "fashion")
    },
    **{
        f"figure-9-{layers}-{data}": Experiment(
            f"lenet-{data}", pattern, FIGURE_KEEPS, LENET_METHODS, {}, any_activation=True
        )
        for layers, pattern in (("linear", LINEAR), ("conv", CONVOLUTIONS))
        for data in ("mnist", "fashion")
    },
}  # fmt: skip
RIVAL = {"tropnnc-algorithm-1": "zonotope"}  # of each method; Neural Path K-means of the others


def samples(dataset: str, folder: Path) -> Path:
    """Return a file with a test set, as the networks take it."""
    target = folder / f"{dataset.replace(':', '-').replace(',', '-')}.npz"
    if not target.exists():
        test = datasets.load(dataset, "test")
        np.savez(target, image=test.inputs(), labels=test.labels)
    return target


def measure(name: str, experiment: Experiment, folder: Path, seeds: int) -> TableReport:
    """Return a table whose rows have one accuracy for each trained network."""
    reports = []
    for seed in range(seeds):
        model = trained(experiment.network, seed, folder)
        data = samples(NETWORKS[experiment.network][0], folder)
        which = Which(experiment.pattern, experiment.any_activation)
        reports.append(tropnnc_table(model, data, "keep", experiment.keeps, experiment.methods, (seed,), which=which))
        print(f"  {name}: network {seed + 1} of {seeds}", flush=True)
    first = reports[0]
    first.model, first.seeds = experiment.network, list(range(seeds))
    whole = [report.accuracy for report in reports]
    first.accuracy = float(np.mean(whole))
    first.rows.insert(0, TableRow("", "keep", 1.0, first.params, first.flops, first.accuracy, whole))
    for row, *others in zip(first.rows[1:], *(report.rows for report in reports[1:]), strict=True):
        row.accuracies += [accuracy for other in others for accuracy in other.accuracies]
        row.accuracy = float(np.mean(row.accuracies))
    return first


def judge(name: str, experiment: Experiment, report: TableReport) -> list[str]:
    """Print the table with the paper's means, and return what falls short, in words."""
    found = {(row.method, row.value): row for row in report.rows}
    whole, short = 100 * report.accuracy, []
    spread, paper_whole = 100 * np.std(found["", 1.0].accuracies), experiment.paper.get("", ["-"])[0]
    print(f"\n{name}: {experiment.network}, {len(report.seeds)} networks, {report.samples} samples")
    print(f"whole {whole:.2f} +- {spread:.2f} ({paper_whole}); in brackets the paper's means")
    print(f"{'keep, %':<24}" + "".join(f"{100 * keep:>24.4g}" for keep in experiment.keeps))
    for method in experiment.methods:
        cells = []
        for index, keep in enumerate(experiment.keeps):
            row = found[method, keep]
            mean, paper = 100 * row.accuracy, experiment.paper.get(method)
            text = f"{mean:.2f} +- {100 * np.std(row.accuracies):.2f}"
            cells.append(text + (f" ({paper[index]:.2f})" if paper else ""))
            if method not in experiment.own:
                continue
            paper = paper or experiment.paper.get("tropnnc-paper")
            if paper:
                drop = experiment.paper[""][0] - paper[index]
                if mean < paper[index] - SLACK and whole - mean > drop + SLACK:
                    short.append(f"{name}: {method} at {100 * keep:g}%: {mean:.2f}, the paper's {paper[index]:.2f}")
            rival = RIVAL.get(method, "neural-path")
            theirs = experiment.paper[rival][index] if paper else -np.inf
            if (paper is None or paper[index] > theirs) and row.accuracy < found[rival, keep].accuracy:
                short.append(
                    f"{name}: {method} at {100 * keep:g}%: {mean:.2f}, {rival} {100 * found[rival, keep].accuracy:.2f}"
                )
        print(f"{method:<24}" + "".join(f"{cell:>24}" for cell in cells))
    return short  # fmt: skip


def draw(reports: dict[str, TableReport], path: Path) -> None:
    """Draw a panel for each experiment."""
    from matplotlib.figure import Figure

    rows = -(-len(reports) // 4)
    figure = Figure(figsize=(5 * min(len(reports), 4), 3.7 * rows), layout="constrained")
    panels = figure.subplots(rows, min(len(reports), 4), squeeze=False).flat
    for axes, (name, report) in zip(panels, reports.items(), strict=False):
        draw_table(report, axes, over_channels=True)
        axes.set_title(f"{name} ({report.model}, {len(report.seeds)} networks)", fontsize=9)
        axes.legend(loc="lower right", fontsize=7)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Measure what is asked for; print tables, draw plots, and say what falls short."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of trained networks [build/tropnnc]")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", choices=EXPERIMENTS, action="append")
    parser.add_argument("--json", type=Path, metavar="F.json")
    parser.add_argument("--plot", type=Path, metavar="F.png", help="a panel for each experiment")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    short, reports = [], {}
    for name in options.only or EXPERIMENTS:
        reports[name] = measure(name, EXPERIMENTS[name], options.folder, options.seeds)
        short += judge(name, EXPERIMENTS[name], reports[name])
        reports[name].rows = [row for row in reports[name].rows if row.method]
        if options.json:
            options.json.write_text(json.dumps({key: asdict(value) for key, value in reports.items()}, indent=1))
    if options.plot:
        draw(reports, options.plot)
    print("\n" + ("\n".join(f"SHORT: {text}" for text in short) if short else "Nothing falls short."))
    if short:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
