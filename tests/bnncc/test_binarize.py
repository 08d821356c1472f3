"""Compiling with --binarize: options, the report, sensitivity, calibration, what is compared with what."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import bnncc as package
from bnncc import BadInput, Config
from bnncc.passes.pack_weights import UNPACK
from bnncc.passes.two_values import METHODS


def compiled(bnncc, network, *options: str, data: str = "x.npz") -> dict:
    folder = network.parent
    result = bnncc("compile", network, "-o", folder / "c.onnx", "--report", folder / "r.json",
                   "--data", folder / data, *options)  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads((folder / "r.json").read_text())


def classes(path, data) -> np.ndarray:
    return ort.InferenceSession(path).run(None, {"x": data["x"]})[0].argmax(axis=1)


@pytest.mark.parametrize("method", METHODS)
def test_the_report_says_what_was_lost(bnncc, network, method):
    report = compiled(bnncc, network, "--binarize", method)
    made = report["binarize"]
    assert (made["method"], made["calibrated"], made["calibration_samples"]) == (method, [], 0)
    (layer,) = made["layers"]
    assert (layer["name"], layer["weights"]) == ("conv2", 12 * 16 * 9)
    assert 0.3 < layer["error"] < 0.9
    assert [(item["status"], item["weight_bits"]) for item in report["layers"]] == [
        ("float", 32), ("weight-binary", 1), ("float", 32),
    ]  # fmt: skip
    assert report["layers"][1]["size_before"] == 12 * 16 * 9 * 4 + 12 * 4
    assert report["layers"][1]["size_after"] <= 12 * 16 * 9 // 8 + 2 * 12 * 4 + 12 * 4
    assert report["change"]["max_abs_diff"] > 0.01
    assert report["change"]["samples"] == 92
    assert report["change"]["accuracy"]["reference"] == 1
    assert report["change"]["accuracy"]["compiled"] < 1
    assert report["tropnnc"] is None
    assert report["verify"]["argmax_agreement"] == 1
    assert report["verify"]["max_rel_diff"] < 1e-5
    # Plain onnxruntime runs it, and gives what the change of accuracy was told of.
    data = np.load(network.parent / "x.npz")
    right = (classes(network.parent / "c.onnx", data) == data["labels"]).mean()
    assert right == pytest.approx(report["change"]["accuracy"]["compiled"])


def test_sensitivity_is_that_of_each_layer_alone(bnncc, network):
    report = compiled(bnncc, network, "--binarize", "dab", "--layers", "*")
    data = np.load(network.parent / "x.npz")
    before = ort.InferenceSession(network).run(None, {"x": data["x"]})[0]
    for layer in report["binarize"]["layers"]:
        compiled(bnncc, network, "--binarize", "dab", "--layers", layer["name"])
        after = ort.InferenceSession(network.parent / "c.onnx").run(None, {"x": data["x"]})[0]
        found = layer["sensitivity"]
        assert found["samples"] == 60
        assert found["accuracy_before"] == 1
        same = (after.argmax(axis=1) == before.argmax(axis=1)).mean()
        assert found["argmax_agreement"] == found["accuracy_after"] == pytest.approx(same)
        assert found["relative_change"] == pytest.approx(
            np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-4
        )


def test_sensitivity_on_the_samples_that_fit(network, monkeypatch):
    """Held for a sample: its input, what conv2 reads, and both beside the output, which is there all the while."""
    data = np.load(network.parent / "x.npz")
    np.savez(network.parent / "more.npz", x=np.concatenate([data["x"]] * 4))
    each = 4 * (3 * 9 * 9 + 16 * 9 * 9 + 4)
    found = []
    for room in (200 * each, 200 * each - 1, 100 * each):
        monkeypatch.setattr("bnncc.passes.stepping.MOST_BYTES", room)
        config = Config(binarize={"method": "dab"})
        report = package.compile(network, data=network.parent / "more.npz", config=config).report
        found.append(report.binarize.layers[0].sensitivity.samples)
    assert found == [200, 150, 100]  # in batches of 50


def test_sensitivity_without_labels_data_or_verification(bnncc, network):
    (layer,) = compiled(bnncc, network, "--binarize", "dab", data="unlabelled.npz")["binarize"]["layers"]
    assert layer["sensitivity"]["accuracy_after"] is None
    assert layer["sensitivity"]["argmax_agreement"] < 1
    (layer,) = compiled(bnncc, network, "--binarize", "dab", "--no-verify")["binarize"]["layers"]
    assert layer["sensitivity"] is None
    result = bnncc("compile", network, "-o", network.parent / "c.onnx", "--binarize", "dab")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "Against the original, 32 samples of noise, which say little of real inputs" in text
    assert "`bnncc compile --binarize ... --data X.npz` measures what each layer costs" in text


def test_the_table_says_it(bnncc, network):
    result = bnncc("compile", network, "-o", network.parent / "c.onnx", "--binarize", "xnor", "--layers", "conv*",
                   "--calibrate", "--data", network.parent / "x.npz")  # fmt: skip
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for words in ("Binarized (lossy): xnor", "outputs change same class accuracy",
                  "on 60 samples, accuracy 100% before. Costs do not add up", "2 of 3 layers with constant weights",
                  "Calibrated: mean and deviation of 28 channels of 2 nodes, from the first 60 samples",
                  "Against the original, 60 samples: outputs differ by up to", "accuracy 100.00% to ",
                  "These samples include those of the calibration",
                  "Compiled against the network with binarized weights (--binarize), which it has to agree with",
                  "statistics of 60 samples only: 100 or more are advised", "weights at 1 bit"):  # fmt: skip
        assert words in text, text
    assert max(map(len, result.stdout.splitlines()[:-2])) <= 100


def test_calibration_goes_into_the_compiled_file(bnncc, network):
    plain = compiled(bnncc, network, "--binarize", "dab", "--layers", "*")
    report = compiled(bnncc, network, "--binarize", "dab", "--layers", "*", "--calibrate", data="unlabelled.npz")
    assert [(item["name"], item["op"], item["channels"]) for item in report["binarize"]["calibrated"]] == [
        ("conv1", "Conv", 16), ("conv2", "Conv", 12), ("fc", "Gemm", 4),
    ]  # fmt: skip
    assert report["binarize"]["calibration_samples"] == 60
    assert report["change"]["argmax_agreement"] > plain["change"]["argmax_agreement"]
    data = np.load(network.parent / "x.npz")
    outputs = [
        ort.InferenceSession(path).run(None, {"x": data["x"]})[0] for path in (network, network.parent / "c.onnx")
    ]
    np.testing.assert_allclose(outputs[1].mean(axis=0), outputs[0].mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(outputs[1].std(axis=0), outputs[0].std(axis=0), rtol=1e-3)


def test_a_network_of_batch_one(builder, tmp_path):
    """Calibration and sensitivity take whole batches of any size."""
    b = builder(2)
    for number, (inputs, outputs) in enumerate([(6, 32), (32, 32), (32, 3)]):
        b.node("MatMul", [f"h{number}" if number else "x", b.floats(f"w{number}", inputs, outputs)], f"h{number + 1}")
    path = tmp_path / "one.onnx"
    onnx.save(b.model({"x": [1, 6]}, {"h3": [1, 3]}), path)
    x = np.random.default_rng(0).standard_normal((120, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    config = Config(binarize={"method": "dab", "calibrate": True})
    report = package.compile(path, config=config, data=tmp_path / "x.npz").report
    assert report.binarize.calibration_samples == 120
    assert report.binarize.layers[0].sensitivity.samples == 120


def test_options_on_the_command_line_and_in_a_file(bnncc, network, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[binarize]\nmethod = 'bihalf'\nlayers = ['conv1', 'f*']\ncalibrate = true\n")
    report = compiled(bnncc, network, "--config", str(config))
    assert [item["name"] for item in report["binarize"]["layers"]] == ["conv1", "fc"]
    assert len(report["binarize"]["calibrated"]) == 2
    over = compiled(
        bnncc, network, "--config", str(config), "--binarize", "xnor", "--layers", "conv2", "--no-calibrate"
    )
    assert over["config"]["binarize"] == {"method": "xnor", "layers": ["conv2"], "calibrate": False}
    assert [item["name"] for item in over["binarize"]["layers"]] == ["conv2"]
    help_text = bnncc("compile", "--help").stdout
    assert f"[{'|'.join(METHODS)}]" in help_text


def test_with_fewer_channels_at_once(bnncc, network):
    """One change is measured for all that is lossy."""
    report = compiled(bnncc, network, "--tropnnc", "keep=0.5", "--binarize", "dab")
    assert [item["channels_after"] for item in report["tropnnc"]["layers"]] == [8, 6]
    assert report["binarize"]["layers"][0]["weights"] == 6 * 8 * 9
    assert report["change"] == report["tropnnc"]["change"]
    assert report["verify"]["argmax_agreement"] == 1
    alone = compiled(bnncc, network, "--tropnnc", "keep=0.5")
    assert alone["change"] == alone["tropnnc"]["change"]
    assert alone["change"]["max_abs_diff"] < report["change"]["max_abs_diff"]
    assert compiled(bnncc, network)["change"] is None
    result = bnncc("verify", network, network.parent / "c.onnx")
    assert result.exit_code == 0


def test_gates_are_on_the_change_from_the_original(bnncc, network):
    output = network.parent / "c.onnx"
    arguments = ("compile", network, "-o", output, "--binarize", "dab", "--data", network.parent / "x.npz")
    result = bnncc(*arguments, "--min-argmax-agreement", "1")
    assert result.exit_code == 1
    assert "same class" in result.stderr
    assert not output.exists()
    # What was asked for is no layer that failed to become binary.
    assert bnncc(*arguments, "--min-argmax-agreement", "0.05", "--require-binary", "all").exit_code == 0


def test_verifying_benching_and_running_the_file(bnncc, network):
    compiled(bnncc, network, "--binarize", "dab")
    output = network.parent / "c.onnx"
    for through in ("library", "functions"):
        result = bnncc("verify", network, output, "--through", through)
        assert result.exit_code == 0, result.output
        assert "has binarized weights (--binarize): its outputs are compared, and may differ" in " ".join(
            result.stdout.split()
        )
    assert bnncc("verify", network, output, "--max-abs-diff", "1e-4").exit_code == 1
    bench = bnncc("bench", output, "--against", network, "--repeats", "3", "--profile")
    assert bench.exit_code == 0, bench.output
    assert UNPACK not in bench.stdout  # folded when the session is made
    assert bnncc("run", output, "--data", network.parent / "x.npz").exit_code == 0


def test_inspecting_before_and_after(bnncc, network, tmp_path):
    report = json.loads(bnncc("inspect", network, "--json", "--binarize", "dab", "--layers", "c*").stdout)
    assert [item["name"] for item in report["binarize"]["layers"]] == ["conv1", "conv2"]
    assert all(item["error"] > 0.3 and item["sensitivity"] is None for item in report["binarize"]["layers"])
    assert report["layers"][1]["size_after"] < report["layers"][1]["size_before"] / 10
    config = tmp_path / "c.toml"
    config.write_text("[binarize]\nmethod = 'dab'\ncalibrate = true\n")
    assert bnncc("inspect", network, "--config", config).exit_code == 0  # no data, so nothing to calibrate on
    compiled(bnncc, network, "--binarize", "dab")
    after = bnncc("inspect", network.parent / "c.onnx")
    assert after.exit_code == 0, after.output
    assert "weight-binary" in after.stdout
    assert "weights at 1 bit" in after.stdout


def test_passes_are_dumped(bnncc, network, tmp_path):
    compiled(bnncc, network, "--binarize", "dab", "--calibrate", "--dump-passes", str(tmp_path / "dump"))
    names = [path.stem.partition("-")[2] for path in sorted((tmp_path / "dump").iterdir())]
    assert names[:4] == ["simplify", "binarize-weights", "calibrate", "canonicalize-binarizers"]
    assert names[-1] == "pack-weights"
    for path in (tmp_path / "dump").iterdir():
        ort.InferenceSession(path)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        ("packed", "weights [12, 16, 3, 3] take 216 packed bytes, not [215]"),
        ("high", "values of shape [5] do not go with weights [12, 16, 3, 3]"),
        ("input", "its packed weights are not three initializers"),
    ],
)
def test_damaged_packed_weights(bnncc, network, damage, cause):
    compiled(bnncc, network, "--binarize", "dab")
    path = network.parent / "c.onnx"
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.op_type == UNPACK)
    place = {"packed": 0, "high": 1, "input": 2}[damage]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[place])
    values = numpy_helper.to_array(tensor)
    if damage == "input":
        model.graph.initializer.remove(tensor)
        made = onnx.helper.make_node("Constant", [], [tensor.name], name="made", value=tensor)
        model.graph.node.insert(0, made)
    else:
        tensor.CopyFrom(numpy_helper.from_array(values.reshape(-1)[: 215 if damage == "packed" else 5], tensor.name))
    onnx.save(model, path)
    for command in (
        ["inspect", path],
        ["verify", network, path],
        ["bench", path],
        ["run", path, "--data", network.parent / "x.npz"],
    ):
        result = bnncc(*command)
        assert result.exit_code == 2
        assert cause in result.stderr
        assert node.name in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--binarize", "sign"], "'sign' is not one of 'dab', 'bihalf', 'xnor'"),
        (
            ["--binarize", "dab", "--calibrate"],
            "calibrate: there are no samples to take statistics from (--data X.npz)",
        ),
        (["--layers", "conv1"], "--layers and --calibrate go with --binarize"),
        (["--calibrate"], "--layers and --calibrate go with --binarize"),
        (
            ["--binarize", "dab", "--layers", "stem*"],
            "no layer that can be binarized is named 'stem*'; there are conv1, conv2, fc",
        ),
    ],
)
def test_refusals(bnncc, network, options, cause):
    result = bnncc("compile", network, "-o", network.parent / "c.onnx", *options)
    assert result.exit_code == 2
    assert cause in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_nothing_to_binarize(bnncc, mlp, tmp_path):
    result = bnncc("compile", mlp, "-o", tmp_path / "c.onnx", "--binarize", "dab")
    assert result.exit_code == 2
    assert "only first and last layers could be (h, y); name them with --layers" in result.stderr


def test_configs_that_cannot_be():
    for settings, cause in ((3, "must be a table"), ({"method": "sign"}, "one of dab, bihalf, xnor")):
        with pytest.raises(BadInput, match=cause):
            Config(binarize=settings)
    with pytest.raises(BadInput, match="pack_weights must be true or false"):
        Config(pack_weights=1)


def test_statistics_that_are_not_finite(bnncc, network):
    data = dict(np.load(network.parent / "unlabelled.npz"))
    data["x"][3, 0, 0, 0] = np.inf
    np.savez(network.parent / "inf.npz", **data)
    result = bnncc("compile", network, "-o", network.parent / "c.onnx", "--binarize", "dab", "--calibrate",
                   "--data", network.parent / "inf.npz")  # fmt: skip
    assert result.exit_code == 2
    assert "calibrate: node 'conv2': its statistics on the samples are not finite numbers" in result.stderr


def test_sensitivity_of_a_network_that_names_classes_itself(bnncc, network):
    """Its output is ArgMax's: no floats whose change could be told, but classes, and labels to hold them against."""
    model = onnx.load(network)
    model.graph.node.append(onnx.helper.make_node("ArgMax", ["fc"], ["class"], axis=1, keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("class", onnx.TensorProto.INT64, ["N"]))
    onnx.save(model, network)
    folder = network.parent
    result = bnncc("compile", network, "-o", folder / "c.onnx", "--report", folder / "r.json",
                   "--data", folder / "x.npz", "--binarize", "dab", "--layers", "*")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "outputs change" not in result.stdout
    assert "same class" in result.stdout
    data = np.load(folder / "x.npz")
    layers = json.loads((folder / "r.json").read_text())["binarize"]["layers"]
    for layer in layers:
        assert layer["sensitivity"]["relative_change"] is None
        assert layer["sensitivity"]["accuracy_before"] == 1
        assert layer["sensitivity"]["argmax_agreement"] == layer["sensitivity"]["accuracy_after"]
    assert min(layer["sensitivity"]["accuracy_after"] for layer in layers) < 1
    after = ort.InferenceSession(folder / "c.onnx").run(None, {"x": data["x"]})[0]
    assert (after == data["labels"]).mean() < 1


def test_tuning_a_network_without_binary_layers(bnncc, network):
    compiled(bnncc, network, "--binarize", "dab", "--tune")
