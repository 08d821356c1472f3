"""The binary layers of a compiled model, as objects of the library that run without onnxruntime."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bnncc import runtime
from bnncc.data import Feeds
from bnncc.errors import BadInput
from bnncc.graphs import exposed
from bnncc.passes.order_filters import ATTRIBUTE, read_tree_text
from bnncc.runtime.binding import Result
from bnncc.runtime.functions import DOMAIN, MIN_OPSET, STEPS, all_functions
from bnncc.session import OPTIMIZED, InferenceSession, session_options

KERNEL = "kernel"  # an attribute of convolutions: the name of the kernel to use where it can be had

_LAYERS = ("BinaryConv", "BinaryLinear")
_STEPS = ("BinaryConvSteps", "BinaryConvStepsDual")


@dataclasses.dataclass(frozen=True)
class CompiledLayer:
    """A convolution or linear layer on packed signs, with the epilogue that its op has."""

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    """The tensors that it reads: packed signs, and the residual if a step adds one."""
    width: int
    """Signs in the last axis of the first input."""
    weights: NDArray[np.float32]
    """+-1: [M, C/group, kh, kw], or [M, K] of a linear layer."""
    convolution: dict[str, object]
    """Attributes of an ONNX Conv (strides, pads, dilations, group), and pad_value; empty for a linear layer."""
    kernel: str | None
    """The kernel that its op names, if it names one."""
    library: runtime.Conv2d | runtime.Linear

    @property
    def source(self) -> str:
        """The tensor of packed signs."""
        return self.inputs[0]

    def bind(self, values: Mapping[str, np.ndarray]) -> tuple[Callable[[], None], Result]:
        """Return a function that runs on the arrays of its inputs, and the result, which each call writes anew."""
        return self.library.bind(*(values[name] for name in self.inputs))

    def fp32_model(self, signs: NDArray[np.float32]) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
        """Return a model of the float32 Conv or MatMul that the layer's dot product is, and its input "x".

        `signs`: +-1 as packed in the first input. Padding with signs is done here, outside the model.
        """
        if not self.convolution:
            x, node = signs.reshape(len(signs), -1), helper.make_node("MatMul", ["x", "w"], ["y"])
            weights = np.ascontiguousarray(self.weights.T)
        else:
            attributes, x, weights = dict(self.convolution), signs, self.weights
            pad_value, pads = attributes.pop("pad_value"), attributes["pads"]
            if pad_value:
                x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=pad_value)
                attributes["pads"] = [0, 0, 0, 0]
            node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(weights, "w")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), x

    def products(self, outputs: int) -> int:
        """Return the multiplications of +-1 by +-1 that so many output values stand for, padding included."""
        return outputs * math.prod(self.weights.shape[1:])


def is_binary_layer(node: onnx.NodeProto) -> bool:
    """Return whether a node is a binary convolution or linear layer, with whatever epilogue."""
    return node.domain == DOMAIN and node.op_type.startswith(_LAYERS)


def compiled_layers(model: onnx.ModelProto) -> list[CompiledLayer]:
    """Return the binary layers of a compiled model in the order of its nodes.

    onnxruntime must have made a session of it, which refuses damaged ops.

    Raises BadInput, naming the node, where weights are not initializers.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return [compiled_layer(node, constants) for node in model.graph.node if is_binary_layer(node)]


def record_inputs(model: onnx.ModelProto, layers: Iterable[CompiledLayer], name: str, feeds: Feeds) -> Feeds:
    """Return what the layers of a compiled model read when it is given these inputs, by tensor.

    `name` is the model's in errors.
    """
    inner = list(dict.fromkeys(tensor for layer in layers for tensor in layer.inputs if tensor not in feeds))
    if not inner:
        return dict(feeds)
    session = InferenceSession(
        exposed(model, inner, name).SerializeToString(), threads=1, sess_options=session_options(OPTIMIZED)
    )
    return {**feeds, **dict(zip(inner, session.run(inner, feeds), strict=True))}


@functools.cache
def _formal_inputs() -> dict[str, list[str]]:
    return {function.name: list(function.input) for function in all_functions(MIN_OPSET)}


def compiled_layer(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], kernel: str | None = None
) -> CompiledLayer:
    """Return the binary layer that a node is, with the model's initializers by name.

    `kernel`: a kernel for it to use if it is a convolution, in place of the one that the node may name.
    """
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    given = dict(zip(_formal_inputs()[node.op_type], node.input, strict=False))
    values = {name: numpy_helper.to_array(constants[tensor]) for name, tensor in given.items() if tensor in constants}
    if "weight" not in values:
        raise BadInput(f"node {node.name!r}: its weights are not an initializer")
    shape, width, packed = attributes["weight_shape"], attributes["width"], values["weight"]
    epilogue = {name: values[name] for name in ("scale", "shift") if name in values}
    if node.op_type in _STEPS:
        epilogue["steps"] = _steps(attributes, values)
    elif "threshold" in values:
        epilogue["threshold"] = values["threshold"]
    parts = {
        "node": node,
        "inputs": tuple(name for name in node.input if name and name not in constants),
        "width": width,
        "weights": runtime.unpack_signs(packed, math.prod(shape[1:])).reshape(shape),
    }
    if node.op_type.startswith("BinaryLinear"):
        library = runtime.Linear(packed, weight_shape=shape, width=width, **epilogue)
        return CompiledLayer(**parts, convolution={}, kernel=None, library=library)
    convolution = {name: attributes[name] for name in ("strides", "pads", "dilations", "group", "pad_value")}
    if kernel is None and isinstance(attributes.get(KERNEL), bytes):
        kernel = attributes[KERNEL].decode()
    library = runtime.Conv2d(
        packed, weight_shape=shape, width=width, tree=_tree(attributes), kernel=kernel, **convolution, **epilogue
    )
    return CompiledLayer(**parts, convolution=convolution, kernel=kernel, library=library)


def _steps(attributes: dict[str, object], values: dict[str, np.ndarray]) -> runtime.Steps:
    bits = {name: values[name] for name in ("threshold", "direction") if name in values}
    if bits:
        bits["nan_bit"] = attributes["nan_bit"]
    kinds = list(STEPS)
    return runtime.Steps([kinds[number] for number in attributes["steps"]], values["operands"], **bits)


def _tree(attributes: dict[str, object]) -> runtime.ConvTree | None:
    if not isinstance(attributes.get(ATTRIBUTE), bytes):
        return None
    groups, channels = attributes["group"], attributes["weight_shape"][0]
    trees = read_tree_text(attributes[ATTRIBUTE].decode("ascii"), groups, channels // groups)
    parents, flipped = zip(*trees, strict=True)
    return runtime.ConvTree([len(tree) for tree in parents], np.concatenate(parents), np.concatenate(flipped))


def alone(model: onnx.ModelProto, layer: CompiledLayer, inputs: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return a model of nothing but the layer, which takes arrays of the types and shapes of `inputs`."""
    graph = helper.make_graph(
        [layer.node],
        "layer",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in layer.node.output],
        [tensor for tensor in model.graph.initializer if tensor.name in layer.node.input],
    )
    return helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )
