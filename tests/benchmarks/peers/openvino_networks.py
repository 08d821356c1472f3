"""OpenVINO: a network in float32, as its ONNX file has it, for one input shape and least latency."""

import openvino as ov
from serving import serve


def set_up(network, x):
    """Compile the network for the CPU. Without the hint, CPUs that have bfloat16 would compute in that."""
    model = ov.Core().read_model(network["model"])
    model.reshape(list(x.shape))
    options = {
        "INFERENCE_NUM_THREADS": network["threads"],
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = ov.Core().compile_model(model, "CPU", options).create_infer_request()

    def call():
        request.infer({0: x}, share_inputs=True, share_outputs=True)

    call()
    return call, request.get_output_tensor(0).data.copy()


serve("OpenVINO " + ov.__version__.split("-")[0], set_up)
