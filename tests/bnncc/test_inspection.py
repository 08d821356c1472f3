"""Inspection of original and compiled files, and of compiled files whose record was damaged."""

from __future__ import annotations

import io
import json

import onnx
import pytest
from rich.console import Console

import bnncc
from bnncc import BadInput
from bnncc.tables import print_report


@pytest.fixture
def compiled(cnn, tmp_path):
    bnncc.compile(cnn, output=tmp_path / "compiled.onnx")
    return tmp_path / "compiled.onnx"


def test_original(cnn):
    report = bnncc.inspect(cnn)
    assert not report.compiled
    assert report.size.after is None
    assert [layer.status for layer in report.layers] == ["float", "binary", "binary", "float"]
    assert all(layer.reason for layer in report.layers if layer.status == "float")
    assert report.trees == bnncc.compile(cnn).report.trees
    assert report.verify is None


def test_compiled_says_what_compilation_said(cnn, compiled):
    result = bnncc.compile(cnn)
    report = bnncc.inspect(compiled)
    assert report.compiled
    assert report.layers == result.report.layers
    assert report.trees == result.report.trees
    assert report.trees.layers == 2
    assert [item.name for item in report.passes] == [item.name for item in result.report.passes]
    assert report.config == result.report.config
    assert report.ops == result.report.ops
    assert report.size.before == cnn.stat().st_size
    assert report.size.after == compiled.stat().st_size


def test_inspection_writes_nothing(cnn):
    before = cnn.read_bytes()
    bnncc.inspect(cnn)
    assert cnn.read_bytes() == before
    assert [file.name for file in cnn.parent.iterdir()] == ["cnn.onnx"]


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        ("bnncc.layers", None, "has ops of bnncc, but no metadata bnncc.layers"),
        ("bnncc.layers", "{", "damaged metadata bnncc.layers"),
        ("bnncc.layers", "{}", "damaged metadata bnncc.layers: not a list"),
        ("bnncc.layers", "[1]", "metadata bnncc.layers: not an object"),
        ("bnncc.layers", '[{"name": "a"}]', "metadata bnncc.layers: no key 'op'"),
        ("bnncc.passes", '[{"name": "a", "changed": true, "notes": 3, "seconds": 0}]', "metadata bnncc.passes: notes"),
        ("bnncc.passes", '[{"name": "a", "changed": true, "notes": [3], "seconds": 0}]', "bnncc.passes: not an object"),
        ("bnncc.config", "[]", "damaged metadata bnncc.config"),
        ("bnncc.source_size", "many", "damaged metadata bnncc.source_size"),
    ],
)
def test_damaged_record(compiled, key, value, cause):
    model = onnx.load(compiled)
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != key]
    del model.metadata_props[:]
    for name, text in kept + ([(key, value)] if value is not None else []):
        model.metadata_props.add(key=name, value=text)
    onnx.save(model, compiled)
    with pytest.raises(BadInput) as caught:
        bnncc.inspect(compiled)
    assert str(compiled) in str(caught.value)
    assert cause in str(caught.value)


def test_node_of_a_layer_that_is_gone(compiled):
    model = onnx.load(compiled)
    name = next(item["compiled_node"] for item in map(dict, bnncc_layers(model)) if item["compiled_node"])
    next(node for node in model.graph.node if node.name == name).name = "renamed"
    onnx.save(model, compiled)
    with pytest.raises(BadInput, match=f"layer '{name}' should be the node '{name}', which is not there"):
        bnncc.inspect(compiled)


def bnncc_layers(model: onnx.ModelProto) -> list[dict]:
    return json.loads(next(entry.value for entry in model.metadata_props if entry.key == "bnncc.layers"))


def test_names_with_brackets_are_printed_as_they_are(builder, tmp_path):
    b = builder(0)
    b.signs("x", "s")
    b.node("Gemm", ["s", b.floats("w", 4, 4)], "y")
    b.nodes[-1].name = "block[0].conv [red]"
    onnx.save(b.model({"x": ["N", 4]}, {"y": ["N", 4]}), tmp_path / "m.onnx")
    buffer = io.StringIO()
    print_report(bnncc.inspect(tmp_path / "m.onnx"), Console(file=buffer, width=100))
    assert buffer.getvalue().count("block[0].conv [red]") >= 2


def test_no_layers(builder, tmp_path, bnncc):  # the fixture of that name calls the command line
    b = builder(0)
    b.node("Relu", ["x"], "y")
    onnx.save(b.model({"x": ["N", 4]}, {"y": ["N", 4]}), tmp_path / "m.onnx")
    result = bnncc("inspect", tmp_path / "m.onnx")
    assert result.exit_code == 0
    assert "No convolution or linear layer" in result.stdout
    assert bnncc("compile", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx").exit_code == 0
