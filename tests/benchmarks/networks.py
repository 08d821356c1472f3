"""Compile, verify and time a network of the shape of Bi-Real-Net-18 with random weights, 3x224x224 to 1,000 classes.

    python tests/benchmarks/networks.py [--threads N] [--json F]

Prints what `bnncc compile` takes, as a command of its own (seconds of wall time and peak memory, verification on 32
random samples included), what verification found, and medians against onnxruntime's float32.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import bnncc

STAGES = (64, 128, 256, 512)  # channels; each stage has four binary convolutions, the later ones halve the image
CONVOLUTIONS = 4


class Network:
    """Nodes and random initializers of the network as it grows; each method adds a layer and returns its output."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        output = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, **attributes))
        return output

    def float_conv(self, x: str, inputs: int, outputs: int, size: int, **attributes: object) -> str:
        weight = self.rng.standard_normal((outputs, inputs, size, size)) / np.sqrt(inputs * size * size)
        return self.norm(self.node("Conv", x, self.constant(weight), **attributes), outputs, 1.0)

    def norm(self, x: str, channels: int, variance: float) -> str:
        """Batch-norm for inputs of about this variance."""
        values = (
            self.rng.uniform(0.5, 1.5, channels),
            self.rng.standard_normal(channels) / 2,
            self.rng.standard_normal(channels) * np.sqrt(variance) / 4,
            self.rng.uniform(0.5, 2, channels) * variance,
        )
        return self.node("BatchNormalization", x, *map(self.constant, values))

    def binary_conv(self, x: str, inputs: int, outputs: int, stride: int) -> str:
        """Signs, 3x3 convolution with +-1 weights, batch-norm."""
        at_least_0 = self.node("GreaterOrEqual", x, self.constant(np.array(0)))
        signs = self.node("Where", at_least_0, self.constant(np.array(1)), self.constant(np.array(-1)))
        weight = self.constant(self.rng.choice([-1, 1], (outputs, inputs, 3, 3)))
        return self.norm(self.node("Conv", signs, weight, strides=[stride] * 2, pads=[1] * 4), outputs, 9 * inputs)


def network_model(seed: int = 0) -> onnx.ModelProto:
    """Return the network: float stem, 16 binary convolutions with a shortcut around each, float classifier."""
    net = Network(seed)
    x = net.float_conv("image", 3, STAGES[0], 7, strides=[2, 2], pads=[3] * 4)
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = STAGES[0]
    for outputs in STAGES:
        for _ in range(CONVOLUTIONS):
            stride, shortcut = 1, x
            if outputs != channels:
                stride, pooled = 2, net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
                shortcut = net.float_conv(pooled, channels, outputs, 1)
            x = net.node("Add", net.binary_conv(x, channels, outputs, stride), shortcut)
            channels = outputs
    flat = net.node("Flatten", net.node("GlobalAveragePool", x))
    weight = net.constant(net.rng.standard_normal((1000, channels)) / np.sqrt(channels))
    net.nodes.append(helper.make_node("Gemm", [flat, weight], ["logits"], "classifier", transB=1))
    graph = helper.make_graph(
        net.nodes,
        "bireal18",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1000])],
        net.initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Print what compiling takes, what it made, and how fast that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, target, report = (Path(folder) / name for name in ("float.onnx", "binary.onnx", "report.json"))
        onnx.save(network_model(), source)
        command = [sys.executable, "-m", "bnncc", "compile", source, "-o", target, "--report", report]
        started = time.perf_counter()
        subprocess.run([*command, "--require-binary", "all"], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # it is in KiB on Linux
        made = json.loads(report.read_text(encoding="utf-8"))
        timed = bnncc.bench(target, against=source, threads=arguments.threads)
    verify, size = made["verify"], made["size"]
    row = {
        "compile_seconds": seconds,
        "compile_peak_mib": peak,
        "binary_layers": [layer["status"] for layer in made["layers"]].count("binary"),
        "bytes_before": size["before"],
        "bytes_after": size["after"],
        **{key: verify[key] for key in ("samples", "flipped_bits", "near_ties", "argmax_agreement")},
        "threads": arguments.threads,
        "median_ms": timed.median_ms,
        "onnxruntime_fp32_median_ms": timed.against_median_ms,
        "ratio": timed.ratio,
        "device": f"{timed.device} ({timed.isa})",
    }
    print(
        f"compile: {seconds:.1f} s, peak {peak:.0f} MiB; {row['binary_layers']} binary layers, "
        f"{size['before'] / 1e6:.1f} MB to {size['after'] / 1e6:.1f} MB\n"
        f"verify:  {verify['samples']} samples, {verify['flipped_bits']} bits flipped, "
        f"{verify['near_ties']} near-ties, same class {verify['argmax_agreement']:.1%}\n"
        f"bench:   {timed.median_ms:.3f} ms, onnxruntime fp32 {timed.against_median_ms:.3f} ms: {timed.ratio:.1f}x   "
        f"{row['device']}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
