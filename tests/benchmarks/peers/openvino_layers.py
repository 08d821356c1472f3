"""OpenVINO: FakeQuantize of two levels and a Convolution of +-1 weights, which it runs as one BinaryConvolution."""

import numpy as np
import openvino as ov
from openvino import opset1
from serving import serve


def set_up(layer, weight, x):
    """Compile the layer for the CPU; its profile tells what the BinaryConvolution takes of a call."""
    data = opset1.parameter(list(x.shape), np.float32, name="x")
    threshold = opset1.constant(np.zeros((1, layer["channels"], 1, 1), np.float32))
    low, high = (opset1.constant(np.full((1, 1, 1, 1), value, np.float32)) for value in (-1, 1))
    signs = opset1.fake_quantize(data, threshold, threshold, low, high, 2)
    conv = opset1.convolution(signs, opset1.constant(weight), [1, 1], [1, 1], [1, 1], [1, 1])
    options = {"INFERENCE_NUM_THREADS": layer["threads"], "NUM_STREAMS": 1, "PERF_COUNT": True}
    compiled = ov.Core().compile_model(ov.Model([conv], [data], "layer"), "CPU", options)
    request = compiled.create_infer_request()
    request.infer({0: x})
    if not any(info.node_type == "BinaryConvolution" for info in request.profiling_info):
        raise RuntimeError("OpenVINO runs the layer, but not as a BinaryConvolution")

    def alone():
        return sum(
            info.real_time.total_seconds() for info in request.profiling_info if info.node_type == "BinaryConvolution"
        )

    return lambda: request.infer({0: x}), request.get_output_tensor(0).data.copy(), alone


serve("OpenVINO " + ov.__version__.split("-")[0], set_up)
