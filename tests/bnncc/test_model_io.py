"""Reading and writing model files: one clear line per way in which a file is unusable, and atomic writing."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnncc import BadInput, model_io
from bnncc.model_io import check_output_path, load_model, save_model, write_model


def refusal(path) -> str:
    with pytest.raises(BadInput) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_loads_with_hash_and_size(cnn):
    loaded = load_model(cnn)
    assert loaded.source_sha256 == hashlib.sha256(cnn.read_bytes()).hexdigest()
    assert loaded.size == cnn.stat().st_size
    assert not loaded.is_compiled


def test_missing_folder_and_empty(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.onnx")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "empty.onnx").touch()
    assert "the file is empty" in refusal(tmp_path / "empty.onnx")


@pytest.mark.parametrize(
    "content",
    [b"hello, this is text\n" * 20, b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(1000), b"PK\x03\x04" + b"x" * 99, b":x"],
)
def test_other_files_are_not_onnx(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "ONNX" in refusal(path) or "truncated" in refusal(path)


def test_every_truncation_is_refused(cnn, tmp_path):
    content = cnn.read_bytes()
    path = tmp_path / "cut.onnx"
    generator = np.random.default_rng(0)
    lengths = {1, 2, 3, 5, 10, len(content) - 1, *generator.integers(1, len(content), 60).tolist()}
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        message = refusal(path)
        if length > 20:
            assert "truncated" in message, length


@pytest.mark.parametrize("opset", [1, 6])
def test_old_opset(tmp_path, mlp, opset):
    model = onnx.load(mlp)
    model.opset_import[0].version = opset
    onnx.save(model, tmp_path / "old.onnx")
    assert f"opset {opset} is too old" in refusal(tmp_path / "old.onnx")


@pytest.mark.parametrize("opset", [onnx.defs.onnx_opset_version() + 1, 1000])
def test_new_opset(tmp_path, mlp, opset):
    model = onnx.load(mlp)
    model.opset_import[0].version = opset
    onnx.save(model, tmp_path / "new.onnx")
    assert f"opset {opset} is newer than" in refusal(tmp_path / "new.onnx")


def test_no_standard_opset(tmp_path, mlp):
    model = onnx.load(mlp)
    model.opset_import[0].domain = "ai.onnx.ml"
    onnx.save(model, tmp_path / "m.onnx")
    assert "does not import the standard opset" in refusal(tmp_path / "m.onnx")


def test_unknown_domain_names_the_node(tmp_path, mlp):
    model = onnx.load(mlp)
    model.graph.node[1].domain = "my.ops"
    onnx.save(model, tmp_path / "m.onnx")
    message = refusal(tmp_path / "m.onnx")
    assert "node 'r'" in message
    assert "Relu of domain 'my.ops'" in message


def test_unknown_domain_with_function_is_taken(tmp_path, mlp):
    model = onnx.load(mlp)
    model.graph.node[1].domain = "my.ops"
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    body = [helper.make_node("Relu", ["a"], ["b"])]
    model.functions.append(helper.make_function("my.ops", "Relu", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
    onnx.save(model, tmp_path / "m.onnx")
    assert load_model(tmp_path / "m.onnx").proto.functions


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda m: setattr(m.graph.node[1], "op_type", "Relou"), "Relou"),
        (lambda m: m.graph.node[1].input.__setitem__(0, "nowhere"), "nowhere"),
        (lambda m: m.graph.initializer.pop(0), "w1"),
        (lambda m: setattr(m.graph.initializer[0], "raw_data", b"1234"), "w1"),
        (lambda m: m.graph.node.append(m.graph.node[0]), "h"),
    ],
)
def test_broken_graph(tmp_path, mlp, damage, cause):
    model = onnx.load(mlp)
    damage(model)
    onnx.save(model, tmp_path / "m.onnx")
    message = refusal(tmp_path / "m.onnx")
    assert "not a valid model" in message
    assert cause in message


def test_the_reason_is_onnxruntimes_own(tmp_path, builder):
    """onnx.checker misses the output's shape, which is no reason: what runs does without it."""
    b = builder(0)
    b.node("Add", ["x", b.constant("c", np.ones(1, np.int64))], "y")
    model = b.model({"x": ["N", 3]}, {"y": []})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "m.onnx")
    assert "bound to different types" in refusal(tmp_path / "m.onnx")
    model.graph.node[0].input[1] = "x"
    onnx.save(model, tmp_path / "m.onnx")
    load_model(tmp_path / "m.onnx")


def test_domains_that_the_passes_do_not_know_are_refused_when_read(tmp_path, mlp):
    model = onnx.load(mlp)
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.preview", 1))
    model.graph.node[1].domain = "ai.onnx.preview"
    onnx.save(model, tmp_path / "m.onnx")
    assert "no definition of Relu of domain 'ai.onnx.preview'" in refusal(tmp_path / "m.onnx")


def test_unsorted_nodes_that_onnxruntime_runs_are_taken(tmp_path, mlp):
    model = onnx.load(mlp)
    model.graph.node.insert(0, model.graph.node.pop(2))
    onnx.save(model, tmp_path / "m.onnx")
    assert load_model(tmp_path / "m.onnx").proto.graph.node[0].name == "y"


@pytest.fixture
def external(tmp_path, mlp):
    path = tmp_path / "e.onnx"
    onnx.save(
        onnx.load(mlp), path, save_as_external_data=True, location="e.data", size_threshold=0, convert_attribute=False
    )
    return path


def test_external_data_is_loaded(external, mlp):
    loaded = load_model(external)
    for one, two in zip(loaded.proto.graph.initializer, onnx.load(mlp).graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(two))
    data = external.with_name("e.data")
    assert loaded.size == external.stat().st_size + data.stat().st_size
    assert loaded.external_files == [data.resolve()]
    before = loaded.source_sha256
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    assert load_model(external).source_sha256 != before


def test_missing_external_data(external):
    external.with_name("e.data").unlink()
    message = refusal(external)
    assert "weights of 'w1'" in message
    assert "'e.data' is missing" in message


def test_truncated_external_data(external):
    data = external.with_name("e.data")
    data.write_bytes(data.read_bytes()[:-4])
    assert "too short, or truncated" in refusal(external)


@pytest.mark.parametrize("location", ["../e.data", "/etc/passwd", ""])
def test_external_data_outside_the_folder(external, location):
    model = onnx.load(external, load_external_data=False)
    next(e for e in model.graph.initializer[0].external_data if e.key == "location").value = location
    external.write_bytes(model.SerializeToString())
    assert "must lie in the model's folder" in refusal(external)


@pytest.mark.parametrize("value", ["-4", "x", "9" * 30])
def test_external_data_with_bad_offset(external, value):
    model = onnx.load(external, load_external_data=False)
    next(e for e in model.graph.initializer[0].external_data if e.key == "offset").value = value
    external.write_bytes(model.SerializeToString())
    assert "external data" in refusal(external)


def test_too_large_for_one_message(tmp_path):
    path = tmp_path / "huge.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31)  # sparse: no bytes are written
    assert "at most 2 GB" in refusal(path)


def test_large_models_are_written_with_external_data(tmp_path, mlp, monkeypatch):
    model = onnx.load(mlp)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((6, 800), np.float32), "w1"))
    before = model.SerializeToString()
    monkeypatch.setattr(model_io, "LARGEST_PROTO", 2000)
    files = write_model(model, tmp_path / "big.onnx")
    assert [file.name for file in files] == ["big.onnx.data", "big.onnx"]
    assert model.SerializeToString() == before
    read = onnx.load(tmp_path / "big.onnx")
    assert read.graph.node == model.graph.node
    for one, two in zip(read.graph.initializer, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(one), numpy_helper.to_array(two))


def test_save_is_atomic(tmp_path, mlp, monkeypatch):
    target = tmp_path / "out.onnx"
    target.write_bytes(b"older")
    model = onnx.load(mlp)

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model_io.os, "replace", fail)
    with pytest.raises(BadInput, match=r"out\.onnx: cannot write: No space left"):
        save_model(model, target)
    monkeypatch.undo()
    assert target.read_bytes() == b"older"
    assert sorted(os.listdir(tmp_path)) == ["mlp.onnx", "out.onnx"]
    save_model(model, target)
    assert onnx.load(target).SerializeToString() == model.SerializeToString()
    assert sorted(os.listdir(tmp_path)) == ["mlp.onnx", "out.onnx"]


def test_output_paths_that_are_refused(tmp_path, mlp):
    for path, cause in [
        (tmp_path, "it is a folder"),
        (tmp_path / "none" / "o.onnx", "does not exist"),
        (mlp, "is the input"),
        ("/dev/null", "not an ordinary file"),
    ]:
        with pytest.raises(BadInput, match=cause):
            check_output_path(path, [mlp])
    link = tmp_path / "link.onnx"
    link.symlink_to(mlp)
    with pytest.raises(BadInput, match="is the input"):
        check_output_path(link, [mlp])
    assert check_output_path(tmp_path / "o.onnx", [mlp]) == tmp_path / "o.onnx"
