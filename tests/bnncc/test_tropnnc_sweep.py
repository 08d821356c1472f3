"""bnncc tropnnc-sweep: sizes that are reached, what is optimal among them, data or none, and refusals."""

from __future__ import annotations

import json

import onnx
import pytest


def swept(bnncc, network, *options) -> tuple[dict, str]:
    result = bnncc("tropnnc-sweep", network, "--json", network.parent / "s.json", *options)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 100
    return json.loads((network.parent / "s.json").read_text()), result.stdout


def dominates(first: dict, second: dict, quality: str) -> bool:
    ours, theirs = ([row["params"], row["flops"], -row[quality]] for row in (first, second))
    return ours != theirs and all(a <= b for a, b in zip(ours, theirs, strict=True))


def test_sizes_with_labels(bnncc, network):
    report, shown = swept(bnncc, network, "--data", network.parent / "x.npz", "--target-params", "0.8,0.5",
                          "--plot", network.parent / "s.png")  # fmt: skip
    assert [(row["threshold"], row["target"]) for row in report["rows"]] == [
        (threshold, share) for threshold in ("v1", "v2", "v3") for share in (0.8, 0.5)
    ]
    assert report["accuracy"] == 1
    for row in report["rows"]:
        assert row["params"] <= row["target"] * report["params"]
        assert row["same_class"] == row["accuracy"] < 1  # labels are the whole network's classes
        assert row["error_bound"] > 0
        assert 1 <= row["smallest_channels"] < 16
    for row in report["rows"]:
        assert row["optimal"] is not any(dominates(other, row, "accuracy") for other in report["rows"])
    assert any(row["optimal"] for row in report["rows"])
    for text in ("v3=", "optimal", "60 samples, accuracy 100.00%", "smallest layer"):
        assert text in shown
    assert (network.parent / "s.png").read_bytes().startswith(b"\x89PNG")


def test_the_constant_shown_gives_the_same_size(bnncc, network):
    report, _ = swept(bnncc, network, "--target-flops", "0.6", "--thresholds", "v2", "--tropnnc", "mode=paper")
    (row,) = report["rows"]
    assert row["flops"] <= 0.6 * report["flops"]
    result = bnncc("inspect", network, "--json", "--tropnnc", f"v2={row['constant']}",
                   "--tropnnc", "mode=paper")  # fmt: skip
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)["tropnnc"]
    assert (made["params_after"], made["flops_after"]) == (row["params"], row["flops"])
    shares = [min(item["bounds"].values()) / item["output_bound"] for item in made["layers"] if item["bounds"]]
    assert row["error_bound"] == pytest.approx(sum(shares) / len(made["layers"]))


def test_without_labels_and_without_data(bnncc, network):
    report, shown = swept(bnncc, network, "--data", network.parent / "unlabelled.npz", "--target-params", "0.7")
    assert report["accuracy"] is None
    assert all(row["accuracy"] is None and 0 < row["same_class"] <= 1 for row in report["rows"])
    assert "operations and same class" in shown
    report, shown = swept(bnncc, network, "--target-params", "0.7")
    assert all(row["same_class"] is None for row in report["rows"])
    assert "operations and bound" in shown


def test_sizes_out_of_reach_are_notes_unless_all_are(bnncc, network):
    report, shown = swept(bnncc, network, "--target-params", "0.7,0.001", "--thresholds", "v1")
    assert [row["target"] for row in report["rows"]] == [0.7]
    assert "target-params=0.001 cannot be reached" in shown
    result = bnncc("tropnnc-sweep", network, "--target-params", "0.001", "--thresholds", "v1")
    assert result.exit_code == 2
    assert "target-params=0.001 cannot be reached" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tropnnc", "keep=0.5"], "keep is what a sweep tries"),
        (["--target-params", "1.5"], "target-params is 1.5, not a share"),
        (["--thresholds", "v9"], "threshold is 'v9', not distance, v1, v2 or v3"),
        (["--target-params", "0.5", "--target-flops", "0.5"], "give one of"),
        (["--plot", "a.jpg"], "a.jpg: the plot is a PNG"),
        (["--plot", "a.png", "--json", "./a.png"], "a.png: the plot and the JSON cannot be one file"),
    ],
)
def test_refusals(bnncc, network, options, message):
    result = bnncc("tropnnc-sweep", network, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_no_bound_behind_other_activations(bnncc, network):
    model = onnx.load(network)
    for node in model.graph.node:
        node.op_type = node.op_type.replace("Relu", "Tanh")
    onnx.save(model, network)
    report, shown = swept(bnncc, network, "--target-params", "0.5", "--tropnnc", "activations=any")
    assert all(row["error_bound"] is None for row in report["rows"])
    assert " - " in shown
