"""How long a call takes: two models called in turns in one process, so that a drifting machine slows both alike."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from bnncc.config import Config
from bnncc.data import Feeds, RandomSamples, Signature, common_signature, load_samples, model_inputs
from bnncc.errors import BadInput
from bnncc.model_io import LoadedModel, load_model, one_line, runtime_errors, staging_folder, write_model
from bnncc.reference import as_reference, runnable_file
from bnncc.report import BenchReport
from bnncc.runtime import selected_isa
from bnncc.session import OPTIMIZED, InferenceSession, session_options

_WARM_UP_CALLS = 3
_FEWEST_CALLS = 10
_MOST_CALLS = 10_000


def bench(
    model: str | os.PathLike[str],
    against: str | os.PathLike[str] | None = None,
    threads: int = 1,
    batch: int | None = None,
    data: str | os.PathLike[str] | None = None,
    repeats: int | None = None,
    min_time: float = 2.0,
    config: Config | None = None,
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Time calls of a model, and of another one in turns with it, each under all of onnxruntime's optimizations.

    `batch` samples per call (None: 1, or what the model fixes), seeded noise or the first samples of the .npz file
    `data`; `threads` within an operator, 0 for as many as onnxruntime likes. Runs `repeats` calls of each, or for about
    `min_time` seconds in all. Models with quantizers that onnxruntime lacks are timed rewritten in standard ops.

    Raises BadInput for files that cannot be used and for a batch that a model does not take.
    """
    config = config or Config()
    models = [load_model(path) for path in (model, against) if path is not None]
    with staging_folder(None) as folder:
        files = [(runnable_file(item, folder), str(item.path)) for item in models]
        protos = [_runnable(item) for item in models]
        return _time(files, protos, threads, batch, data, repeats, min_time, config, progress)


def bench_models(
    compiled: tuple[Path, str],
    reference: onnx.ModelProto,
    reference_name: str,
    config: Config,
    data: str | os.PathLike[str] | None = None,
    min_time: float = 2.0,
    progress: Callable[[str], None] | None = None,
) -> BenchReport:
    """Time a compiled file, given as (file, the name to report), against a model in memory, one sample a call."""
    with staging_folder(None) as folder:
        reference_file = folder / "reference.onnx"
        write_model(reference, reference_file)
        proto = onnx.load(str(compiled[0]), load_external_data=False)
        return _time(
            [compiled, (reference_file, reference_name)],
            [proto, reference],
            config.threads,
            None,
            data,
            None,
            min_time,
            config,
            progress,
        )


def _runnable(model: LoadedModel) -> onnx.ModelProto:
    return model.proto if model.is_compiled else as_reference(model.proto, str(model.path))


def _time(
    files: list[tuple[Path, str]],
    protos: list[onnx.ModelProto],
    threads: int,
    batch: int | None,
    data: str | os.PathLike[str] | None,
    repeats: int | None,
    min_time: float,
    config: Config,
    progress: Callable[[str], None] | None,
) -> BenchReport:
    name = files[0][1]
    if len(files) == 2:
        signature = common_signature(protos[0], protos[1], config.input_shapes, (name, files[1][1]))
    else:
        signature = model_inputs(protos[0], config.input_shapes, name)
    feeds, size = _feeds(signature, batch, data, config, name)
    calls: list[Callable[[], object]] = []
    for file, shown in files:
        options = session_options(OPTIMIZED)
        # Idle threads of one session would otherwise spin through the beginning of the other's call.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = InferenceSession(str(file), threads=threads, sess_options=options)
        except BadInput as error:
            raise BadInput(str(error).replace(str(file), shown)) from error
        calls.append(lambda s=session: s.run(None, feeds))
        try:
            calls[-1]()
        except runtime_errors() as error:
            raise BadInput(f"{shown}: onnxruntime cannot run it: {one_line(error)}") from error
    times = _interleave(calls, repeats, min_time, progress)
    medians = [float(np.median(series)) for series in times]
    ratio = pairwise = None
    if len(times) == 2:
        ratio = medians[1] / medians[0]
        pairwise = float(np.median(np.array(times[1]) / np.array(times[0])))
    return BenchReport(
        model=name,
        against=files[1][1] if len(files) == 2 else None,
        median_ms=medians[0] * 1e3,
        against_median_ms=medians[1] * 1e3 if len(times) == 2 else None,
        ratio=ratio,
        pairwise_ratio=pairwise,
        min_ms=min(times[0]) * 1e3,
        against_min_ms=min(times[1]) * 1e3 if len(times) == 2 else None,
        repeats=len(times[0]),
        threads=threads,
        batch=size,
        data=Path(data).name if data is not None else "seeded noise",
        device=cpu_name(),
        isa=selected_isa(),
        onnxruntime=onnxruntime.__version__,
    )


def _feeds(
    signature: Signature, batch: int | None, data: str | os.PathLike[str] | None, config: Config, name: str
) -> tuple[Feeds, int]:
    """Return the inputs of one call, and how many samples they are."""
    signature.check_batch(batch, name)
    size = signature.fixed_batch or batch or 1
    if data is None:
        return RandomSamples(signature, size, config.seed).rows(0, size), size
    samples = load_samples(data, signature)
    if samples.count < size:
        raise BadInput(f"{data}: holds {samples.count} samples, a batch of {size} was asked for")
    return next(samples.batches(size))[0], size


def _interleave(
    calls: list[Callable[[], object]],
    repeats: int | None,
    min_time: float,
    progress: Callable[[str], None] | None,
) -> list[list[float]]:
    """Seconds of each call, in rounds that run every model once, after a warm-up."""
    for _ in range(_WARM_UP_CALLS):
        for call in calls:
            call()
    times: list[list[float]] = [[] for _ in calls]
    begun = shown = time.perf_counter()
    while True:
        done = len(times[0])
        now = time.perf_counter()
        if repeats is not None:
            if done >= repeats:
                return times
        elif done >= _MOST_CALLS or (done >= _FEWEST_CALLS and now - begun >= min_time):
            return times
        if progress is not None and now - shown > 0.2:
            progress(f"bench: {done} rounds, {now - begun:.1f} s")
            shown = now
        for call, series in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            series.append(time.perf_counter() - start)


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
