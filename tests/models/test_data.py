"""Data loaders on small files made here: what is read, and each way in which a file can be bad."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from bnncc.errors import BadInput
from bnncc.models import data


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A folder with a tiny MNIST: plain training files, gzipped test files."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 6, dtype=np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[:2])))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[:2])))
    return tmp_path, images, labels


def test_idx_plain_and_gzipped(mnist):
    folder, images, labels = mnist
    train, test = data.load("mnist", "train", folder), data.load("fashion-mnist", "test", folder)
    np.testing.assert_array_equal(train.images[:, 0], images)
    np.testing.assert_array_equal(train.labels, labels)
    assert train.labels.dtype == np.int64
    np.testing.assert_array_equal(test.images[:, 0], images[:2])
    assert (len(train), len(test)) == (6, 2)


def test_some_classes_only(mnist):
    folder, images, labels = mnist
    some = data.load(f"mnist:{labels[3]},{labels[0]}", "train", folder)
    chosen = np.isin(labels, labels[[3, 0]])
    np.testing.assert_array_equal(some.images[:, 0], images[chosen])
    np.testing.assert_array_equal(some.labels, labels[chosen] == labels[0])
    assert some.classes == 2
    for name in ("mnist:", "mnist:3", "mnist:3,3", "mnist:3,10", "mnist:3,x"):
        with pytest.raises(BadInput, match="is not two or more of the classes 0 to 9"):
            data.load(name, "train", folder)
    absent = [label for label in range(10) if label not in labels]
    with pytest.raises(BadInput, match=rf"{folder}: no image of mnist:{absent[0]},{absent[1]} in the train set"):
        data.load(f"mnist:{absent[0]},{absent[1]}", "train", folder)


def test_inputs_are_scaled_float32(mnist):
    folder, images, _ = mnist
    inputs = data.load("mnist", "train", folder).inputs(np.array([4, 0]))
    assert inputs.dtype == np.float32
    np.testing.assert_array_equal(inputs[:, 0], images[[4, 0]] / np.float32(255))


def test_inputs_are_normalised_per_channel():
    images = np.full((1, 2, 1, 1), 51, np.uint8)
    some = data.DataSet("x", images, np.zeros(1, np.int64), mean=(0.2, 0.1), std=(1.0, 0.5))
    np.testing.assert_allclose(some.inputs().ravel(), [0.0, 0.2], atol=1e-6)


def test_folder_from_the_environment(mnist, monkeypatch):
    folder, _, _ = mnist
    base = folder / "base"
    (base / "data").mkdir(parents=True)
    (base / "data" / "mnist").symlink_to(folder)
    monkeypatch.setenv("BNNCC_DATA", str(base))
    assert len(data.load("mnist", "train")) == 6
    monkeypatch.delenv("BNNCC_DATA")
    with pytest.raises(BadInput, match="--data-dir"):
        data.load("mnist", "train")


GOOD_IMAGES = idx(np.zeros((6, 28, 28), np.uint8))
BAD_IMAGES = {
    "empty": (b"", "not an idx file .*begins with nothing"),
    "magic": (b"\x89PNG" + GOOD_IMAGES[4:], "not an idx file .*89 50 4e 47"),
    "float type": (b"\0\0\x0d\x03" + GOOD_IMAGES[4:], "not an idx file"),
    "header": (GOOD_IMAGES[:10], "truncated in its header"),
    "short": (GOOD_IMAGES[:-1], "bytes where its header"),
    "long": (GOOD_IMAGES + b"\0", "bytes where its header"),
    "huge": (struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "bytes where its header"),
    "labels for images": (idx(np.zeros(6, np.uint8)), "is expected"),
    "size": (idx(np.zeros((6, 8, 8), np.uint8)), "is expected"),
    "none": (idx(np.zeros((0, 28, 28), np.uint8)), "is expected"),
    "other count": (idx(np.zeros((5, 28, 28), np.uint8)), r"shape \[6\] for 5 images"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_idx_is_one_line_naming_the_file(mnist, kind):
    folder, _, _ = mnist
    content, message = BAD_IMAGES[kind]
    (folder / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        data.load("mnist", "train", folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"plain text", gzip.compress(GOOD_IMAGES)[:-12], b"", b"\x1f\x8b\x08\x00" + b"x" * 40]
)
def test_bad_gzip(mnist, content):
    folder, _, _ = mnist
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(BadInput, match=r"t10k-images-idx3-ubyte\.gz: "):
        data.load("mnist", "test", folder)


def test_label_out_of_range(mnist):
    folder, _, _ = mnist
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2, 3, 4, 10], np.uint8)))
    with pytest.raises(BadInput, match="label 10 where 0 to 9"):
        data.load("mnist", "train", folder)


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(BadInput, match="nowhere: no such folder"):
        data.load("mnist", "train", tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"no file train-images-idx3-ubyte or train-images-idx3-ubyte\.gz"):
        data.load("mnist", "train", tmp_path)
    with pytest.raises(BadInput, match=r"no file test_batch\.bin"):
        data.load("cifar10", "test", tmp_path)


@pytest.mark.parametrize(("name", "split"), [("imagenet", "train"), ("mnist", "validation")])
def test_unknown_names(name, split):
    with pytest.raises(BadInput, match="unknown"):
        data.load(name, split)


def test_cifar_records_are_label_then_planes(tmp_path):
    records = np.zeros((10_000, 3073), np.uint8)
    records[:, 0] = np.arange(10_000) % 10
    records[7, 1:] = np.arange(3072) % 251
    (tmp_path / "test_batch.bin").write_bytes(records.tobytes())
    test = data.load("cifar10", "test", tmp_path)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert test.labels[7] == 7
    np.testing.assert_array_equal(test.images[7].ravel(), np.arange(3072) % 251)
    (tmp_path / "test_batch.bin").write_bytes(records.tobytes()[:-3073])
    with pytest.raises(BadInput, match="30726927 bytes where 10000 images of CIFAR-10 have 30730000"):
        data.load("cifar10", "test", tmp_path)


def test_cifar100_has_the_fine_label_second(tmp_path):
    records = np.zeros((10_000, 3074), np.uint8)
    records[:, 0], records[:, 1] = 19, np.arange(10_000) % 100
    records[3, 2:] = np.arange(3072) % 251
    (tmp_path / "test.bin").write_bytes(records.tobytes())
    test = data.load("cifar100", "test", tmp_path)
    assert (test.classes, test.labels.tolist()[98:102]) == (100, [98, 99, 0, 1])
    np.testing.assert_array_equal(test.images[3].ravel(), np.arange(3072) % 251)
    with pytest.raises(BadInput, match=r"no file train\.bin"):
        data.load("cifar100", "train", tmp_path)


def sketches(folder, **changes):
    """A file of ten sketches, each of the brightness of its number."""
    images = np.repeat(np.arange(10, dtype=np.uint8), 784).reshape(10, 28, 28)
    content = {"images": images, "labels": np.arange(10, dtype=np.uint8) % 6} | changes
    np.savez(folder / "sketches.npz", **content)
    return folder


def test_every_fifth_sketch_is_for_testing(tmp_path):
    train, test = (data.load("quickdraw", split, sketches(tmp_path)) for split in ("train", "test"))
    assert test.images[:, 0, 0, 0].tolist() == [4, 9]
    assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert (train.classes, test.labels.tolist()) == (6, [4, 3])
    assert data.load("quickdraw:4,3", "test", tmp_path).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.full(10, 6)}, "label 6 where 0 to 5 are known"),
        ({"labels": np.full(10, -1)}, "labels are not numbers of classes"),
        ({"labels": np.zeros(9, np.uint8)}, r"labels \[9\] where uint8"),
        ({"images": np.zeros((10, 28, 27), np.uint8)}, r"uint8 \[10, 28, 27\] and"),
        ({"images": np.zeros((10, 28, 28), np.float32)}, "images float32"),
    ],
)
def test_bad_sketches(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message) as caught:
        data.load("quickdraw", "train", sketches(tmp_path, **changes))
    assert "sketches.npz: " in str(caught.value)


def test_missing_or_damaged_sketches(tmp_path):
    with pytest.raises(BadInput, match=r"0 \.npz files where one with sketches"):
        data.load("quickdraw", "train", tmp_path)
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(BadInput, match=r"a\.npz: not an \.npz file with images and labels"):
        data.load("quickdraw", "train", tmp_path)


def test_digits_split_is_fixed_and_complete():
    pytest.importorskip("sklearn")
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (len(train), len(test)) == (1438, 359)
    assert train.images.shape[1:] == data.SOURCES["digits"].shape
    assert train.inputs().max() == 1.0


def test_real_fashion_mnist():
    base = Path(os.environ.get("BNNCC_DATA", Path(__file__).parents[2] / ".." / "shared"))
    folder = base / "data" / "fashion-mnist"
    if not folder.is_dir():
        pytest.skip(f"no Fashion-MNIST in {folder} (BNNCC_DATA)")
    test = data.load("fashion-mnist", "test", folder)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(test.labels).tolist() == [1000] * 10
