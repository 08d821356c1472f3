"""Compiling with TropNNC: options, the report, what is compared with what, and files that run without the library."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest


def compiled(bnncc, network, *options: str) -> dict:
    folder = network.parent
    result = bnncc("compile", network, "-o", folder / "c.onnx", "--report", folder / "r.json",
                   "--data", folder / "x.npz", *options)  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads((folder / "r.json").read_text())


def test_the_report_says_what_was_lost(bnncc, network):
    report = compiled(bnncc, network, "--tropnnc", "keep=0.5")
    made = report["tropnnc"]
    assert [(item["name"], item["channels_before"], item["channels_after"]) for item in made["layers"]] == [
        ("conv1", 16, 8), ("conv2", 12, 6),
    ]  # fmt: skip
    assert made["params_after"] < 0.4 * made["params_before"]
    assert made["flops_after"] < 0.4 * made["flops_before"]
    assert all(item["bounds"]["lipschitz"] > 0 for item in made["layers"])
    # What is lossy is told by itself; the compiled file is exact in what was made of the network.
    assert made["change"]["max_abs_diff"] > 0.01
    assert made["change"]["samples"] == 92
    assert made["change"]["accuracy"]["reference"] == 1
    assert made["change"]["accuracy"]["compiled"] < 1
    assert report["verify"]["argmax_agreement"] == 1
    assert report["verify"]["max_rel_diff"] < 1e-5
    assert report["bench"]["median_ms"] > 0
    assert report["bench"]["against"] == str(network)
    # Plain onnxruntime runs it, and gives what the change of accuracy was told of.
    data = np.load(network.parent / "x.npz")
    classes = ort.InferenceSession(network.parent / "c.onnx").run(None, {"x": data["x"]})[0].argmax(axis=1)
    assert (classes == data["labels"]).mean() == pytest.approx(made["change"]["accuracy"]["compiled"])


def test_the_table_says_it(bnncc, network):
    result = bnncc("compile", network, "-o", network.parent / "c.onnx", "--tropnnc", "target-params=0.6")
    assert result.exit_code == 0, result.output
    for text in ("TropNNC (lossy)", "conv1", "(lipschitz)", "Against the original, 32 samples",
                 "parameters 2.2 k to 1.", "; distance ", "Time of one call"):  # fmt: skip
        assert text in result.stdout, result.stdout
    assert max(map(len, result.stdout.splitlines()[:-2])) <= 100


def test_options_on_the_command_line_and_in_a_file(bnncc, network, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[tropnnc]\nkeep = 0.75\n[tropnnc.layers]\n'conv1' = {keep = 0.25}\n")
    report = compiled(bnncc, network, "--config", str(config))
    assert [item["channels_after"] for item in report["tropnnc"]["layers"]] == [4, 9]
    over = compiled(bnncc, network, "--config", str(config), "--tropnnc", "v2=0", "--tropnnc", "mode=paper")
    assert [item["channels_after"] for item in over["tropnnc"]["layers"]] == [4, 12]
    assert over["config"]["tropnnc"] == {"v2": 0.0, "mode": "paper", "layers": {"conv1": {"keep": 0.25}}}
    several = compiled(bnncc, network, "--tropnnc", "keep=1", "--tropnnc", "*2:keep=0.5", "--no-verify")
    assert [item["channels_after"] for item in several["tropnnc"]["layers"]] == [16, 6]
    assert several["tropnnc"]["change"] is None


def test_gates_are_on_the_change_from_the_original(bnncc, network):
    output = network.parent / "c.onnx"
    result = bnncc("compile", network, "-o", output, "--tropnnc", "keep=0.3", "--max-abs-diff", "1e-4")
    assert result.exit_code == 1
    assert "largest difference of the outputs" in result.stderr
    assert not output.exists()
    assert bnncc("compile", network, "-o", output, "--tropnnc", "keep=1", "--max-abs-diff", "1e-4").exit_code == 0


def test_verifying_a_clustered_file(bnncc, network):
    compiled(bnncc, network, "--tropnnc", "keep=0.5")
    result = bnncc("verify", network, network.parent / "c.onnx")
    assert result.exit_code == 0, result.output
    assert "has fewer channels (TropNNC)" in " ".join(result.stdout.split())
    gated = bnncc("verify", network, network.parent / "c.onnx", "--max-abs-diff", "1e-4")
    assert gated.exit_code == 1


def test_inspecting_what_it_would_do(bnncc, network):
    report = json.loads(bnncc("inspect", network, "--json", "--tropnnc", "keep=0.5").stdout)
    assert [item["channels_after"] for item in report["tropnnc"]["layers"]] == [8, 6]
    tropnnc = next(item for item in report["passes"] if item["name"] == "tropnnc")
    assert [(note["node"], note["text"]) for note in tropnnc["notes"]] == [("fc", "the output layer")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["keep=2"], "keep is 2.0, not a share above 0 and at most 1"),
        (["half"], "'half' is not of the form keep=0.5"),
        (["keep=half"], "'half' is no number"),
        (["keep=50%"], "'50%' is no number; a half is 0.5"),
        (["keep=0.5,mode=0.3"], "give --tropnnc once for each setting"),
        (["conv1:keep=0.5"], "is to be given for all layers (keep=1 leaves those that no pattern names)"),
        (["keep=1", "fc:keep=0.5"], "'fc' cannot be compressed: the output layer"),
        (["keep=0.5", "keep=0.6"], "keep is given twice"),
        (["keep=0.5", "stem*:keep=1"], "no layer that can be compressed is named 'stem*'; there are conv1, conv2"),
        (["width=3"], "unknown option 'width'"),
    ],
)
def test_refusals(bnncc, network, options, message):
    arguments = [item for option in options for item in ("--tropnnc", option)]
    result = bnncc("compile", network, "-o", network.parent / "c.onnx", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_command_line_goes_before_the_file(bnncc, network, tmp_path):
    """Patterns too, whichever of the file's would match; what goes with another amount is dropped with it."""
    config = tmp_path / "c.toml"
    config.write_text("[tropnnc]\ntarget-params = 0.9\nthreshold = 'v1'\n[tropnnc.layers]\n'conv*' = {keep = 0.75}\n")

    def left(*settings: str) -> list[int]:
        options = [item for setting in settings for item in ("--tropnnc", setting)]
        made = compiled(bnncc, network, "--config", str(config), *options)["tropnnc"]
        return [layer["channels_after"] for layer in made["layers"]]

    assert left("keep=1") == [12, 9]
    assert left("keep=1", "conv1:keep=0.25") == [4, 9]
    assert left("keep=1", "conv*:keep=0.5") == [8, 6]
    result = bnncc("compile", network, "-o", tmp_path / "x.onnx", "--config", config, "--tropnnc", "keep=1",
                   "--tropnnc", "keep=0.5")  # fmt: skip
    assert result.exit_code == 2
    assert "keep is given twice" in result.stderr
