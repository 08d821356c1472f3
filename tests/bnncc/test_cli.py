"""The command line: exit statuses, one-line errors, results on stdout alone, JSON, files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

import bnncc as package


@pytest.fixture
def compiled(bnncc, cnn, tmp_path):
    """The compiled file of `cnn`."""
    path = tmp_path / "compiled.onnx"
    result = bnncc("compile", cnn, "-o", path, "-q")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    return path


def fails(result, status: int, *causes: str) -> None:
    assert result.exit_code == status, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    for cause in causes:
        assert cause in lines[0]


def terminal_free(*arguments: object, **keywords) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bnncc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **keywords)


def test_compile_prints_the_report(bnncc, cnn, images, tmp_path):
    result = bnncc("compile", cnn, "-o", tmp_path / "o.onnx", "--data", images, "--report", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for text in (
        "conv1",
        "binary",
        "flipped bits        0 of",
        "7 of the data",
        "4 layers: 2 binary, 2 float",
        "written to",
    ):
        assert text in result.stdout
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines if "written to" not in line) <= 100
    assert not any(line.endswith(" ") for line in lines)
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["verify"]["flipped_bits"] == 0
    assert report["size"]["after"] == (tmp_path / "o.onnx").stat().st_size
    assert report["output"] == str(tmp_path / "o.onnx")


def test_compile_options_override_the_config(bnncc, cnn, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("verify_samples = 3\nseed = 9\n[input_shapes]\nimage = [2, 3, 8, 8]\n")
    report = tmp_path / "r.json"
    arguments = ("compile", cnn, "-o", tmp_path / "o.onnx", "--config", config, "--report", report)
    assert bnncc(*arguments, "--verify-samples", 4).exit_code == 0
    made = json.loads(report.read_text())
    assert made["config"]["seed"] == 9
    assert made["verify"]["samples"] == 4
    assert made["config"]["input_shapes"] == {"image": [2, 3, 8, 8]}
    assert bnncc(*arguments, "--input-shape", "image=1,3,8,8", "--no-verify").exit_code == 0
    made = json.loads(report.read_text())
    assert made["config"]["input_shapes"] == {"image": [1, 3, 8, 8]}
    assert made["verify"] is None


def test_each_extension_of_the_trees_can_be_switched(bnncc, cnn):
    """From the spanning tree of the filters on, each lowers the bits that are added."""
    off = ["--no-tree-shared-root", "--no-tree-complement", "--no-tree-steiner"]
    bits = []
    for switched_off in (off, off[1:], off[2:], []):
        report = json.loads(bnncc("inspect", cnn, "--json", *switched_off).stdout)
        assert report["trees"]["bits_mst"] > 0
        bits.append(report["trees"]["bits_tree"])
    assert bits[0] == report["trees"]["bits_mst"]
    assert bits == sorted(bits, reverse=True)
    assert len(set(bits)) == 4
    limited = json.loads(bnncc("inspect", cnn, "--json", "--tree-max-depth", 2, "--tree-ripple", 9).stdout)
    assert max(layer["tree_depth"] or 0 for layer in limited["layers"]) == 2
    assert (limited["config"]["tree_max_depth"], limited["config"]["tree_ripple"]) == (2, 9)
    assert json.loads(bnncc("inspect", cnn, "--json", "--no-tree").stdout)["trees"] is None


def test_failed_gate_is_status_1_with_report(bnncc, cnn, tmp_path):
    target, report = tmp_path / "o.onnx", tmp_path / "r.json"
    result = bnncc("compile", cnn, "-o", target, "--min-speedup", "1e6", "--report", report)
    fails(result, 1, "cnn.onnx", "speed-up: ", "1e+06x asked for", "o.onnx was not written")
    assert "FAILED" in result.stdout
    assert not target.exists()
    assert not json.loads(report.read_text())["gates"][0]["passed"]
    assert bnncc("compile", cnn, "-o", target, "--min-speedup", "0", "--require-binary", "all").exit_code == 0
    assert target.exists()


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["compile"], "Missing argument 'MODEL.onnx'"),
        (["compile", "a.onnx"], "Missing option '-o'"),
        (["compile", "a.onnx", "-o", "b.onnx", "--frobnicate"], "No such option '--frobnicate'"),
        (["compile", "a.onnx", "-o", "b.onnx", "--require-binary", "some"], "'some' is not"),
        (["compile", "a.onnx", "-o", "b.onnx", "--input-shape", "image"], "not of the form image=1,3,224,224"),
        (["compile", "a.onnx", "-o", "b.onnx", "--input-shape", "image=1,x"], "not of the form"),
        (["compile", "a.onnx", "-o", "b.onnx", "--input-shape", "image=0,3"], "input_shapes.image"),
        (["compile", "a.onnx", "-o", "b.onnx", "--min-argmax-agreement", "2"], "between 0 and 1"),
        (["compile", "a.onnx", "-o", "b.onnx", "--min-argmax-agreement", "nan"], "between 0 and 1"),
        (["compile", "a.onnx", "-o", "b.onnx", "--verify-samples", "0"], "--verify-samples"),
        (["bench", "a.onnx", "--batch", "0"], "--batch"),
        (["verify", "a.onnx", "b.onnx", "--through", "magic"], "'magic' is not"),
        (["run", "a.onnx"], "Missing option '--data'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["compile", "none.onnx", "-o", "b.onnx"], "none.onnx: no such file"),
        (["inspect", "none.onnx"], "none.onnx: no such file"),
        (["verify", "none.onnx", "b.onnx"], "none.onnx: no such file"),
        (["bench", "none.onnx"], "none.onnx: no such file"),
        (["run", "none.onnx", "--data", "x.npz"], "none.onnx: no such file"),
    ],
)
def test_bad_usage_is_status_2_in_one_line(bnncc, arguments, cause):
    fails(bnncc(*arguments), 2, cause)


def test_bad_files_are_status_2_in_one_line(bnncc, cnn, compiled, images, tmp_path):
    text = tmp_path / "text.onnx"
    text.write_text("not a model\n" * 50)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(cnn.read_bytes()[:-2000])
    config = tmp_path / "c.toml"
    config.write_text("veryfy = true")
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, image=np.ones((2, 3, 8, 9), np.float32))
    out = tmp_path / "o.onnx"
    for arguments, cause in [
        (("compile", text, "-o", out), "text.onnx: not an ONNX file"),
        (("compile", cut, "-o", out), "cut.onnx: the file is truncated"),
        (("compile", cnn, "-o", cnn), "is the input"),
        (("compile", cnn, "-o", tmp_path), "it is a folder"),
        (("compile", cnn, "-o", tmp_path / "none" / "o.onnx"), "does not exist"),
        (("compile", cnn, "-o", out, "--report", cnn), "is the input"),
        (("compile", cnn, "-o", out, "--report", out), "is the output as well"),
        (("compile", cnn, "-o", out, "--config", config), "did you mean verify?"),
        (("compile", cnn, "-o", out, "--data", wrong), "array 'image' has shape [2, 3, 8, 9]"),
        (("compile", cnn, "-o", out, "--data", tmp_path / "none.npz"), "none.npz: no such file"),
        (("compile", cnn, "-o", out, "--input-shape", "img=1,3,8,8"), "input_shapes names 'img'"),
        (("compile", compiled, "-o", out), "was compiled by bnncc already"),
        (("verify", cnn, text), "text.onnx: not an ONNX file"),
        (("run", compiled, "--data", wrong), "wrong.npz: array 'image'"),
        (("run", compiled, "--data", images, "-o", compiled), "is the input"),
        (("bench", compiled, "--data", images, "--batch", 50), "holds 7 samples, a batch of 50"),
        (("bench", compiled, "--json", images, "--data", images), "is the input"),
    ]:
        fails(bnncc(*arguments), 2, cause)
        assert not out.exists()


@pytest.mark.parametrize("attribute", ["pads", "tree"])
def test_compiled_file_edited_by_hand(bnncc, cnn, compiled, images, tmp_path, attribute):
    """Negative padding; a tree that breaks off."""
    model = onnx.load(compiled)
    node = next(node for node in model.graph.node if node.op_type.startswith("BinaryConv"))
    item = next(item for item in node.attribute if item.name == attribute)
    if attribute == "pads":
        item.ints[0] = -1
    else:
        item.s = item.s[:-2]
    onnx.save(model, tmp_path / "edited.onnx")
    for arguments in [
        ("run", tmp_path / "edited.onnx", "--data", images),
        ("verify", cnn, tmp_path / "edited.onnx"),
        ("bench", tmp_path / "edited.onnx"),
    ]:
        fails(bnncc(*arguments), 2, "edited.onnx", node.name)


def test_verbose_adds_the_traceback(bnncc):
    for arguments in (("inspect", "none.onnx", "-v"), ("-v", "inspect", "none.onnx")):
        result = bnncc(*arguments)
        assert result.exit_code == 2
        assert "Traceback (most recent call last)" in result.stderr
        assert result.stderr.splitlines()[-1] == "bnncc: none.onnx: no such file"


def test_errors_that_nobody_foresaw(bnncc, cnn, tmp_path, monkeypatch):
    """They name the file and the pass too, and nothing is written."""

    def fail(tensor):
        raise KeyError("nobody\nforesaw")

    monkeypatch.setattr("bnncc.passes.graph.producer", fail)
    out = tmp_path / "o.onnx"
    for arguments in (("compile", cnn, "-o", out), ("inspect", cnn)):
        fails(
            bnncc(*arguments),
            2,
            f"bnncc: {cnn}: internal error in bnncc.passes.canonicalize_binarizers.apply, bnncc.passes.graph.",
            "KeyError",
            "(-v for the trace",
        )
    assert not out.exists()
    assert "Traceback (most recent call last)" in bnncc("inspect", cnn, "-v").stderr


def test_what_onnx_refuses_within_a_pass(bnncc, cnn, monkeypatch):
    def fail(self, graph, context):
        raise onnx.shape_inference.InferenceError("node n: dimension 1 does not fit")

    monkeypatch.setattr("bnncc.passes.thresholds.Thresholds.apply", fail)
    fails(bnncc("inspect", cnn), 2, f"bnncc: {cnn}: pass thresholds: node n: dimension 1 does not fit")


def test_help_and_version(bnncc):
    assert bnncc("--version").stdout == f"bnncc {package.__version__}\n"
    for command in ("compile", "inspect", "verify", "bench", "run"):
        result = bnncc(command, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: main {command} [OPTIONS]")
    fails(bnncc(), 2, "Missing command")


def test_inspect_original_and_compiled(bnncc, cnn, compiled):
    original = bnncc("inspect", cnn, "--json")
    assert original.exit_code == 0
    before = json.loads(original.stdout)
    after = json.loads(bnncc("inspect", compiled, "--json").stdout)
    assert (before["compiled"], after["compiled"]) == (False, True)
    assert [layer["status"] for layer in before["layers"]] == ["float", "binary", "binary", "float"]
    assert before["layers"] == after["layers"]
    assert after["source_sha256"] == before["source_sha256"]
    assert after["size"] == {"before": cnn.stat().st_size, "after": compiled.stat().st_size}
    table = bnncc("inspect", compiled)
    assert table.exit_code == 0
    assert "conv1" in table.stdout


def test_verify_both_ways(bnncc, cnn, compiled, images, make_cnn, tmp_path):
    figures = tmp_path / "v.json"
    for through in ("library", "functions"):
        result = bnncc("verify", cnn, compiled, "--data", images, "--through", through, "--json", figures)
        assert result.exit_code == 0, result.output
        made = json.loads(figures.read_text())
        assert (made["flipped_bits"], made["through"], made["samples"]) == (0, through, 39)
        assert made["bits_compared"] == 39 * 2 * 16 * 64
    assert bnncc("verify", cnn, compiled, "--max-abs-diff", 1e-3, "--min-argmax-agreement", 1).exit_code == 0
    other = tmp_path / "other.onnx"
    onnx.save(make_cnn(seed=8), other)
    result = bnncc("verify", other, compiled)
    fails(result, 1, "compiled.onnx: verification failed: output 'logits' differs by", "which is more than 0.001")
    assert "failed" in result.stdout
    assert "was compiled from another file than other.onnx: only outputs" in " ".join(result.stdout.split())
    fails(bnncc("verify", other, compiled, "--max-abs-diff", 1e-3), 1, "compiled.onnx", "at most 0.001 asked for")
    fails(bnncc("verify", cnn, other, "--min-argmax-agreement", 1), 1, "other.onnx", "at least 100% asked for")
    fails(bnncc("verify", cnn, other), 1, "which is more than 0.001")
    fails(bnncc("verify", cnn, other, "--max-rel-diff", 1e-6), 1, "at most 1e-06 asked for")
    # Between two originals a gate says what is asked for; a compiled file owes agreement as well.
    assert bnncc("verify", cnn, other, "--max-abs-diff", 1e6).exit_code == 0
    assert bnncc("verify", cnn, other, "--max-rel-diff", 1e6).exit_code == 0
    fails(bnncc("verify", other, compiled, "--max-abs-diff", 1e6), 1, "which is more than 0.001")


def test_verify_finds_a_wrong_bit(bnncc, cnn, compiled, tmp_path):
    model = onnx.load(compiled)
    weights = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.UINT8)
    values = onnx.numpy_helper.to_array(weights).copy()
    values[0, 0] ^= 1  # one of 2,304 weights
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    for through in ("library", "functions"):
        fails(bnncc("verify", cnn, tmp_path / "wrong.onnx", "--through", through), 1, "wrong.onnx", "flipped bits")


def test_bench(bnncc, cnn, compiled, images, tmp_path):
    figures = tmp_path / "b.json"
    arguments = ("bench", compiled, "--against", cnn, "--repeats", 5, "--batch", 3, "--data", images, "--json", figures)
    result = bnncc(*arguments)
    assert result.exit_code == 0, result.output
    made = json.loads(figures.read_text())
    assert made["ratio"] == pytest.approx(made["against_median_ms"] / made["median_ms"])
    assert made["median_ms"] >= made["min_ms"] > 0
    assert (made["threads"], made["batch"], made["repeats"], made["data"]) == (1, 3, 5, "images.npz")
    assert made["device"]
    assert made["isa"]
    alone = bnncc("bench", cnn, "--min-time", 0)
    assert alone.exit_code == 0
    assert "seeded noise" in alone.stdout


def test_bench_of_a_fixed_batch(bnncc, make_cnn, tmp_path):
    path = tmp_path / "two.onnx"
    onnx.save(make_cnn(2), path)
    fails(bnncc("bench", path, "--batch", 3), 2, "two.onnx: takes a batch of 2, not 3")
    assert "batch 2" in bnncc("bench", path, "--repeats", 2).stdout


def test_models_without_a_batch_axis(bnncc, builder, tmp_path):
    b = builder(0)
    b.node("Mul", ["x", "factor"], "m")
    b.signs("m", "s")
    b.node("MatMul", ["s", b.weights("w", 4, 4)], "y")
    path, out, data = tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "x.npz"
    onnx.save(b.model({"x": [5, 4], "factor": []}, {"y": [5, 4]}), path)
    np.savez(data, x=np.random.default_rng(0).standard_normal((5, 4), dtype=np.float32), factor=np.float32(-2))
    assert bnncc("compile", path, "-o", out, "--data", data, "--require-binary", "all").exit_code == 0
    results = []
    for model in (path, out):
        assert bnncc("run", model, "--data", data, "-o", tmp_path / "y.npz").exit_code == 0
        results.append(np.load(tmp_path / "y.npz")["y"])
    np.testing.assert_array_equal(*results)
    fails(bnncc("run", out, "--data", data, "--batch", 2), 2, "no batch axis in common")
    fails(bnncc("bench", out, "--batch", 2), 2, "no batch axis in common")


def test_run_writes_the_outputs(bnncc, cnn, compiled, images, tmp_path):
    outputs = []
    for model in (cnn, compiled):
        result = bnncc(
            "run", model, "--data", images, "-o", tmp_path / "y.npz", "--batch", 3, "--json", tmp_path / "y.json"
        )
        assert result.exit_code == 0, result.output
        outputs.append(np.load(tmp_path / "y.npz")["logits"])
        summary = json.loads((tmp_path / "y.json").read_text())
        assert summary["samples"] == 7
        labels = np.load(images)["labels"]
        assert summary["outputs"][0]["accuracy"] == pytest.approx((outputs[-1].argmax(1) == labels).mean())
        assert sum(summary["outputs"][0]["classes"].values()) == 7
    assert outputs[0].shape == (7, 10)
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)


def test_run_fills_up_a_fixed_batch(bnncc, make_cnn, cnn, images, tmp_path):
    path = tmp_path / "three.onnx"
    onnx.save(make_cnn(3), path)
    for model, name in ((path, "a.npz"), (cnn, "b.npz")):
        assert bnncc("run", model, "--data", images, "-o", tmp_path / name).exit_code == 0
    one, two = (np.load(tmp_path / name)["logits"] for name in ("a.npz", "b.npz"))
    assert one.shape == (7, 10)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_as_a_process(cnn, tmp_path):
    done = terminal_free("compile", cnn, "-o", tmp_path / "o.onnx")
    assert done.returncode == 0
    assert done.stderr == ""  # no progress where there is no terminal
    assert "\x1b" not in done.stdout
    assert terminal_free("inspect", tmp_path / "none.onnx").returncode == 2
    assert terminal_free("compile", cnn, "-o", tmp_path / "p.onnx", "--min-speedup", "1e9").returncode == 1


def test_reader_that_goes_away(cnn):
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "bnncc", "inspect", str(cnn), "--json"]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(write)
    assert done.returncode == 0
    assert done.stderr == ""


def test_interrupt_leaves_nothing(cnn, tmp_path):
    """Ctrl-C in the middle of a long verification."""
    target = tmp_path / "o.onnx"
    command = [sys.executable, "-m", "bnncc", "compile", str(cnn), "-o", str(target), "--verify-samples", "1000000000"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start what runs in the background with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".o.onnx.*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "bnncc: interrupted"
    assert os.listdir(tmp_path) == ["cnn.onnx"]
