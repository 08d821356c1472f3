"""The shipped networks on real images: all binary layers lowered, no bit flipped, the same accuracy, 1 bit a weight."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "shipped"
SAMPLE = SHIPPED / "fashion_mnist_test500.npz"


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """1,000 test images where the data set is at hand, else the 500 that are shipped."""
    data = Path(os.environ.get("BNNCC_DATA", SHIPPED.parents[2] / "shared")) / "data" / "fashion-mnist"
    if not data.is_dir():
        return SAMPLE
    raw = np.frombuffer(gzip.decompress((data / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((data / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    image = raw.reshape(-1, 1, 28, 28)[:1000].astype(np.float32) / np.float32(255)
    path = tmp_path_factory.mktemp("images") / "fashion.npz"
    np.savez(path, image=image, labels=labels[:1000].astype(np.int64))
    return path


@pytest.mark.parametrize(
    ("name", "binary", "residual", "operations"),
    [("vgg_small", 5, False, 0.360), ("vgg_small_mst", 5, False, 0.231), ("bireal_resnet", 6, True, 0.347)],
)
def test_shipped_model(bnncc, images, tmp_path, name, binary, residual, operations):
    model, out, report = SHIPPED / f"{name}_fashion_mnist.onnx", tmp_path / "out.onnx", tmp_path / "report.json"
    gates = ("--require-binary", "all", "--min-argmax-agreement", "1", "--max-abs-diff", "1e-4")
    result = bnncc("compile", model, "-o", out, "--data", images, "--report", report, *gates)
    assert result.exit_code == 0, result.output
    made = json.loads(report.read_text())
    layers = [layer for layer in made["layers"] if layer["status"] == "binary"]
    assert len(layers) == binary
    # Of bit operations the paper's trees leave what the README's table says.
    assert round(made["trees"]["operations_mst"] / made["trees"]["operations_dense"], 3) == operations
    before, after = (sum(layer[key] for layer in layers) for key in ("size_before", "size_after"))
    # Weights are 1/32; a threshold (4 bytes) or scale and shift (8 bytes) per channel and the filter tree come on top.
    assert before / after > 30
    assert bnncc("verify", model, out, "--data", images, "--through", "functions", "--json", report).exit_code == 0
    for verify in (made["verify"], json.loads(report.read_text())):
        assert verify["flipped_bits"] == 0
        assert verify["accuracy"]["reference"] == verify["accuracy"]["compiled"]
        assert verify["data_samples"] >= 500
        if residual:
            # Sums of floats: no more near-ties than the optimizer of onnxruntime makes on the same images.
            allowed = verify["onnxruntime"]["near_ties"] if verify["near_ties"] else 0
            assert verify["near_ties"] <= allowed
        else:
            assert verify["near_ties"] == 0
