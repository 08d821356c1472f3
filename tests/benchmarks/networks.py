"""Compile, verify and time networks of well-known shapes with random weights.

    python tests/benchmarks/networks.py [bireal18] [vgg-small] [--threads N] [--openvino-python P] [--json F]

bireal18: Bi-Real-Net-18, 3x224x224 to 1,000 classes. vgg-small: VGG-small at its full width, 3x32x32 to 10 classes.
Prints for each what `bnncc compile` takes, as a command of its own (seconds of wall time and peak memory, verification
on 32 random samples included), what verification found, and medians against onnxruntime's float32 and, with a Python
that has it, OpenVINO's. They take turns of eight calls, as those of `bnncc bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from peer_process import NETWORK_SCRIPTS, Peer, PeerError

from bnncc.errors import BnnccError
from bnncc.runtime import selected_isa
from bnncc.session import OPTIMIZED, InferenceSession, session_options
from bnncc.timing import cpu_name, interleave, turn

IN_A_ROW = 8  # calls of a turn
# The outputs of float32 engines differ by the rounding of their sums; more than this share of the largest output means
# that signs fell differently, or that it is not the same network.
MOST_DIFFERENCE = 1e-3

# Bi-Real-Net-18: channels; each stage has four binary convolutions, the later ones halve the image.
STAGES = (64, 128, 256, 512)
CONVOLUTIONS = 4
# VGG-small: channels of its convolutions, the first of them float; after every second one the image halves.
VGG_CHANNELS = (128, 128, 256, 256, 512, 512)


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

    def hardtanh(self, x: str) -> str:
        return self.node("Clip", x, self.constant(np.array(-1)), self.constant(np.array(1)))

    def signs(self, x: str) -> str:
        at_least_0 = self.node("GreaterOrEqual", x, self.constant(np.array(0)))
        return self.node("Where", at_least_0, self.constant(np.array(1)), self.constant(np.array(-1)))

    def binary_conv(self, x: str, inputs: int, outputs: int, **attributes: object) -> str:
        """Signs, 3x3 convolution with +-1 weights."""
        weight = self.constant(self.rng.choice([-1, 1], (outputs, inputs, 3, 3)))
        return self.node("Conv", self.signs(x), weight, pads=[1] * 4, **attributes)

    def model(self, x: str, features: int, classes: int, image: list[int]) -> onnx.ModelProto:
        """The network, with a float classifier of `x` [N, features]."""
        weight = self.constant(self.rng.standard_normal((classes, features)) / np.sqrt(features))
        self.nodes.append(helper.make_node("Gemm", [x, weight], ["logits"], "classifier", transB=1))
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *image])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bireal18(seed: int = 0) -> onnx.ModelProto:
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
            y = net.binary_conv(x, channels, outputs, strides=[stride] * 2)
            x = net.node("Add", net.norm(y, outputs, 9 * channels), shortcut)
            channels = outputs
    return net.model(net.node("Flatten", net.node("GlobalAveragePool", x)), channels, 1000, [3, 224, 224])


def vgg_small(seed: int = 0) -> onnx.ModelProto:
    """Return the network: float first convolution, five binary ones, float classifier; hardtanh between the layers."""
    net = Network(seed)
    channels = VGG_CHANNELS[0]
    x = net.hardtanh(net.float_conv("image", 3, channels, 3, pads=[1] * 4))
    for number, outputs in enumerate(VGG_CHANNELS[1:], start=2):
        x = net.binary_conv(x, channels, outputs)
        if number % 2 == 0:
            x = net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = net.hardtanh(net.norm(x, outputs, 9 * channels))
        channels = outputs
    return net.model(net.node("Flatten", x), channels * 16, 10, [3, 32, 32])


NETWORKS = {"bireal18": bireal18, "vgg-small": vgg_small}


def time_in_turns(
    files: list[Path], peers: list[Peer], threads: int, seconds: float, folder: Path
) -> tuple[list[float], list[float]]:
    """Time calls of models, the last of which the peers run as well, on an image of noise.

    Returns the median seconds of each, the peers last, and how far each peer's output is from onnxruntime's, relative
    to the largest value of that.
    """
    options = session_options(OPTIMIZED)
    sessions = [InferenceSession(str(file), threads=threads, sess_options=options) for file in files]
    image = sessions[0].get_inputs()[0]
    x = np.random.default_rng(0).standard_normal((1, *image.shape[1:])).astype(np.float32)
    expected = sessions[-1].run(None, {image.name: x})[0]
    network = {"model": str(files[-1]), "threads": threads}
    differences = [_difference(peer.set_up(network, {"x": x}, folder), expected) for peer in peers]
    turns = [turn(lambda s=session: s.run(None, {image.name: x}), IN_A_ROW) for session in sessions]
    turns += [lambda p=peer: p.turn(IN_A_ROW) for peer in peers]
    return [float(np.median(series)) for series in interleave(turns, min_time=seconds, threads=threads)], differences


def _difference(values: NDArray, expected: NDArray) -> float:
    if values.shape != expected.shape:
        raise PeerError(f"its output has shape {list(values.shape)}, not {list(expected.shape)}")
    return float(np.abs(values - expected).max() / np.abs(expected).max())


def measure(name: str, threads: int, peers: list[Peer], seconds: float) -> dict[str, object]:
    """Compile a network and time it; prints and returns what that takes and what it made."""
    with tempfile.TemporaryDirectory() as folder:
        source, target, report = (Path(folder) / file for file in ("float.onnx", "binary.onnx", "report.json"))
        onnx.save(NETWORKS[name](), source)
        command = [sys.executable, "-m", "bnncc", "compile", source, "-o", target, "--report", report]
        started = time.perf_counter()
        compiling = subprocess.Popen([*command, "--require-binary", "all"], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(compiling.pid, 0)
        compile_seconds = time.perf_counter() - started
        if status:
            raise SystemExit(f"{name}: not compiled")
        peak = used.ru_maxrss / 1024  # it is in KiB on Linux
        made = json.loads(report.read_text(encoding="utf-8"))
        medians, differences = time_in_turns([target, source], peers, threads, seconds, Path(folder))
    ours, fp32, *others = (1e3 * median for median in medians)
    verify, size = made["verify"], made["size"]
    row = {
        "network": name,
        "compile_seconds": compile_seconds,
        "compile_peak_mib": peak,
        "binary_layers": [layer["status"] for layer in made["layers"]].count("binary"),
        "bytes_before": size["before"],
        "bytes_after": size["after"],
        **{key: verify[key] for key in ("samples", "flipped_bits", "near_ties", "argmax_agreement")},
        "threads": threads,
        "median_ms": ours,
        "onnxruntime_fp32_median_ms": fp32,
        "ratio": fp32 / ours,
        "peers": {
            peer.engine: {"fp32_median_ms": median, "ratio": median / ours, "difference": difference}
            for peer, median, difference in zip(peers, others, differences, strict=True)
        },
        "device": f"{cpu_name()} ({selected_isa()})",
    }
    print(
        f"{name}\n"
        f"compile: {compile_seconds:.1f} s, peak {peak:.0f} MiB; {row['binary_layers']} binary layers, "
        f"{size['before'] / 1e6:.1f} MB to {size['after'] / 1e6:.1f} MB\n"
        f"verify:  {verify['samples']} samples, {verify['flipped_bits']} bits flipped, "
        f"{verify['near_ties']} near-ties, same class {verify['argmax_agreement']:.1%}\n"
        f"bench:   {ours:.3f} ms, onnxruntime fp32 {fp32:.3f} ms: {fp32 / ours:.1f}x   {row['device']}"
    )
    for engine, figures in row["peers"].items():
        print(
            f"         {engine} fp32 {figures['fp32_median_ms']:.3f} ms: {figures['ratio']:.1f}x, its output within "
            f"{figures['difference']:.1e} of onnxruntime's"
            + (": NOT THE SAME" if figures["difference"] > MOST_DIFFERENCE else "")
        )
    return row


def main() -> None:
    """Print what compiling each network takes, what it made, and how fast that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="default: all", default=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing a network [2]")
    parser.add_argument("--json", type=Path)
    for name in NETWORK_SCRIPTS:
        variable = f"BNNCC_{name.upper()}_PYTHON"
        parser.add_argument(
            f"--{name}-python", metavar="P", default=os.environ.get(variable), help=f"a Python with it [${variable}]"
        )
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - NETWORKS.keys():
        parser.error(f"no network {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    try:
        with ExitStack() as stack:
            peers = [
                Peer(name, python, script)
                for name, script in NETWORK_SCRIPTS.items()
                if (python := getattr(arguments, f"{name}_python"))
            ]
            for peer in peers:
                stack.callback(peer.close)
            rows = [measure(name, arguments.threads, peers, arguments.seconds) for name in arguments.networks]
    except (BnnccError, PeerError, OSError) as error:
        sys.exit(f"networks: {error}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
