"""A thousand damaged compiled files through onnxruntime: refused or run, never a crash, no sanitizer report."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from builds import library, sanitizer_runtime
from small_networks import Network

from bnncc.config import Config
from bnncc.passes import run_passes

COUNT = 1000


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    """A small network with every op: float stem, pooling, residual, linear layers."""
    n = Network(seed=1)
    x = n.conv(n.input(["N", 3, 12, 12]), n.normal(10, 3, 3, 3), pads=[1, 1, 1, 1])
    x = n.op("MaxPool", n.batchnorm(x, 10), kernel_shape=[2, 2], strides=[2, 2])
    y = n.batchnorm(n.conv(n.binarize(x), n.signs(10, 10, 3, 3), pads=[1, 1, 1, 1]), 10, 9)
    z = n.batchnorm(n.conv(n.binarize(y), n.signs(10, 5, 3, 3), pads=[1, 1, 1, 1], group=2), 10, 7)
    x = n.op("PRelu", n.op("Add", y, z), n.constant(n.normal(10, 1, 1)))
    signs = n.binarize(x)
    sums = n.op("Flatten", n.op("GlobalAveragePool", n.op("Abs", n.conv(signs, n.signs(4, 10, 3, 3)))))
    x = n.batchnorm(n.conv(signs, n.signs(9, 10, 2, 3), strides=[2, 1]), 9, 8)
    signs = n.op("MaxPool", n.binarize(x), kernel_shape=[2, 2])
    flat = n.op("Flatten", signs)
    x = n.batchnorm(n.op("MatMul", flat, n.constant(n.signs(54, 20))), 20, 7)
    hidden = n.binarize(x)
    last = n.op(
        "Add", n.op("MatMul", hidden, n.constant(n.signs(20, 4))), n.op("MatMul", hidden, n.constant(n.normal(20, 4)))
    )
    outcome = run_passes(n.model(last, x, sums), Config())
    ops = {node.op_type for node in outcome.model.graph.node if node.domain == "bnncc"}
    assert ops >= {"Binarize", "UnpackSigns", "MaxPoolSigns", "BinaryConv", "BinaryConvThreshold", "BinaryConvDual",
                   "BinaryConvStepsDual", "BinaryLinear", "BinaryLinearDual"}  # fmt: skip
    path = tmp_path_factory.mktemp("mutations") / "compiled.onnx"
    onnx.save(outcome.model, path)
    return path


def run(compiled: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program = Path(__file__).with_name("mutate.py")
    command = [sys.executable, str(program), str(compiled), str(COUNT), "7"]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=900)


def test_damaged_files_do_not_crash(compiled):
    done = run(compiled, {})
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    refused, ran, stopped = map(int, re.findall(r"\d+", done.stdout.splitlines()[-1]))
    assert refused + ran + stopped == COUNT
    # The damage must be neither all fatal nor all harmless for this to test anything.
    assert min(refused, ran) > COUNT // 20, done.stdout


def test_damaged_files_under_the_sanitizers(compiled):
    asan = sanitizer_runtime()
    if asan is None:
        pytest.skip("the compiler has no shared address sanitizer runtime to load before Python")
    # Python and onnxruntime were not built for leak checks; wild sizes must come back as failed allocations.
    done = run(
        compiled,
        {
            "LD_PRELOAD": asan,
            "ASAN_OPTIONS": "detect_leaks=0,allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "BNNCC_LIBRARY": str(library(sanitize=True)),
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "Sanitizer" not in done.stderr
    assert "runtime error" not in done.stderr
