"""The library without Python: its C tests, plain and under the sanitizers, what it needs, exports and declares."""

import os
import re
import subprocess

import pytest
from builds import ROOT, build, library, onnxruntime_headers

from bnncc import runtime


@pytest.mark.parametrize("sanitize", [False, True], ids=["plain", "sanitized"])
@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("test_channels", ["800"]),
        ("test_kernels", ["1500"]),
        ("test_memory", []),
        ("test_planes", ["400"]),
        ("test_threads", []),
        ("test_trees", []),
        ("fuzz", ["10000"]),
        ("test_api", None),
    ],
    ids=["channels", "kernels", "memory", "planes", "threads", "trees", "fuzz", "api"],
)
def test_c_program(program, arguments, sanitize):
    if program == "test_api":
        arguments = [str(library(sanitize))]
    done = subprocess.run(
        [build(sanitize) / "tests" / "runtime" / "c" / program, *arguments], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_needs_only_the_c_library():
    lines = subprocess.run(["ldd", library(False)], capture_output=True, text=True, check=True).stdout.splitlines()
    needed = {line.split()[0].split("/")[-1] for line in lines}
    allowed = {"linux-vdso.so.1", "libc.so.6", "libm.so.6", "libpthread.so.0", "ld-linux-x86-64.so.2"}
    assert needed <= allowed


def test_exports_only_the_header():
    table = subprocess.run(["nm", "-D", "--defined-only", library(False)], capture_output=True, text=True, check=True)
    exported = {line.split()[-1] for line in table.stdout.splitlines()}
    header = (ROOT / "runtime" / "include" / "bnncc.h").read_text()
    assert exported == set(re.findall(r"\b(bnncc_\w+|RegisterCustomOps)\(", header))


def test_declared_abi_is_that_of_onnxruntimes_header():
    source = ROOT / "runtime" / "src" / "ort" / "ort_abi_check.c"
    command = [os.environ.get("CC", "cc"), "-std=c17", "-fsyntax-only", "-isystem", onnxruntime_headers(), source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_installed_library_is_the_one_in_use():
    assert runtime.version() == re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
