"""The command `python -m bnncc.models`: a run from training to an evaluated ONNX file, exit statuses, streams."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bnncc.models import data, shipped_path
from bnncc.models.__main__ import run

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
def test_names_are_in_the_help():
    _, stdout, _ = outcome("train", "--help")
    assert "[bireal_resnet|conv2|conv4|conv6|conv8|hidden_layer_cnn|lenet|mlp|reactnet18|" in stdout


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
    command("sample", "--dataset", "digits", "--split", "train", "--count", 20, "-o", tmp_path / "y.npz")
    with np.load(tmp_path / "y.npz") as sample:
        np.testing.assert_array_equal(sample["labels"], data.load("digits", "train").labels[:20])


@needs_torch
def test_recipe_and_what_is_given_beside_it(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "r.toml").write_text(
        'dataset = "digits"\nnetwork = "conv2"\nepochs = 3\nschedule = "steps"\nmilestones = [1]\nbatch = 64\n'
        '[options]\nwidth = 4\nhidden = 16\nweights = "bi-half"\n'
    )
    given = ["--epochs", 2, "--weights-option", "positive=0.25", "--seed", 5]
    lines = command("train", "--recipe", tmp_path / "r.toml", *given, "-o", tmp_path / "run")
    config = lines[0]["config"]
    assert (config["epochs"], config["seed"], config["batch"], config["milestones"]) == (2, 5, 64, [1])
    assert config["options"] == {
        "in_channels": 1, "image_size": 8, "classes": 10, "width": 4, "hidden": 16,
        "weights": {"name": "bi-half", "positive": 0.25},
    }  # fmt: skip
    assert [line["lr"] for line in lines[1:]] == pytest.approx([2e-3, 2e-4])
    assert 0.8 < lines[-1]["entropy"] < 0.83  # 0.811 for a quarter, and what ceil makes of short filters
    assert lines[1]["flips_up"] == lines[1]["flips_down"] > 0
    (drawn,) = command("plot", tmp_path / "run", "-o", tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert drawn["output"] == str(tmp_path / "p.png")
    names = [line["recipe"] for line in command("recipes")]
    assert "equal-bits-conv2" in names


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--recipe", "no-such", "-o", "run"], "no recipe named 'no-such'; there are: "),
        (
            ["train", "--dataset", "digits", "--weights", "bi-half", "--weights-option", "positive=1.5", "-o", "run"],
            "weight quantizer bi-half: positive (p_pos) is 1.5; it is a share above 0 and below 1",
        ),
        (
            ["train", "--dataset", "digits", "--network", "mlp", "--mst-weight", "1e-6", "-o", "run"],
            "mst: no convolution has binary weights and activations",
        ),
        (["train", "--dataset", "digits", "--network", "conv2", "--depths", "2,2", "-o", "run"], "takes no depths"),
        (
            ["train", "--dataset", "digits", "--option", "image_size=16", "-o", "run"],
            "network vgg_small: image_size is 16, and 8 in digits",
        ),
        (["train", "--dataset", "digits", "--seed", "99999999999999999999", "-o", "run"], "is not from 0 to 2**63 - 1"),
        (
            ["train", "--dataset", "digits", "--weights-option", "scaled=3", "-o", "run"],
            "weight quantizer sign: scaled is 3, not true or false",
        ),
        (["plot", "no-such-run", "-o", "p.png"], "no-such-run: cannot be read: No such file"),
        (
            ["train", "--dataset", "mnist", "--data-dir", "no-such-folder", "-o", "run"],
            "no-such-folder: no such folder",
        ),
        (["export", "missing.pt", "-o", "m.onnx"], "missing.pt: cannot be read: No such file or directory"),
        (["evaluate", "missing.onnx", "--dataset", "digits"], "missing.onnx: "),
        (["train", "--weights", "nope", "-o", "run"], "'nope' is not one of 'bi-half', 'bi-half-pruned', 'dab', "),
        (["train", "--network", "nope", "-o", "run"], "'nope' is not one of 'bireal_resnet', 'conv2', 'conv4', "),
        (
            ["train", "--network", "bireal_resnet", "--depths", "a", "-o", "run"],
            "--depths: 'a' is not a list of numbers",
        ),
        (["train", "--option", "x", "-o", "run"], "'x' is not NAME=VALUE (see python -m bnncc.models train --help)"),
        (["train", "--recipe", "r.toml", "-o", "run"], "unknown network ['vgg_small']; there are: "),
        (["train", "--mst-loss", "tree", "-o", "run"], "--mst-schedule go with --mst-weight, which is 0"),
        (
            ["train", "--mst-weight", "1", "--mst-loss", "tree", "--mst-centers", "2", "-o", "run"],
            "--mst-centers goes with --mst-loss centers",
        ),
        (["train", "--milestones", "2", "-o", "run"], "--milestones and --gamma go with --schedule steps"),
        (["tarin"], "No such command 'tarin'"),
    ],
)
def test_errors_are_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["bnncc.models", *arguments])
    recipe = tmp_path / "r.toml"
    recipe.write_text('dataset = "digits"\nnetwork = ["vgg_small"]\n')
    with pytest.raises(SystemExit) as exit_:
        run()
    assert exit_.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [recipe]


@needs_torch
@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE in the environment is 'abc', not a number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE in the environment is 0"),
        ({"WORLD_SIZE": "2", "RANK": "5"}, "RANK in the environment is 5, of 2 processes"),
    ],
)
def test_what_the_launcher_cannot_have_said(tmp_path, monkeypatch, capsys, told, message):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["bnncc.models", "train", "--dataset", "digits", "-o", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as exit_:
        run()
    assert exit_.value.code == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


@needs_torch
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
    stderr = command("evaluate", model, "--dataset", "digits", status=2)
    assert f"{model}: gives [1] where digits has 10 classes" in stderr
    stderr = command("evaluate", run / "checkpoint.pt", "--dataset", "digits", status=2)
    assert "knows 2 classes, digits has 10" in stderr
    assert "takes no depths" in command("train", *data, *network, "--depths", "1", "-o", tmp_path / "x", status=2)
    assert "is not NAME=VALUE" in command("train", *data, *network, "--option", "x", "-o", tmp_path / "x", status=2)
    assert "classes 0 to 9" in command("train", "--dataset", "digits:3", "-o", tmp_path / "x", status=2)


@needs_torch
def test_a_gpu_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # torch sees none even where there is one
    stderr = command("train", "--dataset", "digits", "--device", "cuda", "-o", tmp_path / "run", status=2)
    assert stderr == "error: device cuda: process 0 of this machine has none; torch sees 0\n"
    assert not (tmp_path / "run").exists()
