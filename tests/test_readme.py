"""The README's examples: its Python code runs as it is written, its config is one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import bnncc
from bnncc.models import shipped_path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder as the README supposes it: `model.onnx`, and `model.bnncc.onnx` compiled from it."""
    path = tmp_path_factory.mktemp("readme")
    (path / "model.onnx").write_bytes(shipped_path("vgg_small_fashion_mnist").read_bytes())
    bnncc.compile(path / "model.onnx", output=path / "model.bnncc.onnx")
    return path


@pytest.mark.parametrize("code", [code for code in blocks("python") if "torch" not in code], ids=lambda code: code[:40])
def test_python_code_runs(folder, code):
    done = run(code, folder)
    assert done.returncode == 0, done.stderr


def test_there_is_python_code_for_compiling_running_and_training():
    for words in ("bnncc.compile(", "register_custom_ops_library", "BinaryConv2d"):
        assert any(words in code for code in blocks("python"))


def test_training_code_runs(folder):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    (code,) = (code for code in blocks("python") if "torch" in code)
    # The README's `model` is the reader's own.
    own = "from bnncc.models.networks import build_network\n"
    own += "model = build_network('bireal_resnet', in_channels=1, width=4)\n"
    done = run(own + code, folder)
    assert done.returncode == 0, done.stderr


def test_config_is_one(tmp_path):
    (text,) = blocks("toml")
    (tmp_path / "c.toml").write_text(text, encoding="utf-8")
    config = bnncc.load_config(tmp_path / "c.toml")
    assert config.require_binary == "all"
    assert config.input_shapes == {"image": [-1, 1, 28, 28]}


def test_c_library_is_named_by_a_path():
    """dlopen looks for a bare file name in the system's folders only."""
    code = blocks("c") + blocks("cpp")
    assert code
    assert not re.search(r'"libbnncc\.so"', "".join(code))
