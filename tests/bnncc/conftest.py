"""Small models with real binary layers, as files, and ways to call the command line on them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from bnncc.cli import main

ROOT = Path(__file__).resolve().parents[2]


class Builder:
    """Collects nodes and initializers of a model."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, name: str, values: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def signs(self, source: str, output: str) -> str:
        """Where(source >= 0, 1, -1)."""
        for name, value in (("zero", 0), ("one", 1), ("minus", -1)):
            if not any(tensor.name == name for tensor in self.initializers):
                self.constant(name, np.array(value, np.float32))
        self.node("GreaterOrEqual", [source, "zero"], f"{output}_ge")
        return self.node("Where", [f"{output}_ge", "one", "minus"], output)

    def weights(self, name: str, *shape: int) -> str:
        return self.constant(name, self.generator.choice([-1.0, 1.0], shape).astype(np.float32))

    def floats(self, name: str, *shape: int) -> str:
        return self.constant(name, self.generator.standard_normal(shape).astype(np.float32))

    def batchnorm(self, source: str, channels: int, output: str) -> str:
        g = self.generator
        values = {
            "scale": g.uniform(0.5, 1.5, channels),
            "bias": g.standard_normal(channels),
            "mean": g.standard_normal(channels) * 3,
            "var": g.uniform(0.5, 9, channels),
        }
        names = [self.constant(f"{output}_{key}", value.astype(np.float32)) for key, value in values.items()]
        return self.node("BatchNormalization", [source, *names], output)

    def model(self, inputs: dict[str, list], outputs: dict[str, list], opset: int = 17) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def binary_cnn(batch: str | int = "N", seed: int = 0) -> onnx.ModelProto:
    """Float conv, two binary convs, a float classifier: image [batch, 3, 8, 8] to logits [batch, 10]."""
    b = Builder(seed)
    b.node("Conv", ["image", b.floats("stem_w", 16, 3, 3, 3)], "stem", pads=[1, 1, 1, 1])
    b.signs(b.batchnorm("stem", 16, "stem_bn"), "signs0")
    b.node("Conv", ["signs0", b.weights("conv1_w", 16, 16, 3, 3)], "conv1", pads=[1, 1, 1, 1])
    b.signs(b.batchnorm("conv1", 16, "conv1_bn"), "signs1")
    b.node("Conv", ["signs1", b.weights("conv2_w", 24, 16, 3, 3)], "conv2", pads=[1, 1, 1, 1], strides=[2, 2])
    b.node("GlobalAveragePool", [b.batchnorm("conv2", 24, "conv2_bn")], "pool")
    b.node("Flatten", ["pool"], "flat")
    b.node("Gemm", ["flat", b.floats("fc_w", 24, 10), b.floats("fc_b", 10)], "logits")
    return b.model({"image": [batch, 3, 8, 8]}, {"logits": [batch, 10]})


def float_mlp(opset: int = 17) -> onnx.ModelProto:
    """Two float layers: nothing in it can be binary. x ["N", 6] to y ["N", 4]."""
    b = Builder(1)
    b.node("Gemm", ["x", b.floats("w1", 6, 8), b.floats("b1", 8)], "h")
    b.node("Relu", ["h"], "r")
    b.node("Gemm", ["r", b.floats("w2", 8, 4), b.floats("b2", 4)], "y")
    return b.model({"x": ["N", 6]}, {"y": ["N", 4]}, opset)


@pytest.fixture
def cnn(tmp_path: Path) -> Path:
    """The file of `binary_cnn`."""
    path = tmp_path / "cnn.onnx"
    onnx.save(binary_cnn(), path)
    return path


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """The file of `float_mlp`."""
    path = tmp_path / "mlp.onnx"
    onnx.save(float_mlp(), path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven samples with labels for `binary_cnn`."""
    path = tmp_path / "images.npz"
    generator = np.random.default_rng(5)
    np.savez(
        path,
        image=generator.standard_normal((7, 3, 8, 8), dtype=np.float32),
        labels=generator.integers(0, 10, 7),
    )
    return path


@pytest.fixture
def bnncc():
    """Call the command line in this process: bnncc("compile", path, ...) gives click's result."""

    def call(*arguments: object):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def builder():
    """The class that builds models."""
    return Builder


@pytest.fixture
def make_cnn():
    """The function `binary_cnn`."""
    return binary_cnn


@pytest.fixture
def data_folder() -> Path:
    """The folder with optional data and third-party models."""
    folder = Path(os.environ.get("BNNCC_DATA", ROOT / ".." / "shared")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no optional data at {folder} (set BNNCC_DATA)")
    return folder


@pytest.fixture
def network(builder, tmp_path):
    """A file with hidden layers of 16 and 12 channels, and labelled samples on which the network is always right."""
    b = builder(3)
    b.node("Conv", ["x", b.floats("w1", 16, 3, 3, 3), b.floats("b1", 16)], "conv1", pads=[1, 1, 1, 1])
    b.node("Relu", ["conv1"], "relu1")
    b.node("Conv", ["relu1", b.floats("w2", 12, 16, 3, 3), b.floats("b2", 12)], "conv2", strides=[2, 2])
    b.node("Relu", ["conv2"], "relu2")
    b.node("GlobalAveragePool", ["relu2"], "pool")
    b.node("Flatten", ["pool"], "flat")
    b.node("Gemm", ["flat", b.floats("w3", 4, 12), b.floats("b3", 4)], "fc", transB=1)
    path = tmp_path / "net.onnx"
    onnx.save(b.model({"x": ["N", 3, 9, 9]}, {"fc": ["N", 4]}), path)
    x = np.random.default_rng(1).standard_normal((60, 3, 9, 9)).astype(np.float32)
    labels = ort.InferenceSession(path).run(None, {"x": x})[0].argmax(axis=1)
    np.savez(tmp_path / "x.npz", x=x, labels=labels)
    np.savez(tmp_path / "unlabelled.npz", x=x)
    return path
