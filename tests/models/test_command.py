"""The command `python -m bnncc.models`: a run from training to an evaluated ONNX file, exit statuses, streams."""

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")


def command(*arguments, status=0):
    """Run the command; its stdout as JSON lines if it is expected to succeed, else its stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "bnncc.models", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()] if status == 0 else done.stderr


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


def test_bad_usage_is_status_2(tmp_path):
    assert "--depths" in command(
        "train", "--dataset", "digits", "--network", "bireal_resnet", "--depths", "a", "-o", tmp_path / "run", status=2
    )
