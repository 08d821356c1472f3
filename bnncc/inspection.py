"""What is in a model: what is binary, what could be and why not; of a compiled file, what became of it."""

from __future__ import annotations

import json
import os
from typing import Any

from bnncc.config import Config
from bnncc.errors import BadInput
from bnncc.kernel_choice import describe_kernels
from bnncc.model_io import LoadedModel, load_model
from bnncc.onnxruntime_errors import one_line
from bnncc.pipeline import Progress, count_ops, inspect_original
from bnncc.report import LayerReport, NoteReport, PassReport, Report, SizeReport, from_dict, tree_totals
from bnncc.session import UNOPTIMIZED, InferenceSession, session_options


def inspect(model: str | os.PathLike[str], config: Config | None = None, progress: Progress | None = None) -> Report:
    """Inspect a model file. Raises BadInput for a file that cannot be used or whose metadata is damaged."""
    loaded = load_model(model)
    if loaded.is_compiled:
        return _inspect_compiled(loaded)
    return inspect_original(loaded, config or Config(), progress)


def _inspect_compiled(loaded: LoadedModel) -> Report:
    metadata = {entry.key: entry.value for entry in loaded.proto.metadata_props}
    layers = [
        from_dict(LayerReport, item, f"{loaded.path}: metadata bnncc.layers")
        for item in _parse_list(loaded, metadata, "bnncc.layers")
    ]
    passes = []
    for item in _parse_list(loaded, metadata, "bnncc.passes"):
        where = f"{loaded.path}: metadata bnncc.passes"
        record = from_dict(PassReport, item, where)
        record.notes = [from_dict(NoteReport, note, where) for note in record.notes]
        passes.append(record)
    nodes = {node.name for node in loaded.proto.graph.node}
    for layer in layers:
        if layer.compiled_node is not None and layer.compiled_node not in nodes:
            raise BadInput(
                f"{loaded.path}: layer {layer.name!r} should be the node {layer.compiled_node!r}, which is not there"
            )
    InferenceSession(loaded.path, sess_options=session_options(UNOPTIMIZED))  # refuses damaged ops
    describe_kernels(loaded.proto, layers)
    config = _parse(loaded, metadata, "bnncc.config")
    source_size = _parse(loaded, metadata, "bnncc.source_size")
    if not isinstance(config, dict) or not isinstance(source_size, int):
        raise BadInput(f"{loaded.path}: damaged metadata bnncc.config or bnncc.source_size")
    return Report(
        bnncc=metadata.get("bnncc.version", ""),
        model=str(loaded.path),
        output=None,
        source_sha256=metadata.get("bnncc.source_sha256", ""),
        config=config,
        layers=layers,
        passes=passes,
        size=SizeReport(source_size, loaded.size),
        compiled=True,
        ops=count_ops(loaded.proto),
        trees=tree_totals(layers),
    )


def _parse(loaded: LoadedModel, metadata: dict[str, str], key: str) -> Any:
    if key not in metadata:
        raise BadInput(f"{loaded.path}: has ops of bnncc, but no metadata {key}")
    try:
        return json.loads(metadata[key])
    except ValueError as error:
        raise BadInput(f"{loaded.path}: damaged metadata {key}: {one_line(error)}") from error


def _parse_list(loaded: LoadedModel, metadata: dict[str, str], key: str) -> list[Any]:
    value = _parse(loaded, metadata, key)
    if not isinstance(value, list):
        raise BadInput(f"{loaded.path}: damaged metadata {key}: not a list")
    return value
