"""How far a compiled model agrees with its original: bit by bit at the binarizers, and at the outputs.

Both run on the same inputs: the reference under onnxruntime without graph optimizations, the compiled model as a user
would run it. Each binarizer whose bits exist in the compiled file is compared with the +-1 tensor of the reference;
`bnncc.bit_tally` says which of the bits that differ are errors. Outputs of samples with near-ties differ as a
consequence: they are left out of `max_abs_diff` and kept in `max_abs_diff_all`.

Verification fails on a flipped bit; on an output that differs by more than rounding does, or is not finite where the
reference's is; and on more near-ties than onnxruntime's own optimizer makes. Where near-ties leave no sample to trust,
each part of the compiled model between two binarizers is compared by itself, on the reference's own bits.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from bnncc.bit_tally import NEAR_TIE, BitTally, Rows
from bnncc.classes import joined
from bnncc.config import Config
from bnncc.data import Feeds, RandomSamples, Samples, common_signature, guesses_sizes, load_samples
from bnncc.errors import BadInput, BnnccError
from bnncc.graphs import exposed, fed
from bnncc.model_io import load_model, staging_folder, write_model
from bnncc.onnxruntime_errors import one_line, runtime_errors
from bnncc.passes.base import SignTensor
from bnncc.reference import as_reference
from bnncc.report import AccuracyReport, OptimizerReport, VerifyReport, lossy_steps
from bnncc.session import OPTIMIZED, UNOPTIMIZED, InferenceSession, session_options
from bnncc.sign_tensors import SIGN_TENSORS_KEY, pack, sign_tensors_from_json, unpack

MAX_REL_DIFF = 1e-3
"""How far outputs may differ, against the largest magnitude of the tensor. Exact stages differ by less than 1e-5, and
batch-norms folded into 120 float layers by about 1e-4: ten times that is no rounding."""

NEAR_TIE_SLACK = 3
"""Samples with near-ties that the compiled model may have beyond those of onnxruntime's optimizer, or as many again if
that is more. The two reorder the same sums differently: two draws of the same small number, which differ by about its
square root."""

# Activations of both models that are held at a time.
_ACTIVATION_BUDGET = 256 * 2**20
_LARGEST_CHUNK = 64


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

    Outputs may differ by MAX_REL_DIFF. Where a gate of `config` says what else is asked for, it goes instead, unless
    `compiled` is a compiled file and the gate on another figure.

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
    lossy = _lossy_steps(metadata.get("bnncc.config", "{}"))
    if lossy:
        notes.append(f"{other.path.name} has {lossy}: its outputs are compared, and may differ")
    gates = (config.max_abs_diff, config.min_argmax_agreement)
    gated = not other.is_compiled and any(gate is not None for gate in gates)
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
        max_rel_diff=math.inf if gated or lossy else MAX_REL_DIFF,
    )
    report.notes[:0] = notes
    return report


def _lossy_steps(config: str) -> str:
    """What is lossy in a compiled file, by its record of its options, which may have been edited; "" for nothing."""
    try:
        options = json.loads(config)
    except ValueError:
        return ""
    return lossy_steps(*(isinstance(options, dict) and options.get(name) for name in ("tropnnc", "binarize")))


def compare(
    reference: onnx.ModelProto,
    compiled: onnx.ModelProto,
    tensors: Sequence[SignTensor] | None,
    names: tuple[str, str],
    data: str | os.PathLike[str] | None = None,
    config: Config | None = None,
    through: str = "library",
    progress: Callable[[str], None] | None = None,
    max_rel_diff: float = MAX_REL_DIFF,
) -> VerifyReport:
    """Compare two models in memory as `verify` does; `tensors` as in `SignTensor`, None to compare outputs only.

    `max_rel_diff` is the limit where `config` sets none.
    """
    if through not in ("library", "functions"):
        raise BadInput(f'through must be "library" or "functions", not {through!r}')
    config = config or Config()
    started = time.perf_counter()
    signature = common_signature(reference, compiled, config.input_shapes, names)
    sets: list[Samples] = [RandomSamples(signature, config.verify_samples, config.seed)]
    if data is not None:
        sets.append(load_samples(data, signature))
    outputs = _common_outputs(reference, compiled, names)
    with staging_folder(None) as folder:
        comparison = _Comparison(
            reference, compiled, tensors or [], outputs, names, folder, config.threads, through == "library"
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
        if comparison.nothing_trusted(sum(samples.count for samples in sets)):
            for samples in sets:
                comparison.run_on_reference_bits(samples)
    return comparison.report(
        random_count=sets[0].count,
        data_count=sets[1].count if data is not None else 0,
        with_bits=tensors is not None,
        through=through,
        max_rel_diff=max_rel_diff if config.max_rel_diff is None else math.inf,  # a gate judges by that
        seconds=time.perf_counter() - started,
    )


def _common_outputs(first: onnx.ModelProto, second: onnx.ModelProto, names: tuple[str, str]) -> list[str]:
    ours, theirs = ([value.name for value in model.graph.output] for model in (first, second))
    if set(ours) != set(theirs):
        raise BadInput(f"{names[1]}: outputs {theirs} are not those of {names[0]}: {ours}")
    return ours


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
    lost: int = 0
    """Values that are not finite where the reference's are, over all samples: no near-tie excuses them."""

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
        tensors: Sequence[SignTensor],
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
        self.labels_given = False
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
        exact = {tensor.original for tensor in self.tensors if tensor.exact or tensor.pre_activation in given}
        self.bits = BitTally(reference, self.tensors, exact)
        self.optimizer_bits = BitTally(reference, self.tensors, set())
        self.given_bits = BitTally(reference, self.tensors, exact, chained=False)
        self.given_session: onnxruntime.InferenceSession | None = None
        rounded = [tensor for tensor in self.tensors if tensor.original not in exact]
        self.given_tensors = {tensor.packed: tensor for tensor in rounded}
        self.library = library
        self.folder = folder
        self.model = compiled
        self.optimized: onnxruntime.InferenceSession | None = None
        self.bit_session = None
        if self.tensors:
            bit_file = folder / "bits.onnx"
            write_model(exposed(compiled, self.packed, names[1]), bit_file)
            self.bit_session = self._session(bit_file, names[1], OPTIMIZED, library)

    def _session(self, file: Path, name: str, level: Any, library: bool) -> onnxruntime.InferenceSession:
        try:
            return InferenceSession(
                str(file), threads=self.threads, sess_options=session_options(level), library=library
            )
        except BadInput as error:
            raise BadInput(str(error).replace(str(file), name)) from error

    def run(self, samples: Samples, kind: str, progress: Callable[[str], None] | None) -> None:
        """Compare on these samples, in chunks that keep the exposed activations within the budget."""
        classes: list[tuple[np.ndarray, np.ndarray]] = []
        seen = 0
        for feeds, valid in samples.batches(self._chunk_size(samples)):
            expected, actual, packed = self._run_all(feeds)
            rows = Rows(valid, samples.run_size(feeds))
            doubtful = self._compare_bits({**feeds, **expected}, packed, rows, self.bits)
            for name in self.outputs:
                self._compare_output(name, expected[name], actual[name], rows, doubtful)
            pair = self._classes(expected, actual, valid)
            if pair is not None:
                classes.append(pair)
            seen += valid
            if progress is not None:
                progress(f"verify: {seen} of {samples.count} {kind}")
        if samples.labels is not None:
            self.labels_given = True
        if not classes:
            return
        first, second = (joined(side) for side in zip(*classes, strict=True))
        if first is None or second is None:
            self.agreed.clear()  # nor then were those of other samples, though one run of them had one shape
            return
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

    def nothing_trusted(self, samples: int) -> bool:
        """Return whether near-ties leave an output or a binarizer that was compared on no sample."""
        unseen = not all(output.compared for output in self.per_output.values())
        return self.bits.near_ties > 0 and (self.bits.near_tie_samples == samples or unseen)

    def run_on_reference_bits(self, samples: Samples) -> None:
        """Compare with the reference's bits in the place of all that could be near-ties: nothing is a consequence."""
        if self.given_session is None:
            model, self.given_inputs = fed(exposed(self.model, self.packed, self.names[1]), self.given_tensors)
            file = self.folder / "given.onnx"
            write_model(model, file)
            self.given_session = self._session(file, self.names[1], OPTIMIZED, self.library)
        wanted = list(dict.fromkeys(self.outputs + self.packed))
        for feeds, valid in samples.batches(self._chunk_size(samples)):
            expected, _, packed = self._run_all(feeds)
            values, rows = {**feeds, **expected}, Rows(valid, samples.run_size(feeds))
            given = {
                self.given_inputs[name]: pack(values[tensor.original], tensor.width, packed[name].shape)
                for name, tensor in self.given_tensors.items()
            }
            made = dict(zip(wanted, self.given_session.run(wanted, {**feeds, **given}), strict=True))
            self._compare_bits(values, made, rows, self.given_bits)
            for name in self.outputs:
                self._compare_output(name, expected[name], made[name], rows, np.zeros(valid, dtype=bool))

    def _compare_bits(self, values: Feeds, packed: Feeds, rows: Rows, tally: BitTally) -> np.ndarray:
        """Count the bits that differ; return which samples have near-ties, bool [valid]."""

        def signs_of(tensor: SignTensor) -> np.ndarray:
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

        return tally.add(values, signs_of, rows)

    def count_optimizer_flips(self, samples: Samples) -> None:
        """Count what onnxruntime's own optimizations flip in the reference: the measure for near-ties."""
        if self.optimized is None:
            self.optimized = self._session(self.reference_file, self.names[0], OPTIMIZED, True)
        signs = list(dict.fromkeys(tensor.original for tensor in self.tensors))
        for feeds, valid in samples.batches(self._chunk_size(samples)):
            values = {**feeds, **dict(zip(self.shown, self.reference.run(self.shown, feeds), strict=True))}
            optimized = dict(zip(signs, self.optimized.run(signs, feeds), strict=True))
            self.optimizer_bits.add(
                values, lambda t, o=optimized: np.sign(o[t.original]), Rows(valid, samples.run_size(feeds))
            )

    def _compare_output(
        self, name: str, expected: np.ndarray, actual: np.ndarray, rows: Rows, doubtful: np.ndarray
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
        record.lost += int((np.isfinite(first) & ~np.isfinite(second)).sum())
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

    def _failures(self, max_rel_diff: float) -> list[str]:
        """Return what is wrong, in words."""
        bits, found = self.bits, []
        if bits.flipped:
            found.append(f"{bits.flipped} flipped bits, at {', '.join(list(bits.by_tensor)[:3])}")
        for name, output in self.per_output.items():
            if output.lost:
                found.append(f"output {name!r} has {output.lost} values that are not finite where the original's are")
            elif output.relative > max_rel_diff:
                found.append(
                    f"output {name!r} differs by {output.relative:.2g} of its largest magnitude, "
                    f"which is more than {max_rel_diff:g}"
                )
        if bits.near_ties:
            own = self.optimizer_bits.near_tie_samples
            limit = max(2 * own, own + NEAR_TIE_SLACK)
            if bits.near_tie_samples > limit:
                found.append(
                    f"near-ties in {bits.near_tie_samples} samples: more than the {limit} allowed where onnxruntime's "
                    f"own optimizer has them in {own}"
                )
        return found

    def report(
        self,
        random_count: int,
        data_count: int,
        with_bits: bool,
        through: str,
        max_rel_diff: float,
        seconds: float,
    ) -> VerifyReport:
        """Sum up. Agreement is that on the data where there is data: random inputs have no classes to speak of."""
        bits, other = self.bits, self.optimizer_bits
        if not bits.flipped:  # else these are the same errors again
            bits.flipped, bits.by_tensor = self.given_bits.flipped, self.given_bits.by_tensor
        outputs = self.per_output.values()
        notes = []
        if with_bits and not self.tensors:
            notes.append("no binarizer's bits exist in the compiled model: only outputs are compared")
        if bits.near_ties:
            notes.append(
                f"near-ties lie within {NEAR_TIE:g} of the threshold, relative to the tensor's largest magnitude "
                "in the sample"
            )
        if self.labels_given and not self.labelled:
            notes.append("labels were given, but no output is a float tensor [samples, classes]: no accuracy")
        if self.given_session is not None:
            notes.append(
                "every sample has near-ties: what follows them was compared part by part, on the reference's own bits"
            )
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
            max_abs_diff=max((output.diff for output in outputs), default=0.0),
            max_abs_diff_all=max((output.diff_all for output in outputs), default=0.0),
            max_rel_diff=max((output.relative for output in outputs), default=0.0),
            argmax_agreement=float(self.agreed[-1].mean()) if self.agreed else None,
            accuracy=accuracy,
            through=through,
            flipped_by_tensor=bits.by_tensor,
            failures=self._failures(max_rel_diff),
            notes=notes,
            seconds=seconds,
        )
