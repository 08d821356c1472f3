"""Reports as tables for a terminal, and figures as people read them."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bnncc.report import (
    BenchReport,
    BinarizationReport,
    BinarizedLayerReport,
    ClusteringReport,
    GateReport,
    LayerTime,
    ProfileReport,
    Report,
    VerifyReport,
    lossy_steps,
)

_STATUS_STYLE = {"binary": "green", "weight-binary": "cyan", "float": "yellow"}
_NOTES_SHOWN = 12
_OPS_SHOWN = 30


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
    print_kernels(report, console)
    print_trees(report, console)
    print_passes(report, console)
    _print_size(report, console)
    if report.tropnnc is not None:
        console.print()
        print_clustering(report.tropnnc, console)
    if report.binarize is not None:
        console.print()
        print_binarization(report.binarize, report, console)
    if report.change is not None:
        print_change(report.change, report.binarize, console)
    if report.verify is not None:
        console.print()
        lossy = lossy_steps(report.tropnnc, report.binarize)
        if lossy:
            console.print(f"Compiled against the network with {lossy}, which it has to agree with:")
        print_verify(report.verify, console)
    if report.bench is not None:
        console.print()
        print_bench(report.bench, console)
    print_gates(report.gates, console)


def print_clustering(report: ClusteringReport, console: Console) -> None:
    """Print what TropNNC left of each layer, what that saves, and what it costs."""
    rows = table("TropNNC (lossy)")
    rows.add_column("layer", no_wrap=True)
    for column in ("channels", "left", "error at most", "of"):
        rows.add_column(column, justify="right", no_wrap=True)
    for layer in report.layers:
        least = min(layer.bounds.items(), key=lambda item: item[1], default=None)
        bound = "-" if least is None else f"{least[1]:.3g} ({least[0]})"
        name = shorten(layer.name, max(console.width - 50, 16))
        share = "" if layer.relative_bound is None else percent_text(layer.relative_bound)
        rows.add_row(Text(name), str(layer.channels_before), str(layer.channels_after), bound, share)
    console.print(rows)
    console.print(
        "Errors: bounds (by Lipschitz constants, or the theorem named) of the L1 norm of the change of the next "
        f"layer's outputs, for inputs of an L2 norm up to {report.radius:g}, as a share of the outputs' bound too"
    )
    parts = [f"parameters {count_text(report.params_before)} to {count_text(report.params_after)}"]
    if report.flops_before is not None and report.flops_after is not None:
        parts.append(f"operations {count_text(report.flops_before)} to {count_text(report.flops_after)}")
    console.print("; ".join(parts) + (f"; distance {report.constant:.4g}" if report.constant is not None else ""))


def print_binarization(report: BinarizationReport, whole: Report, console: Console) -> None:
    """Print what binarizing did to each layer: the most sensitive first, where that is known."""
    rows = table(f"Binarized (lossy): {report.method}")
    rows.add_column("layer", no_wrap=True)
    layers = sorted(report.layers, key=_insensitivity)
    first = next((layer.sensitivity for layer in layers if layer.sensitivity is not None), None)
    told = [
        (heading, name, show)
        for heading, name, show in (
            ("outputs change", "relative_change", "{:.3f}".format),
            ("same class", "argmax_agreement", percent_text),
            ("accuracy", "accuracy_after", percent_text),
        )
        if any(layer.sensitivity is not None and getattr(layer.sensitivity, name) is not None for layer in layers)
    ]
    for column in ("weights", "error", *(heading for heading, _, _ in told)):
        rows.add_column(column, justify="right", no_wrap=True)
    for layer in layers:
        cells = [count_text(layer.weights), f"{layer.error:.3f}"]
        for _, name, show in told:
            value = getattr(layer.sensitivity, name)
            cells.append("-" if value is None else show(value))
        rows.add_row(Text(shorten(layer.name, max(console.width - 60, 16))), *cells)
    console.print(rows, highlight=False)
    lines = ["Error: L2 norm of the weights' change against that of the weights."]
    if first is not None:
        before = "" if first.accuracy_before is None else f", accuracy {percent_text(first.accuracy_before)} before"
        lines.append(
            f"The rest: with that layer alone binarized, uncalibrated, on {first.samples} samples{before}. Costs do "
            "not add up: several layers together cost more than any of them"
        )
    else:
        lines.append(
            "`bnncc compile --binarize ... --data X.npz` measures what each layer costs, unless --no-verify is given"
        )
    names = {layer.name for layer in report.layers}
    sizes = [(item.size_before, item.size_after) for item in whole.layers if item.name in names]
    sizes_text = " to ".join(size_text(sum(side)) for side in zip(*sizes, strict=True))
    lines.append(f"{len(names)} of {len(whole.layers)} layers with constant weights, {sizes_text}")
    if report.calibrated:
        channels = sum(item.channels for item in report.calibrated)
        lines.append(
            f"Calibrated: mean and deviation of {channels} channels of {len(report.calibrated)} nodes, from the first "
            f"{report.calibration_samples} samples of the data"
        )
    for line in lines:
        console.print(line, highlight=False)


def _insensitivity(layer: BinarizedLayerReport) -> tuple[float, float]:
    """How little a layer matters: the share of classes that stay, then how little the outputs change."""
    found = layer.sensitivity
    if found is None:
        return 0.0, 0.0
    return 1.0 if found.argmax_agreement is None else found.argmax_agreement, -(found.relative_change or 0.0)


def print_change(change: VerifyReport, binarize: BinarizationReport | None, console: Console) -> None:
    """Print how far the lossy steps are from the original."""
    same, accuracy = change.argmax_agreement, change.accuracy
    noise = change.samples - change.data_samples if change.data_samples else 0
    figures = [
        f"outputs differ by up to {change.max_abs_diff_all:.3g}{f' ({noise} of noise counted)' if noise else ''}"
    ]
    if same is not None:
        figures.append(f"same class {percent_text(same)}")
    if accuracy is not None:
        figures.append(f"accuracy {accuracy.reference:.2%} to {accuracy.compiled:.2%}")
    of_what = "" if change.data_samples else " of noise, which say little of real inputs (--data X.npz: yours)"
    count = change.data_samples or change.samples
    console.print(f"Against the original, {count} samples{of_what}: {', '.join(figures)}")
    if binarize is not None and binarize.calibrated and change.data_samples:
        console.print(
            "These samples include those of the calibration: judge it by others (bnncc verify --data OTHERS.npz)"
        )


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


def print_kernels(report: Report, console: Console) -> None:
    """Print which kernel serves each binary layer, and why."""
    served = [layer for layer in report.layers if layer.kernel is not None]
    if not served:
        return
    rows = table("Kernels, for one sample and one thread")
    rows.add_column("name", no_wrap=True)
    rows.add_column("input", no_wrap=True)
    rows.add_column("kernel", no_wrap=True)
    rows.add_column("why")
    for layer in served:
        shape = "x".join("?" if size is None else str(size) for size in layer.input_shape or []) or "-"
        name = shorten(layer.name, max(console.width - 80, 16))
        rows.add_row(Text(name), Text(shape), Text(layer.kernel), Text(layer.kernel_reason))
    console.print()
    console.print(rows)


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
    packed = [layer for layer in report.layers if layer.status != "binary" and layer.weight_bits == 1]
    if packed and (after is not None or report.compiled):
        bytes_before, bytes_after = (sum(x.size_before for x in packed), sum(x.size_after for x in packed))
        line += f"; weights at 1 bit {size_text(bytes_before)} -> {size_text(bytes_after)}"
        line += f" ({bytes_before / bytes_after:.1f}x)"
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
    text = f"{report.max_abs_diff:.3g} (relative to the output's scale {report.max_rel_diff:.2g})"
    if report.max_abs_diff_all != report.max_abs_diff:
        text += f"; {report.max_abs_diff_all:.3g} with the consequences of near-ties"
    rows.add_row("largest difference", text)
    if report.argmax_agreement is not None:
        rows.add_row("same class", percent_text(report.argmax_agreement))
    if report.accuracy is not None:
        rows.add_row(
            "accuracy", f"{percent_text(report.accuracy.reference)} -> {percent_text(report.accuracy.compiled)}"
        )
    for failure in report.failures:
        rows.add_row("[red]failed[/]", Text(failure))
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
    cpus = "1 CPU" if report.cpus == 1 else f"{report.cpus} CPUs"
    turns = f"{report.in_a_row} in a row" if report.in_a_row > 1 else "alternating"
    console.print(
        f"{threads} on {cpus}, batch {report.batch}, {report.repeats} calls each, {turns}, on {report.data}; "
        f"{report.device} ({report.isa}), onnxruntime {report.onnxruntime}",
        highlight=False,
        markup=False,
    )
    for name, profile in ((report.model, report.profile), (report.against, report.against_profile)):
        if profile is not None:
            console.print()
            print_profile(name, profile, console)
    if report.layers is not None:
        console.print()
        print_layer_times(report.layers, console)


def print_profile(model: str, report: ProfileReport, console: Console) -> None:
    """Print a row per op, the longest in the order in which they run, and what each kind takes."""
    longest = sorted(report.ops, key=lambda op: -op.median_us)[:_OPS_SHOWN]
    least = longest[-1].median_us if longest else 0.0
    shown = [op for op in report.ops if op.median_us >= least][:_OPS_SHOWN]
    rows = table(f"Ops of {model}")
    has_kernels = any(op.kernel for op in shown)
    for column in ("node", "op", "kernels it may use") if has_kernels else ("node", "op"):
        rows.add_column(column, no_wrap=True)
    rows.add_column("median", justify="right", no_wrap=True, min_width=len("1234.5 us"))
    rows.add_column("share", justify="right", no_wrap=True, min_width=len("12.3%"))
    widest = max((len(op.op) + len(op.kernel or "-") for op in shown), default=0)
    for op in shown:
        name = shorten(op.name, max(console.width - widest - 28, 16))
        kernel = (op.kernel or "-",) if has_kernels else ()
        rows.add_row(Text(name), op.op, *kernel, f"{op.median_us:.1f} us", f"{op.share:.1%}")
    console.print(rows, highlight=False)
    if len(shown) < len(report.ops):
        rest = report.ops_us - sum(op.median_us for op in shown)
        console.print(f"and {len(report.ops) - len(shown)} more, {rest:.1f} us", highlight=False)
    kinds = ", ".join(
        f"{kind} {time.median_us:.1f} us ({time.share:.0%}, {time.ops} ops)"
        for kind, time in report.kinds.items()
        if time.ops
    )
    console.print(f"{kinds}; in all {report.ops_us:.1f} us of a call's {report.call_us:.1f} us", highlight=False)


def print_layer_times(layers: list[LayerTime], console: Console) -> None:
    """Print a row per binary layer, timed alone."""
    rows = table("Binary layers alone")
    for column in ("layer", "kernels it may use", "gives"):
        rows.add_column(column, no_wrap=True)
    for column, shape in (("median", "123.4 us"), ("GMAC/s", "12345"), ("fp32", "1234.5 us"), ("ratio", "12.3x")):
        rows.add_column(column, justify="right", no_wrap=True, min_width=len(shape))
    widest = max(len(layer.kernel) + len(layer.gives) for layer in layers)
    for layer in layers:
        rows.add_row(
            Text(shorten(layer.name, max(console.width - widest - 48, 16))),
            layer.kernel,
            layer.gives,
            f"{layer.median_us:.1f} us",
            f"{layer.gmac_per_s:.0f}",
            f"{layer.fp32_median_us:.1f} us",
            f"{layer.ratio:.1f}x",
        )
    console.print(rows, highlight=False)


def print_gates(gates: list[GateReport], console: Console) -> None:
    """Print the gates that were asked for."""
    if gates:
        console.print("\n[bold]Gates[/bold]")
    for gate in gates:
        mark = "[green]passed[/]" if gate.passed else "[red]FAILED[/]"
        console.print(f" - {mark}  ", end="")
        console.print(gate.text, markup=False, highlight=False)
