"""`bnncc bench --profile` and `--layers`: what they report, on what models, and their errors. No figure is judged."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest

from bnncc import bench, runtime
from bnncc.compiled_layers import alone, compiled_layers
from bnncc.profiling import kind_of
from bnncc.session import InferenceSession


@pytest.fixture
def compiled(bnncc, cnn, tmp_path):
    """The compiled file of `cnn`: two binary convolutions, one with bits and one with floats as its output."""
    path = tmp_path / "compiled.onnx"
    assert bnncc("compile", cnn, "-o", path, "-q").exit_code == 0
    return path


def fails(result, *causes: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    for cause in causes:
        assert cause in line


def test_times_that_are_no_times(bnncc, mlp):
    for seconds in ("nan", "inf"):
        result = bnncc("bench", mlp, "--min-time", seconds)
        assert result.exit_code == 2
        assert f"min_time is {seconds}, not a number of seconds" in result.stderr


def test_profile_lists_the_ops_of_both_models(bnncc, cnn, compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    figures = tmp_path / "b.json"
    result = bnncc("bench", compiled, "--against", cnn, "--profile", "--repeats", 5, "--json", figures)
    assert result.exit_code == 0, result.output
    assert not list((tmp_path / "temporary").iterdir())
    made = json.loads(figures.read_text())
    assert made["layers"] is None
    ours, theirs = made["profile"], made["against_profile"]
    binary = [op for op in ours["ops"] if op["kind"] == "binary"]
    assert [op["op"] for op in binary] == ["BinaryConvThreshold", "BinaryConv"]
    assert all("avx" in op["kernel"] or "portable" in op["kernel"] for op in binary)
    assert "Binarize" in {op["op"] for op in ours["ops"] if op["kind"] == "conversion"}
    assert {op["kernel"] for op in theirs["ops"]} == {None}
    assert theirs["kinds"]["binary"] == {"ops": 0, "median_us": 0, "share": 0}
    for profile in (ours, theirs):
        assert profile["calls"] == 5
        assert sum(op["share"] for op in profile["ops"]) == pytest.approx(1)
        assert profile["ops_us"] == pytest.approx(sum(op["median_us"] for op in profile["ops"]))
        for kind, time in profile["kinds"].items():
            times = [op["median_us"] for op in profile["ops"] if op["kind"] == kind]
            assert (time["ops"], time["median_us"]) == (len(times), pytest.approx(sum(times)))
    for text in ("Ops of ", "BinaryConvThreshold", binary[0]["kernel"], "us of a call's"):
        assert text in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_profile_of_a_plain_model_alone(bnncc, mlp, tmp_path):
    figures = tmp_path / "b.json"
    assert bnncc("bench", mlp, "--profile", "--repeats", 3, "--json", figures).exit_code == 0
    made = json.loads(figures.read_text())
    assert made["against_profile"] is None
    assert {op["kind"] for op in made["profile"]["ops"]} == {"float"}
    assert any("Gemm" in op["op"] for op in made["profile"]["ops"])


def test_profile_counts_what_control_flow_runs(tmp_path):
    """The nodes of a loop's body are summed up over a call; the loop itself, whose time they are, is not listed."""
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    loops (float[4] x) => (float[4] y) {
        count = Constant <value = int64 {3}> ()
        go = Constant <value = bool {1}> ()
        y = Loop (count, go, x) <body = step (int64 i, bool c, float[4] a) => (bool d, float[4] b) {
            d = Identity (c)
            b = Sin (a)
        }>
    }
    """
    path = tmp_path / "loop.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    report = bench(path, repeats=4, profile=True).profile
    ops = [op.op for op in report.ops]
    assert "Loop" not in ops
    assert ops.count("Sin") == 1


def test_profile_of_two_models_with_the_same_names(compiled, tmp_path, bnncc, cnn):
    """Each has the kernels of its own layers."""
    other = tmp_path / "other.onnx"
    assert bnncc("compile", cnn, "-o", other, "-q", "--no-tree").exit_code == 0
    report = bench(other, against=compiled, repeats=3, profile=True)
    ours, theirs = ({op.name: op.kernel for op in p.ops if op.kernel} for p in (report.profile, report.against_profile))
    assert ours.keys() == theirs.keys() == {"conv1", "conv2"}
    for kernels, path in ((ours, other), (theirs, compiled)):
        assert kernels == {layer.node.name: layer.library.kernel for layer in compiled_layers(onnx.load(path))}


def test_profile_of_a_model_without_ops(tmp_path, builder):
    path = tmp_path / "same.onnx"
    b = builder(0)
    b.node("Identity", ["x"], "y")
    onnx.save(b.model({"x": [2, 3]}, {"y": [2, 3]}), path)
    report = bench(path, repeats=3, profile=True).profile
    assert sum(kind.ops for kind in report.kinds.values()) == len(report.ops)
    assert report.call_us > 0


@pytest.mark.parametrize(
    ("op", "kind"),
    [
        ("BinaryConvDual", "binary"),
        ("MaxPoolSigns", "binary"),
        ("Binarize", "conversion"),
        ("UnpackSigns", "conversion"),
        ("ReorderInput", "conversion"),
        ("Conv", "float"),
        ("MaxPool", "float"),
    ],
)
def test_kinds(op, kind):
    assert kind_of(op) == kind


@pytest.mark.parametrize("threads", [1, 2])
def test_layers_are_timed_alone(bnncc, compiled, images, tmp_path, threads):
    figures = tmp_path / "b.json"
    result = bnncc(
        "bench", compiled, "--layers", "--repeats", 2, "--batch", 3, "--data", images, "--threads", threads,
        "--json", figures,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    made = json.loads(figures.read_text())
    assert made["profile"] is None
    first, second = made["layers"]
    assert (first["op"], first["gives"]) == ("BinaryConvThreshold", "bits")
    assert (second["op"], second["gives"]) == ("BinaryConv", "float")
    assert first["input"] == [3, 16, 8, 8]
    assert second["weight"] == [24, 16, 3, 3]
    for layer, products in ((first, 3 * 16 * 64 * 144), (second, 3 * 24 * 16 * 144)):
        assert layer["gmac_per_s"] == pytest.approx(products / layer["median_us"] / 1e3)
        assert layer["ratio"] == pytest.approx(layer["fp32_median_us"] / layer["median_us"])
        assert layer["kernel"] in result.stdout
    assert "Binary layers alone" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100


def test_a_layer_alone_computes_what_its_model_does(bnncc, builder, tmp_path):
    """Through the library, as a model of its own, and as float32: convolutions with padding of signs, linear layers."""
    b = builder(3)
    b.signs("x", "signs0")
    b.constant("pads", np.array([0, 0, 1, 2, 0, 0, 1, 0]))
    b.node("Pad", ["signs0", "pads", "one"], "padded")
    b.node("Conv", ["padded", b.weights("conv_w", 8, 3, 3, 3)], "conv", strides=[2, 1], group=2)
    b.signs(b.batchnorm("conv", 8, "bn"), "signs1")
    b.node("Flatten", ["signs1"], "flat")
    b.node("MatMul", ["flat", b.weights("fc_w", 8 * 4 * 9, 5)], "y")
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(b.model({"x": ["N", 6, 7, 9]}, {"y": ["N", 5]}), path)
    assert bnncc("compile", path, "-o", out, "-q", "--require-binary", "all").exit_code == 0
    model = onnx.load(out)
    conv, linear = compiled_layers(model)
    assert conv.convolution["pad_value"] == 1
    rng = np.random.default_rng(4)
    for layer, shape in ((conv, (2, 6, 7, 9)), (linear, (2, 8, 4, 9))):
        signs = rng.choice(np.array([-1, 1], np.float32), shape)
        bits = runtime.pack_signs(signs)
        given = {layer.source: bits}
        result = layer.library(bits)
        (other,) = InferenceSession(alone(model, layer, given).SerializeToString()).run(None, given)
        assert np.array_equal(result, other)
        fp32, x = layer.fp32_model(signs)
        (dot,) = InferenceSession(fp32.SerializeToString()).run(None, {"x": x})
        assert layer.products(dot.size) == dot.size * layer.weights[0].size
        if layer is linear:
            assert np.array_equal(result, dot)
        else:
            threshold = onnx.numpy_helper.to_array(
                next(tensor for tensor in model.graph.initializer if tensor.name == layer.node.input[2])
            )
            assert np.array_equal(runtime.unpack_signs(result, dot.shape[3]) > 0, dot >= threshold[:, None, None])


def test_a_layer_alone_with_steps(bnncc, builder, tmp_path):
    """A shortcut, PReLU, and the bits of what comes out: through the library and as a model."""
    b = builder(6)
    shape = (2, 8, 5, 9)
    b.signs("x", "signs0")
    b.node("Conv", ["signs0", b.weights("w0", 8, 8, 3, 3)], "conv", pads=[1, 1, 1, 1])
    b.node("Add", [b.batchnorm("conv", 8, "bn"), "x"], "sum")
    b.node("PRelu", ["sum", b.floats("slope", 8, 1, 1)], "y")
    b.signs("y", "signs1")
    b.node("Conv", ["signs1", b.weights("w1", 4, 8, 1, 1)], "z")
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    onnx.save(b.model({"x": list(shape)}, {"y": list(shape), "z": [2, 4, 5, 9]}), path)
    assert bnncc("compile", path, "-o", out, "-q", "--require-binary", "all").exit_code == 0
    model = onnx.load(out)
    layer = compiled_layers(model)[0]
    assert layer.node.op_type == "BinaryConvStepsDual"
    x = np.random.default_rng(7).standard_normal(shape, dtype=np.float32)
    given = {layer.source: runtime.binarize(x), "x": x}
    assert set(given) == set(layer.inputs)
    run, results = layer.bind(given)
    run()
    others = InferenceSession(alone(model, layer, given).SerializeToString()).run(None, given)
    for result, other in zip(results, others, strict=True):
        assert np.array_equal(result, other)
    (expected,) = InferenceSession(path).run(["y"], {"x": x})
    np.testing.assert_allclose(results[0], expected, rtol=1e-4, atol=1e-4)  # onnxruntime folds the batch-norm


def test_layers_need_a_compiled_model(bnncc, cnn, mlp):
    for path in (cnn, mlp):
        fails(bnncc("bench", path, "--layers"), path.name, "no binary layers")


def test_unreadable_files(bnncc, compiled, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(compiled.read_bytes()[:300])
    for option in ("--profile", "--layers"):
        fails(bnncc("bench", broken, option), "broken.onnx")
        fails(bnncc("bench", Path("none.onnx"), option), "none.onnx: no such file")
        fails(bnncc("bench", compiled, "--against", broken, option), "broken.onnx")
        fails(bnncc("bench", compiled, option, "--data", broken), "broken.onnx: not an .npz file")
