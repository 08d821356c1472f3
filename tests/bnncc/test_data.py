"""Inputs: seeded random ones, and .npz files with every way in which they can fail to fit the model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bnncc import BadInput
from bnncc.data import RandomSamples, Signature, guesses_sizes, load_samples, model_inputs


def signature(*inputs: tuple, shapes=None) -> Signature:
    """Signature of a model with inputs (name, ONNX type, shape)."""
    values = [helper.make_tensor_value_info(*item) for item in inputs]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values, [])
    return model_inputs(helper.make_model(graph), shapes)


IMAGE = ("x", TensorProto.FLOAT, ["N", 2, 3])


def save(tmp_path, **arrays):
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    return path


def test_initializers_are_no_inputs(cnn):
    model = onnx.load(cnn)
    weight = model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    assert [item.name for item in model_inputs(model).inputs] == ["image"]


@pytest.mark.parametrize(
    ("shapes", "batched", "fixed"),
    [
        ([["N", 4]], True, None),
        ([[8, 4]], True, 8),
        ([["N", 4], ["N", 3]], True, None),
        ([[2, 4], [2]], True, 2),
        ([[2, 4], [3, 4]], False, None),
        ([["N", 4], []], False, None),
    ],
)
def test_batch_axis(shapes, batched, fixed):
    found = signature(*((f"i{n}", TensorProto.FLOAT, shape) for n, shape in enumerate(shapes)))
    assert (found.batched, found.fixed_batch) == (batched, fixed)


def test_shapes_fix_dynamic_axes():
    found = signature(("x", TensorProto.FLOAT, ["N", 3, "H", "W"]), shapes={"x": [-1, 3, 20, -1]})
    assert found.inputs[0].shape == (None, 3, 20, None)
    assert guesses_sizes(found)
    assert RandomSamples(found, 2, 0).rows(0, 2)["x"].shape == (2, 3, 20, 32)


@pytest.mark.parametrize(
    ("shapes", "cause"),
    [
        ({"x": [1, 2]}, "has 3 axes, input_shapes gives 2"),
        ({"x": [-1, 5, 3]}, "axis 1 of input 'x' is 2, input_shapes says 5"),
        ({"z": [1]}, "input_shapes names 'z', the inputs are 'x'"),
    ],
)
def test_shapes_that_do_not_fit(shapes, cause):
    with pytest.raises(BadInput, match=cause):
        signature(IMAGE, shapes=shapes)


def test_random_samples_are_seeded_and_signed():
    one, two, other = (RandomSamples(signature(IMAGE), 50, seed).rows(0, 50)["x"] for seed in (3, 3, 4))
    assert one.shape == (50, 2, 3)
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, two)
    assert (one != other).all()
    assert 0.3 < (one > 0).mean() < 0.7
    batches = [feeds["x"] for feeds, _ in RandomSamples(signature(IMAGE), 50, 3).batches(16)]
    np.testing.assert_array_equal(np.concatenate(batches), one)


@pytest.mark.parametrize("kind", ["UINT8", "INT8", "INT64", "BOOL", "DOUBLE", "FLOAT16"])
def test_random_samples_of_other_types(kind):
    found = signature(("x", getattr(TensorProto, kind), ["N", 40]))
    values = RandomSamples(found, 10, 0).rows(0, 10)["x"]
    assert values.dtype == found.inputs[0].dtype
    assert len(np.unique(values)) > 1


def test_no_random_strings():
    with pytest.raises(BadInput, match="give data"):
        RandomSamples(signature(("x", TensorProto.STRING, ["N"])), 1, 0).rows(0, 1)


def test_file_with_labels(tmp_path):
    samples = load_samples(
        save(tmp_path, x=np.ones((5, 2, 3), np.float32), labels=np.arange(5, dtype=np.uint8)), signature(IMAGE)
    )
    assert samples.count == 5
    assert samples.labels.tolist() == [0, 1, 2, 3, 4]
    assert [(len(feeds["x"]), valid) for feeds, valid in samples.batches(2)] == [(2, 2), (2, 2), (1, 1)]


def test_fixed_batch_is_filled_up(tmp_path):
    values = np.arange(5, dtype=np.float32).reshape(5, 1)
    samples = load_samples(save(tmp_path, x=values), signature(("x", TensorProto.FLOAT, [3, 1])))
    batches = list(samples.batches(64))
    assert [valid for _, valid in batches] == [3, 2]
    assert batches[1][0]["x"].ravel().tolist() == [3, 4, 4]


@pytest.mark.parametrize(
    ("batch", "samples", "most", "rows"),
    [
        ("N", 7, 100, [3, 3, 1]),
        ("N", 7, 6, [3, 3]),
        ("N", 7, 1, [3]),
        (3, 7, 100, [3, 3]),
        (4, 2, 100, [4]),
        (4, 9, 2, [4]),
    ],
)
def test_the_first_batches(tmp_path, batch, samples, most, rows):
    """Those of a fixed size are filled up only where no other is there."""
    path = save(tmp_path, x=np.arange(2 * samples, dtype=np.float32).reshape(samples, 2))
    loaded = load_samples(path, signature(("x", TensorProto.FLOAT, [batch, 2])))
    found = [feeds["x"] for feeds in loaded.first(most, 3)]
    assert [len(array) for array in found] == rows
    np.testing.assert_array_equal(found[0][:2], [[0, 1], [2, 3]])


GOOD = np.ones((5, 2, 3), np.float32)


@pytest.mark.parametrize(
    ("arrays", "cause"),
    [
        ({"y": GOOD}, r"no array for the input 'x' \(arrays there: 'y'\)"),
        ({}, r"no array for the input 'x' \(arrays there: none\)"),
        ({"x": GOOD, "y": GOOD}, r"array 'y' is no input of the model \(inputs: 'x'\)"),
        ({"x": GOOD.astype(np.float64)}, "array 'x' is float64, the model takes float32"),
        ({"x": GOOD[0]}, r"has shape \[2, 3\], the model takes float32 \['\?', 2, 3\]"),
        ({"x": GOOD[:, :, :2]}, r"has shape \[5, 2, 2\]"),
        ({"x": GOOD[:0]}, "is empty"),
        ({"x": GOOD, "labels": np.zeros(4, int)}, r"labels must be whole numbers of shape \[5\], not int64 \[4\]"),
        ({"x": GOOD, "labels": np.zeros(5)}, "labels must be whole numbers"),
        ({"x": np.array([None, "a"], dtype=object)}, "not a readable .npz file"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, cause):
    path = save(tmp_path, **arrays)
    with pytest.raises(BadInput, match=cause) as caught:
        load_samples(path, signature(IMAGE))
    assert str(path) in str(caught.value)


def test_different_numbers_of_samples(tmp_path):
    both = signature(("x", TensorProto.FLOAT, ["N", 1]), ("y", TensorProto.FLOAT, ["N", 1]))
    path = save(tmp_path, x=np.ones((2, 1), np.float32), y=np.ones((3, 1), np.float32))
    with pytest.raises(BadInput, match="different numbers of samples: 'x' 2, 'y' 3"):
        load_samples(path, both)


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(BadInput, match="no such file"):
        load_samples(tmp_path / "none.npz", signature(IMAGE))
    with pytest.raises(BadInput, match="is a folder"):
        load_samples(tmp_path, signature(IMAGE))
    np.save(tmp_path / "one.npy", GOOD)
    with pytest.raises(BadInput, match=r"not an \.npz file"):
        load_samples(tmp_path / "one.npy", signature(IMAGE))
    path = save(tmp_path, x=np.random.default_rng(0).random((500, 2, 3), dtype=np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match=r"not an \.npz file"):
        load_samples(path, signature(IMAGE))
    path.write_bytes(content[:200] + bytes(100) + content[300:])
    with pytest.raises(BadInput, match=r"not a readable \.npz file"):
        load_samples(path, signature(IMAGE))
