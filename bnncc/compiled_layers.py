"""The binary layers of a compiled model, as objects of the library that run without onnxruntime."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bnncc import runtime
from bnncc.errors import BadInput
from bnncc.passes.order_filters import ATTRIBUTE, read_tree_text
from bnncc.runtime.functions import DOMAIN, MIN_OPSET, all_functions

_LAYERS = ("BinaryConv", "BinaryLinear")
# The operands of an op that the library's epilogue takes, and their types.
_EPILOGUE = {"scale": np.float32, "shift": np.float32, "threshold": np.int32}


@dataclasses.dataclass(frozen=True)
class CompiledLayer:
    """A convolution or linear layer on packed signs, with the epilogue that its op has."""

    node: onnx.NodeProto
    inputs: tuple[str, ...]
    """The tensors that it reads: packed signs, and after them what its op may take beside constants."""
    width: int
    """Signs in the last axis of the first input."""
    weights: NDArray[np.float32]
    """+-1: [M, C/group, kh, kw], or [M, K] of a linear layer."""
    convolution: dict[str, object]
    """Attributes of an ONNX Conv (strides, pads, dilations, group), and pad_value; empty for a linear layer."""
    library: runtime.Conv2d | runtime.Linear

    @property
    def source(self) -> str:
        """The tensor of packed signs."""
        return self.inputs[0]

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
    """Return the binary layers of a compiled model that onnxruntime has loaded, in the order of its nodes.

    Raises BadInput, naming the node, where weights are not initializers.
    """
    formal = {function.name: list(function.input) for function in all_functions(MIN_OPSET)}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    return [_layer(node, formal[node.op_type], constants) for node in model.graph.node if is_binary_layer(node)]


def _layer(node: onnx.NodeProto, formal: list[str], constants: dict[str, onnx.TensorProto]) -> CompiledLayer:
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    given = dict(zip(formal, node.input, strict=False))
    values = {name: numpy_helper.to_array(constants[tensor]) for name, tensor in given.items() if tensor in constants}
    if "weight" not in values:
        raise BadInput(f"node {node.name!r}: its weights are not an initializer")
    shape, width, packed = attributes["weight_shape"], attributes["width"], values["weight"]
    epilogue = {
        name: values[name] for name, dtype in _EPILOGUE.items() if name in values and values[name].dtype == dtype
    }
    parts = {
        "node": node,
        "inputs": tuple(name for name in node.input if name and name not in constants),
        "width": width,
        "weights": runtime.unpack_signs(packed, math.prod(shape[1:])).reshape(shape),
    }
    if node.op_type.startswith("BinaryLinear"):
        library = runtime.Linear(packed, weight_shape=shape, width=width, **epilogue)
        return CompiledLayer(**parts, convolution={}, library=library)
    convolution = {name: attributes[name] for name in ("strides", "pads", "dilations", "group", "pad_value")}
    library = runtime.Conv2d(packed, weight_shape=shape, width=width, tree=_tree(attributes), **convolution, **epilogue)
    return CompiledLayer(**parts, convolution=convolution, library=library)


def _tree(attributes: dict[str, object]) -> runtime.ConvTree | None:
    if ATTRIBUTE not in attributes:
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
