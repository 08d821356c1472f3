"""Which kernel the report says that a layer has, and the choice by timing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import bnncc
from bnncc import BadInput, Config, kernel_choice, runtime

KERNELS = ("dot", "planes 64", "planes 256", "planes 512", "channels 64", "channels 256", "channels 512")


def hints(model: onnx.ModelProto) -> dict[str, str]:
    """The kernel that each convolution's op names."""
    return {
        node.name: attribute.s.decode()
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name == "kernel"
    }


def binary(report):
    return {layer.name: layer for layer in report.layers if layer.status == "binary"}


def test_reports_say_what_the_library_estimates(cnn):
    result = bnncc.compile(cnn)
    assert hints(result.model) == {}
    layers = binary(result.report)
    assert sorted(layers) == ["conv1", "conv2"]
    for layer in layers.values():
        assert layer.kernel in KERNELS
        assert layer.kernel_reason.startswith(f"estimated: {layer.kernel} ")
        assert layer.kernel_reason.endswith(f"({runtime.selected_isa()})")
        assert layer.input_shape == [16, 8, 8]


def test_files_do_not_depend_on_the_machine(cnn, monkeypatch):
    """What is estimated for this one is not in the file."""
    here = bnncc.compile(cnn)
    monkeypatch.setenv("BNNCC_ISA", "portable")
    there = bnncc.compile(cnn)
    assert binary(there.report)["conv1"].kernel_reason.endswith("(portable)")
    assert there.model.graph.SerializeToString() == here.model.graph.SerializeToString()
    mine, yours = (
        next(entry.value for entry in result.model.metadata_props if entry.key == "bnncc.layers")
        for result in (here, there)
    )
    assert mine == yours


def test_tuning_names_kernels_or_leaves_them_to_the_library(cnn, images, tmp_path):
    out = tmp_path / "out.onnx"
    result = bnncc.compile(cnn, output=out, data=images, config=Config(tune=True, tune_batch=3))
    assert result.report.verify.flipped_bits == 0
    named, layers = hints(result.model), binary(result.report)
    for name, layer in layers.items():
        assert layer.kernel_reason.startswith("timed with a batch of 3: ")
        assert (name in named) == ("left to the library" not in layer.kernel_reason)
        assert layer.kernel == named.get(name, layer.kernel)
    inspected = binary(bnncc.inspect(out))
    assert {name: layer.kernel_reason for name, layer in inspected.items()} == {
        name: layer.kernel_reason for name, layer in layers.items()
    }


@pytest.mark.parametrize(("own_choice", "names"), [(2e-6, ["conv1", "conv2"]), (1.02e-6, [])])
def test_a_kernel_is_named_where_it_is_clearly_faster(cnn, images, monkeypatch, own_choice, names):
    monkeypatch.setattr(kernel_choice, "_time", lambda *_: ({"dot": 1e-6, "planes 512": 3e-6}, own_choice))
    result = bnncc.compile(cnn, data=images, config=Config(tune=True, verify=False))
    assert sorted(hints(result.model)) == names
    assert set(hints(result.model).values()) <= {"dot"}


def test_a_kernel_that_this_machine_lacks_is_passed_over(cnn, tmp_path, monkeypatch):
    model = bnncc.compile(cnn).model
    for node in model.graph.node:
        if node.name in ("conv1", "conv2"):
            node.attribute.append(onnx.helper.make_attribute("kernel", "planes 512" if node.name == "conv1" else "dot"))
    onnx.save(model, tmp_path / "hinted.onnx")
    monkeypatch.setenv("BNNCC_ISA", "portable")
    layers = binary(bnncc.inspect(tmp_path / "hinted.onnx"))
    assert layers["conv1"].kernel in KERNELS
    assert layers["conv1"].kernel_reason.startswith("'planes 512', which was chosen for it, cannot be had: ")
    assert (layers["conv2"].kernel, layers["conv2"].kernel_reason) == ("dot", "named in the file")
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    session = bnncc.InferenceSession(tmp_path / "hinted.onnx", threads=1)
    expected = bnncc.InferenceSession(tmp_path / "hinted.onnx", threads=1, library=False)
    np.testing.assert_allclose(
        session.run(None, {"image": x})[0], expected.run(None, {"image": x})[0], rtol=1e-5, atol=1e-5
    )


def test_tuning_needs_as_many_samples_as_it_times(cnn, images):
    with pytest.raises(BadInput, match="holds 7 samples, a batch of 8 was asked for"):
        bnncc.compile(cnn, data=images, config=Config(tune=True, tune_batch=8))


def test_estimates():
    conv = runtime.Conv2d(runtime.pack_signs(np.ones((8, 144))), weight_shape=(8, 16, 3, 3), width=14, pads=(1,) * 4)
    few, many = conv.estimates(1, 14, 0.1), conv.estimates(64, 14, 0.5)
    assert set(few) == set(many)
    assert "dot" in few
    assert list(few.values()) == sorted(few.values())
    assert all(0 < few[kernel] < many[kernel] for kernel in few)
    with pytest.raises(BadInput, match="differing is 0\\.6"):
        conv.estimates(1, 14, 0.6)
    with pytest.raises(BadInput, match="batch"):
        conv.estimates(0, 14)
