"""Image data sets as NumPy arrays: MNIST, Fashion-MNIST (idx files), CIFAR (binary batches), digits, sketches.

Files are read as their authors publish them: idx plain or gzipped, the binary versions of CIFAR. Digits are
scikit-learn's. Sketches are bitmaps of six classes of Google's Quick, Draw! in one .npz file, `images` uint8 [N, 28,
28] and `labels`, without a split: every fifth is for testing. Nothing is downloaded.

A name may be followed by classes, "mnist:3,5": only their images, and they are 0 and 1 then.
Every problem with a file is a `bnncc.errors.BadInput` of one line that names it.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnncc.errors import BadInput

IDX_UINT8 = 0x08


@dataclass(frozen=True)
class DataSet:
    """One split of a data set, and how its pixels become network inputs.

    `images` uint8 [N, C, H, W] with values 0..`peak`; `labels` int64 [N]; `mean` and `std` one number per channel, in
    units of the full scale. `shift` (pixels) and `flip` (left to right) are the augmentation that suits it.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: int = 10
    peak: int = 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    shift: int = 0
    flip: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, index: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return what a network takes for the images chosen: float32 [n, C, H, W], (pixel / peak - mean) / std."""
        scaled = self.images[index].astype(np.float32) / np.float32(self.peak)
        mean = np.array(self.mean, np.float32).reshape(1, -1, 1, 1)
        std = np.array(self.std, np.float32).reshape(1, -1, 1, 1)
        return (scaled - mean) / std


@dataclass(frozen=True)
class Source:
    """What is fixed for one data set: its folder's name, the shape (C, H, W) of its images, fields of `DataSet`."""

    folder: str
    shape: tuple[int, int, int]
    settings: dict[str, object]
    classes: int = 10


# Grey images keep 0 as background, which is what the first convolution pads with. CIFAR's constants are the mean and
# standard deviation of the training pixels.
SOURCES = {
    "mnist": Source("mnist", (1, 28, 28), {"shift": 2}),
    "fashion-mnist": Source("fashion-mnist", (1, 28, 28), {"shift": 2, "flip": True}),
    "cifar10": Source(
        "cifar10",
        (3, 32, 32),
        {"shift": 4, "flip": True, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)},
    ),
    "cifar100": Source(
        "cifar100",
        (3, 32, 32),
        {"shift": 4, "flip": True, "mean": (0.5071, 0.4866, 0.4409), "std": (0.2673, 0.2564, 0.2762)},
        classes=100,
    ),
    "quickdraw": Source("quickdraw", (1, 28, 28), {"shift": 2, "flip": True}, classes=6),
    "digits": Source("", (1, 8, 8), {"peak": 16}),
}


def source_of(name: str) -> tuple[str, list[int] | None]:
    """Split "mnist:3,5" into name and classes, None for all of them. Raises `BadInput` for what is not known."""
    if not isinstance(name, str):
        raise BadInput(f"data set {name!r}: not a name; there are: {', '.join(sorted(SOURCES))}")
    base, colon, text = name.partition(":")
    if base not in SOURCES:
        raise BadInput(f"unknown data set {base!r}; there are: {', '.join(sorted(SOURCES))}")
    if not colon:
        return base, None
    classes = [int(part) if part.isdecimal() else -1 for part in text.split(",")]
    known = SOURCES[base].classes
    if len(classes) < 2 or len(set(classes)) < len(classes) or not set(classes) <= set(range(known)):
        raise BadInput(f"data set {name!r}: {text!r} is not two or more of the classes 0 to {known - 1}, such as 3,5")
    return base, classes


def image_shape(name: str) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of a data set's images. Raises `BadInput` for an unknown name."""
    return SOURCES[source_of(name)[0]].shape


def class_count(name: str) -> int:
    """Return the number of a data set's classes. Raises `BadInput` for an unknown name."""
    base, classes = source_of(name)
    return SOURCES[base].classes if classes is None else len(classes)


def load(name: str, split: str, folder: str | Path | None = None) -> DataSet:
    """Load the split "train" or "test" of a data set in SOURCES, or of some of its classes.

    `folder` holds the files; left out, it is `$BNNCC_DATA/data/<name>`. "digits" is scikit-learn's and needs none.
    Raises `BadInput` for an unknown name, a missing folder or file, a file that is truncated or of another kind, and
    where none of the images are of the classes.
    """
    full_name, (name, classes) = name, source_of(name)
    if split not in ("train", "test"):
        raise BadInput(f"unknown split {split!r}; there are: train, test")
    source = SOURCES[name]
    if name == "digits":
        path = None
        images, labels = _digits(split)
    else:
        path = _folder(source, folder)
        read = {"cifar10": _cifar10, "cifar100": _cifar100, "quickdraw": _quickdraw}.get(name, _mnist)
        images, labels = read(path, split)
    if classes is None:
        return DataSet(name, images, labels, source.classes, **source.settings)
    chosen = np.isin(labels, classes)
    if not chosen.any():
        raise BadInput(f"{path}: no image of {full_name} in the {split} set")
    number = np.zeros(source.classes, np.int64)
    number[classes] = np.arange(len(classes))
    return DataSet(full_name, images[chosen], number[labels[chosen]], len(classes), **source.settings)


def _folder(source: Source, folder: str | Path | None) -> Path:
    """Return the folder of a data set, checked to exist."""
    if folder is None:
        base = os.environ.get("BNNCC_DATA")
        if not base:
            raise BadInput(f"{source.folder}: say where its files are (--data-dir, or BNNCC_DATA in the environment)")
        folder = Path(base) / "data" / source.folder
    path = Path(folder)
    if not path.is_dir():
        raise BadInput(f"{path}: no such folder")
    return path


def _read(path: Path) -> bytes:
    """Read a file, decompressed when its name ends in .gz."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError; a cut gzip stream is EOFError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise BadInput(f"{path}: cannot be read: {reason}") from error


def read_idx(path: str | Path) -> np.ndarray:
    """Read an idx file of unsigned bytes (plain, or gzipped with the suffix .gz) as an array of the file's shape.

    Format: two zero bytes, type, number of dimensions, each dimension as big-endian uint32, then the elements.
    """
    path = Path(path)
    data = _read(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != IDX_UINT8 or data[3] == 0:
        raise BadInput(f"{path}: not an idx file of bytes (it begins with {data[:4].hex(' ') or 'nothing'})")
    header = 4 + 4 * data[3]
    if len(data) < header:
        raise BadInput(f"{path}: truncated in its header")
    shape = struct.unpack(f">{data[3]}I", data[4:header])
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise BadInput(f"{path}: {len(data)} bytes where its header {shape} asks for {expected}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _mnist(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images [N, 1, 28, 28] and labels [N] from a folder with the four files of MNIST or Fashion-MNIST."""
    prefix = "train" if split == "train" else "t10k"

    def find(stem: str) -> Path:
        for path in (folder / stem, folder / f"{stem}.gz"):
            if path.is_file():
                return path
        raise BadInput(f"{folder}: no file {stem} or {stem}.gz")

    images_path, labels_path = find(f"{prefix}-images-idx3-ubyte"), find(f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (28, 28) or len(images) == 0:
        raise BadInput(f"{images_path}: shape {list(images.shape)} where [N, 28, 28] is expected")
    if labels.shape != images.shape[:1]:
        raise BadInput(f"{labels_path}: shape {list(labels.shape)} for {len(images)} images")
    return images[:, None], _checked_labels(labels_path, labels)


def _checked_labels(path: Path, labels: np.ndarray, classes: int = 10) -> np.ndarray:
    """Convert labels to int64 after a check that there are so many classes."""
    if labels.max() >= classes:
        raise BadInput(f"{path}: label {labels.max()} where 0 to {classes - 1} are known")
    return labels.astype(np.int64)


def _cifar10(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images [N, 3, 32, 32] and labels [N] from CIFAR-10's .bin files (label byte, then R, G, B planes)."""
    stems = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    parts = [_cifar(folder / f"{stem}.bin", 10_000, 1, 10) for stem in stems]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _cifar100(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images [N, 3, 32, 32] and fine labels [N] from CIFAR-100's .bin file (coarse, fine label, planes)."""
    return _cifar(folder / f"{split}.bin", 50_000 if split == "train" else 10_000, 2, 100)


def _cifar(path: Path, count: int, label_bytes: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels, the last of the bytes before each image, from a file of `count` records."""
    if not path.is_file():
        raise BadInput(f"{path.parent}: no file {path.name}")
    data = _read(path)
    size = label_bytes + 3072
    if len(data) != count * size:
        raise BadInput(f"{path}: {len(data)} bytes where {count} images of CIFAR-{classes} have {count * size}")
    records = np.frombuffer(data, np.uint8).reshape(count, size)
    labels = _checked_labels(path, records[:, label_bytes - 1], classes)
    return records[:, label_bytes:].reshape(-1, 3, 32, 32), labels


def _quickdraw(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the sketches [N, 1, 28, 28] and their labels [N] from the folder's one .npz file."""
    files = sorted(folder.glob("*.npz"))
    if len(files) != 1:
        raise BadInput(f"{folder}: {len(files)} .npz files where one with sketches is expected")
    path = files[0]
    try:
        content = np.load(path)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with content:
            images, labels = content["images"], content["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path}: not an .npz file with images and labels: {error}") from error
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise BadInput(
            f"{path}: images {images.dtype} {list(images.shape)} and labels {list(labels.shape)} where uint8 "
            "[N, 28, 28] and [N] are expected"
        )
    if len(labels) < 5:
        raise BadInput(f"{path}: {len(labels)} sketches; every fifth is for testing, so that five are needed")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise BadInput(f"{path}: labels are not numbers of classes")
    chosen = _for_testing(len(labels)) == (split == "test")
    return images[chosen][:, None], _checked_labels(path, labels, SOURCES["quickdraw"].classes)[chosen]


def _for_testing(count: int) -> np.ndarray:
    """Return bool [count]: the images for testing where a data set comes without a split, every fifth."""
    return np.arange(count) % 5 == 4


def _digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's 1,797 handwritten digits, [N, 1, 8, 8] with values 0..16; every fifth is for testing."""
    from sklearn.datasets import load_digits  # heavy to import, and only this data set needs it

    bunch = load_digits()
    test = _for_testing(len(bunch.target))
    chosen = test if split == "test" else ~test
    return bunch.images[chosen][:, None].astype(np.uint8), bunch.target[chosen].astype(np.int64)
