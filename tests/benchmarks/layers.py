"""Time one binary layer, float in and float out, against onnxruntime's float32 Sign, Conv and BatchNormalization.

    python tests/benchmarks/layers.py [--threads N] [--batch N] [--json F]

Four 3x3 layers of binary ResNets; random filters and activations; calls of both interleaved in one process. Prints one
line a layer with medians and ratio. The batch-norm is part of both: onnxruntime folds it into its Conv.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import bnncc

LAYERS = ((56, 64), (28, 128), (14, 256), (7, 512))  # height = width, channels in = channels out


def layer_model(size: int, channels: int, batch: int, seed: int = 0) -> onnx.ModelProto:
    """Sign, 3x3 convolution with +-1 weights and padding 1, batch-norm; float32 [batch, channels, size, size]."""
    rng = np.random.default_rng(seed)
    weights = rng.choice(np.array([-1, 1], np.float32), (channels, channels, 3, 3))
    values = {
        "weight": weights,
        "gamma": rng.uniform(0.5, 1.5, channels),
        "beta": rng.standard_normal(channels),
        "mean": rng.standard_normal(channels),
        "variance": rng.uniform(0.5, 2, channels) * 9 * channels,
    }
    shape = [batch, channels, size, size]
    graph = helper.make_graph(
        [
            helper.make_node("Sign", ["x"], ["signs"]),
            helper.make_node("Conv", ["signs", "weight"], ["dot"], pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["dot", "gamma", "beta", "mean", "variance"], ["y"]),
        ],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Print a line per layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, channels in LAYERS:
            source, target = Path(folder) / "layer.onnx", Path(folder) / "layer.bnncc.onnx"
            onnx.save(layer_model(size, channels, arguments.batch), source)
            bnncc.compile(source, output=target)
            report = bnncc.bench(target, against=source, threads=arguments.threads)
            row = {
                "layer": f"{size}x{size}x{channels}",
                "threads": arguments.threads,
                "batch": arguments.batch,
                "median_ms": report.median_ms,
                "onnxruntime_fp32_median_ms": report.against_median_ms,
                "ratio": report.ratio,
                "device": f"{report.device} ({report.isa})",
            }
            rows.append(row)
            print(
                f"{row['layer']:>10}: {report.median_ms:7.3f} ms, onnxruntime fp32 {report.against_median_ms:7.3f} ms: "
                f"{report.ratio:5.1f}x   {row['device']}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
