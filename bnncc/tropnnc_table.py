"""TropNNC against other ways to leave fewer channels, on a user's model and data: accuracy by method and size."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER
from rich.console import Console

from bnncc.config import Config
from bnncc.errors import BadInput
from bnncc.passes.base import Note
from bnncc.passes.fold_batchnorm import FoldBatchNorm
from bnncc.passes.tropnnc.compress import Choice, compress, find_layers, no_layers, reach
from bnncc.passes.tropnnc.cost import count_flops, count_params
from bnncc.passes.tropnnc.graph_layers import GraphLayer
from bnncc.passes.tropnnc.modes import MODES, Merging, Mode, Selection
from bnncc.passes.tropnnc.rivals import RIVALS
from bnncc.tables import count_text, table
from bnncc.tropnnc_judge import Judge, load_network

KEEPS = (0.9, 0.75, 0.5, 0.25)
# All but those that only layers with a single output can have.
DEFAULT_METHODS = ("tropnnc", "tropnnc-ward", "tropnnc-paper", "neural-path", "cup", "thinet", "l1", "random")
AMOUNTS = ("keep", "target_params", "target_flops")
_SELECTION_SAMPLES = 200  # that methods which need data are given
_LINKAGE = "-ward"  # behind a name: clusters are Ward's


@dataclasses.dataclass
class TableRow:
    """A method at a size, over all seeds."""

    method: str
    amount: str
    """One of AMOUNTS: a share of each layer's channels, or of the network's parameters or operations."""
    value: float
    params: int
    """Of the last seed, as flops."""
    flops: int | None
    accuracy: float
    """Mean over the seeds."""
    accuracies: list[float]
    """Of each seed."""


@dataclasses.dataclass
class TableReport:
    """What is left of a network's accuracy, by method and size."""

    model: str
    samples: int
    seeds: list[int]
    accuracy: float
    """Of the network itself, as `params` and `flops`."""
    params: int
    flops: int | None
    methods: dict[str, str]
    """What each is, by name."""
    rows: list[TableRow]
    notes: list[str]
    any_activation: bool = False
    """Whether layers with other activations than ReLU are among those compressed."""


@dataclasses.dataclass(frozen=True)
class Which:
    """Which layers are compressed: those whose names match a pattern, with ReLU or any activation; how norms fold."""

    pattern: str = "*"
    any_activation: bool = False
    fold_first: bool = False


def method_names() -> list[str]:
    """Return all methods' names; each may be followed by "-ward" for Ward's clusters."""
    return [f"tropnnc-{name}" if name != "matched" else "tropnnc" for name in MODES] + list(RIVALS)


def find_method(name: str) -> tuple[Mode, str | None]:
    """Return a method and how its clusters are found, None for the usual way. Raises BadInput for an unknown name."""
    base = name.removesuffix(_LINKAGE)
    own = "matched" if base == "tropnnc" else base.removeprefix("tropnnc-") if base.startswith("tropnnc-") else None
    mode = MODES.get(own) if own is not None else RIVALS.get(base)
    if mode is None or (base != name and isinstance(mode, Selection)):
        raise BadInput(f"unknown method {name!r}; known: {', '.join(method_names())}; clusters also with {_LINKAGE}")
    return mode, "ward" if base != name else None


def tropnnc_table(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    amount: str = "keep",
    values: Sequence[float] = KEEPS,
    methods: Sequence[str] = DEFAULT_METHODS,
    seeds: Sequence[int] = (0,),
    config: Config | None = None,
    which: Which | None = None,
    progress: Callable[[str], None] | None = None,
) -> TableReport:
    """Make hidden layers smaller by several methods, and count who is still right.

    `data`: an .npz file with labels, of whose first 200 samples methods that need data see the inputs; `amount`: one of
    AMOUNTS, and `values` its shares, above 0 and at most 1. A share of channels is left in every layer alike, by
    K-means or Ward's clustering; for a share of the network's cost, merging methods find the constant of a distance
    that is cut at in all layers, and selections the share of channels. `methods`: see method_names. No method trains.

    Raises BadInput for a model, data, share, pattern or method that cannot be used.
    """
    config, which, say = config or Config(), which or Which(), progress or (lambda text: None)
    for value in values:
        if not 0 < value <= 1:
            raise BadInput(f"{amount.replace('_', '-')} is {value:g}, not a share above 0 and at most 1")
    missing, left = no_layers([]), []
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise BadInput(f"seed {seed} is not a whole number from 0 to 2**32 - 1")
    found = {name: find_method(name) for name in methods}
    with G_LOGGER.suppress():
        network = load_network(model, config)
        graph, path = network.graph, network.path
        judge = Judge(network, data, config.threads)
        if judge.samples.labels is None:
            raise BadInput(f"{data}: no array 'labels', without which there is no accuracy")
        params, flops = count_params(graph), count_flops(graph)
        if amount == "target_flops" and flops is None:
            raise BadInput(f"{path}: target-flops needs the sizes of all tensors; fix them with an input shape")
        whole = {"keep": 1, "target_params": params, "target_flops": flops}[amount]
        report = TableReport(
            path, judge.samples.count, list(seeds), judge.accuracy(graph), params, flops,
            {name: mode.what + (", Ward's clusters" if clusters else "") for name, (mode, clusters) in found.items()},
            [], [],
        )  # fmt: skip
        if which.fold_first:
            FoldBatchNorm().apply(graph, network.context)
        for name, (mode, clusters) in found.items():
            layers, notes = _layers(graph, mode, which)
            if not layers:
                missing = no_layers(notes)
                report.notes.append(f"{name}: {missing}")
                continue
            left += [f"{note.node}: {note.text}" for note in notes]
            report.any_activation |= not all(layer.is_relu for layer in layers)
            for value in values:
                say(f"{name}: {value:g}")
                made = [_reduced(graph, mode, clusters, amount, value * whole, seed, which, judge) for seed in seeds]
                accuracies = [judge.accuracy(smaller) for smaller in made]
                mean, last = float(np.mean(accuracies)), made[-1]
                report.rows.append(
                    TableRow(name, amount, value, count_params(last), count_flops(last), mean, accuracies)
                )
    if not report.rows:
        raise missing
    report.notes += dict.fromkeys(left)
    return report


def _layers(graph: gs.Graph, mode: Mode, which: Which) -> tuple[list[GraphLayer], list[Note]]:
    layers, notes = find_layers(graph, mode, which.any_activation)
    chosen = [layer for layer in layers if fnmatch.fnmatchcase(layer.first.name, which.pattern)]
    if layers and not chosen:
        known = ", ".join(layer.first.name for layer in layers[:8])
        raise BadInput(f"no layer that can be compressed is named {which.pattern!r}; there are {known}")
    return chosen, notes


def _reduced(
    graph: gs.Graph,
    mode: Mode,
    clusters: str | None,
    amount: str,
    limit: float,
    seed: int,
    which: Which,
    judge: Judge,
) -> gs.Graph:
    """A copy of the graph with smaller layers: of a share of channels, or that costs `limit` at most."""

    def smaller(choice: Choice) -> gs.Graph:
        copy = graph.copy()
        compress(
            copy,
            _layers(copy, mode, which)[0],
            lambda node: choice,
            record=lambda made, name: judge.tensor(made, name, _SELECTION_SAMPLES),
        )
        return copy

    if amount == "keep":
        return smaller(Choice("keep", limit, mode, clusters, seed))
    threshold = mode.threshold if isinstance(mode, Merging) else "keep"

    def at(constant: float) -> gs.Graph:
        value = max(math.exp(-constant), 1e-9) if threshold == "keep" else constant
        return smaller(Choice(threshold, value, mode, clusters, seed))

    count = count_params if amount == "target_params" else count_flops
    constant = reach(lambda constant: count(at(constant)), limit)
    if constant is None:
        raise BadInput(f"{amount.replace('_', '-')} of {mode.name} cannot be reached with one channel in each layer")
    return at(constant)


_TITLES = {
    "keep": "Accuracy by share of hidden channels",
    "target_params": "Accuracy by share of parameters",
    "target_flops": "Accuracy by share of operations",
}


def print_table(report: TableReport, console: Console) -> None:
    """Print accuracy by method and share, and what is left of parameters and operations."""
    values = list(dict.fromkeys(row.value for row in report.rows))
    rows = table(_TITLES[report.rows[0].amount])
    rows.add_column("method", no_wrap=True)
    for value in values:
        rows.add_column(f"{value:.4g}", justify="right", no_wrap=True)
    rows.add_row("(all channels)", *[f"{report.accuracy:.2%}"] * len(values))
    for name in report.methods:
        mine = [row for row in report.rows if row.method == name]
        rows.add_row(name, *([_accuracy_text(row) for row in mine] or ["-"] * len(values)))
    by_costs: dict[tuple[str, ...], list[str]] = {}
    for name in report.methods:
        mine = [row for row in report.rows if row.method == name]
        if mine:
            by_costs.setdefault(tuple(_cost_text(row) for row in mine), []).append(name)
    for costs, names in by_costs.items():
        rows.add_row("params, flops" if len(by_costs) == 1 else f"costs, {_first_of(names)}", *costs)
    console.print(rows, highlight=False)
    whole = f"{count_text(report.params)} parameters"
    if report.flops is not None:
        whole += f" and {count_text(report.flops)} operations"
    console.print(f"{Path(report.model).name}, {whole} with all channels; {report.samples} samples, no training")
    if len(report.seeds) > 1:
        console.print(f"Means and standard deviations over seeds {', '.join(map(str, report.seeds))}")
    found = {row.method for row in report.rows}
    for name, what in report.methods.items():
        console.print(f" - {name}: {what}" + ("" if name in found else "; no layer for it"), highlight=False)
    if report.any_activation:
        console.print("Behind other activations than ReLU, all of TropNNC's but the default are Algorithm 2.")
    if "thinet" in report.methods:
        console.print(f"ThiNet saw the inputs of the first {_SELECTION_SAMPLES} of these samples, but no labels.")


def _first_of(names: Sequence[str]) -> str:
    """Return the first name, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _cost_text(row: TableRow) -> str:
    return count_text(row.params) + (f", {count_text(row.flops)}" if row.flops is not None else "")


def _accuracy_text(row: TableRow) -> str:
    if len(row.accuracies) == 1:
        return f"{row.accuracy:.2%}"
    return f"{100 * row.accuracy:.1f}±{100 * float(np.std(row.accuracies)):.1f}%"


def plot_table(report: TableReport, path: Path) -> None:
    """Draw accuracy over the parameters that are left, a line per method, as a PNG."""
    from matplotlib.figure import Figure  # optional, and heavy to import

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    draw_table(report, axes)
    axes.set_title(f"{Path(report.model).name}, {report.samples} samples, no training", fontsize=11)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def draw_table(report: TableReport, axes: Any, over_channels: bool = False) -> None:
    """Draw accuracy over the parameters that are left, or over the share of channels, into matplotlib's axes."""
    axes.axhline(100 * report.accuracy, color="gray", linewidth=1, linestyle=":", label="all channels")
    for name, marker in zip(report.methods, itertools.cycle("osD^vP*Xd<"), strict=False):
        rows = sorted((row for row in report.rows if row.method == name), key=lambda row: (row.params, row.value))
        own = name.startswith("tropnnc")
        axes.errorbar(
            [row.value if over_channels else row.params / report.params for row in rows],
            [100 * row.accuracy for row in rows],
            [100 * float(np.std(row.accuracies)) for row in rows],
            marker=marker,
            markersize=5,
            linewidth=2 if own else 1,
            linestyle="-" if own else "--",
            capsize=2,
            label=name,
        )
    axes.set_xlabel("channels left" if over_channels else "parameters left")
    axes.set_ylabel("accuracy, %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.grid(alpha=0.3)
