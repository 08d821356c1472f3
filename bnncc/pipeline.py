"""Compilation from end to end: load, run the passes, verify, measure if a gate asks, and only then write."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import checker, shape_inference

from bnncc import __version__, model_io
from bnncc.benchmark import bench_models
from bnncc.config import Config
from bnncc.data import FileSamples, call_inputs, load_samples, model_inputs, with_input_shapes
from bnncc.errors import BadInput, GateFailed
from bnncc.gates import bench_gates, failures, layer_gates, verify_gates
from bnncc.kernel_choice import describe_kernels, tune
from bnncc.model_io import (
    LoadedModel,
    check_output_path,
    load_model,
    publish,
    save_model,
    staging_folder,
    walk_nodes,
    write_model,
)
from bnncc.onnxruntime_errors import one_line, runtime_errors
from bnncc.passes.calibrate import MOST_SAMPLES
from bnncc.passes.pipeline import Outcome, run_passes
from bnncc.reference import runnable_file
from bnncc.report import (
    LayerSensitivity,
    Report,
    SizeReport,
    binarization_report,
    clustering_report,
    layer_reports,
    pass_reports,
    tree_totals,
)
from bnncc.runtime.functions import DOMAIN
from bnncc.sensitivity import SAMPLES, measure_sensitivity
from bnncc.session import UNOPTIMIZED, InferenceSession, session_options
from bnncc.sign_tensors import SIGN_TENSORS_KEY, sign_tensors_to_json
from bnncc.verification import compare

Progress = Callable[[str], None]

# Samples at a time where statistics and sensitivities are taken: their activations have to fit into memory.
_BATCH = 50


@dataclasses.dataclass
class CompileResult:
    """What `bnncc.compile` gives back: the report, and the compiled model as a proto."""

    report: Report
    model: onnx.ModelProto


def compile(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    config: Config | None = None,
    data: str | os.PathLike[str] | None = None,
    dump_passes: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> CompileResult:
    """Compile the binary layers of an ONNX file.

    `output`: where the compiled file goes (None: nowhere, it is only returned); `data`: an .npz file of real inputs, to
    verify, measure and calibrate on; `dump_passes`: a folder for the model after each pass; `progress`: called with a
    line on what is going on.

    Raises BadInput for a model, file or option that cannot be used, and GateFailed, with the report, when the
    compiled model does not agree with the original or a gate fails. After either, `output` is as it was before.
    """
    config = config or Config()
    say = progress or (lambda text: None)
    started = time.perf_counter()
    loaded, target = _open(model, output, data)
    samples = None
    if config.binarize and data is not None:
        samples = load_samples(data, model_inputs(loaded.proto, config.input_shapes, str(loaded.path)))
    outcome = _run_passes(loaded, config, dump_passes, say, samples)
    compiled: onnx.ModelProto = outcome.model
    layers, passes = layer_reports(outcome.layers), pass_reports(outcome.passes)
    if config.tune:
        name = str(loaded.path)
        signature = model_inputs(compiled, config.input_shapes, name)
        feeds, batch = call_inputs(signature, config.tune_batch, data, config.seed, name)
        tune(compiled, layers, name, feeds, batch, say)
    _set_metadata(
        compiled,
        {
            "bnncc.version": __version__,
            "bnncc.source_sha256": loaded.source_sha256,
            "bnncc.source_size": str(loaded.size),
            "bnncc.config": json.dumps(config.to_dict()),
            "bnncc.passes": json.dumps([dataclasses.asdict(item) for item in passes]),
            "bnncc.layers": json.dumps([dataclasses.asdict(item) for item in layers]),
            SIGN_TENSORS_KEY: sign_tensors_to_json(outcome.sign_tensors),
        },
    )
    describe_kernels(compiled, layers)  # after the metadata: another machine may have other kernels
    report = Report(
        bnncc=__version__,
        model=str(loaded.path),
        output=str(target) if target else None,
        source_sha256=loaded.source_sha256,
        config=config.to_dict(),
        layers=layers,
        passes=passes,
        size=SizeReport(loaded.size, None),
        compiled=False,
        ops=count_ops(compiled),
        trees=tree_totals(layers),
        tropnnc=clustering_report(outcome.compression, config.tropnnc),
        binarize=binarization_report(
            outcome.binarization, _sensitivities(str(loaded.path), outcome, samples, config, say)
        ),
    )
    result_name = str(target) if target else f"compiled {loaded.path.name}"
    with staging_folder(target) as folder:
        say("writing")
        files = write_model(compiled, folder / (target.name if target else "compiled.onnx"))
        report.size.after = sum(file.stat().st_size for file in files)
        if config.verify:
            say("verify")
            report.verify = compare(
                outcome.reference,
                compiled,
                outcome.sign_tensors,
                names=(str(loaded.path), result_name),
                data=data,
                config=config,
                progress=progress,
            )
        is_lossy = outcome.reference is not outcome.original
        if config.verify and is_lossy:
            say("comparing with the original")
            report.change = compare(
                outcome.original,
                outcome.reference,
                None,
                names=(str(loaded.path), f"{loaded.path.name} after what is lossy"),
                data=data,
                config=config,
                progress=progress,
                max_rel_diff=math.inf,
            )
            if report.tropnnc is not None:
                report.tropnnc.change = report.change
        judged = report.change if is_lossy else report.verify
        report.gates = [*layer_gates(config, layers), *verify_gates(config, judged)]
        if config.min_speedup is not None or (config.verify and report.tropnnc is not None):
            say("bench")
            report.bench = bench_models(
                (files[-1], result_name), outcome.original, str(loaded.path), config, data, progress=progress
            )
            report.gates += bench_gates(config, report.bench)
        report.seconds = time.perf_counter() - started
        _refuse_failures(report, target)
        if target is not None:
            publish(files, target)
    return CompileResult(report, compiled)


def _open(
    model: str | os.PathLike[str], output: str | os.PathLike[str] | None, data: str | os.PathLike[str] | None
) -> tuple[LoadedModel, Path | None]:
    loaded = load_model(model)
    if loaded.is_compiled:
        raise BadInput(f"{loaded.path}: was compiled by bnncc already; compile the original")
    if output is None:
        return loaded, None
    inputs = [loaded.path, *loaded.external_files] + ([Path(data)] if data is not None else [])
    return loaded, check_output_path(output, inputs)


def _run_passes(
    loaded: LoadedModel,
    config: Config,
    dump_passes: str | os.PathLike[str] | None,
    say: Progress,
    samples: FileSamples | None = None,
) -> Outcome:
    dump = None
    if dump_passes is not None:
        folder = Path(dump_passes)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{folder}: cannot make the folder: {error.strerror}") from error
        count = 0

        def dump(name: str, after: onnx.ModelProto) -> None:
            nonlocal count
            count += 1
            save_model(after, folder / f"{count:02d}-{name}.onnx", [loaded.path, *loaded.external_files])

    if loaded.proto.ByteSize() > model_io.LARGEST_PROTO:
        raise BadInput(f"{loaded.path}: over 2 GB with its weights, which is more than ONNX's shape inference takes")
    _check_loads(loaded)
    model = with_input_shapes(loaded.proto, config.input_shapes, str(loaded.path))
    running = "prepare"

    def begin(name: str) -> None:
        nonlocal running
        running = name
        say(name)

    try:
        batches = None if samples is None else samples.first(MOST_SAMPLES, _BATCH)
        return run_passes(model, config, progress=begin, dump=dump, samples=batches)
    except BadInput as error:
        raise BadInput(f"{loaded.path}: {error}") from error
    except (*runtime_errors(), checker.ValidationError, shape_inference.InferenceError) as error:
        # The passes call onnx and onnxruntime, to infer shapes and to fold constants: what those refuse of a model.
        raise BadInput(f"{loaded.path}: pass {running}: {one_line(error)}") from error


def _sensitivities(
    name: str, outcome: Outcome, samples: FileSamples | None, config: Config, say: Progress
) -> dict[str, LayerSensitivity] | None:
    """What each binarized layer costs by itself, where there is data to tell by and results are compared at all."""
    if samples is None or not config.verify:
        return None
    try:
        return measure_sensitivity(outcome.binarization, samples.first(SAMPLES, _BATCH), samples.labels, config, say)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error
    except runtime_errors() as error:
        raise BadInput(f"{name}: onnxruntime cannot run it: {one_line(error)}") from error


def _check_loads(loaded: LoadedModel) -> None:
    """Refuse what onnxruntime refuses before the passes see it: they rely on shapes and types that fit together."""
    with staging_folder(None) as folder:
        file = runnable_file(loaded, folder)
        try:
            InferenceSession(file, sess_options=session_options(UNOPTIMIZED), library=False)
        except BadInput as error:
            raise BadInput(str(error).replace(str(file), str(loaded.path))) from error


def inspect_original(loaded: LoadedModel, config: Config, progress: Progress | None) -> Report:
    """Report what the passes would make of a model, without writing anything."""
    started = time.perf_counter()
    if config.binarize:
        config = config.replace(binarize={**config.binarize, "calibrate": False})  # which takes data
    outcome = _run_passes(loaded, config, None, progress or (lambda text: None))
    layers = layer_reports(outcome.layers)
    describe_kernels(outcome.model, layers)
    return Report(
        bnncc=__version__,
        model=str(loaded.path),
        output=None,
        source_sha256=loaded.source_sha256,
        config=config.to_dict(),
        layers=layers,
        passes=pass_reports(outcome.passes),
        size=SizeReport(loaded.size, None),
        compiled=False,
        ops=count_ops(outcome.model),
        trees=tree_totals(layers),
        tropnnc=clustering_report(outcome.compression, config.tropnnc),
        binarize=binarization_report(outcome.binarization),
        seconds=time.perf_counter() - started,
    )


def count_ops(model: onnx.ModelProto) -> dict[str, int]:
    """Count the nodes of domain bnncc by type."""
    return dict(collections.Counter(node.op_type for node in walk_nodes(model.graph) if node.domain == DOMAIN))


def _refuse_failures(report: Report, target: Path | None) -> None:
    causes = []
    if report.verify is not None and not report.verify.passed:
        causes.append(f"verification failed: {'; '.join(report.verify.failures)}")
    causes += failures(report.gates)
    if causes:
        written = ""
        if target is not None:
            written = f"; {target} was not written" + (" (the older file is unchanged)" if target.exists() else "")
        raise GateFailed(f"{report.model}: {'; '.join(causes)}{written}", report)


def _set_metadata(model: onnx.ModelProto, entries: dict[str, str]) -> None:
    kept = [(entry.key, entry.value) for entry in model.metadata_props if entry.key not in entries]
    del model.metadata_props[:]
    for key, value in [*kept, *entries.items()]:
        model.metadata_props.add(key=key, value=value)
