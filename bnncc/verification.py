"""How far a compiled model agrees with its original: bit by bit at the binarizers, and at the outputs.

Both run on the same inputs: the reference under onnxruntime without graph optimizations, the compiled model as a user
would run it. Each binarizer whose bits exist in the compiled file is compared with the +-1 tensor of the reference:

- a bit that differs is a **near-tie** if the float that it was taken from lies within 1e-5 of the threshold, measured
  against the largest magnitude of that tensor in that sample: sums of floats in another order may cross there. Bits
  that the compiled model takes from integers have no rounding, and so no near-ties;
- a bit that differs is **downstream** if, in the same sample, a near-tie flipped in a binarizer that it depends on;
- every other bit that differs is **flipped**: an error.

Outputs of samples with near-ties differ as a consequence; they are left out of `max_abs_diff` and kept in
`max_abs_diff_all`.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from bnncc.config import Config
from bnncc.data import Feeds, RandomSamples, Samples, Signature, guesses_sizes, load_samples, model_inputs
from bnncc.errors import BadInput, BnnccError
from bnncc.model_io import LoadedModel, load_model, one_line, runtime_errors, walk_nodes, write_model
from bnncc.passes.prepare import reference_model
from bnncc.report import AccuracyReport, OptimizerReport, VerifyReport
from bnncc.session import OPTIMIZED, UNOPTIMIZED, InferenceSession, session_options

NEAR_TIE = 1e-5
"""Distance from the threshold, relative to the tensor's largest magnitude in the sample, that rounding may cross."""

# Activations of both models that are held at a time.
_ACTIVATION_BUDGET = 256 * 2**20
_LARGEST_CHUNK = 64

SIGN_TENSORS_KEY = "bnncc.sign_tensors"

# Ops that compare an exact integer with an integer threshold, and ops that only move bits.
_INTEGER_OPS = frozenset(
    {"BinaryConvThreshold", "BinaryConvDual", "BinaryLinearThreshold", "BinaryLinearDual"},
)
_BIT_OPS = frozenset({"MaxPoolSigns", "Identity", "Reshape", "Flatten"})


@dataclasses.dataclass(frozen=True)
class SignTensor:
    """Where the bits of one binarizer are in both models.

    `original`, `pre_activation`: tensors of the reference; `threshold`: float32 [1] or [C]; `packed`: the uint8 tensor
    of the compiled model, `width` signs along its last axis.
    """

    original: str
    pre_activation: str
    threshold: np.ndarray
    packed: str
    width: int


def sign_tensors_to_json(tensors: Iterable[Any]) -> str:
    """Write the sign tensors of the passes as the metadata of a compiled file; thresholds as little-endian float32."""
    entries = []
    for tensor in tensors:
        threshold = np.ascontiguousarray(tensor.threshold, dtype="<f4").reshape(-1)
        if threshold.size and (threshold == threshold[0]).all():
            threshold = threshold[:1]
        entries.append(
            {
                "original": tensor.original,
                "pre_activation": tensor.pre_activation,
                "threshold": base64.b64encode(threshold.tobytes()).decode("ascii"),
                "packed": tensor.packed,
                "width": int(tensor.width),
            }
        )
    return json.dumps(entries)


def sign_tensors_from_json(text: str, name: str) -> list[SignTensor]:
    """Read what `sign_tensors_to_json` wrote. Raises BadInput, naming the model, for metadata edited by hand."""
    try:
        return [
            SignTensor(
                str(entry["original"]),
                str(entry["pre_activation"]),
                np.frombuffer(base64.b64decode(entry["threshold"], validate=True), dtype="<f4").astype(np.float32),
                str(entry["packed"]),
                int(entry["width"]),
            )
            for entry in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{name}: damaged metadata {SIGN_TENSORS_KEY}: {one_line(error)}") from error


def verify(
    reference: str | os.PathLike[str],
    compiled: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    config: Config | None = None,
    through: str = "library",
    progress: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Compare two model files on seeded random inputs, and on the samples of the .npz file `data`.

    Where `compiled` was compiled from `reference`, bits are compared too, else only outputs. `through` is "library" or
    "functions": whether compiled models run on the kernels or on the function bodies that they carry.

    Raises BadInput for files that cannot be used and for models whose inputs or outputs do not match.
    """
    config = config or Config()
    original, other = load_model(reference), load_model(compiled)
    metadata = {entry.key: entry.value for entry in other.proto.metadata_props}
    tensors: list[SignTensor] = []
    notes = []
    if SIGN_TENSORS_KEY not in metadata:
        notes.append(f"{other.path.name} holds no record of its compilation: only outputs are compared")
    elif metadata.get("bnncc.source_sha256") != original.source_sha256:
        notes.append(
            f"{other.path.name} was compiled from another file than {original.path.name}: only outputs are compared"
        )
    else:
        tensors = sign_tensors_from_json(metadata[SIGN_TENSORS_KEY], str(other.path))
    runnable = original.proto if original.is_compiled else as_reference(original.proto, str(original.path))
    runnable_other = other.proto if other.is_compiled else as_reference(other.proto, str(other.path))
    report = compare(
        runnable,
        runnable_other,
        None if notes else tensors,
        names=(str(original.path), str(other.path)),
        data=data,
        config=config,
        through=through,
        progress=progress,
    )
    report.notes[:0] = notes
    return report


def as_reference(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the model in ops that onnxruntime has. Raises BadInput, naming the model, where that cannot be."""
    try:
        return reference_model(model)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error


def runnable_file(model: LoadedModel, folder: Path) -> Path:
    """Return the model's own file, or where onnxruntime lacks its ops, one of the reference model."""
    known = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"} | {function.domain for function in model.proto.functions}
    if model.is_compiled or {node.domain for node in model.proto.graph.node} <= known:
        return model.path
    file = folder / f"{len(list(folder.iterdir()))}.onnx"
    write_model(as_reference(model.proto, str(model.path)), file)
    return file


def compare(
    reference: onnx.ModelProto,
    compiled: onnx.ModelProto,
    tensors: Sequence[Any] | None,
    names: tuple[str, str],
    data: str | os.PathLike[str] | None = None,
    config: Config | None = None,
    through: str = "library",
    progress: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Compare two models in memory as `verify` does; `tensors` as in `SignTensor`, None to compare outputs only."""
    if through not in ("library", "functions"):
        raise BadInput(f'through must be "library" or "functions", not {through!r}')
    config = config or Config()
    started = time.perf_counter()
    signature = common_signature(reference, compiled, config.input_shapes, names)
    sets: list[Samples] = [RandomSamples(signature, config.verify_samples, config.seed)]
    if data is not None:
        sets.append(load_samples(data, signature))
    outputs = _common_outputs(reference, compiled, names)
    with tempfile.TemporaryDirectory(prefix="bnncc.") as folder:
        comparison = _Comparison(
            reference, compiled, tensors or [], outputs, names, Path(folder), config.threads, through == "library"
        )
        for number, samples in enumerate(sets):
            kind = "samples of the data" if number else "random samples"
            try:
                comparison.run(samples, kind, progress)
            except runtime_errors() as error:
                hint = ""
                if number == 0 and guesses_sizes(signature):
                    hint = "; the sizes of its dynamic inputs were guessed: fix them with input_shapes"
                raise BadInput(f"{comparison.running}: onnxruntime cannot run it: {one_line(error)}{hint}") from error
        if comparison.bits.near_ties:
            for samples in sets:
                comparison.count_optimizer_flips(samples)
    return comparison.report(
        random_count=sets[0].count,
        data_count=sets[1].count if data is not None else 0,
        with_bits=tensors is not None,
        through=through,
        seconds=time.perf_counter() - started,
    )


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


def _common_outputs(first: onnx.ModelProto, second: onnx.ModelProto, names: tuple[str, str]) -> list[str]:
    ours, theirs = ([value.name for value in model.graph.output] for model in (first, second))
    if set(ours) != set(theirs):
        raise BadInput(f"{names[1]}: outputs {theirs} are not those of {names[0]}: {ours}")
    return ours


def exposed(model: onnx.ModelProto, tensors: Iterable[str], name: str) -> onnx.ModelProto:
    """Return a copy of `model` that also gives these tensors as outputs. Raises BadInput where one does not exist."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    made = {output for node in copy.graph.node for output in node.output}
    present = {value.name for value in copy.graph.output}
    for tensor in tensors:
        if tensor not in made:
            raise BadInput(f"{name}: its metadata names the tensor {tensor!r}, which no node makes")
        if tensor not in present:
            present.add(tensor)
            copy.graph.output.append(onnx.ValueInfoProto(name=tensor))  # onnxruntime infers type and shape
    return copy


def from_integers(graph: onnx.GraphProto, packed: Iterable[str]) -> set[str]:
    """Return which of these packed tensors of a compiled model hold the outcomes of integer comparisons."""
    makers = {output: node for node in graph.node for output in node.output}
    exact = set()
    for name in packed:
        source = name
        while source in makers and makers[source].op_type in _BIT_OPS:
            source = makers[source].input[0]
        if source in makers and makers[source].op_type in _INTEGER_OPS:
            exact.add(name)
    return exact


def upstream(graph: onnx.GraphProto, tensors: Sequence[str]) -> dict[str, set[str]]:
    """Return for each of `tensors` which of the others it depends on."""
    wanted = set(tensors)
    depends: dict[str, set[str]] = {}
    for node in _in_order(graph):
        above: set[str] = set()
        for source in _reads(node):
            above |= depends.get(source, set())
            if source in wanted:
                above.add(source)
        for output in node.output:
            depends[output] = above
    return {tensor: depends.get(tensor, set()) for tensor in tensors}


def _reads(node: onnx.NodeProto) -> set[str]:
    """Names that a node reads, those inside its subgraphs included."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
            for inner_node in walk_nodes(inner):
                names.update(inner_node.input)
    return names


def _in_order(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes so that each comes after those it reads from; files need not be sorted to run in onnxruntime."""
    makers = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    order: list[onnx.NodeProto] = []
    state = [0] * len(graph.node)  # 0 not seen, 1 waiting for its sources, 2 placed
    for root in range(len(graph.node)):
        stack = [root]
        while stack:
            index = stack[-1]
            if state[index] == 0:
                state[index] = 1
                sources = (makers[name] for name in _reads(graph.node[index]) if name in makers)
                stack.extend(source for source in sources if state[source] == 0)
            else:
                stack.pop()
                if state[index] == 1:
                    state[index] = 2
                    order.append(graph.node[index])
    return order


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The samples of one run: `valid` of them real, `total` with those that fill up a fixed batch."""

    valid: int
    total: int

    def split(self, array: np.ndarray) -> np.ndarray:
        """View as [valid, rest]; as [1, all] where the first axis is not the batch."""
        if array.ndim == 0 or array.size == 0 or len(array) != self.total:
            return array.reshape(1, -1)
        return array.reshape(self.total, -1)[: self.valid]

    def any(self, mask: np.ndarray) -> np.ndarray:
        """Reduce what `split` gave to one bool per sample: what belongs to no one sample belongs to all."""
        return mask.any(axis=1) if len(mask) == self.valid else np.full(self.valid, bool(mask.any()))

    def select(self, samples: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the rows of `mask`, as `split` gave it, that belong to chosen samples (bool [valid])."""
        return samples if len(mask) == self.valid else np.array([samples.any()])


class _Tally:
    """Bits that differ at the binarizers of the reference, sorted by cause, summed up over runs."""

    def __init__(self, reference: onnx.ModelProto, tensors: Sequence[Any], exact: set[str]) -> None:
        """`exact` names the packed tensors that come from integers, where nothing is a near-tie."""
        self.upstream = upstream(reference.graph, [tensor.original for tensor in tensors])
        # A binarizer has more others above it than any of those have: so each comes after what it depends on.
        self.tensors = sorted(tensors, key=lambda tensor: len(self.upstream[tensor.original]))
        self.exact = exact
        self.compared = self.flipped = self.near_ties = self.downstream = self.near_tie_samples = 0
        self.by_tensor: dict[str, int] = {}
        # Samples in which nothing before the binarizer excuses a wrong bit.
        self.checked = dict.fromkeys(self.upstream, 0)

    def add(self, values: Feeds, signs_of: Callable[[Any], np.ndarray], rows: _Rows) -> np.ndarray:
        """Count one run: `values` of the reference against the +-1 that `signs_of` gives for each sign tensor.

        Returns which samples have near-ties, bool [valid].
        """
        near_at: dict[str, np.ndarray] = {}
        doubtful = np.zeros(rows.valid, dtype=bool)
        for tensor in self.tensors:
            expected = values[tensor.original]
            flipped = np.sign(rows.split(expected)) != rows.split(signs_of(tensor))
            excused = np.zeros(rows.valid, dtype=bool)
            for above in self.upstream[tensor.original]:
                excused |= near_at.get(above, False)
            self.compared += flipped.size
            self.checked[tensor.original] += int((~excused).sum())
            if not flipped.any():
                continue
            consequence = rows.select(excused, flipped)
            self.downstream += int(flipped[consequence].sum())
            near = np.zeros_like(flipped)
            if tensor.packed not in self.exact:
                near = flipped & _near_threshold(tensor, values[tensor.pre_activation], expected.shape, rows)
                near[consequence] = False
                near_at[tensor.original] = near_at.get(tensor.original, False) | rows.any(near)
                doubtful |= near_at[tensor.original]
            self.near_ties += int(near.sum())
            wrong = flipped & ~near
            wrong[consequence] = False
            count = int(wrong.sum())
            self.flipped += count
            if count:
                self.by_tensor[tensor.original] = self.by_tensor.get(tensor.original, 0) + count
        self.near_tie_samples += int(doubtful.sum())
        return doubtful


@dataclasses.dataclass
class _Output:
    """Differences at one output."""

    largest: float = 0.0
    """Magnitude of the reference, over all samples."""
    compared: bool = False
    """Whether there was a sample without near-ties."""
    diff: float = 0.0
    """Over the samples without near-ties."""
    diff_all: float = 0.0

    @property
    def relative(self) -> float:
        """`diff` against the magnitude."""
        return self.diff / self.largest if self.largest else (math.inf if self.diff else 0.0)


class _Comparison:
    """Two models, the sessions that run them, and what was counted so far."""

    def __init__(
        self,
        reference: onnx.ModelProto,
        compiled: onnx.ModelProto,
        tensors: Sequence[Any],
        outputs: list[str],
        names: tuple[str, str],
        folder: Path,
        threads: int,
        library: bool,
    ) -> None:
        self.names = names
        self.running = names[0]
        self.tensors = list(tensors)
        self.outputs = outputs
        self.per_output = {name: _Output() for name in outputs}
        self.agreed: list[np.ndarray] = []
        self.correct = [0, 0]
        self.labelled = 0
        self.chunk = 0
        self.threads = threads
        originals = [tensor.original for tensor in self.tensors]
        given = {value.name for value in reference.graph.input}
        sources = [tensor.pre_activation for tensor in self.tensors]
        self.shown = [name for name in dict.fromkeys(originals + sources) if name not in given]
        shown = exposed(reference, self.shown, names[0])
        # Files rather than bytes: models over 2 GB do not fit a message.
        self.reference_file = folder / "reference.onnx"
        write_model(shown, self.reference_file)
        self.reference = self._session(self.reference_file, names[0], UNOPTIMIZED, True)
        compiled_file = folder / "compiled.onnx"
        write_model(compiled, compiled_file)
        self.compiled = self._session(compiled_file, names[1], OPTIMIZED, library)
        # The outputs come from the file as it is; the copy that shows its bits may be optimized otherwise.
        self.packed = [tensor.packed for tensor in self.tensors]
        self.bits = _Tally(reference, self.tensors, from_integers(compiled.graph, self.packed))
        self.optimizer_bits = _Tally(reference, self.tensors, set())
        self.optimized: onnxruntime.InferenceSession | None = None
        self.bit_session = None
        if self.tensors:
            bit_file = folder / "bits.onnx"
            write_model(exposed(compiled, self.packed, names[1]), bit_file)
            self.bit_session = self._session(bit_file, names[1], OPTIMIZED, library)

    def _session(self, file: Path, name: str, level: Any, library: bool) -> onnxruntime.InferenceSession:
        try:
            return InferenceSession(str(file), threads=self.threads, options=session_options(level), library=library)
        except BadInput as error:
            raise BadInput(str(error).replace(str(file), name)) from error

    def run(self, samples: Samples, kind: str, progress: Callable[[str], None] | None) -> None:
        """Compare on these samples, in chunks that keep the exposed activations within the budget."""
        classes: list[tuple[np.ndarray, np.ndarray]] = []
        seen = 0
        for feeds, valid in samples.batches(self._chunk_size(samples)):
            expected, actual, packed = self._run_all(feeds)
            rows = _rows(samples, feeds, valid)
            doubtful = self._compare_bits({**feeds, **expected}, packed, rows)
            for name in self.outputs:
                self._compare_output(name, expected[name], actual[name], rows, doubtful)
            pair = self._classes(expected, actual, valid)
            if pair is not None:
                classes.append(pair)
            seen += valid
            if progress is not None:
                progress(f"verify: {seen} of {samples.count} {kind}")
        if not classes:
            return
        first, second = (np.concatenate(side) for side in zip(*classes, strict=True))
        self.agreed.append((first == second).reshape(-1))
        if samples.labels is not None and first.shape == samples.labels.shape:  # one class per sample, not per pixel
            self.labelled += first.size
            self.correct[0] += int((first == samples.labels).sum())
            self.correct[1] += int((second == samples.labels).sum())

    def _run_all(self, feeds: Feeds) -> tuple[Feeds, Feeds, Feeds]:
        self.running = self.names[0]
        wanted = list(dict.fromkeys(self.outputs + self.shown))
        expected = dict(zip(wanted, self.reference.run(wanted, feeds), strict=True))
        self.running = self.names[1]
        actual = dict(zip(self.outputs, self.compiled.run(self.outputs, feeds), strict=True))
        packed: Feeds = {}
        if self.bit_session is not None:
            wanted = list(dict.fromkeys(self.packed))
            packed = dict(zip(wanted, self.bit_session.run(wanted, feeds), strict=True))
        return expected, actual, packed

    def _chunk_size(self, samples: Samples) -> int:
        """Find how many samples to run at a time, from the bytes that one takes."""
        if self.chunk == 0:
            feeds, _ = next(samples.batches(1))
            expected, _, packed = self._run_all(feeds)
            size = sum(array.nbytes for part in (feeds, expected, packed) for array in part.values())
            # Unpacking and comparing take about as much again as the tensors themselves.
            self.chunk = int(min(_LARGEST_CHUNK, max(1, _ACTIVATION_BUDGET // max(1, 2 * size))))
        return self.chunk

    def _compare_bits(self, values: Feeds, packed: Feeds, rows: _Rows) -> np.ndarray:
        """Count the bits that differ; return which samples have near-ties, bool [valid]."""

        def signs_of(tensor: Any) -> np.ndarray:
            array, shape = packed[tensor.packed], values[tensor.original].shape
            if array.dtype != np.uint8 or array.ndim == 0 or array.shape[-1] != (tensor.width + 7) // 8:
                raise BadInput(f"{self.names[1]}: tensor {tensor.packed!r} does not hold {tensor.width} packed signs")
            signs = unpack(array, tensor.width)
            if signs.size != math.prod(shape):
                raise BnnccError(
                    f"{self.names[1]}: tensor {tensor.packed!r} holds {list(signs.shape)} signs, "
                    f"the original {list(shape)}"
                )
            return signs.reshape(shape)

        return self.bits.add(values, signs_of, rows)

    def count_optimizer_flips(self, samples: Samples) -> None:
        """Count what onnxruntime's own optimizations flip in the reference: the measure for near-ties."""
        if self.optimized is None:
            self.optimized = self._session(self.reference_file, self.names[0], OPTIMIZED, True)
        signs = list(dict.fromkeys(tensor.original for tensor in self.tensors))
        for feeds, valid in samples.batches(self._chunk_size(samples)):
            values = {**feeds, **dict(zip(self.shown, self.reference.run(self.shown, feeds), strict=True))}
            optimized = dict(zip(signs, self.optimized.run(signs, feeds), strict=True))
            self.optimizer_bits.add(values, lambda t, o=optimized: np.sign(o[t.original]), _rows(samples, feeds, valid))

    def _compare_output(
        self, name: str, expected: np.ndarray, actual: np.ndarray, rows: _Rows, doubtful: np.ndarray
    ) -> None:
        if (
            not isinstance(expected, np.ndarray)
            or not isinstance(actual, np.ndarray)
            or expected.dtype.kind not in "biuf"
        ):
            raise BadInput(f"{self.names[0]}: output {name!r} is not a tensor of numbers and cannot be compared")
        if expected.shape != actual.shape:
            raise BnnccError(
                f"{self.names[1]}: output {name!r} has shape {list(actual.shape)}, "
                f"in {self.names[0]} {list(expected.shape)}"
            )
        record = self.per_output[name]
        first = rows.split(expected).astype(np.float64)
        second = rows.split(actual).astype(np.float64)
        finite = np.abs(first[np.isfinite(first)])
        record.largest = max(record.largest, float(finite.max(initial=0.0)))
        with np.errstate(invalid="ignore"):
            diff = np.abs(first - second)
        # The same infinity, or NaN in both, is no difference; in one of them only, it is an infinite one.
        same = (first == second) | (np.isnan(first) & np.isnan(second))
        diff = np.where(same, 0.0, np.where(np.isnan(diff), math.inf, diff))
        record.diff_all = max(record.diff_all, float(diff.max(initial=0.0)))
        trusted = ~rows.select(doubtful, diff)
        record.compared |= bool(trusted.any())
        record.diff = max(record.diff, float(diff[trusted].max(initial=0.0)))

    def _classes(self, expected: Feeds, actual: Feeds, valid: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the classes that both name, from the first float output [N, K, ...] with K > 1."""
        for name in self.outputs:
            array = expected[name]
            if array.dtype.kind == "f" and array.ndim >= 2 and array.shape[1] > 1:
                count = min(valid, len(array))
                return array[:count].argmax(axis=1), actual[name][:count].argmax(axis=1)
        return None

    def report(self, random_count: int, data_count: int, with_bits: bool, through: str, seconds: float) -> VerifyReport:
        """Sum up. Agreement is that on the data where there is data: random inputs have no classes to speak of."""
        bits, other = self.bits, self.optimizer_bits
        outputs = self.per_output.values()
        notes = []
        if with_bits and not self.tensors:
            notes.append("no binarizer's bits exist in the compiled model: only outputs are compared")
        if bits.near_ties:
            notes.append(
                f"near-ties lie within {NEAR_TIE:g} of the threshold, relative to the tensor's largest magnitude "
                "in the sample"
            )
        unchecked = [name for name, count in bits.checked.items() if count == 0]
        if unchecked:
            notes.append(
                f"every sample has a near-tie before {unchecked[0]}: what follows is not checked; use more samples"
            )
        trusted = all(output.compared for output in outputs)
        accuracy = optimizer = None
        if self.labelled:
            accuracy = AccuracyReport(self.correct[0] / self.labelled, self.correct[1] / self.labelled)
        if self.optimized is not None:
            optimizer = OptimizerReport(other.near_ties, other.near_tie_samples, other.downstream, other.flipped)
        return VerifyReport(
            samples=random_count + data_count,
            random_samples=random_count,
            data_samples=data_count,
            bits_compared=bits.compared if with_bits else None,
            flipped_bits=bits.flipped if with_bits else None,
            near_ties=bits.near_ties if with_bits else None,
            near_tie_samples=bits.near_tie_samples if with_bits else None,
            downstream=bits.downstream if with_bits else None,
            onnxruntime=optimizer,
            max_abs_diff=max((output.diff for output in outputs), default=0.0) if trusted else None,
            max_abs_diff_all=max((output.diff_all for output in outputs), default=0.0),
            max_rel_diff=max((output.relative for output in outputs), default=0.0) if trusted else None,
            argmax_agreement=float(self.agreed[-1].mean()) if self.agreed else None,
            accuracy=accuracy,
            through=through,
            flipped_by_tensor=bits.by_tensor,
            notes=notes,
            seconds=seconds,
        )


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    """Unpack uint8 [..., ceil(width / 8)] to +-1 int8 [..., width]."""
    bits = np.unpackbits(packed, axis=-1, bitorder="little")[..., :width]
    return bits.view(np.int8) * np.int8(2) - np.int8(1)


def _rows(samples: Samples, feeds: Feeds, valid: int) -> _Rows:
    total = len(next(iter(feeds.values()))) if samples.signature.batched and feeds else 1
    return _Rows(valid, total)


def _near_threshold(tensor: Any, source: np.ndarray, shape: tuple[int, ...], rows: _Rows) -> np.ndarray:
    """Return where `source` is within NEAR_TIE of the threshold, bool, split as an array of `shape` would be."""
    threshold = np.asarray(tensor.threshold, dtype=np.float64).reshape(-1)
    channels = source.shape[1] if source.ndim > 1 else 1
    if threshold.size not in (1, channels) or source.size != math.prod(shape):
        raise BadInput(f"the record of the binarizer {tensor.original!r} does not fit {tensor.pre_activation!r}")
    if threshold.size > 1:
        threshold = threshold.reshape((1, -1) + (1,) * (source.ndim - 2))
    source = source.astype(np.float64)
    distance = rows.split(np.abs(source - threshold).reshape(shape))
    magnitude = np.abs(rows.split(source.reshape(shape)))
    scale = np.where(np.isfinite(magnitude), magnitude, 0.0).max(axis=1, keepdims=True)
    return distance <= NEAR_TIE * scale
