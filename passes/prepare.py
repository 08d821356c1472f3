"""The reference model: the user's model made runnable by plain onnxruntime and nameable, its arithmetic untouched.

Foreign quantizers become standard ops, the default opset is raised to what the function bodies need, initializers
that old exporters list among the graph inputs are constants, and every node has a unique name. Compilation starts
from this model and verification compares with it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.inliner
from onnx import helper, numpy_helper, version_converter

from bnncc.errors import BadInput
from bnncc.passes.base import Note
from bnncc.runtime.functions import DOMAIN, MIN_OPSET

# BipolarQuant(x, scale) is +scale where x >= 0, else -scale, in each of these (QONNX, Brevitas, FINN).
QUANTIZER_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
STANDARD_DOMAINS = ("", "ai.onnx")
# Computed by onnxruntime itself.
KNOWN_DOMAINS = (*STANDARD_DOMAINS, "ai.onnx.ml", "com.microsoft")


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the default operator set that the model imports."""
    for entry in model.opset_import:
        if entry.domain in STANDARD_DOMAINS:
            return entry.version
    raise BadInput("the model imports no version of the standard operator set")


def reference_model(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Note]]:
    """A copy of the model as described above, and what had to be changed.

    Raises BadInput for ops of unknown domains, a file that is compiled already, and opsets that cannot be converted.
    """
    if any(node.domain == DOMAIN for node in model.graph.node):
        raise BadInput("the model is compiled already: it holds ops of the domain 'bnncc'")
    notes: list[Note] = []
    if model.functions:
        reference = onnx.inliner.inline_local_functions(model)
        notes.append(Note("", f"{len(model.functions)} functions of the model inlined"))
    else:
        reference = onnx.ModelProto()
        reference.CopyFrom(model)
    _check_domains(reference)
    _name_nodes(reference.graph)
    _constants_as_tensors(reference.graph)
    opset = default_opset(reference)
    quantizers = _rewrite_bipolar_quant(reference.graph, opset)
    if quantizers:
        notes.append(Note("", f"{quantizers} BipolarQuant written as Where"))
    for domain in QUANTIZER_DOMAINS:
        _drop_opset_import(reference, domain)
    if opset < MIN_OPSET:
        reference = _raise_opset(reference)
        _name_nodes(reference.graph)
        notes.append(Note("", f"opset {opset} raised to {MIN_OPSET}"))
    dropped = _drop_initializer_inputs(reference)
    if dropped:
        notes.append(Note("", f"{dropped} graph inputs that have initializers are constants now"))
    return reference, notes


def _check_domains(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        quantizer = node.domain in QUANTIZER_DOMAINS and node.op_type == "BipolarQuant"
        if node.domain not in KNOWN_DOMAINS and not quantizer:
            raise BadInput(
                f"node '{node.name or node.output[0]}': op {node.op_type} of the domain '{node.domain}' is not known"
            )


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a unique name; those that have one keep it where it is the first of its kind."""
    taken: set[str] = set()
    unnamed = []
    for node in graph.node:
        if not node.name or node.name in taken:
            unnamed.append(node)
        else:
            taken.add(node.name)
    for node in unnamed:
        node.name = _unused(node.name or f"{node.op_type}_{node.output[0]}", taken)


def _constants_as_tensors(graph: onnx.GraphProto) -> None:
    """Constant with value_float(s) or value_int(s) as one with a tensor: onnx-graphsurgeon would read doubles."""
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for node in graph.node:
        attribute = node.attribute[0] if node.op_type == "Constant" and node.attribute else None
        if attribute is not None and attribute.name in dtypes:
            values = np.array(helper.get_attribute_value(attribute), dtypes[attribute.name])
            tensor = numpy_helper.from_array(values, node.output[0])
            attribute.CopyFrom(helper.make_attribute("value", tensor))


def _rewrite_bipolar_quant(graph: onnx.GraphProto, opset: int) -> int:
    """BipolarQuant(x, scale) as Where(x >= 0, scale, -scale); returns how many there were."""
    nodes = list(graph.node)
    count = sum(node.domain in QUANTIZER_DOMAINS for node in nodes)
    if count:
        del graph.node[:]
        taken = _names(nodes) | {tensor.name for tensor in (*graph.initializer, *graph.input, *graph.output)}
        for node in nodes:
            graph.node.extend(_bipolar_quant(node, opset, taken) if node.domain in QUANTIZER_DOMAINS else [node])
    return count


def _names(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """All names of tensors and nodes, those inside branches included."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input, node.output, [node.name])
        for attribute in node.attribute:
            graphs = (
                [*attribute.graphs, attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            )
            for graph in graphs:
                names |= _names(graph.node) | {tensor.name for tensor in (*graph.initializer, *graph.input)}
    return names


def _bipolar_quant(node: onnx.NodeProto, opset: int, taken: set[str]) -> Iterable[onnx.NodeProto]:
    if opset < 9:
        raise BadInput(f"node '{node.name}': BipolarQuant needs opset 9 or later, the model has {opset}")
    if len(node.input) != 2:
        raise BadInput(f"node '{node.name}': BipolarQuant takes x and scale, not {len(node.input)} inputs")
    x, scale = node.input
    zero, below, negative = (_unused(f"{node.name}_{suffix}", taken) for suffix in ("zero", "below", "negative"))
    zero_value = numpy_helper.from_array(np.zeros((), np.float32), zero)
    yield helper.make_node("Constant", [], [zero], name=zero, value=zero_value)
    yield helper.make_node("Less", [x, zero], [below], name=below)
    yield helper.make_node("Neg", [scale], [negative], name=negative)
    yield helper.make_node("Where", [below, negative, scale], list(node.output), name=node.name)


def _unused(base: str, taken: set[str]) -> str:
    """`base`, or `base` with a number; taken from now on."""
    name, count = base, 1
    while name in taken:
        name, count = f"{base}_{count}", count + 1
    taken.add(name)
    return name


def _drop_opset_import(model: onnx.ModelProto, domain: str) -> None:
    kept = [entry for entry in model.opset_import if entry.domain != domain]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = default_opset(model)
    # The converter loses initializers that are no graph inputs below IR version 4, so let it see a later one.
    model.ir_version = max(model.ir_version, 8)
    try:
        return version_converter.convert_version(model, MIN_OPSET)
    except (RuntimeError, version_converter.ConvertError) as error:
        raise BadInput(f"opset {opset} cannot be converted to {MIN_OPSET}: {str(error).splitlines()[0]}") from error


def _drop_initializer_inputs(model: onnx.ModelProto) -> int:
    """Initializers are constants: compiling bakes them in, so they stop being overridable inputs. Returns how many."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in initializers]
    dropped = len(model.graph.input) - len(kept)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 8)
    return dropped
