"""bnncc tropnnc-table: accuracies by method and share, JSON, the plot, and refusals."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest


@pytest.fixture
def network(builder, tmp_path):
    """A file with a hidden layer of 24 neurons, copies of eight, and samples that it names rightly."""
    b = builder(5)
    entering, leaving = (
        np.repeat(b.generator.standard_normal((8, size)), 3, axis=0).astype(np.float32) for size in (6, 4)
    )
    b.node("Gemm", ["x", b.constant("w1", entering), b.constant("b1", np.zeros(24, np.float32))], "fc1", transB=1)
    b.node("Relu", ["fc1"], "relu")
    b.node("Gemm", ["relu", b.constant("w2", leaving.T.copy()), b.floats("b2", 4)], "fc2", transB=1)
    path = tmp_path / "net.onnx"
    onnx.save(b.model({"x": ["N", 6]}, {"fc2": ["N", 4]}), path)
    x = np.random.default_rng(1).standard_normal((300, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x, labels=ort.InferenceSession(path).run(None, {"x": x})[0].argmax(axis=1))
    np.savez(tmp_path / "unlabelled.npz", x=x)
    return path


def test_table(bnncc, network):
    folder = network.parent
    result = bnncc("tropnnc-table", network, "--data", folder / "x.npz", "--keep", "0.3334,0.125", "--seeds", "0,1",
                   "--json", folder / "t.json", "--plot", folder / "t.png")  # fmt: skip
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "t.json").read_text())
    assert report["accuracy"] == 1
    assert report["params"] == 24 * 7 + 4 * 25
    rows = {(row["method"], row["value"]): row for row in report["rows"]}
    assert set(rows) == {(name, keep) for name in report["methods"] for keep in (0.3334, 0.125)}
    # Eight neurons are as good as their 24 copies to what puts sums in their place, and to nothing that drops them.
    for name in ("tropnnc", "tropnnc-ward", "tropnnc-paper"):
        assert rows[name, 0.3334]["accuracy"] == 1
        assert rows[name, 0.125]["accuracy"] < 1
    for name in ("l1", "random", "cup"):
        assert rows[name, 0.3334]["accuracy"] < 1
    assert rows["tropnnc", 0.125]["params"] == 3 * 7 + 4 * 4
    assert rows["tropnnc", 0.125]["flops"] == 2 * (3 * 6 + 4 * 3)
    assert len(rows["random", 0.125]["accuracies"]) == 2
    for text in ("(all channels)", "100.00%", "tropnnc-ward", "net.onnx, 268 parameters", "CUP"):
        assert text in result.stdout, result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert (folder / "t.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "0"], "keep is 0, not a share above 0"),
        (["--plot", "x.svg"], "x.svg: the plot is a PNG"),
        (["--seeds", "4294967296"], "seed 4294967296 is not a whole number from 0 to 2**32 - 1"),
        (["--keep", "half"], "'half' is not of the form"),
        (["--methods", "tropnnc,svd"], "unknown method 'svd'; known: tropnnc, tropnnc-paper, "),
        (["--methods", "l1-ward"], "unknown method 'l1-ward'"),
        (["--keep", "0.5", "--target-params", "0.5"], "give one of --keep, --target-params and --target-flops"),
        (["--target-params", "0.001"], "target-params of matched cannot be reached"),
        (["--layers", "conv*"], "no layer that can be compressed is named 'conv*'; there are fc1"),
        (["--methods", "zonotope"], "fc1: 'fc2' has 4 outputs for a channel, and zonotope is for one"),
    ],
)
def test_refusals(bnncc, network, options, message):
    result = bnncc("tropnnc-table", network, "--data", network.parent / "x.npz", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_data_without_labels(bnncc, network):
    result = bnncc("tropnnc-table", network, "--data", network.parent / "unlabelled.npz")
    assert result.exit_code == 2
    assert "no array 'labels'" in result.stderr


def test_a_network_without_hidden_relus(bnncc, cnn, images):
    result = bnncc("tropnnc-table", cnn, "--data", images)
    assert result.exit_code == 2
    assert "no hidden ReLU layer that can be compressed" in result.stderr


def test_one_output_is_a_logit_or_a_probability(bnncc, builder, tmp_path):
    """The second of two classes, above 0 or behind a Sigmoid above 1/2: labels are the network's own answers."""
    for probability in (False, True):
        b = builder(7)
        b.node("Gemm", ["x", b.floats("w1", 12, 5), b.floats("b1", 12)], "fc1", transB=1)
        b.node("Relu", ["fc1"], "relu")
        b.node("Gemm", ["relu", b.floats("w2", 1, 12), b.floats("b2", 1)], "fc2", transB=1)
        if probability:
            b.node("Sigmoid", ["fc2"], "p")
        path = tmp_path / f"{probability}.onnx"
        onnx.save(b.model({"x": ["N", 5]}, {"p" if probability else "fc2": ["N", 1]}), path)
        x = np.random.default_rng(1).standard_normal((200, 5)).astype(np.float32)
        found = ort.InferenceSession(path).run(None, {"x": x})[0][:, 0]
        np.savez(tmp_path / "x.npz", x=x, labels=(found > (0.5 if probability else 0)).astype(np.int64))
        result = bnncc("tropnnc-table", path, "--data", tmp_path / "x.npz", "--keep", "0.5", "--json",
                       tmp_path / "t.json", "--methods", "tropnnc,tropnnc-algorithm-1,zonotope")  # fmt: skip
        assert result.exit_code == 0, result.output
        report = json.loads((tmp_path / "t.json").read_text())
        assert report["accuracy"] == 1
        assert 0 < np.mean(np.load(tmp_path / "x.npz")["labels"]) < 1


def test_a_method_without_a_layer_leaves_the_others(bnncc, network):
    options = ["--keep", "0.5", "--methods", "zonotope,l1", "--json", network.parent / "t.json"]
    result = bnncc("tropnnc-table", network, "--data", network.parent / "x.npz", *options)
    assert result.exit_code == 0, result.output
    report = json.loads((network.parent / "t.json").read_text())
    assert [row["method"] for row in report["rows"]] == ["l1"]
    assert "Zonotope K-means (the same; one output); no layer for it" in result.stdout
    assert any("zonotope is for one" in note for note in report["notes"])


def test_a_plot_without_matplotlib_is_refused_before_the_work(bnncc, network, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    for command in ("tropnnc-table", "tropnnc-sweep"):
        result = bnncc(command, network, "--data", network.parent / "x.npz", "--plot", network.parent / "t.png")
        assert result.exit_code == 2
        assert "--plot needs matplotlib: pip install matplotlib" in result.stderr
        assert not result.stdout
