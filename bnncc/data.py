"""Inputs for a model: from an .npz file or seeded random numbers; checked, and cut into batches."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx

from bnncc.errors import BadInput

LABELS = "labels"

# Side of an image, or length of a sequence, where a model leaves it open and nobody says.
_GUESSED_SIZE = 32
_GUESSED_CHANNELS = 3

Feeds = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Input:
    """An input that a caller of the model must give: its dtype, and per axis a size or None where it is dynamic."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...]

    @property
    def label(self) -> str:
        """The input in words, for messages."""
        return f"{self.dtype} {[size if size is not None else '?' for size in self.shape]}"


@dataclasses.dataclass(frozen=True)
class Signature:
    """The inputs of a model, and whether their first axis is one batch of independent samples."""

    inputs: tuple[Input, ...]
    batched: bool
    fixed_batch: int | None
    """Size of the first axis where the model fixes it, else None."""

    def check_batch(self, batch: int | None, name: str) -> None:
        """Raise BadInput, naming the model, if it cannot take batches of this size; None is any size."""
        if batch is None:
            return
        if not self.batched:
            raise BadInput(f"{name}: its inputs have no batch axis in common: no batch can be chosen")
        if self.fixed_batch not in (None, batch):
            raise BadInput(f"{name}: takes a batch of {self.fixed_batch}, not {batch}")


def model_inputs(
    model: onnx.ModelProto, shapes: Mapping[str, list[int]] | None = None, name: str = "model"
) -> Signature:
    """Read the inputs of a model, without those that initializers provide.

    `shapes` fixes dynamic dimensions (-1 leaves one as it is). Raises BadInput for an input that is no tensor or that
    `shapes` contradicts; `name` is the model's in messages.
    """
    shapes = dict(shapes or {})
    provided = {tensor.name for tensor in model.graph.initializer}
    inputs = []
    for value in model.graph.input:
        if value.name in provided:
            continue
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise BadInput(f"{name}: input {value.name!r} is not a tensor of known rank")
        tensor = value.type.tensor_type
        shape = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
        fixed = shapes.pop(value.name, None)
        if fixed is not None:
            if len(fixed) != len(shape):
                raise BadInput(f"{name}: input {value.name!r} has {len(shape)} axes, input_shapes gives {len(fixed)}")
            for axis, size in enumerate(fixed):
                if size != -1 and shape[axis] not in (None, size):
                    raise BadInput(
                        f"{name}: axis {axis} of input {value.name!r} is {shape[axis]}, input_shapes says {size}"
                    )
                shape[axis] = shape[axis] if size == -1 else size
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        except KeyError as error:
            raise BadInput(f"{name}: input {value.name!r} has no known element type") from error
        inputs.append(Input(value.name, np.dtype(dtype), tuple(shape)))
    if shapes:
        known = ", ".join(repr(item.name) for item in inputs)
        raise BadInput(f"{name}: input_shapes names {sorted(shapes)[0]!r}, the inputs are {known}")
    firsts = {item.shape[0] if item.shape else -1 for item in inputs}
    batched = len(firsts) == 1 and -1 not in firsts
    return Signature(tuple(inputs), batched, next(iter(firsts)) if batched else None)


def with_input_shapes(model: onnx.ModelProto, shapes: Mapping[str, list[int]], name: str) -> onnx.ModelProto:
    """Return a copy whose inputs have these sizes where they were dynamic; the model itself if there is nothing to fix.

    Raises BadInput as `model_inputs` does.
    """
    if not shapes:
        return model
    fixed = {item.name: item.shape for item in model_inputs(model, shapes, name).inputs}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, fixed.get(value.name, ()), strict=False):
            if size is not None:
                dim.dim_value = size
    # Shapes noted for inner tensors may name the dimensions that were dynamic.
    del copy.graph.value_info[:]
    return copy


def common_signature(
    first: onnx.ModelProto, second: onnx.ModelProto, shapes: dict[str, list[int]], names: tuple[str, str]
) -> Signature:
    """Return inputs that both models take. Raises BadInput where they take different ones."""
    one, two = model_inputs(first, shapes, names[0]), model_inputs(second, shapes, names[1])
    others = {item.name: item for item in two.inputs}
    if {item.name for item in one.inputs} != set(others):
        ours, theirs = ([item.name for item in side.inputs] for side in (one, two))
        raise BadInput(f"{names[1]}: inputs {theirs} are not those of {names[0]}: {ours}")
    inputs = []
    for item in one.inputs:
        other = others[item.name]
        shape = []
        fits = item.dtype == other.dtype and len(item.shape) == len(other.shape)
        for size, other_size in zip(item.shape, other.shape, strict=False):
            fits = fits and (size is None or other_size is None or size == other_size)
            shape.append(size if size is not None else other_size)
        if not fits:
            raise BadInput(f"{names[1]}: input {item.name!r} is {other.label}, in {names[0]} {item.label}")
        inputs.append(dataclasses.replace(item, shape=tuple(shape)))
    batched = one.batched and two.batched
    fixed = next((side.fixed_batch for side in (one, two) if side.fixed_batch is not None), None) if batched else None
    return Signature(tuple(inputs), batched, fixed)


class Samples(abc.ABC):
    """Inputs for some samples, cut into batches; or one whole input if the model has no batch axis.

    `count`: how many; `labels`: their classes, int64 [count], or None.
    """

    def __init__(self, signature: Signature, count: int, labels: np.ndarray | None = None) -> None:
        self.signature = signature
        self.count = count if signature.batched else 1
        self.labels = labels

    @abc.abstractmethod
    def rows(self, start: int, stop: int) -> Feeds:
        """Return the inputs of samples `start` to `stop`, along the first axis; all there is if there is no batch."""

    def batches(self, size: int) -> Iterator[tuple[Feeds, int]]:
        """Yield (feeds, valid): batches of `size`, or of the size that the model fixes.

        The last batch of a model of fixed batch is filled up by repeating its last sample; `valid` tells how many
        samples of a batch are real.
        """
        step = self.signature.fixed_batch or size
        for start in range(0, self.count, step):
            valid = min(step, self.count - start)
            part = self.rows(start, start + valid)
            if self.signature.fixed_batch and valid < step:
                part = {name: np.concatenate([a, np.repeat(a[-1:], step - valid, axis=0)]) for name, a in part.items()}
            yield part, valid

    def first(self, most: int, size: int) -> list[Feeds]:
        """Return the first samples, `most` of them or a batch, in batches as above: none filled up if one is whole."""
        taken = list(itertools.islice(self.batches(size), max(1, most // (self.signature.fixed_batch or size))))
        whole = [feeds for feeds, valid in taken if valid == self.run_size(feeds)]
        return whole or [taken[0][0]]

    def run_size(self, feeds: Feeds) -> int:
        """Return how many samples a batch holds, those that fill it up included."""
        return len(next(iter(feeds.values()))) if self.signature.batched and feeds else 1


class FileSamples(Samples):
    """Samples from arrays in memory, one per input."""

    def __init__(self, signature: Signature, feeds: Feeds, labels: np.ndarray | None) -> None:
        first = next(iter(feeds.values()), None)
        super().__init__(signature, 1 if first is None or first.ndim == 0 else len(first), labels)
        self.feeds = feeds

    def rows(self, start: int, stop: int) -> Feeds:
        """Return a slice of the arrays."""
        if not self.signature.batched:
            return self.feeds
        return {name: array[start:stop] for name, array in self.feeds.items()}


class RandomSamples(Samples):
    """Seeded samples: floats from the normal distribution (so of both signs), small whole numbers.

    Made when they are asked for, each from a seed of its own, so that a sample does not depend on the batch that it is
    in. Axes that the model leaves open, other than the batch, get 3 for the channels of an image and else 32: fix them
    with `input_shapes` where that does not suit. A model without a batch axis gets one input.
    """

    def __init__(self, signature: Signature, count: int, seed: int) -> None:
        super().__init__(signature, count)
        self.seed = seed

    def rows(self, start: int, stop: int) -> Feeds:
        """Make the samples."""
        each: list[Feeds] = []
        for number in range(start, stop):
            generator = np.random.default_rng([self.seed, number])
            each.append({item.name: _random_array(generator, item, self.signature) for item in self.signature.inputs})
        if not self.signature.batched:
            return each[0]
        return {item.name: np.concatenate([feeds[item.name] for feeds in each]) for item in self.signature.inputs}


def _random_array(generator: np.random.Generator, item: Input, signature: Signature) -> np.ndarray:
    """Make one input of a sample, its batch axis 1 long."""
    sizes = [size if size is not None else _GUESSED_SIZE for size in item.shape]
    if len(sizes) == 4 and item.shape[1] is None:
        sizes[1] = _GUESSED_CHANNELS
    if signature.batched:
        sizes[0] = 1
    dtype, shape = item.dtype, tuple(sizes)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        low = -128 if dtype == np.int8 else 0
        high = {"uint8": 256, "int8": 128}.get(dtype.name, 2)
        return generator.integers(low, high, shape).astype(dtype)
    if dtype.kind == "f" or dtype.name == "bfloat16":
        return generator.standard_normal(shape, dtype=np.float32).astype(dtype)
    raise BadInput(f"no random inputs of type {dtype}: give data")


def guesses_sizes(signature: Signature) -> bool:
    """Return whether `RandomSamples` has to guess a size that the model leaves open."""
    first = 1 if signature.batched else 0
    return any(size is None for item in signature.inputs for size in item.shape[first:])


def load_samples(path: str | os.PathLike[str], signature: Signature) -> FileSamples:
    """Read an .npz file: one array per input, under the input's name, and class numbers under "labels" if it has them.

    Raises BadInput, naming the file and the array, for anything that does not fit the model.
    """
    path = Path(path)
    arrays = _read_npz(path)
    labels = arrays.pop(LABELS, None) if LABELS not in {item.name for item in signature.inputs} else None
    wanted = [item.name for item in signature.inputs]
    for name in wanted:
        if name not in arrays:
            there = ", ".join(repr(key) for key in arrays) or "none"
            raise BadInput(f"{path}: no array for the input {name!r} (arrays there: {there})")
    for name in arrays:
        if name not in wanted:
            raise BadInput(f"{path}: array {name!r} is no input of the model (inputs: {', '.join(map(repr, wanted))})")
    for item in signature.inputs:
        _check_array(path, item, arrays[item.name], signature.batched)
    counts = {name: len(arrays[name]) for name in wanted} if signature.batched else {}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise BadInput(f"{path}: arrays hold different numbers of samples: {listed}")
    samples = FileSamples(signature, {name: np.asarray(arrays[name], order="C") for name in wanted}, None)
    if labels is not None:
        if labels.dtype.kind not in "iu" or labels.shape != (samples.count,):
            raise BadInput(
                f"{path}: labels must be whole numbers of shape [{samples.count}], "
                f"not {labels.dtype} {list(labels.shape)}"
            )
        samples.labels = labels.astype(np.int64)
    return samples


def _read_npz(path: Path) -> Feeds:
    if path.is_dir():
        raise BadInput(f"{path}: is a folder, not an .npz file")
    try:
        if path.is_file() and not zipfile.is_zipfile(path):
            raise BadInput(f"{path}: not an .npz file, as numpy.savez(path, INPUT_NAME=array) writes it")
        archive = np.load(path, allow_pickle=False)
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path}: not a readable .npz file: {' '.join(str(error).split())[:200]}") from error


def _check_array(path: Path, item: Input, array: np.ndarray, batched: bool) -> None:
    if array.dtype != item.dtype:
        raise BadInput(f"{path}: array {item.name!r} is {array.dtype}, the model takes {item.dtype}")
    if array.ndim != len(item.shape):
        raise BadInput(f"{path}: array {item.name!r} has shape {list(array.shape)}, the model takes {item.label}")
    for axis, (size, wanted) in enumerate(zip(array.shape, item.shape, strict=True)):
        if size == 0:
            raise BadInput(f"{path}: array {item.name!r} is empty: shape {list(array.shape)}")
        if wanted not in (None, size) and not (batched and axis == 0):
            raise BadInput(f"{path}: array {item.name!r} has shape {list(array.shape)}, the model takes {item.label}")


def call_inputs(
    signature: Signature, batch: int | None, data: str | os.PathLike[str] | None, seed: int, name: str
) -> tuple[Feeds, int]:
    """Return the inputs of one call, and how many samples they are: `batch` (None: 1), or what the model fixes.

    They are the first of the .npz file `data`, or seeded noise. Raises BadInput, with the model's `name`, for a batch
    that it does not take and for data that does not fit.
    """
    signature.check_batch(batch, name)
    size = signature.fixed_batch or batch or 1
    if data is None:
        return RandomSamples(signature, size, seed).rows(0, size), size
    samples = load_samples(data, signature)
    if samples.count < size:
        raise BadInput(f"{data}: holds {samples.count} samples, a batch of {size} was asked for")
    return next(samples.batches(size))[0], size
