"""The pipeline: the reference model through all passes to a compiled model, with a record of what each did."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from bnncc.passes import graph as g
from bnncc.passes.base import LAYER_OPS, Context, LayerRecord, Note, Pass, SignTensor
from bnncc.passes.canonicalize_binarizers import CanonicalizeBinarizers
from bnncc.passes.canonicalize_weights import CanonicalizeWeights
from bnncc.passes.fold_batchnorm import FoldBatchNorm
from bnncc.passes.fuse_epilogues import FuseEpilogues
from bnncc.passes.lower import Lower
from bnncc.passes.order_filters import OrderFilters
from bnncc.passes.pack_weights import PackWeights
from bnncc.passes.prepare import default_opset, reference_model
from bnncc.passes.restore_signs import RestoreSigns
from bnncc.passes.simplify import Simplify
from bnncc.passes.thresholds import Thresholds
from bnncc.runtime.functions import DOMAIN, VERSION, functions_for

if TYPE_CHECKING:
    from bnncc.passes.binarize_weights import Binarization
    from bnncc.passes.cluster_channels import Compression


@dataclass
class PassRecord:
    """What one pass did."""

    name: str
    changed: bool
    notes: list[Note]
    seconds: float


@dataclass
class Outcome:
    """A compilation: the compiled model (no metadata yet), the reference it is compared with, and the records.

    Where a lossy pass was asked for, the reference is what the last of them left, and `original` what it was made from;
    else both are the same.
    """

    model: onnx.ModelProto
    reference: onnx.ModelProto
    original: onnx.ModelProto
    passes: list[PassRecord]
    layers: list[LayerRecord]
    sign_tensors: list[SignTensor]
    compression: Compression | None
    binarization: Binarization | None


def passes_for(config: Any) -> list[Pass]:
    """The passes that a config asks for, in an order that gives each what it requires."""
    passes: list[Pass] = [Simplify()]
    if config.tropnnc:
        from bnncc.passes.cluster_channels import ClusterChannels  # heavy to import, and seldom asked for
        from bnncc.passes.tropnnc.settings import read_settings

        passes.append(ClusterChannels(read_settings(config.tropnnc)))
    if config.binarize:
        from bnncc.passes.binarize_weights import BinarizeWeights, read_settings
        from bnncc.passes.calibrate import Calibrate

        settings = read_settings(config.binarize)
        passes.append(BinarizeWeights(settings))
        if settings.calibrate:
            passes.append(Calibrate())
    passes += [CanonicalizeBinarizers(), CanonicalizeWeights(), RestoreSigns(), Thresholds()]
    if config.fold_batchnorm:
        passes.append(FoldBatchNorm())
    if config.lower:
        passes.append(Lower())
        if config.fuse_epilogues:
            passes.append(FuseEpilogues())
        if config.tree:
            passes.append(OrderFilters())
        if config.pack_weights:
            passes.append(PackWeights())
    check_order(passes)
    return passes


def check_order(passes: list[Pass]) -> None:
    """Raise ValueError where a pass requires one that does not come before it: a mistake in the list of passes."""
    done: set[str] = set()
    for step in passes:
        missing = [name for name in step.requires if name not in done]
        if missing:
            raise ValueError(f"pass {step.name} requires {', '.join(missing)} before it")
        done.add(step.name)


def run_passes(
    model: onnx.ModelProto,
    config: Any,
    progress: Callable[[str], None] | None = None,
    dump: Callable[[str, onnx.ModelProto], None] | None = None,
    samples: Sequence[Mapping[str, np.ndarray]] | None = None,
) -> Outcome:
    """Compile a model. `progress` is told each pass's name; `dump` is given the model after each.

    `samples`: inputs by name, batch by batch, for passes that take statistics.

    Raises BadInput for a model that cannot be taken.
    """
    with G_LOGGER.suppress():  # onnx-graphsurgeon warns of large folded constants, which weights are
        return _run(model, config, progress, dump, samples)


def _run(
    model: onnx.ModelProto,
    config: Any,
    progress: Callable[[str], None] | None,
    dump: Callable[[str, onnx.ModelProto], None] | None,
    samples: Sequence[Mapping[str, np.ndarray]] | None,
) -> Outcome:
    start = time.perf_counter()
    original, changes = reference_model(model)
    reference = original
    records = [PassRecord("prepare", bool(changes), changes, time.perf_counter() - start)]
    context = Context(config=config, opset=default_opset(reference), progress=progress, samples=samples)
    graph = gs.import_onnx(reference)
    for step in passes_for(config):
        if progress is not None:
            progress(step.name)
        start = time.perf_counter()
        result = step.apply(graph, context)
        records.append(PassRecord(step.name, result.changed, result.notes, time.perf_counter() - start))
        if result.lossy:
            reference = _export(graph, original)
        if isinstance(step, Simplify):
            context.layers = _layers(graph, [node.name for node in reference.graph.node])
        if dump is not None:
            dump(step.name, _export(graph, reference))
    compiled = _export(graph, reference)
    for record in context.layers.values():
        record.size_after = record.size_after or record.size_before
    return Outcome(
        compiled,
        reference,
        original,
        records,
        list(context.layers.values()),
        context.sign_tensors,
        context.compression,
        context.binarization,
    )


def _export(graph: gs.Graph, reference: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as a model that carries the functions its custom ops need."""
    model = gs.export_onnx(graph, do_type_check=False)
    model.ir_version = reference.ir_version
    model.doc_string = reference.doc_string
    model.metadata_props.extend(reference.metadata_props)
    model.functions.extend(functions_for(model.graph, default_opset(reference)))
    if any(node.domain == DOMAIN for node in model.graph.node):
        imports = [entry for entry in model.opset_import if entry.domain != DOMAIN]
        del model.opset_import[:]
        model.opset_import.extend([*imports, onnx.helper.make_opsetid(DOMAIN, VERSION)])
    return model


def _layers(graph: gs.Graph, order: list[str]) -> dict[str, LayerRecord]:
    """One record per layer with constant weights, in the order of the model's node names."""
    layers = {}
    position = {name: index for index, name in enumerate(order)}
    for node in sorted(graph.nodes, key=lambda node: position.get(node.name, len(position))):
        weights = g.constant(node.inputs[1]) if node.op in LAYER_OPS and len(node.inputs) > 1 else None
        if weights is None:
            continue
        extra = [g.constant(tensor) for tensor in node.inputs[2:]]
        size = weights.nbytes + sum(values.nbytes for values in extra if values is not None)
        layers[node.name] = LayerRecord(node.name, node.op, int(weights.size), size)
    for node in g.nested_nodes(graph):
        weights = g.constant(node.inputs[1]) if node.op in LAYER_OPS and len(node.inputs) > 1 else None
        if weights is not None:
            reason = "inside a branch of If, Loop or Scan, which is left as it is"
            layers.setdefault(
                node.name, LayerRecord(node.name, node.op, int(weights.size), weights.nbytes, reason=reason)
            )
    return layers
