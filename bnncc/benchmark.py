"""How long a call takes: two models called in turns in one process, so that a drifting machine slows both alike."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from bnncc.compiled_layers import compiled_layers, is_binary_layer
from bnncc.config import Config
from bnncc.data import Feeds, call_inputs, common_signature, model_inputs
from bnncc.errors import BadInput
from bnncc.layer_benchmark import time_layers
from bnncc.model_io import LoadedModel, load_model, one_line, runtime_errors, staging_folder, walk_nodes, write_model
from bnncc.profiling import profile_calls, profiling_options
from bnncc.reference import as_reference, runnable_file
from bnncc.report import BenchReport
from bnncc.runtime import selected_isa
from bnncc.session import OPTIMIZED, InferenceSession, session_options
from bnncc.timing import cpu_count, cpu_name, interleave, turn

_MOST_IN_A_ROW = 8


@dataclasses.dataclass(frozen=True)
class _Subject:
    """A model to time: the file to run, its name in reports, and what is in it."""

    file: Path
    name: str
    proto: onnx.ModelProto

    def session(self, threads: int, profiles: Path | None = None) -> InferenceSession:
        """Make a session, one that writes a profile to the folder `profiles` if there is one."""
        options = session_options(OPTIMIZED)
        if profiles is not None:
            profiling_options(options, profiles)
        try:
            return InferenceSession(str(self.file), threads=threads, sess_options=options)
        except BadInput as error:
            raise BadInput(str(error).replace(str(self.file), self.name)) from error


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
    profile: bool = False,
    layers: bool = False,
    in_a_row: int | None = None,
) -> BenchReport:
    """Time calls of a model, and of another one in turns with it, each under all of onnxruntime's optimizations.

    `batch` samples per call (None: 1, or what the model fixes), seeded noise or the first samples of the .npz file
    `data`; `threads` within an operator, 0 for as many as onnxruntime likes. A turn is `in_a_row` calls (None: eight,
    or fewer of models that take long) after one that is not counted, so that each model has its own caches; with 1,
    single calls alternate, which find the caches as the other model left them. Runs `repeats` calls of each, or for
    about `min_time` seconds in all. Models with quantizers that onnxruntime lacks are timed rewritten in standard ops.
    With `profile`, further calls tell how long each op takes; with `layers`, each binary layer of `model` is timed
    alone, `repeats` rounds or `min_time` seconds for all of them.

    Raises BadInput for files that cannot be used, for a batch that a model does not take, and with `layers` for a model
    without binary layers.
    """
    config = config or Config()
    if not 0 <= min_time < math.inf:
        raise BadInput(f"min_time is {min_time}, not a number of seconds")
    loaded = [load_model(path) for path in (model, against) if path is not None]
    with staging_folder(None) as folder:
        subjects = [_Subject(runnable_file(item, folder), str(item.path), _runnable(item)) for item in loaded]
        first = subjects[0]
        if layers and not any(map(is_binary_layer, first.proto.graph.node)):
            raise BadInput(f"{first.name}: has no binary layers to time, as compiled models have")
        feeds, size = _inputs(subjects, batch, data, config)
        report = _time(subjects, feeds, size, threads, data, repeats, min_time, progress, in_a_row)
        if profile:
            kernels = [
                {layer.node.name: layer.library.kernel for layer in compiled_layers(item.proto)} for item in subjects
            ]
            nodes = max(sum(1 for _ in walk_nodes(item.proto.graph)) for item in subjects)
            makers = [functools.partial(item.session, threads) for item in subjects]
            report.profile, *others = profile_calls(makers, feeds, nodes, kernels, folder, repeats)
            report.against_profile = others[0] if others else None
        if layers:
            report.layers = time_layers(first.proto, first.name, feeds, threads, repeats, min_time, progress)
    return report


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
        subjects = [_Subject(*compiled, proto), _Subject(reference_file, reference_name, reference)]
        feeds, size = _inputs(subjects, None, data, config)
        return _time(subjects, feeds, size, config.threads, data, None, min_time, progress, None)


def _runnable(model: LoadedModel) -> onnx.ModelProto:
    return model.proto if model.is_compiled else as_reference(model.proto, str(model.path))


def _time(
    subjects: list[_Subject],
    feeds: Feeds,
    batch: int,
    threads: int,
    data: str | os.PathLike[str] | None,
    repeats: int | None,
    min_time: float,
    progress: Callable[[str], None] | None,
    in_a_row: int | None,
) -> BenchReport:
    calls: list[Callable[[], object]] = []
    one_each = 0.0  # seconds
    for subject in subjects:
        session = subject.session(threads)
        calls.append(lambda s=session: s.run(None, feeds))
        try:
            calls[-1]()
            begun = time.perf_counter()
            calls[-1]()
            one_each += time.perf_counter() - begun
        except runtime_errors() as error:
            raise BadInput(f"{subject.name}: onnxruntime cannot run it: {one_line(error)}") from error
    if in_a_row is None:
        in_a_row = _in_a_row(one_each, min_time, repeats)
    rounds = None if repeats is None else -(-repeats // in_a_row)
    times = interleave([turn(call, in_a_row) for call in calls], rounds, min_time, progress, threads)
    medians = [float(np.median(series)) for series in times]
    ratio = pairwise = None
    if len(times) == 2:
        ratio = medians[1] / medians[0]
        pairwise = float(np.median(np.array(times[1]) / np.array(times[0])))
    return BenchReport(
        model=subjects[0].name,
        against=subjects[1].name if len(subjects) == 2 else None,
        median_ms=medians[0] * 1e3,
        against_median_ms=medians[1] * 1e3 if len(times) == 2 else None,
        ratio=ratio,
        pairwise_ratio=pairwise,
        min_ms=min(times[0]) * 1e3,
        against_min_ms=min(times[1]) * 1e3 if len(times) == 2 else None,
        repeats=len(times[0]),
        in_a_row=in_a_row,
        threads=threads,
        batch=batch,
        data=Path(data).name if data is not None else "seeded noise",
        device=cpu_name(),
        cpus=cpu_count(),
        isa=selected_isa(),
        onnxruntime=onnxruntime.__version__,
    )


def _in_a_row(seconds: float, min_time: float, repeats: int | None) -> int:
    """Calls of a turn, where one of each model takes so long and `min_time` is for ten rounds at least.

    With a given number of calls, turns that make just as many.
    """
    if repeats is not None:
        return max(count for count in range(1, _MOST_IN_A_ROW + 1) if repeats % count == 0)
    return max(1, min(_MOST_IN_A_ROW, int(min_time / 10 / seconds) - 1))


def _inputs(
    subjects: list[_Subject], batch: int | None, data: str | os.PathLike[str] | None, config: Config
) -> tuple[Feeds, int]:
    """Return the inputs of one call, and how many samples they are."""
    name = subjects[0].name
    if len(subjects) == 2:
        protos, names = zip(*((item.proto, item.name) for item in subjects), strict=True)
        signature = common_signature(*protos, config.input_shapes, names)
    else:
        signature = model_inputs(subjects[0].proto, config.input_shapes, name)
    return call_inputs(signature, batch, data, config.seed, name)
