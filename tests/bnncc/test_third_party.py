"""Trained models of others, on real images: every binary layer lowered, no bit flipped, the same accuracy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def digits(data_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first 1,000 test images of MNIST, float32 [1000, 1, 28, 28] from 0 to 1, and their labels."""
    folder = data_folder / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no MNIST at {folder}")
    images = np.frombuffer(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 1, 28, 28)[:1000].astype(np.float32) / np.float32(255), labels[:1000]


@pytest.mark.parametrize(
    ("file", "binary", "layers", "accuracy"),
    [
        ("bmxnet-mnist-lenet/bmxnet_mnist_lenet_binary.onnx", 2, 4, 0.964),
        ("qonnx-tfc/TFC_1W1A.onnx", 4, 4, 0.913),
    ],
)
def test_trained_models(bnncc, data_folder, digits, tmp_path, file, binary, layers, accuracy):
    model = data_folder / "models" / file
    if not model.is_file():
        pytest.skip(f"no model at {model}")
    out, report, data = tmp_path / "out.onnx", tmp_path / "r.json", tmp_path / "mnist.npz"
    images, labels = digits
    name = {"bmxnet-mnist-lenet": "data", "qonnx-tfc": "0"}[Path(file).parent.name]
    np.savez(data, labels=labels, **{name: images})
    arguments = ("--data", data, "--report", report, "--require-binary", "all", "--min-argmax-agreement", 1)
    result = bnncc("compile", model, "-o", out, *arguments)
    assert result.exit_code == 0, result.output
    made = json.loads(report.read_text())
    assert [layer["status"] for layer in made["layers"]].count("binary") == binary
    assert len(made["layers"]) == layers
    assert json.loads(bnncc("inspect", out, "--json").stdout)["layers"] == made["layers"]
    for layer in made["layers"]:
        if layer["status"] == "binary":
            assert layer["weight_bits"] == 1
    checks = [made["verify"]]
    assert bnncc("verify", model, out, "--data", data, "--through", "functions", "--json", report).exit_code == 0
    checks.append(json.loads(report.read_text()))
    for verify in checks:
        assert verify["data_samples"] == 1000
        assert (verify["flipped_bits"], verify["near_ties"]) == (0, 0)
        assert verify["bits_compared"] > 900 * verify["samples"]
        assert verify["accuracy"] == {"reference": accuracy, "compiled": accuracy}
        assert verify["max_rel_diff"] < 1e-5


def test_float_models_compile_to_the_same_answers(bnncc, data_folder, tmp_path):
    for file in ("onnx-float/mnist-conv.onnx", "resnet-cifar10-float/resnet20_cifar10.onnx"):
        model = data_folder / "models" / file
        if not model.is_file():
            pytest.skip(f"no model at {model}")
        result = bnncc("compile", model, "-o", tmp_path / "o.onnx", "--min-argmax-agreement", 1, "--max-abs-diff", 1e-2)
        assert result.exit_code == 0, result.output
