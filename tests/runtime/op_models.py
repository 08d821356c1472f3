"""Models of a single op of the domain `bnncc`, and sessions that run them with the library or on the bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bnncc import runtime
from bnncc.runtime import functions

OPSET = 17
# Name of the input, element type of the outputs.
FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
OUTPUTS = {
    "Binarize": (UINT8,),
    "UnpackSigns": (FLOAT,),
    "MaxPoolSigns": (UINT8,),
    "BinaryConv": (FLOAT,),
    "BinaryConvThreshold": (UINT8,),
    "BinaryConvDual": (FLOAT, UINT8),
    "BinaryConvSteps": (FLOAT,),
    "BinaryConvStepsDual": (FLOAT, UINT8),
    "BinaryLinear": (FLOAT,),
    "BinaryLinearThreshold": (UINT8,),
    "BinaryLinearDual": (FLOAT, UINT8),
}


def op_model(
    op: str,
    input_shape: list[int | str | None],
    constants: dict[str, NDArray[Any]],
    attributes: dict[str, Any],
    name: str = "the_node",
    not_constant: str | None = None,
    residual_shape: list[int | str | None] | None = None,
) -> onnx.ModelProto:
    """Return a model of one node `name`: input `x`, the constants as initializers, outputs `out0`, `out1`.

    `not_constant` names one of the constants that is made a graph input instead. Ops with steps also have an input
    `residual`, behind the constant `operands`.
    """
    element = FLOAT if op == "Binarize" else UINT8
    inputs = [helper.make_tensor_value_info("x", element, input_shape)]
    input_names = ["x"]
    initializers = []
    for key, value in constants.items():
        input_names.append(key)
        tensor = numpy_helper.from_array(value, key)
        if key == not_constant:
            inputs.append(helper.make_tensor_value_info(key, tensor.data_type, list(value.shape)))
        else:
            initializers.append(tensor)
        if key == "operands":
            input_names.append("residual")
            inputs.append(helper.make_tensor_value_info("residual", FLOAT, residual_shape or [None] * 4))
    names = [f"out{i}" for i in range(len(OUTPUTS[op]))]
    node = helper.make_node(op, input_names, names, name=name, domain=functions.DOMAIN, **attributes)
    dims = [None] * 4 if "Steps" in op else None  # else onnx infers the rank
    outputs = [helper.make_tensor_value_info(n, t, dims) for n, t in zip(names, OUTPUTS[op], strict=True)]
    graph = helper.make_graph([node], "single_op", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(functions.DOMAIN, functions.VERSION)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    model.functions.extend(functions.functions_for(graph, OPSET))
    return model


def session(model: onnx.ModelProto, library: bool = True, threads: int = 1) -> onnxruntime.InferenceSession:
    """Return a session with the library's kernels, or one that runs the function bodies as they are written.

    (Optimized, onnxruntime folds a body's scale into its weights and rounds elsewhere.)
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if library:
        runtime.register(options)
    else:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_both(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Return the outputs of the kernels and those of the function bodies."""
    return session(model).run(None, feeds), session(model, library=False).run(None, feeds)


def random_bits(rng: np.random.Generator, *shape: int) -> NDArray[np.uint8]:
    """Return uniform bytes; with unused bits at the end of rows set at random too, since kernels must ignore them."""
    return rng.integers(0, 256, shape, dtype=np.uint8)
