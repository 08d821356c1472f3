"""The binary layers of a compiled model, as objects of the library that run without onnxruntime."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bnncc import runtime
from bnncc.model_io import BNNCC_DOMAIN

_EPILOGUE = ("scale", "shift", "threshold")


@dataclasses.dataclass(frozen=True)
class CompiledLayer:
    """A convolution or linear layer on packed signs, with the epilogue that its op has."""

    node: onnx.NodeProto
    source: str
    """The tensor that it reads: packed signs."""
    width: int
    """Signs in the last axis of the source."""
    weights: NDArray[np.float32]
    """+-1: [M, C/group, kh, kw], or [M, K] of a linear layer."""
    convolution: dict[str, object]
    """Attributes of an ONNX Conv (strides, pads, dilations, group), and pad_value; empty for a linear layer."""
    library: runtime.Conv2d | runtime.Linear

    def fp32_model(self, signs: NDArray[np.float32]) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
        """Return a model of the float32 Conv or MatMul that the layer's dot product is, and its input "x".

        `signs`: +-1 of the source's shape. Padding with signs is done here, outside the model.
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


def compiled_layers(model: onnx.ModelProto) -> list[CompiledLayer]:
    """Return the binary layers of a compiled model that onnxruntime can load, in the order of its nodes."""
    formal = {function.name: list(function.input) for function in model.functions if function.domain == BNNCC_DOMAIN}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        if node.domain == BNNCC_DOMAIN and node.op_type.startswith(("BinaryConv", "BinaryLinear")):
            names = dict(zip(formal[node.op_type], node.input, strict=False))
            layers.append(_layer(node, names, constants))
    return layers


def _layer(node: onnx.NodeProto, names: dict[str, str], constants: dict[str, onnx.TensorProto]) -> CompiledLayer:
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    shape, width = attributes["weight_shape"], attributes["width"]
    packed = numpy_helper.to_array(constants[names["weight"]])
    epilogue = {name: numpy_helper.to_array(constants[names[name]]) for name in _EPILOGUE if name in names}
    weights = runtime.unpack_signs(packed, math.prod(shape[1:])).reshape(shape)
    if node.op_type.startswith("BinaryLinear"):
        library = runtime.Linear(packed, weight_shape=shape, width=width, **epilogue)
        return CompiledLayer(node, names["packed"], width, weights, {}, library)
    convolution = {name: attributes[name] for name in ("strides", "pads", "dilations", "group")}
    convolution["pad_value"] = attributes["pad_value"]
    library = runtime.Conv2d(
        packed, weight_shape=shape, width=width, tree=_tree(attributes, shape[0]), **convolution, **epilogue
    )
    return CompiledLayer(node, names["packed"], width, weights, convolution, library)


def _tree(attributes: dict[str, object], channels: int) -> runtime.ConvTree | None:
    if "tree_nodes" not in attributes:
        return None
    flipped = np.array(attributes["tree_flipped"], np.uint8)
    return runtime.ConvTree(
        attributes["tree_nodes"],
        attributes["tree_parents"],
        np.unpackbits(flipped, count=channels, bitorder="little"),
    )


def alone(model: onnx.ModelProto, layer: CompiledLayer, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Return a model of nothing but the layer, its input packed signs of this shape."""
    constants = [tensor for tensor in model.graph.initializer if tensor.name in layer.node.input]
    graph = helper.make_graph(
        [layer.node],
        "layer",
        [helper.make_tensor_value_info(layer.source, onnx.TensorProto.UINT8, shape)],
        [onnx.ValueInfoProto(name=name) for name in layer.node.output],
        constants,
    )
    result = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    )
    return result
