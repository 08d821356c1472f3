"""Training in two processes: the same as one process with the doubled batch, and a run that is resumed.

Sums of two halves are rounded otherwise than those of the whole, and an activation on its threshold then falls to the
other side. What is compared are two steps: how far they went, against how far apart they ended.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bnncc.models import checkpoint
from bnncc.models.layers import binary_layers
from bnncc.models.train import load_trained, network_of

# 1,438 images make two steps of 640.
# (SGD: Adam's first steps have one size, and go another way where a gradient is 0 but for rounding.)
OPTIMIZER = ["--optimizer", "sgd", "--lr", "0.05"]
SETTINGS = ["--dataset", "digits", *OPTIMIZER, "--shift", "1", "--flip", "--seed", "3", "--threads", "1"]


def command(processes, *arguments):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = [sys.executable, *(launcher if processes > 1 else []), "-m", "bnncc.models", "train"]
    return [*start, *SETTINGS, *map(str, arguments)]


def train(processes, *arguments, fails=False):
    done = subprocess.run(command(processes, *arguments), capture_output=True, text=True, timeout=300)
    assert (done.returncode != 0) == fails, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()] if not fails else done.stderr


@pytest.mark.parametrize(
    "network",
    [
        ["bireal_resnet", "--width", 8, "--depths", "1,1", "--weights", "dab", "--mst-weight", "1e-4"],
        ["reactnet18", "--width", 8, "--depths", "1,1", "--option", "stem=small", "--weights", "bi-half"],
    ],
    ids=lambda network: network[0],
)
def test_two_processes_do_what_one_does_with_the_doubled_batch(tmp_path, network):
    run = ["--network", *network, "--epochs", 1]
    one = train(1, *run, "--batch", 640, "-o", tmp_path / "one")
    two = train(2, *run, "--batch", 320, "-o", tmp_path / "two")
    assert len(one) == len(two) == 2  # the second process is silent
    # Measured: 3e-4, from a few activations of a hundred thousand; a sum in the place of a mean would change all.
    assert two[1]["train_loss"] == pytest.approx(one[1]["train_loss"], rel=2e-3)
    assert two[1]["train_accuracy"] == pytest.approx(one[1]["train_accuracy"], abs=2 / 1280)
    assert two[1]["test_accuracy"] == pytest.approx(one[1]["test_accuracy"], abs=2 / 359)
    (config, first), (_, second) = (load_trained(tmp_path / name / "checkpoint.pt") for name in ("one", "two"))
    torch.manual_seed(config.seed)
    start = network_of(config).state_dict()
    for name, tensor in first.state_dict().items():
        moved, apart = (tensor - start[name]).float().norm(), (second.state_dict()[name] - tensor).float().norm()
        assert apart <= 0.05 * moved + 1e-6, name
    differing = total = 0
    for layer, other in zip(binary_layers(first), binary_layers(second), strict=True):
        bits, others = (item.weight_quantizer.stored(item.weight).bits for item in (layer, other))
        differing, total = differing + int((bits != others).sum()), total + bits.numel()
    assert differing <= total / 1000  # latents at their thresholds


def test_a_stopped_run_goes_on_with_as_many_processes(tmp_path):
    network = ["--network", "sketch_a_net", "--option", "dropout=0.3", "--width", 2]
    settings = [*network, "--dataset", "quickdraw", "--data-dir", sketches(tmp_path), "--batch", 16, "--epochs", 20]
    whole = train(2, *settings, "-o", tmp_path / "whole")
    # Stopped as soon as the first epoch is told of: the launcher takes its processes with it.
    started = subprocess.Popen(command(2, *settings, "-o", tmp_path / "parts"), stdout=subprocess.PIPE, text=True)
    while '"epoch": 1' not in (line := started.stdout.readline()):
        assert line, "ended without an epoch"
    started.terminate()
    started.wait()
    again = train(2, *settings, "-o", tmp_path / "parts", "--resume")
    assert 2 <= len(again) <= 20  # the configuration, and what was left of 20 epochs
    assert [line | {"seconds": 0} for line in again[1:]] == [line | {"seconds": 0} for line in whole[1 - len(again) :]]
    state = checkpoint.load(tmp_path / "whole" / "checkpoint.pt")
    assert not torch.equal(*state["torch_rng"])  # each process drops other neurons
    stderr = train(1, *settings, "-o", tmp_path / "whole", "--resume", fails=True)
    assert "was made by 2 processes, not 1" in stderr


def test_nothing_of_the_group_runs_on_after_it(tmp_path):
    # A thread of gloo's that lets go of a tensor while the interpreter ends aborts the process, once in many runs.
    script = tmp_path / "trains.py"
    script.write_text(
        "import os, runpy\n"
        "from pathlib import Path\n"
        "try:\n"
        '    runpy.run_module("bnncc.models", run_name="__main__")\n'
        "finally:\n"
        '    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]\n'
        '    Path(__file__).with_name("threads" + os.environ["RANK"]).write_text(" ".join(names))\n'
    )
    network = ["--network", "conv2", "--width", "2", "--epochs", "1", "--batch", "320", "-o", str(tmp_path / "out")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(script), "train", *SETTINGS, *network], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    # A file of each: what two processes print can get mixed.
    threads = [(tmp_path / f"threads{rank}").read_text() for rank in range(2)]
    assert all("python" in names and "gloo" not in names for names in threads), threads


def sketches(folder):
    rng = np.random.default_rng(0)
    np.savez(folder / "s.npz", images=rng.integers(0, 256, (120, 28, 28), np.uint8), labels=np.arange(120) % 6)
    return folder
