"""TropNNC against other ways to leave fewer channels, on a user's model and data: accuracy by method and ratio."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER
from rich.console import Console

from bnncc.config import Config
from bnncc.data import Samples, load_samples, model_inputs, with_input_shapes
from bnncc.errors import BadInput
from bnncc.model_io import load_model
from bnncc.onnxruntime_errors import one_line, runtime_errors
from bnncc.passes.base import Context
from bnncc.passes.prepare import default_opset
from bnncc.passes.simplify import Simplify
from bnncc.passes.tropnnc.cost import count_flops, count_params
from bnncc.passes.tropnnc.graph_layers import find_layers
from bnncc.passes.tropnnc.methods import METHODS, Method, reduce_channels
from bnncc.reference import as_reference
from bnncc.session import OPTIMIZED, InferenceSession, session_options
from bnncc.tables import count_text, table

KEEPS = (0.9, 0.75, 0.5, 0.25)
# All but those that only layers with a single output can have.
DEFAULT_METHODS = ("tropnnc", "tropnnc-ward", "tropnnc-paper", "neural-path", "cup", "thinet", "l1", "random")
_BATCH = 250
_SELECTION_SAMPLES = 200  # that methods which need data are given


@dataclasses.dataclass
class TableRow:
    """A method at a ratio, over all seeds."""

    method: str
    keep: float
    params: int
    flops: int | None
    accuracy: float
    """Mean over the seeds."""
    accuracies: list[float]
    """Of each seed."""


@dataclasses.dataclass
class TableReport:
    """What is left of a network's accuracy, by method and share of hidden channels."""

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


def tropnnc_table(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    keeps: Sequence[float] = KEEPS,
    methods: Sequence[str] = DEFAULT_METHODS,
    seeds: Sequence[int] = (0,),
    config: Config | None = None,
    progress: Callable[[str], None] | None = None,
) -> TableReport:
    """Leave shares of the channels of every hidden ReLU layer by several methods, and count who is still right.

    `data`: an .npz file with labels, of whose first 200 samples methods that need data see the inputs; `keeps`: shares
    above 0 and at most 1; `methods`: names in `bnncc.passes.tropnnc.methods.METHODS`. No method trains.

    Raises BadInput for a model, data, share or method that cannot be used.
    """
    config, say = config or Config(), progress or (lambda text: None)
    _check(keeps, methods)
    loaded = load_model(model)
    name = str(loaded.path)
    reference = as_reference(with_input_shapes(loaded.proto, config.input_shapes, name), name)
    samples = load_samples(data, model_inputs(reference, None, name))
    if samples.labels is None:
        raise BadInput(f"{data}: no array 'labels', without which there is no accuracy")
    with G_LOGGER.suppress():
        graph = gs.import_onnx(reference)
        Simplify().apply(graph, Context(config=config, opset=default_opset(reference)))
        layers, notes = find_layers(graph)
        if not layers:
            reasons = "; ".join(f"{note.node}: {note.text}" for note in notes[:3])
            raise BadInput(f"{name}: no hidden ReLU layer that channels could be left out of ({reasons})")
        judge = _Judge(samples, config.threads, name)
        report = TableReport(
            model=name,
            samples=samples.count,
            seeds=list(seeds),
            accuracy=judge.accuracy(graph),
            params=count_params(graph),
            flops=count_flops(graph),
            methods={item: METHODS[item].what for item in methods},
            rows=[],
            notes=[f"{note.node}: {note.text}" for note in notes],
        )
        for item in methods:
            for keep in keeps:
                say(f"{item}: {keep:g} of the channels")
                report.rows.append(_row(graph, METHODS[item], keep, seeds, judge))
    return report


def _check(keeps: Sequence[float], methods: Sequence[str]) -> None:
    for keep in keeps:
        if not 0 < keep <= 1:
            raise BadInput(f"keep is {keep:g}, not a share above 0 and at most 1")
    for item in methods:
        if item not in METHODS:
            raise BadInput(f"unknown method {item!r}; known: {', '.join(METHODS)}")


def _row(graph: gs.Graph, method: Method, keep: float, seeds: Sequence[int], judge: _Judge) -> TableRow:
    accuracies, record = [], judge.tensor if method.needs_data else None
    for seed in seeds:
        left = graph.copy()
        reduce_channels(left, method, keep, seed, record)
        accuracies.append(judge.accuracy(left))
    mean = float(np.mean(accuracies))
    return TableRow(method.name, keep, count_params(left), count_flops(left), mean, accuracies)


class _Judge:
    """Runs graphs on samples."""

    def __init__(self, samples: Samples, threads: int, name: str) -> None:
        self.samples, self.threads, self.name = samples, threads, name

    def accuracy(self, graph: gs.Graph) -> float:
        """Return the share of samples that the first output names rightly."""
        right = 0
        for result, labels in self._results(gs.export_onnx(graph, do_type_check=False)):
            if result.ndim != 2 or result.shape[1] < 2:
                raise BadInput(f"{self.name}: its first output, {list(result.shape)}, does not hold classes")
            right += int((result.argmax(axis=1) == labels).sum())
        return right / self.samples.count

    def tensor(self, graph: gs.Graph, name: str) -> np.ndarray:
        """Return an inner tensor of a graph for the first samples."""
        exposed = gs.export_onnx(graph, do_type_check=False)
        del exposed.graph.output[:]
        exposed.graph.output.append(onnx.ValueInfoProto(name=name))
        parts, count = [], 0
        for result, _ in self._results(exposed):
            parts.append(result)
            count += len(result)
            if count >= _SELECTION_SAMPLES:
                break
        return np.concatenate(parts)[:_SELECTION_SAMPLES].astype(np.float64)

    def _results(self, model: onnx.ModelProto):
        session = InferenceSession(
            model.SerializeToString(), threads=self.threads, sess_options=session_options(OPTIMIZED), library=False
        )
        done = 0
        for feeds, valid in self.samples.batches(_BATCH):
            try:
                result = session.run(None, feeds)[0]
            except runtime_errors() as error:
                raise BadInput(f"{self.name}: onnxruntime cannot run it: {one_line(error)}") from error
            yield result[:valid], self.samples.labels[done : done + valid]
            done += valid


def print_table(report: TableReport, console: Console) -> None:
    """Print accuracy by method and share, and what is left of parameters and operations."""
    keeps = list(dict.fromkeys(row.keep for row in report.rows))
    rows = table("Accuracy by share of hidden channels")
    rows.add_column("method", no_wrap=True)
    for keep in keeps:
        rows.add_column(f"{keep:.4g}", justify="right", no_wrap=True)
    rows.add_row("(all channels)", *[f"{report.accuracy:.2%}"] * len(keeps))
    for name in report.methods:
        rows.add_row(name, *(_accuracy_text(row) for row in report.rows if row.method == name))
    counted = next(iter(report.methods))  # others may find fewer clusters than asked for
    first = [row for row in report.rows if row.method == counted]
    rows.add_row(f"params, {counted}", *(count_text(row.params) for row in first))
    if report.flops is not None:
        rows.add_row(f"flops, {counted}", *(count_text(row.flops) for row in first))
    console.print(rows, highlight=False)
    whole = f"{count_text(report.params)} parameters"
    if report.flops is not None:
        whole += f" and {count_text(report.flops)} operations"
    console.print(f"{Path(report.model).name}, {whole} with all channels; {report.samples} samples, no training")
    if len(report.seeds) > 1:
        console.print(f"Means and standard deviations over seeds {', '.join(map(str, report.seeds))}")
    for name, what in report.methods.items():
        console.print(f" - {name}: {what}", highlight=False)
    if any(METHODS[name].needs_data for name in report.methods):
        console.print(f"ThiNet saw the inputs of the first {_SELECTION_SAMPLES} of these samples, but no labels.")


def _accuracy_text(row: TableRow) -> str:
    if len(row.accuracies) == 1:
        return f"{row.accuracy:.2%}"
    return f"{100 * row.accuracy:.1f}±{100 * float(np.std(row.accuracies)):.1f}%"


def plot_table(report: TableReport, path: Path) -> None:
    """Draw accuracy over the parameters that are left, a line per method, as a PNG.

    Raises BadInput without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise BadInput("a plot needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(100 * report.accuracy, color="gray", linewidth=1, linestyle=":", label="all channels")
    for name, marker in zip(report.methods, itertools.cycle("osD^vP*Xd<"), strict=False):
        rows = sorted((row for row in report.rows if row.method == name), key=lambda row: row.params)
        own = name.startswith("tropnnc")
        axes.errorbar(
            [row.params / report.params for row in rows],
            [100 * row.accuracy for row in rows],
            [100 * float(np.std(row.accuracies)) for row in rows],
            marker=marker,
            markersize=5,
            linewidth=2 if own else 1,
            linestyle="-" if own else "--",
            capsize=2,
            label=name,
        )
    axes.set_xlabel("parameters left")
    axes.set_ylabel("accuracy, %")
    axes.set_title(f"{Path(report.model).name}, {report.samples} samples, no training", fontsize=11)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
