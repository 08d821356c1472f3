"""Time binary layers with filter trees, float in and float out, through each kernel.

    python tests/benchmarks/kernels.py [--threads N] [--batch N ...] [--calls N] [--json F]

The four 3x3 layers of layers.py with random filters, whose trees are the longest there are. The sessions of all
kernels, and of the one that the library chooses, are called in turns in one process; prints medians.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
from layers import LAYERS, layer_model

import bnncc
from bnncc import runtime

KERNELS = ("dot", "planes", "channels", "auto")


def make_session(path: Path, kernel: str, threads: int) -> onnxruntime.InferenceSession:
    """Return a session whose convolutions use a kernel."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    runtime.register(options)
    os.environ["BNNCC_KERNEL"] = kernel
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    finally:
        del os.environ["BNNCC_KERNEL"]


def time_layer(path: Path, x: np.ndarray, threads: int, calls: int) -> dict[str, float]:
    """Return the median time of a call, in microseconds, by kernel."""
    sessions = {kernel: make_session(path, kernel, threads) for kernel in KERNELS}
    times: dict[str, list[float]] = {kernel: [] for kernel in KERNELS}
    for _ in range(calls):
        for kernel, session in sessions.items():
            begin = time.perf_counter()
            session.run(None, {"x": x})
            times[kernel].append(time.perf_counter() - begin)
    return {kernel: median(values) * 1e6 for kernel, values in times.items()}


def main() -> None:
    """Print a line per layer and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, channels in LAYERS:
            for batch in arguments.batch:
                source, target = Path(folder) / "layer.onnx", Path(folder) / "layer.bnncc.onnx"
                onnx.save(layer_model(size, channels, batch), source)
                bnncc.compile(source, output=target)
                x = np.random.default_rng(1).standard_normal((batch, channels, size, size)).astype(np.float32)
                times = time_layer(target, x, arguments.threads, arguments.calls)
                rows.append(
                    {"layer": f"{size}x{size}x{channels}", "batch": batch, "threads": arguments.threads, **times}
                )
                shown = ", ".join(f"{kernel} {times[kernel]:8.1f}" for kernel in KERNELS)
                print(f"{rows[-1]['layer']:>10}, batch {batch}: us {shown}  ({runtime.selected_isa()})", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
