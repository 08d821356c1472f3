"""What bnncc found and did, as dataclasses with the keys of the JSON reports, and as tables for a terminal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnncc.errors import BadInput

_T = TypeVar("_T")

_STATUS_STYLE = {"binary": "green", "weight-binary": "cyan", "float": "yellow"}
_NOTES_SHOWN = 12


@dataclasses.dataclass
class NoteReport:
    """What a pass has to say about a node: why it left it alone, or what it did."""

    node: str
    text: str


@dataclasses.dataclass
class PassReport:
    """One pass over the graph."""

    name: str
    changed: bool
    notes: list[NoteReport]
    seconds: float


@dataclasses.dataclass
class LayerReport:
    """One convolution or linear layer with constant weights, in the order of the original graph."""

    name: str
    op: str
    status: str
    """"binary": +-1 weights and activations; "weight-binary": +-1 weights, float activations; "float"."""
    candidate: bool
    """Whether it could be binary: its weights are, or its input is a binarized activation."""
    reason: str
    """Why it is not binary; empty where it is."""
    kernel: str | None
    weight_count: int
    weight_bits: int
    """Bits per weight: 1 or 32."""
    bit_ops_dense: int
    bit_ops_mst: int | None
    """By the counting of MST-compression, over output positions: K for the root, d for every edge; None without."""
    mst_bits: int | None
    """The same without the positions: the paper's count of parameters."""
    mst_depth: int | None
    mst_size_bits: int | None
    """Bits of parameters when it must also be said where they are."""
    bit_ops_tree: int | None
    """Bits added along the kernel's tree, over output positions."""
    tree_bits: int | None
    tree_fraction: float | None
    """`tree_bits` relative to all bits of the filters: d / K."""
    tree_depth: int | None
    tree_counters: int | None
    """Sets of counters that are alive at once."""
    tree_virtual: int | None
    """Virtual filters."""
    size_before: int
    """Bytes of the weights and the constants that go with them."""
    size_after: int
    compiled_node: str | None


@dataclasses.dataclass
class TreeTotals:
    """What filter trees save, over the layers that have one, weighed by bit operations and by parameters (bits)."""

    layers: int
    operations_dense: int
    operations_mst: int
    operations_tree: int
    bits_dense: int
    bits_mst: int
    bits_mst_with_positions: int
    bits_tree: int
    depth_mst: int
    """Of the deepest tree."""


@dataclasses.dataclass
class SizeReport:
    """Bytes of the files, external data included."""

    before: int
    after: int | None


@dataclasses.dataclass
class AccuracyReport:
    """Share of the labelled samples that each model names rightly."""

    reference: float
    compiled: float


@dataclasses.dataclass
class OptimizerReport:
    """What onnxruntime's own graph optimizations flip in the reference on the same samples: a measure for near-ties."""

    near_ties: int
    near_tie_samples: int
    downstream: int
    flipped_bits: int


@dataclasses.dataclass
class VerifyReport:
    """How far two models agree. See `bnncc.verification` for what counts as what."""

    samples: int
    random_samples: int
    data_samples: int
    bits_compared: int | None
    """None where only outputs could be compared."""
    flipped_bits: int | None
    near_ties: int | None
    near_tie_samples: int | None
    downstream: int | None
    onnxruntime: OptimizerReport | None
    """Only where there are near-ties."""
    max_abs_diff: float | None
    """Over the outputs of the samples without near-ties; None if there is no such sample."""
    max_abs_diff_all: float
    """Over the outputs of all samples."""
    max_rel_diff: float | None
    """`max_abs_diff` against the largest magnitude of the output tensor."""
    argmax_agreement: float | None
    """None where no output holds classes."""
    accuracy: AccuracyReport | None
    through: str
    """"library" or "functions": what ran the compiled model."""
    flipped_by_tensor: dict[str, int]
    notes: list[str]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no bit is wrong."""
        return not self.flipped_bits


@dataclasses.dataclass
class BenchReport:
    """Times of one call, in milliseconds; `ratio` above 1 means that the model is faster than `against`."""

    model: str
    against: str | None
    median_ms: float
    against_median_ms: float | None
    ratio: float | None
    """Ratio of the medians, `against` over model."""
    pairwise_ratio: float | None
    """Median of the ratios of neighbouring calls."""
    min_ms: float
    against_min_ms: float | None
    repeats: int
    threads: int
    batch: int
    data: str
    """What was run on."""
    device: str
    isa: str
    onnxruntime: str


@dataclasses.dataclass
class GateReport:
    """One gate that was asked for."""

    name: str
    limit: float | str
    value: float | int | None
    passed: bool
    text: str
    """The outcome in words."""


@dataclasses.dataclass
class Report:
    """Report of a compilation or an inspection."""

    bnncc: str
    model: str
    output: str | None
    source_sha256: str
    config: dict[str, Any]
    layers: list[LayerReport]
    passes: list[PassReport]
    size: SizeReport
    compiled: bool
    """Whether `model` is itself a compiled file (inspection)."""
    ops: dict[str, int] = dataclasses.field(default_factory=dict)
    """Nodes of domain bnncc by type in the compiled model."""
    trees: TreeTotals | None = None
    """None where no layer has a filter tree."""
    verify: VerifyReport | None = None
    bench: BenchReport | None = None
    gates: list[GateReport] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> str:
        """Serialize all of it, indented."""
        return to_json(self)


def to_json(report: Any) -> str:
    """Serialize a report dataclass; infinities and NaN, which JSON lacks, become strings."""
    return json.dumps(_finite(dataclasses.asdict(report)), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def layer_reports(records: Iterable[Any]) -> list[LayerReport]:
    """Take over the layer records of the passes."""
    names = [field.name for field in dataclasses.fields(LayerReport)]
    return [LayerReport(**{name: getattr(record, name) for name in names}) for record in records]


def tree_totals(layers: Iterable[LayerReport]) -> TreeTotals | None:
    """Sum up the filter trees of the layers that have one; operations where they are known."""
    trees = [layer for layer in layers if layer.tree_bits is not None]
    counted = [layer for layer in trees if layer.bit_ops_mst is not None]
    if not trees:
        return None
    return TreeTotals(
        layers=len(trees),
        operations_dense=sum(layer.bit_ops_dense for layer in counted),
        operations_mst=sum(layer.bit_ops_mst for layer in counted),
        operations_tree=sum(layer.bit_ops_tree for layer in counted),
        bits_dense=sum(layer.weight_count for layer in trees),
        bits_mst=sum(layer.mst_bits for layer in trees),
        bits_mst_with_positions=sum(layer.mst_size_bits for layer in trees),
        bits_tree=sum(layer.tree_bits for layer in trees),
        depth_mst=max(layer.mst_depth for layer in trees),
    )


def pass_reports(records: Iterable[Any]) -> list[PassReport]:
    """Take over the pass records of the passes."""
    return [
        PassReport(item.name, item.changed, [NoteReport(note.node, note.text) for note in item.notes], item.seconds)
        for item in records
    ]


def from_dict(kind: type[_T], values: Any, where: str) -> _T:
    """Build a flat report dataclass from parsed JSON; unknown keys are passed over, a missing one is BadInput."""
    if not isinstance(values, Mapping):
        raise BadInput(f"{where}: not an object")
    arguments = {}
    for name, hint in get_type_hints(kind).items():
        if name not in values:
            raise BadInput(f"{where}: no key {name!r}")
        if not isinstance(values[name], _json_types(hint)):
            raise BadInput(f"{where}: {name} is {values[name]!r}")
        arguments[name] = values[name]
    return kind(**arguments)


def _json_types(hint: Any) -> tuple[type, ...]:
    """Return the types that a parsed JSON value of this annotation may have."""
    types = tuple(get_origin(item) or item for item in (get_args(hint) if isinstance(hint, UnionType) else (hint,)))
    return (*types, int) if float in types else types


def size_text(size: int | None) -> str:
    """Write bytes in the unit people read."""
    if size is None:
        return "-"
    value = float(size)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def count_text(count: int | None) -> str:
    """Write a large count in short."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("", " k", " M", " G"):
        if value < 1000:
            return f"{count}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f} T"


def percent_text(share: float | None) -> str:
    """Write a share as a percentage that never rounds up to 100%."""
    if share is None:
        return "-"
    return "100%" if share >= 1 else f"{min(share * 100, 99.99):.2f}%"


def shorten(name: str, width: int) -> str:
    """Cut a name's middle to fit: its end tells layers apart, its beginning where they are."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"


def table(title: str) -> Table:
    """Return an empty table in the style of all of bnncc's."""
    return Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )


def print_report(report: Report, console: Console) -> None:
    """Print the report of a compilation or an inspection."""
    print_layers(report, console)
    print_trees(report, console)
    print_passes(report, console)
    _print_size(report, console)
    if report.verify is not None:
        console.print()
        print_verify(report.verify, console)
    if report.bench is not None:
        console.print()
        print_bench(report.bench, console)
    print_gates(report.gates, console)


def print_layers(report: Report, console: Console) -> None:
    """Print a row per layer, and below why those that are not binary are not."""
    columns = ("name", "op", "status", "kernel", "weights", "bits", "bit-ops", "before", "after")
    cells = [
        (
            layer.name,
            layer.op,
            layer.status,
            layer.kernel or "-",
            count_text(layer.weight_count),
            str(layer.weight_bits),
            count_text(layer.bit_ops_dense or None),
            size_text(layer.size_before),
            size_text(layer.size_after),
        )
        for layer in report.layers
    ]
    rows = table("Layers")
    for index, column in enumerate(columns):
        rows.add_column(column, justify="right" if index >= 4 else "left", no_wrap=True)
    widths = [max(map(len, column)) + 2 for column in zip(columns, *cells, strict=True)]
    for name, op, status, *rest in cells:
        shown = shorten(name, max(console.width - sum(widths[1:]) - 2, 16))
        rows.add_row(Text(shown), Text(op), Text(status, style=_STATUS_STYLE.get(status, "")), *map(Text, rest))
    if report.layers:
        console.print(rows)
    else:
        console.print("No convolution or linear layer with constant weights.")
    counts = {status: sum(layer.status == status for layer in report.layers) for status in _STATUS_STYLE}
    parts = [f"{count} {status}" for status, count in counts.items() if count]
    if parts:
        console.print(f"{len(report.layers)} layers: {', '.join(parts)}")
    reasons: dict[str, list[str]] = {}
    for layer in report.layers:
        if layer.reason and layer.status != "binary":
            reasons.setdefault(layer.reason, []).append(layer.name)
    if reasons:
        console.print("\n[bold]Not binary, because[/bold]")
        for reason, names in reasons.items():
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            _print_item(console, shown, reason)


def print_trees(report: Report, console: Console) -> None:
    """Print a row per filter tree: what the paper's costs, and the one that kernels count along."""
    totals = report.trees
    if totals is None:
        return
    columns = ("name", "bit-ops", "bits", "+positions", "depth", "d/K", "depth", "virtual", "counters")
    layers = [layer for layer in report.layers if layer.tree_bits is not None]
    cells = [
        (
            layer.name,
            count_text(layer.bit_ops_mst),
            count_text(layer.mst_bits),
            count_text(layer.mst_size_bits),
            str(layer.mst_depth),
            f"{layer.tree_fraction:.3f}",
            str(layer.tree_depth),
            str(layer.tree_virtual),
            str(layer.tree_counters),
        )
        for layer in layers
    ]
    console.print()
    rows = table("Filter trees: the paper's MST; from d/K on, the kernels' tree")
    for index, column in enumerate(columns):
        rows.add_column(column, justify="right" if index else "left", no_wrap=True)
    widths = [max(map(len, column)) + 2 for column in zip(columns, *cells, strict=True)]
    for name, *rest in cells:
        rows.add_row(Text(shorten(name, max(console.width - sum(widths[1:]) - 2, 12))), *map(Text, rest))
    console.print(rows)
    parts = [f"bits {_share(totals.bits_mst, totals.bits_dense)}, {_share(totals.bits_tree, totals.bits_dense)}"]
    if totals.operations_dense:
        mst, tree = (_share(n, totals.operations_dense) for n in (totals.operations_mst, totals.operations_tree))
        parts.insert(0, f"bit operations {mst}, {tree}")
    console.print(f"of dense, MST and kernels: {'; '.join(parts)}", highlight=False)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}"


def _print_item(console: Console, name: str, text: str) -> None:
    line = Table.grid(padding=(0, 1))
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(" -", Text(text if text.startswith(name) else f"{name}: {text}"))
    console.print(line)


def print_passes(report: Report, console: Console) -> None:
    """Print what the passes changed, and their notes that the layers' reasons do not already say."""
    if not report.passes:
        return
    console.print()
    rows = table("Passes")
    rows.add_column("name", no_wrap=True)
    rows.add_column("changed", no_wrap=True)
    rows.add_column("notes", justify="right")
    rows.add_column("seconds", justify="right")
    for item in report.passes:
        rows.add_row(Text(item.name), "yes" if item.changed else "-", str(len(item.notes)), f"{item.seconds:.2f}")
    console.print(rows)
    said = {(layer.name, layer.reason) for layer in report.layers}
    notes = [(item.name, note) for item in report.passes for note in item.notes if (note.node, note.text) not in said]
    if notes:
        console.print("\n[bold]Notes of the passes[/bold]")
        for name, note in notes[:_NOTES_SHOWN]:
            _print_item(console, f"{name}: {note.node}" if note.node else name, note.text)
        if len(notes) > _NOTES_SHOWN:
            console.print(f" - and {len(notes) - _NOTES_SHOWN} more, in the JSON report")


def _print_size(report: Report, console: Console) -> None:
    before, after = report.size.before, report.size.after
    line = f"\n[bold]Size[/bold]  {size_text(before)}"
    if after is not None:
        line += (
            f" -> {size_text(after)} ({before / after:.1f}x smaller)" if after < before else f" -> {size_text(after)}"
        )
    layers = [layer for layer in report.layers if layer.status == "binary" and layer.size_after]
    if layers and (after is not None or report.compiled):
        packed_before, packed_after = (sum(x.size_before for x in layers), sum(x.size_after for x in layers))
        line += f"; binary layers {size_text(packed_before)} -> {size_text(packed_after)}"
        line += f" ({packed_before / packed_after:.1f}x)"
    console.print(line, highlight=False)


def print_verify(report: VerifyReport, console: Console) -> None:
    """Print how far two models agree."""
    rows = table("Verification")
    rows.show_header = False
    rows.add_column("what", no_wrap=True)
    rows.add_column("value", overflow="fold")
    sources = []
    if report.random_samples:
        sources.append(f"{report.random_samples} random")
    if report.data_samples:
        sources.append(f"{report.data_samples} of the data")
    through = "the library" if report.through == "library" else "the function bodies, without the library"
    rows.add_row("samples", f"{' + '.join(sources)}, through {through}")
    if report.flipped_bits is not None:
        style = "green" if report.flipped_bits == 0 else "red"
        rows.add_row("flipped bits", f"[{style}]{report.flipped_bits}[/] of {report.bits_compared}")
        if report.near_ties:
            text = f"{report.near_ties} bits in {report.near_tie_samples} samples, {report.downstream} bits downstream"
            rows.add_row("near-ties", text)
        if report.onnxruntime is not None:
            own = report.onnxruntime
            text = f"{own.near_ties} bits in {own.near_tie_samples} samples, {own.downstream} bits downstream"
            rows.add_row("", f"onnxruntime's own optimizer on the same samples: {text}")
        for name, count in report.flipped_by_tensor.items():
            rows.add_row("  wrong bits at", Text(f"{name}: {count}"))
    if report.max_abs_diff is None:
        text = f"every sample has near-ties; {report.max_abs_diff_all:.3g} with them"
    else:
        text = f"{report.max_abs_diff:.3g} (relative to the output's scale {report.max_rel_diff:.2g})"
        if report.max_abs_diff_all != report.max_abs_diff:
            text += f"; {report.max_abs_diff_all:.3g} with the samples that have near-ties"
    rows.add_row("largest difference", text)
    if report.argmax_agreement is not None:
        rows.add_row("same class", percent_text(report.argmax_agreement))
    if report.accuracy is not None:
        rows.add_row(
            "accuracy", f"{percent_text(report.accuracy.reference)} -> {percent_text(report.accuracy.compiled)}"
        )
    for note in report.notes:
        rows.add_row("note", Text(note))
    console.print(rows, highlight=False)


def print_bench(report: BenchReport, console: Console) -> None:
    """Print the times and their ratio."""
    rows = table("Time of one call")
    rows.add_column("model", overflow="fold", max_width=70)
    rows.add_column("median", justify="right")
    rows.add_column("least", justify="right")
    rows.add_row(Text(report.model), f"{report.median_ms:.3f} ms", f"{report.min_ms:.3f} ms")
    if report.against is not None:
        rows.add_row(Text(report.against), f"{report.against_median_ms:.3f} ms", f"{report.against_min_ms:.3f} ms")
    console.print(rows, highlight=False)
    if report.ratio is not None:
        console.print(
            f"[bold]{report.ratio:.2f}x[/bold] as fast by medians, {report.pairwise_ratio:.2f}x by neighbouring calls",
            highlight=False,
        )
    threads = "1 thread" if report.threads == 1 else f"{report.threads or 'all'} threads"
    console.print(
        f"{threads}, batch {report.batch}, {report.repeats} calls each on {report.data}; "
        f"{report.device} ({report.isa}), onnxruntime {report.onnxruntime}",
        highlight=False,
        markup=False,
    )


def print_gates(gates: list[GateReport], console: Console) -> None:
    """Print the gates that were asked for."""
    if gates:
        console.print("\n[bold]Gates[/bold]")
    for gate in gates:
        mark = "[green]passed[/]" if gate.passed else "[red]FAILED[/]"
        console.print(f" - {mark}  ", end="")
        console.print(gate.text, markup=False, highlight=False)
