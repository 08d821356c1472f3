"""Which kernel serves each binary convolution on this machine, and why; and choosing it by timing (`tune`).

A convolution's op may carry the attribute `kernel`, the name of one of the library's kernels ("planes 512"): a hint
that a session follows where it can, and that changes no result. Without it, the library estimates for each run which
is fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx

from bnncc.compiled_layers import KERNEL, CompiledLayer, compiled_layer, compiled_layers, record_inputs
from bnncc.data import Feeds
from bnncc.report import LayerReport
from bnncc.runtime import Conv2d, selected_isa
from bnncc.timing import cpu_name, interleave, turn

_SECONDS = 0.1  # of timing a layer
_CLEARLY_FASTER = 0.95  # of the time of what the library chooses by itself
_CALLS = 5  # of a turn


def describe_kernels(model: onnx.ModelProto, layers: Iterable[LayerReport]) -> None:
    """Say in the reports of a compiled model's binary layers which kernel serves a single sample on this machine."""
    reports = {report.compiled_node: report for report in layers if report.compiled_node is not None}
    for layer in compiled_layers(model):
        report = reports.get(layer.node.name)
        if report is None:
            continue
        if not isinstance(layer.library, Conv2d):
            report.kernel, report.kernel_reason = "dot", "the only one for linear layers"
            continue
        # Where the height is dynamic, that of a square map.
        height = (report.input_shape or [None, None])[1] or layer.width
        estimates = layer.library.estimates(1, height)
        report.kernel = next(iter(estimates))
        if layer.kernel is None:
            report.kernel_reason = report.kernel_reason or f"estimated: {_times(estimates)} ({selected_isa()})"
        elif not report.kernel.startswith(layer.kernel):
            report.kernel_reason = f"{layer.kernel!r}, which was chosen for it, cannot be had: {_times(estimates)}"
        elif not report.kernel_reason:
            report.kernel_reason = "named in the file"


def tune(
    model: onnx.ModelProto,
    layers: Iterable[LayerReport],
    name: str,
    feeds: Feeds,
    batch: int,
    progress: Callable[[str], None],
) -> None:
    """Time every kernel that each binary convolution of a compiled model could use, and name the fastest in its op.

    They run on one thread, in turns, on the activations that `feeds` (of `batch` samples) bring to the layer. Where
    none is clearly faster than what the library chooses by itself, which goes by each run's batch, none is named.
    `name` is the model's in errors.
    """
    reports = {report.compiled_node: report for report in layers}
    convolutions = [layer for layer in compiled_layers(model) if isinstance(layer.library, Conv2d)]
    recorded = record_inputs(model, convolutions, name, feeds)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for number, layer in enumerate(convolutions, 1):
        progress(f"tune: layer {number} of {len(convolutions)}: {layer.node.name}")
        times, own_choice = _time(layer, constants, recorded)
        best = next(iter(times))
        kept = [item for item in layer.node.attribute if item.name != KERNEL]
        del layer.node.attribute[:]
        layer.node.attribute.extend(kept)
        named = times[best] < _CLEARLY_FASTER * own_choice
        if named:
            layer.node.attribute.append(onnx.helper.make_attribute(KERNEL, best))
        report = reports.get(layer.node.name)
        if report is not None:
            timed = f"timed with a batch of {batch}: {_times(times)} ({cpu_name()}, {selected_isa()})"
            report.kernel_reason = timed if named else f"{timed}; left to the library: {own_choice * 1e6:.3g} us"


def _time(
    layer: CompiledLayer, constants: Mapping[str, onnx.TensorProto], inputs: Feeds
) -> tuple[dict[str, float], float]:
    """Median seconds of each kernel, the fastest first, and of the one that the library chooses by itself."""
    batch, _, height, _ = inputs[layer.source].shape
    free = compiled_layer(layer.node, constants, "auto")
    kernels = list(free.library.estimates(batch, height))
    runs = [compiled_layer(layer.node, constants, kernel).bind(inputs)[0] for kernel in kernels]
    runs.append(free.bind(inputs)[0])
    *medians, own_choice = (
        float(np.median(times)) for times in interleave([turn(run, _CALLS) for run in runs], min_time=_SECONDS)
    )
    return dict(sorted(zip(kernels, medians, strict=True), key=lambda item: item[1])), own_choice


def _times(seconds: dict[str, float]) -> str:
    return ", ".join(f"{kernel} {value * 1e6:.3g} us" for kernel, value in seconds.items())
