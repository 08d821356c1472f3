"""Each binary layer of a compiled model timed alone, against onnxruntime's float32 layer on the same +-1 values."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from bnncc import runtime
from bnncc.compiled_layers import CompiledLayer, alone, compiled_layers, record_inputs
from bnncc.data import Feeds
from bnncc.report import LayerTime
from bnncc.session import OPTIMIZED, InferenceSession, session_options
from bnncc.timing import Progress, Turn, interleave, turn

_CALLS = 5  # of a turn


def time_layers(
    model: onnx.ModelProto,
    name: str,
    feeds: Feeds,
    threads: int,
    repeats: int | None,
    min_time: float,
    progress: Progress | None,
) -> list[LayerTime]:
    """Time the binary layers of a compiled model on the activations that these inputs bring there.

    With one thread the library is called by itself; with more (0: as many as onnxruntime likes), as the op of a model
    that has nothing else. `repeats` rounds of calls in turns for each layer, or `min_time` seconds for all together.
    `name` is the model's in errors.
    """
    layers = compiled_layers(model)
    recorded = record_inputs(model, layers, name, feeds)
    reports = []
    for number, layer in enumerate(layers, 1):
        if progress is not None:
            progress(f"layer {number} of {len(layers)}: {layer.node.name}")
        inputs = {tensor: recorded[tensor] for tensor in layer.inputs}
        reports.append(_time(model, layer, inputs, threads, repeats, min_time / len(layers)))
    return reports


def _time(
    model: onnx.ModelProto,
    layer: CompiledLayer,
    inputs: Feeds,
    threads: int,
    repeats: int | None,
    min_time: float,
) -> LayerTime:
    bits = inputs[layer.source]
    run, result = layer.bind(inputs)
    ours: Turn = turn(run, _CALLS)
    if threads != 1:
        session = _session(alone(model, layer, inputs), threads)
        ours = turn(lambda: session.run(None, inputs), _CALLS)
    fp32_model, x = layer.fp32_model(runtime.unpack_signs(bits, layer.width))
    fp32_session = _session(fp32_model, threads)
    (y,) = fp32_session.run(None, {"x": x})
    theirs = turn(lambda: fp32_session.run(None, {"x": x}), _CALLS)
    times = interleave([ours, theirs], repeats, min_time, threads=threads)
    median, fp32_median = (float(np.median(series)) for series in times)
    products = layer.products(y.size)
    results = result if isinstance(result, tuple) else (result,)
    return LayerTime(
        name=layer.node.name,
        op=layer.node.op_type,
        kernel=layer.library.kernel,
        input=list(x.shape),
        weight=list(layer.weights.shape),
        gives=" + ".join("bits" if item.dtype == np.uint8 else "float" for item in results),
        median_us=median * 1e6,
        gmac_per_s=products / median / 1e9,
        fp32_median_us=fp32_median * 1e6,
        ratio=fp32_median / median,
    )


def _session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    return InferenceSession(model.SerializeToString(), threads=threads, sess_options=session_options(OPTIMIZED))
