"""Compilation end to end through the Python API: what it writes, what it refuses to write, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

import bnncc
from bnncc import BadInput, Config, GateFailed, model_io
from bnncc import pipeline as pipeline_module


@pytest.fixture
def wrong_passes(monkeypatch):
    """Let the passes make a compiled model that is wrong: another seed's weights in its last float layer, and bits."""
    right = pipeline_module.run_passes

    def run(model, config, **keywords):
        outcome = right(model, config, **keywords)
        for tensor in outcome.model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.UINT8:
                values = onnx.numpy_helper.to_array(tensor) ^ np.uint8(0x55)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return outcome

    monkeypatch.setattr(pipeline_module, "run_passes", run)


def test_compiles_and_runs(cnn, tmp_path):
    before = cnn.read_bytes()
    result = bnncc.compile(cnn, output=tmp_path / "out.onnx")
    assert cnn.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["cnn.onnx", "out.onnx"]
    report = result.report
    assert [(layer.name, layer.status) for layer in report.layers] == [
        ("stem", "float"),
        ("conv1", "binary"),
        ("conv2", "binary"),
        ("logits", "float"),
    ]
    assert report.verify.flipped_bits == 0
    assert report.verify.bits_compared == 32 * 2 * 16 * 64
    assert report.size.after == (tmp_path / "out.onnx").stat().st_size
    assert report.ops["Binarize"] == 1
    assert onnx.load(tmp_path / "out.onnx").SerializeToString() == result.model.SerializeToString()

    x = np.random.default_rng(1).standard_normal((5, 3, 8, 8), dtype=np.float32)
    expected = onnxruntime.InferenceSession(cnn).run(None, {"image": x})[0]
    session = bnncc.InferenceSession(tmp_path / "out.onnx", threads=1)
    assert isinstance(session, onnxruntime.InferenceSession)
    np.testing.assert_allclose(session.run(None, {"image": x})[0], expected, rtol=1e-4, atol=1e-4)
    options = bnncc.register(onnxruntime.SessionOptions())
    plain = onnxruntime.InferenceSession(tmp_path / "out.onnx", options)
    np.testing.assert_array_equal(plain.run(None, {"image": x})[0], session.run(None, {"image": x})[0])
    assert os.path.isfile(bnncc.library_path())


def test_report_has_the_keys_that_scripts_rely_on(cnn):
    report = json.loads(bnncc.compile(cnn).report.to_json())
    layer_keys = {"name", "op", "status", "reason", "kernel", "weight_bits", "bit_ops_dense", "bit_ops_mst"}
    assert all(layer_keys <= set(layer) for layer in report["layers"])
    assert all({"name", "changed", "notes"} <= set(item) for item in report["passes"])
    assert {"before", "after"} <= set(report["size"])
    assert {"flipped_bits", "max_abs_diff", "argmax_agreement", "samples"} <= set(report["verify"])
    assert {layer["status"] for layer in report["layers"]} <= {"binary", "weight-binary", "float"}


def test_report_counts_filter_trees(cnn):
    report = json.loads(bnncc.compile(cnn).report.to_json())
    first, second = (layer for layer in report["layers"] if layer["status"] == "binary")
    for layer, positions in ((first, 64), (second, 16)):
        assert layer["bit_ops_dense"] == positions * layer["weight_count"]
        assert layer["bit_ops_mst"] == positions * layer["mst_bits"]
        assert layer["bit_ops_tree"] == positions * layer["tree_bits"]
        assert layer["tree_bits"] < layer["mst_bits"] < min(layer["mst_size_bits"], layer["weight_count"])
        assert layer["tree_fraction"] == layer["tree_bits"] / layer["weight_count"]
        assert 1 <= layer["mst_depth"] < 24
        assert layer["tree_depth"] >= 1
        assert layer["tree_counters"] >= 1
        assert layer["tree_virtual"] > 0
    totals = report["trees"]
    assert totals["layers"] == 2
    assert totals["depth_mst"] == max(first["mst_depth"], second["mst_depth"])
    for total, key in (
        ("operations_dense", "bit_ops_dense"), ("operations_mst", "bit_ops_mst"), ("operations_tree", "bit_ops_tree"),
        ("bits_dense", "weight_count"), ("bits_mst", "mst_bits"), ("bits_mst_with_positions", "mst_size_bits"),
        ("bits_tree", "tree_bits"),
    ):  # fmt: skip
        assert totals[total] == first[key] + second[key]


def test_metadata_tells_how_it_was_made(cnn, tmp_path):
    result = bnncc.compile(cnn, output=tmp_path / "out.onnx", config=Config(seed=4))
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "out.onnx").metadata_props}
    assert metadata["bnncc.version"] == bnncc.__version__
    assert metadata["bnncc.source_sha256"] == result.report.source_sha256
    assert json.loads(metadata["bnncc.config"])["seed"] == 4
    assert [layer["name"] for layer in json.loads(metadata["bnncc.layers"])] == ["stem", "conv1", "conv2", "logits"]
    assert json.loads(metadata["bnncc.passes"])[0]["name"]
    assert len(json.loads(metadata["bnncc.sign_tensors"])) == 2


def test_failed_verification_writes_nothing(cnn, tmp_path, wrong_passes):
    with pytest.raises(
        GateFailed, match=r"verification failed: \d+ flipped bits, at signs1; .*was not written"
    ) as caught:
        bnncc.compile(cnn, output=tmp_path / "out.onnx")
    assert caught.value.report.verify.flipped_bits > 0
    assert os.listdir(tmp_path) == ["cnn.onnx"]


def test_failed_verification_keeps_the_older_file(cnn, tmp_path, wrong_passes):
    (tmp_path / "out.onnx").write_bytes(b"older")
    with pytest.raises(GateFailed, match="the older file is unchanged"):
        bnncc.compile(cnn, output=tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == b"older"


def test_without_verification_it_is_written(cnn, tmp_path, wrong_passes):
    result = bnncc.compile(cnn, output=tmp_path / "out.onnx", config=Config(verify=False))
    assert result.report.verify is None
    assert (tmp_path / "out.onnx").is_file()


def test_output_must_not_be_the_input(cnn, images):
    for path in (cnn, images):
        before = path.read_bytes()
        with pytest.raises(BadInput, match="is the input"):
            bnncc.compile(cnn, output=path, data=images)
        assert path.read_bytes() == before


def test_compiled_models_are_not_compiled_again(cnn, tmp_path):
    bnncc.compile(cnn, output=tmp_path / "out.onnx")
    with pytest.raises(BadInput, match="was compiled by bnncc already"):
        bnncc.compile(tmp_path / "out.onnx", output=tmp_path / "again.onnx")


def test_switches(cnn):
    report = bnncc.compile(cnn, config=Config(lower=False)).report
    assert report.ops == {}
    assert report.verify.flipped_bits == 0
    assert not {"lower", "fuse-epilogues", "order-filters"} & {item.name for item in report.passes}
    assert report.trees is None
    report = bnncc.compile(cnn, config=Config(tree=False)).report
    assert "order-filters" not in [item.name for item in report.passes]
    assert report.trees is None
    report = bnncc.compile(cnn, config=Config(fuse_epilogues=False)).report
    assert "fuse-epilogues" not in [item.name for item in report.passes]
    assert "fold-batchnorm" not in [
        item.name for item in bnncc.compile(cnn, config=Config(fold_batchnorm=False)).report.passes
    ]


def test_input_shapes_make_layers_binary(cnn, tmp_path):
    model = onnx.load(cnn)
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    path, out = tmp_path / "dynamic.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    report = bnncc.compile(path).report
    assert not any(layer.status == "binary" for layer in report.layers)
    assert any("input shape" in layer.reason for layer in report.layers)
    fixed = Config(input_shapes={"image": [-1, 3, 12, 8]})
    report = bnncc.compile(path, output=out, config=fixed).report
    assert [layer.status for layer in report.layers] == ["float", "binary", "binary", "float"]
    assert report.verify.flipped_bits == 0
    session = bnncc.InferenceSession(out)
    assert session.get_inputs()[0].shape == ["N", 3, 12, 8]
    # The original stays dynamic; both are compared at the size that the compiled one has.
    assert bnncc.verify(path, out).flipped_bits == 0
    with pytest.raises(BadInput, match="input_shapes says 4"):
        bnncc.compile(path, config=Config(input_shapes={"image": [-1, 4, 8, 8]}))


def test_external_data_is_compiled_in(cnn, tmp_path):
    inner, out = tmp_path / "e.onnx", tmp_path / "out" / "o.onnx"
    out.parent.mkdir()
    onnx.save(onnx.load(cnn), inner, save_as_external_data=True, location="e.bin", size_threshold=0)
    with pytest.raises(BadInput, match="is the input"):
        bnncc.compile(inner, output=tmp_path / "e.bin")
    plain = bnncc.compile(cnn).model
    report = bnncc.compile(inner, output=out).report
    assert report.verify.flipped_bits == 0
    names = sorted(os.listdir(out.parent))
    assert names[0] == "o.onnx"
    assert report.size.after == sum((out.parent / name).stat().st_size for name in names)
    assert len(onnx.load(out).graph.node) == len(plain.graph.node)
    assert bnncc.verify(inner, out).flipped_bits == 0


def test_too_large_for_the_passes(cnn, monkeypatch):
    loaded = model_io.load_model(cnn)
    monkeypatch.setattr(model_io, "LARGEST_PROTO", 5000)
    monkeypatch.setattr(pipeline_module, "load_model", lambda path: loaded)
    with pytest.raises(BadInput, match=r"cnn\.onnx: over 2 GB with its weights"):
        bnncc.compile(cnn)


def test_dump_passes(cnn, tmp_path):
    report = bnncc.compile(cnn, dump_passes=tmp_path / "dump").report
    files = sorted(os.listdir(tmp_path / "dump"))
    names = [item.name for item in report.passes]
    dumped = [file.removesuffix(".onnx").split("-", 1) for file in files]
    assert [int(number) for number, _ in dumped] == list(range(1, len(files) + 1))
    assert [name for _, name in dumped] == [name for name in names if name in {name for _, name in dumped}]
    assert [name for _, name in dumped[-4:]] == ["lower", "fuse-epilogues", "order-filters", "pack-weights"]
    assert all(onnx.load(tmp_path / "dump" / file).graph.node for file in files)


def test_progress_tells_each_pass_and_the_verification(cnn):
    said = []
    bnncc.compile(cnn, progress=said.append)
    assert {"canonicalize-binarizers", "lower"} <= set(said)
    assert "verify: 32 of 32 random samples" in said


def test_data_is_used(cnn, images):
    verify = bnncc.compile(cnn, data=images).report.verify
    assert (verify.random_samples, verify.data_samples) == (32, 7)
    assert verify.accuracy.reference == verify.accuracy.compiled


@pytest.mark.parametrize(
    ("gates", "passes"),
    [
        ({"min_argmax_agreement": 1.0}, True),
        ({"max_abs_diff": 1e-3}, True),
        ({"max_abs_diff": 1e-3, "min_argmax_agreement": 1.0}, True),
        ({"min_speedup": 0.0}, True),
        ({"min_speedup": 1e6}, False),
        ({"require_binary": "all"}, True),
        ({"require_binary": "all", "lower": False}, False),
    ],
)
def test_gates(cnn, tmp_path, gates, passes):
    target = tmp_path / "out.onnx"
    config = Config(**gates)
    if passes:
        report = bnncc.compile(cnn, output=target, config=config).report
    else:
        with pytest.raises(GateFailed, match=r"out\.onnx was not written") as caught:
            bnncc.compile(cnn, output=target, config=config)
        report = caught.value.report
    assert target.exists() == passes
    assert {gate.name for gate in report.gates} == {name for name in gates if name != "lower"}
    assert all(gate.passed for gate in report.gates) == passes


def test_a_gate_without_verification_fails(cnn):
    with pytest.raises(GateFailed, match="no output with classes was compared"):
        bnncc.compile(cnn, config=Config(verify=False, min_argmax_agreement=0.5))
    with pytest.raises(GateFailed, match="nothing was compared"):
        bnncc.compile(cnn, config=Config(verify=False, max_abs_diff=0.5))


def test_float_models_come_out_as_they_were(mlp, tmp_path):
    report = bnncc.compile(mlp, output=tmp_path / "out.onnx").report
    assert [layer.status for layer in report.layers] == ["float", "float"]
    assert all(layer.reason for layer in report.layers)
    assert report.verify.max_abs_diff < 1e-5
    assert report.verify.bits_compared == 0


def test_import_is_quick_and_needs_no_torch():
    code = "import sys, bnncc; print({'torch', 'onnx', 'onnxruntime', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    code = "import sys, bnncc; bnncc.compile, bnncc.bench, bnncc.inspect, bnncc.verify; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_functions_stay_functions_after_their_modules_are_imported():
    import bnncc.benchmark
    import bnncc.inspection
    import bnncc.verification

    assert all(callable(getattr(bnncc, name)) for name in ("bench", "compile", "inspect", "verify"))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        print(bnncc.nothing)
    assert set(bnncc.__all__) <= set(dir(bnncc))
