"""Sizes that TropNNC can give a network, and what each costs: parameters, operations, error bounds, classes kept."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER
from rich.console import Console

from bnncc.config import Config
from bnncc.errors import BadInput
from bnncc.passes.cluster_channels import ClusterChannels
from bnncc.passes.tropnnc.compress import OutOfReach
from bnncc.passes.tropnnc.cost import count_flops, count_params
from bnncc.passes.tropnnc.settings import AMOUNTS, TARGETS, Settings, read_settings
from bnncc.report import clustering_report
from bnncc.tables import count_text, percent_text, table
from bnncc.tropnnc_judge import Judge, Network, load_network

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
THRESHOLDS = ("v1", "v2", "v3")


@dataclasses.dataclass
class SweepRow:
    """A network made smaller."""

    threshold: str
    """The kind of distance that clustering was cut at, and below its constant."""
    constant: float
    target: float
    params: int
    flops: int | None
    error_bound: float | None
    """Mean over the hidden layers of the bound of their error, as a share of the bound of their outputs; None where
    channels of a layer were merged that has no bound."""
    smallest_layer: str
    smallest_channels: int
    same_class: float | None
    """Share of samples with the class of the whole network; None without data."""
    accuracy: float | None
    """None without labels."""
    optimal: bool = False
    """Whether no other row is as good in parameters, operations and accuracy (or same class, or else the bound), and
    better in one."""


@dataclasses.dataclass
class SweepReport:
    """What sizes a network can have."""

    model: str
    settings: dict[str, Any]
    target: str
    samples: int | None
    params: int
    flops: int | None
    accuracy: float | None
    rows: list[SweepRow]
    notes: list[str]


def tropnnc_sweep(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    target: str = "target_params",
    shares: Sequence[float] = SHARES,
    thresholds: Sequence[str] = THRESHOLDS,
    settings: Mapping[str, Any] | None = None,
    config: Config | None = None,
    progress: Callable[[str], None] | None = None,
) -> SweepReport:
    """Reach shares of a network's parameters or operations, by cutting at each kind of distance.

    `data`: an .npz file with inputs, and with labels for accuracies; `target`: "target_params" or "target_flops";
    `settings`: of TropNNC besides an amount and a threshold, as in a config file.

    Raises BadInput for a model, data or settings that cannot be used, and where no share can be reached.
    """
    config, settings, say = config or Config(), dict(settings or {}), progress or (lambda text: None)
    for name in (*AMOUNTS, "threshold"):
        if name in settings:
            raise BadInput(f"tropnnc: {name.replace('_', '-')} is what a sweep tries; give it none")
    if target not in TARGETS:
        raise BadInput(f"target is {target!r}, not {' or '.join(TARGETS)}")
    tried = [
        read_settings({**settings, target: share, "threshold": threshold})
        for threshold in thresholds
        for share in shares
    ]
    with G_LOGGER.suppress():
        network = load_network(model, config)
        judge = None if data is None else Judge(network, data, config.threads)
        classes = None if judge is None else judge.classes(network.graph)
        labels = None if judge is None else judge.samples.labels
        report = SweepReport(
            model=network.path,
            settings=settings,
            target=target,
            samples=None if judge is None else judge.samples.count,
            params=count_params(network.graph),
            flops=count_flops(network.graph),
            accuracy=None if labels is None else float((classes == labels).mean()),
            rows=[],
            notes=[],
        )
        unreached = None
        for each in tried:
            say(f"{each.threshold}, {each.value:g} of all")
            try:
                row, graph = _row(network, each, settings)
            except OutOfReach as error:
                unreached = error
                report.notes.append(f"{each.threshold}: {error}")
                continue
            if judge is not None:
                found = judge.classes(graph)
                row.same_class = float((found == classes).mean())
                row.accuracy = None if labels is None else float((found == labels).mean())
            report.rows.append(row)
    if not report.rows:
        raise unreached
    _mark_optimal(report.rows)
    return report


def _row(network: Network, settings: Settings, given: dict[str, Any]) -> tuple[SweepRow, gs.Graph]:
    graph, context = network.graph.copy(), dataclasses.replace(network.context, compression=None)
    ClusterChannels(settings).apply(graph, context)
    made = clustering_report(context.compression, given)
    smallest = min(made.layers, key=lambda layer: layer.channels_after)
    bounds = [0.0 if layer.channels_after == layer.channels_before else layer.relative_bound for layer in made.layers]
    bound = None if None in bounds else float(np.mean(bounds))
    row = SweepRow(
        settings.threshold, made.constant, settings.value, made.params_after, made.flops_after, bound,
        smallest.name, smallest.channels_after, None, None,
    )  # fmt: skip
    return row, graph


def _mark_optimal(rows: list[SweepRow]) -> None:
    costs = []
    for row in rows:
        bound = 0.0 if row.error_bound is None else -row.error_bound
        quality = next((value for value in (row.accuracy, row.same_class) if value is not None), bound)
        costs.append((row.params, row.flops or 0, -quality))
    for row, own in zip(rows, costs, strict=True):
        row.optimal = not any(
            other != own and all(there <= here for there, here in zip(other, own, strict=True)) for other in costs
        )


def print_sweep(report: SweepReport, console: Console) -> None:
    """Print a row per size, smaller ones below."""
    rows = table("TropNNC: sizes and what they cost")
    rows.add_column("cut at", no_wrap=True)
    names = ["params", "share"]
    names += ["flops", "share"] if report.flops is not None else []
    names += ["bound"] + (["same"] if report.samples else []) + (["accuracy"] if report.accuracy is not None else [])
    for name in (*names, "least"):
        rows.add_column(name, justify="right", no_wrap=True)
    rows.add_column("")
    for row in sorted(report.rows, key=lambda row: -row.params):
        cells = [f"{row.threshold}={row.constant:.4g}", count_text(row.params), f"{row.params / report.params:.1%}"]
        if report.flops is not None:
            cells += [count_text(row.flops), f"{row.flops / report.flops:.1%}"]
        cells.append(percent_text(row.error_bound))
        if report.samples:
            cells.append(percent_text(row.same_class))
        if report.accuracy is not None:
            cells.append(f"{row.accuracy:.2%}")
        rows.add_row(*cells, f"{row.smallest_channels}", "optimal" if row.optimal else "")
    console.print(rows, highlight=False)
    whole = f"{Path(report.model).name}: {count_text(report.params)} parameters"
    if report.flops is not None:
        whole += f", {count_text(report.flops)} operations"
    if report.samples:
        whole += f"; {report.samples} samples" + (
            "" if report.accuracy is None else f", accuracy {report.accuracy:.2%}"
        )
    console.print(whole)
    quality = "accuracy" if report.accuracy is not None else "same class" if report.samples else "bound"
    texts = [f"optimal: no other is as good in parameters, operations and {quality}, and better in one"]
    if quality == "bound":
        texts[0] += "; bounds say little of accuracy, which --data tells"
    texts.append("bound: of the layers' errors, as a share of the bound of their outputs; their mean")
    texts += ["same: samples with the class of the whole network"] if report.samples else []
    texts.append("least: channels of the smallest layer")
    for text in texts:
        console.print(f" - {text}", highlight=False)
    for note in report.notes:
        console.print(f" - {note}", highlight=False)


def plot_sweep(report: SweepReport, path: Path) -> None:
    """Draw accuracy (or same class, or the error bound) over parameters, a line per distance, as a PNG."""
    from matplotlib.figure import Figure  # optional, and heavy to import

    name = "accuracy" if report.accuracy is not None else "same_class" if report.samples else "error_bound"
    if any(getattr(row, name) is None for row in report.rows):
        raise BadInput("nothing to draw: no samples, and no bounds behind other activations than ReLU")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    if report.accuracy is not None:
        axes.axhline(100 * report.accuracy, color="gray", linewidth=1, linestyle=":", label="all channels")
    markers = itertools.cycle("osD^")
    for threshold in dict.fromkeys(row.threshold for row in report.rows):
        rows = sorted((row for row in report.rows if row.threshold == threshold), key=lambda row: row.params)
        x = [row.params / report.params for row in rows]
        axes.plot(x, [100 * getattr(row, name) for row in rows], marker=next(markers), label=f"cut at {threshold}")
    best = [row for row in report.rows if row.optimal]
    axes.scatter(
        [row.params / report.params for row in best], [100 * getattr(row, name) for row in best],
        s=150, facecolors="none", edgecolors="black", label="optimal",
    )  # fmt: skip
    axes.set_xlabel("parameters left")
    axes.set_ylabel(f"{name.replace('_', ' ')}, %")
    axes.set_title(Path(report.model).name, fontsize=11)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if report.samples else "upper right")
    figure.savefig(path, dpi=150)
