"""The command `python -m bnncc.models`: a run from training to an evaluated ONNX file, exit statuses, streams."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bnncc.models import shipped_path

try:
    import torch
except ModuleNotFoundError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="needs PyTorch")

# A Python in which these packages cannot be imported, as where they are not installed.
WITHOUT = """
import runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv[0] = "bnncc.models"
runpy.run_module("bnncc.models", run_name="__main__")
"""


def outcome(*arguments, without=()):
    """Run the command, in a Python that lacks some packages: status, stdout and stderr."""
    how = ["-c", WITHOUT.format(packages=set(without))] if without else ["-m", "bnncc.models"]
    done = subprocess.run([sys.executable, *how, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def command(*arguments, status=0):
    """Run the command; its stdout as JSON lines if it is expected to succeed, else its stderr."""
    returned, stdout, stderr = outcome(*arguments)
    assert returned == status, stderr
    return [json.loads(line) for line in stdout.splitlines()] if status == 0 else stderr


TRAINING = [
    ["train", "--dataset", "digits", "-o", "run"],
    ["train", "--dataset", "digits", "--network", "vgg_small", "-o", "run"],
    ["export", "checkpoint.pt", "-o", "m.onnx"],
    ["evaluate", "checkpoint.pt"],
]


@pytest.mark.parametrize("arguments", TRAINING, ids=" ".join)
def test_training_without_torch_says_what_it_needs(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    expected = "error: needs PyTorch: pip install '.[models]' in the folder of bnncc\n"
    assert outcome(*arguments, without=["torch", "onnxscript"]) == (2, "", expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [["--help"], *([name, "--help"] for name in ("train", "export", "evaluate", "sample"))], ids=" ".join
)
def test_help_without_torch(arguments):
    status, stdout, stderr = outcome(*arguments, without=["torch", "onnxscript"])
    assert (status, stderr) == (0, "")
    assert stdout.startswith("Usage: ")


def test_onnx_files_and_data_without_torch(tmp_path):
    pytest.importorskip("sklearn")  # for the images
    status, stdout, stderr = outcome(
        *("sample", "--dataset", "digits", "--count", 5, "-o", tmp_path / "x.npz"), without=["torch", "onnxscript"]
    )
    assert (status, json.loads(stdout)["images"]) == (0, 5), stderr
    # What the shipped network takes is not what digits are; the point is that onnxruntime is what says so.
    model = shipped_path("vgg_small_fashion_mnist")
    status, _, stderr = outcome("evaluate", model, "--dataset", "digits", without=["torch", "onnxscript"])
    assert status == 2
    assert stderr.startswith(f"error: {model}: ")
    assert "invalid dimensions" in stderr


@needs_torch
def test_names_are_in_the_help_and_checked(tmp_path):
    _, stdout, _ = outcome("train", "--help")
    assert "[bireal_resnet|hidden_layer_cnn|lenet|mlp|vgg_small]" in stdout
    stderr = command("train", "--network", "nope", "-o", tmp_path / "run", status=2)
    assert "'nope' is not one of 'bireal_resnet', 'hidden_layer_cnn', 'lenet', 'mlp', 'vgg_small'" in stderr


@needs_torch
def test_train_resume_export_evaluate_sample(tmp_path):
    network = ["--network", "bireal_resnet", "--width", 8, "--depths", "1,1"]
    settings = ["--dataset", "digits", *network, "--epochs", 2, "--batch", 64, "--threads", 1]
    lines = command("train", *settings, "-o", tmp_path / "run")
    assert lines[0]["config"]["options"]["depths"] == [1, 1]
    assert (lines[0]["config"]["shift"], lines[0]["config"]["flip"]) == (0, False)  # the data set's
    assert [line["epoch"] for line in lines[1:]] == [1, 2]
    again = command("train", *settings, "--resume", "-o", tmp_path / "run")
    assert len(again) == 1  # nothing left to do

    saved = tmp_path / "run" / "checkpoint.pt"
    (exported,) = command("export", saved, "-o", tmp_path / "m.onnx")
    assert exported["bytes"] == (tmp_path / "m.onnx").stat().st_size
    (from_torch,) = command("evaluate", saved)
    (from_onnx,) = command("evaluate", tmp_path / "m.onnx", "--dataset", "digits")
    assert from_torch["count"] == from_onnx["count"] == 359
    assert from_torch["accuracy"] == pytest.approx(from_onnx["accuracy"], abs=1 / 359)
    assert from_torch["accuracy"] == pytest.approx(lines[-1]["test_accuracy"], abs=1 / 359)

    stderr = command("evaluate", saved, "--dataset", "mnist", status=2)
    assert "takes images of [1, 8, 8], mnist has [1, 28, 28]" in stderr

    command("sample", "--dataset", "digits", "--count", 20, "-o", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as sample:
        assert sample["image"].shape == (20, 1, 8, 8)
        assert sample["image"].dtype == np.float32
        assert sample["labels"].dtype == np.int64


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--dataset", "mnist", "--data-dir", "no-such-folder", "-o", "run"],
            "no-such-folder: no such folder",
        ),
        (["export", "missing.pt", "-o", "m.onnx"], "missing.pt: cannot be read: No such file or directory"),
        (["evaluate", "missing.onnx", "--dataset", "digits"], "missing.onnx: "),
    ],
)
def test_errors_are_one_line_and_status_2(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    stderr = command(*arguments, status=2)
    assert stderr.startswith("error: ")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@needs_torch
def test_bad_usage_is_status_2(tmp_path):
    assert "--depths" in command(
        "train", "--dataset", "digits", "--network", "bireal_resnet", "--depths", "a", "-o", tmp_path / "run", status=2
    )


def test_float_network_of_two_classes(tmp_path):
    run, model = tmp_path / "run", tmp_path / "m.onnx"
    network = ["--network", "hidden_layer_cnn", "--option", "hidden=20", "--option", "classes=1"]
    data = ["--dataset", "digits:3,5", "--epochs", 6, "--batch", 32]
    lines = command("train", *data, *network, "-o", run)
    assert lines[0]["config"]["options"] == {"in_channels": 1, "image_size": 8, "classes": 1, "hidden": 20}
    assert lines[-1]["test_accuracy"] > 0.9
    command("export", run / "checkpoint.pt", "-o", model)
    (score,) = command("evaluate", model, "--dataset", "digits:3,5")
    assert score["accuracy"] == pytest.approx(lines[-1]["test_accuracy"], abs=1e-6)  # rounded there
    assert "takes no depths" in command("train", *data, *network, "--depths", "1", "-o", tmp_path / "x", status=2)
    assert "is not NAME=VALUE" in command("train", *data, *network, "--option", "x", "-o", tmp_path / "x", status=2)
    assert "classes 0 to 9" in command("train", "--dataset", "digits:3", "-o", tmp_path / "x", status=2)
