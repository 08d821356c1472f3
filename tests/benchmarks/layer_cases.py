"""The layers that are timed: shapes, filters, activations, and the models that other engines run of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SHAPES = ((56, 64), (28, 128), (14, 256), (7, 512))  # height = width, channels in = channels out; 3x3, padding 1
BATCHES = (1, 8)
FLIPS = 0.12  # of filters that were trained towards one center

Signs = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """One of SHAPES."""

    size: int
    channels: int

    @property
    def name(self) -> str:
        """As in tables: 56x56x64."""
        return f"{self.size}x{self.size}x{self.channels}"

    @property
    def inputs(self) -> int:
        """Weights of a filter."""
        return 9 * self.channels

    def products(self, batch: int) -> int:
        """Products of +-1 by +-1 in the layer, padding included."""
        return batch * self.size**2 * self.channels * self.inputs


@dataclass(frozen=True)
class Workload:
    """Filters and activations of a shape: +-1 float32 [M, C, 3, 3] and [8, C, size, size]."""

    filters: str
    activations: str
    weight: Signs
    signs: Signs


def workloads(shape: Shape) -> Iterator[Workload]:
    """Make the filters and activations of a shape; the trained ones where the optional data is.

    Random filters; those of one layer of a trained ImageNet network, on the activations that reached it for eight
    images and on coin flips; a center of which each filter flips 12% of the bits.
    """
    rng = np.random.default_rng([0, shape.size])
    size, channels = shape.size, shape.channels
    coins = flip_coins(rng, (8, channels, size, size))
    weight_shape = (channels, channels, 3, 3)
    yield Workload("random", "coin flips", flip_coins(rng, weight_shape), coins)
    data = trained_layers()
    if data is not None:
        weight = unpack(data[f"{shape.name}_weight"], shape.inputs).reshape(weight_shape)
        recorded = unpack(data[f"{shape.name}_activation"], size * size).reshape(coins.shape)
        yield Workload("trained", "recorded", weight, recorded)
        yield Workload("trained", "coin flips", weight, coins)
    yield Workload(
        "one center", "coin flips", around_center(rng, channels, shape.inputs, FLIPS).reshape(weight_shape), coins
    )


def flip_coins(rng: np.random.Generator, shape: tuple[int, ...]) -> Signs:
    """Return random +-1."""
    return rng.choice(np.array([-1, 1], np.float32), shape)


def around_center(rng: np.random.Generator, count: int, length: int, flips: float) -> Signs:
    """Return +-1 filters [count, length] that differ from a random one in about this share of their values."""
    center = flip_coins(rng, (length,))
    return np.where(rng.random((count, length)) < flips, -center, center)


def unpack(bits: NDArray[np.uint8], length: int) -> Signs:
    """Return +-1 for bits along the last axis, little-endian."""
    return np.unpackbits(bits, axis=-1, count=length, bitorder="little").astype(np.float32) * 2 - 1


def trained_layers() -> dict[str, NDArray[np.uint8]] | None:
    """Return the arrays of the trained layers, None where the optional data is missing."""
    folder = Path(os.environ.get("BNNCC_DATA", Path(__file__).resolve().parents[2] / ".." / "shared"))
    path = folder / "models" / "imagenet-bnn-layers" / "layers.npz"
    if not path.is_file():
        return None
    with np.load(path) as arrays:
        return dict(arrays)


# ---- Models: x float32 [N, C, size, size], "N" being dynamic -------------------------------------------------------


def layer_model(weight: Signs, size: int, ends_in_signs: bool) -> onnx.ModelProto:
    """Return Sign, Conv, BatchNormalization, and a second Sign and Conv if the layer is to give bits.

    Compiled, the layer is the only convolution on packed signs, or the first of two; the second has one filter of 1x1.
    """
    channels = len(weight)
    rng = np.random.default_rng([1, size])
    values = {
        "weight": weight,
        "gamma": rng.uniform(0.5, 1.5, channels),
        "beta": rng.standard_normal(channels),
        "mean": rng.standard_normal(channels),
        "variance": rng.uniform(0.5, 2, channels) * 9 * channels,
    }
    nodes = [
        helper.make_node("Sign", ["x"], ["signs"]),
        helper.make_node("Conv", ["signs", "weight"], ["dot"], "layer", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["dot", "gamma", "beta", "mean", "variance"], ["y"]),
    ]
    output, out_channels = "y", channels
    if ends_in_signs:
        values["next_weight"] = flip_coins(rng, (1, channels, 1, 1))
        nodes.append(helper.make_node("Sign", ["y"], ["next_signs"]))
        nodes.append(helper.make_node("Conv", ["next_signs", "next_weight"], ["z"], "next"))
        output, out_channels = "z", 1
    return _model(nodes, values, size, (TensorProto.FLOAT, channels), (output, TensorProto.FLOAT, out_channels))


def fp32_conv_model(weight: Signs, size: int) -> onnx.ModelProto:
    """Return a float32 Conv of +-1 values."""
    channels = len(weight)
    node = helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1])
    return _model([node], {"weight": weight}, size, (TensorProto.FLOAT, channels), ("y", TensorProto.FLOAT, channels))


def int8_conv_model(weight: Signs, size: int) -> onnx.ModelProto:
    """Return a QLinearConv of the same values: uint8 [N, C, size, size], 129 for +1 and 127 for -1, to uint8."""
    channels = len(weight)
    values = {
        "x_scale": np.float32(1),
        "x_zero": np.uint8(128),
        "weight": weight.astype(np.int8),
        "w_scale": np.ones(channels, np.float32),
        "w_zero": np.zeros(channels, np.int8),
        "y_scale": np.float32(4),
        "y_zero": np.uint8(128),
    }
    inputs = ["x", "x_scale", "x_zero", "weight", "w_scale", "w_zero", "y_scale", "y_zero"]
    node = helper.make_node("QLinearConv", inputs, ["y"], pads=[1, 1, 1, 1])
    return _model([node], values, size, (TensorProto.UINT8, channels), ("y", TensorProto.UINT8, channels))


def _model(
    nodes: list[onnx.NodeProto],
    values: dict[str, np.ndarray],
    size: int,
    given: tuple[int, int],
    result: tuple[str, int, int],
) -> onnx.ModelProto:
    """Return a model of x and one output; `values` that are float64 become float32."""
    arrays = {
        k: v.astype(np.float32) if np.asarray(v).dtype == np.float64 else np.asarray(v) for k, v in values.items()
    }
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", given[0], ["N", given[1], size, size])],
        [helper.make_tensor_value_info(result[0], result[1], ["N", result[2], size, size])],
        [numpy_helper.from_array(value, name) for name, value in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
