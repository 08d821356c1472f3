"""The model that a compiled one is compared with: the original, in ops that onnxruntime has."""

from __future__ import annotations

from pathlib import Path

import onnx

from bnncc.errors import BadInput
from bnncc.model_io import LoadedModel, write_model
from bnncc.passes.prepare import KNOWN_DOMAINS, reference_model


def as_reference(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the model in ops that onnxruntime has. Raises BadInput, naming the model, where that cannot be."""
    try:
        return reference_model(model)[0]
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error


def runnable_file(model: LoadedModel, folder: Path) -> Path:
    """Return the model's own file, or where onnxruntime lacks its ops, one of the reference model."""
    known = {*KNOWN_DOMAINS, *(function.domain for function in model.proto.functions)}
    if model.is_compiled or {node.domain for node in model.proto.graph.node} <= known:
        return model.path
    file = folder / f"{len(list(folder.iterdir()))}.onnx"
    write_model(as_reference(model.proto, str(model.path)), file)
    return file
