"""Builds of the library and its C tests, made by cmake once per test session; what other builds need."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def build(sanitize: bool) -> Path:
    """Return the build folder with the library (runtime/libbnncc.so) and the C tests (tests/runtime/c/)."""
    folder = ROOT / "build" / ("tests-sanitized" if sanitize else "tests")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    cmake = shutil.which("cmake", path=path)
    assert cmake is not None, "cmake is not installed; the extra `test` brings it"
    environment = {**os.environ, "PATH": path}
    flags = ["-DBNNCC_BUILD_TESTS=ON", "-DBNNCC_WERROR=ON", f"-DBNNCC_SANITIZE={'ON' if sanitize else 'OFF'}"]
    for command in (
        [cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "--log-level=WARNING", *flags],
        [cmake, "--build", str(folder)],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def library(sanitize: bool) -> Path:
    """Return the path of the library of a build."""
    return build(sanitize) / "runtime" / "libbnncc.so"


def onnxruntime_headers() -> Path:
    """Return the folder of onnxruntime's C and C++ headers, which its Python wheel lacks; skip the test without it."""
    folder = os.environ.get("BNNCC_ORT_INCLUDE_DIR")
    if not folder:
        pytest.skip("no headers of onnxruntime (set BNNCC_ORT_INCLUDE_DIR)")
    assert (Path(folder) / "onnxruntime_c_api.h").is_file(), f"no onnxruntime_c_api.h in {folder}"
    return Path(folder)


def sanitizer_runtime() -> str | None:
    """Return what LD_PRELOAD must hold for a program that was not built with the address sanitizer; None without it.

    The C++ library comes with it: the sanitizer looks for its functions once, when it is loaded.
    """
    paths = []
    for name in ("libasan.so", "libstdc++.so.6"):
        command = [os.environ.get("CC", "cc"), f"-print-file-name={name}"]
        paths.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    return ":".join(paths) if all(os.path.isabs(path) for path in paths) else None
