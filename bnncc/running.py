"""Running a model, compiled or not, over all samples of a data file."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from bnncc.config import Config
from bnncc.data import Feeds, load_samples, model_inputs
from bnncc.errors import BadInput
from bnncc.model_io import check_output_path, load_model, publish, staging_folder
from bnncc.onnxruntime_errors import one_line, runtime_errors
from bnncc.reference import runnable_file
from bnncc.session import OPTIMIZED, InferenceSession, session_options
from bnncc.tables import percent_text, table

_BATCH = 32
_CLASSES_SHOWN = 12


@dataclasses.dataclass
class OutputReport:
    """One output over all samples."""

    name: str
    dtype: str
    shape: list[int]
    least: float | None
    mean: float | None
    largest: float | None
    classes: dict[str, int] | None
    """How often each class has the largest value, for a float output [N, K] with K > 1."""
    accuracy: float | None


@dataclasses.dataclass
class RunReport:
    """What a model gave."""

    model: str
    samples: int
    outputs: list[OutputReport]


def run_file(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    threads: int = 1,
    config: Config | None = None,
    progress: Callable[[str], None] | None = None,
) -> RunReport:
    """Run a model over the samples of an .npz file, `batch` at a time or as many as the model fixes.

    The outputs go to the .npz file `output`, if given, under their names. Raises BadInput for files that cannot be
    used.
    """
    loaded = load_model(model)
    signature = model_inputs(loaded.proto, (config or Config()).input_shapes, str(loaded.path))
    signature.check_batch(batch, str(loaded.path))
    target = None
    if output is not None:
        target = check_output_path(output, [loaded.path, *loaded.external_files, Path(data)])
    samples = load_samples(data, signature)
    names = [value.name for value in loaded.proto.graph.output]
    parts: list[list[np.ndarray]] = [[] for _ in names]
    with staging_folder(None) as folder:
        file = runnable_file(loaded, folder)
        try:
            session = InferenceSession(str(file), threads=threads, sess_options=session_options(OPTIMIZED))
        except BadInput as error:
            raise BadInput(str(error).replace(str(file), str(loaded.path))) from error
        done = 0
        for feeds, valid in samples.batches(batch or _BATCH):
            try:
                results = session.run(names, feeds)
            except runtime_errors() as error:
                raise BadInput(f"{loaded.path}: onnxruntime cannot run it: {one_line(error)}") from error
            total = samples.run_size(feeds) if signature.batched else None
            for name, result, collected in zip(names, results, parts, strict=True):
                if not isinstance(result, np.ndarray):
                    raise BadInput(f"{loaded.path}: output {name!r} is not a tensor")
                batched = total is not None and result.ndim > 0 and len(result) == total
                if not batched and valid < samples.count:
                    raise BadInput(f"{loaded.path}: output {name!r} has no batch axis; run one batch of data at a time")
                collected.append(result[:valid] if batched else result)
            done += valid
            if progress is not None:
                progress(f"run: {done} of {samples.count} samples")
    arrays = {name: np.concatenate(part) if len(part) > 1 else part[0] for name, part in zip(names, parts, strict=True)}
    if target is not None:
        _save_npz(arrays, target)
    reports = [_summarize(name, array, samples.labels) for name, array in arrays.items()]
    return RunReport(str(loaded.path), samples.count, reports)


def _save_npz(arrays: Feeds, target: Path) -> None:
    """Write arrays under any names; `numpy.savez` cannot take one called "file"."""
    with staging_folder(target) as folder:
        staged = folder / target.name
        try:
            with zipfile.ZipFile(staged, "w", allowZip64=True) as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                        np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
        except OSError as error:
            raise BadInput(f"{target}: cannot write: {error.strerror}") from error
        publish([staged], target)


def _summarize(name: str, array: np.ndarray, labels: np.ndarray | None) -> OutputReport:
    report = OutputReport(name, str(array.dtype), list(array.shape), None, None, None, None, None)
    if array.dtype.kind in "iufb" and array.size:
        report.least, report.largest = float(array.min()), float(array.max())
        report.mean = float(array.mean(dtype=np.float64))
    if array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] > 1:
        chosen = array.argmax(axis=1)
        classes, counts = np.unique(chosen, return_counts=True)
        report.classes = {str(c): int(n) for c, n in zip(classes, counts, strict=True)}
        if labels is not None and len(labels) == len(chosen):
            report.accuracy = float((chosen == labels).mean())
    return report


def print_run(report: RunReport, console: Console) -> None:
    """Print a row per output, and which classes won."""
    rows = table(f"Outputs of {Path(report.model).name} for {report.samples} samples")
    for column in ("name", "type", "shape"):
        rows.add_column(column, no_wrap=True, overflow="ellipsis", max_width=40)
    for column in ("least", "mean", "largest", "accuracy"):
        rows.add_column(column, justify="right")
    for item in report.outputs:
        figures = (f"{x:.4g}" if x is not None else "-" for x in (item.least, item.mean, item.largest))
        rows.add_row(Text(item.name), item.dtype, Text(str(item.shape)), *figures, percent_text(item.accuracy))
    console.print(rows, highlight=False)
    for item in report.outputs:
        if item.classes:
            often = sorted(item.classes.items(), key=lambda pair: -pair[1])
            shown = ", ".join(f"{name}: {count}" for name, count in often[:_CLASSES_SHOWN])
            more = f", and {len(often) - _CLASSES_SHOWN} more" if len(often) > _CLASSES_SHOWN else ""
            console.print(f"classes of {item.name} (class: samples)  {shown}{more}", highlight=False, markup=False)
