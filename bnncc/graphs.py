"""Questions to ONNX graphs: what depends on what; inner tensors as outputs and as inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import helper

from bnncc.errors import BadInput
from bnncc.model_io import walk_nodes


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


def fed(model: onnx.ModelProto, tensors: Iterable[str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return a copy whose nodes read these uint8 tensors from inputs of the graph, and the input for each tensor.

    The tensors are still made, so that they can be outputs.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = {tensor: f"{tensor}/given" for tensor in tensors}
    for node in copy.graph.node:
        node.input[:] = [inputs.get(name, name) for name in node.input]
    for name in inputs.values():
        copy.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None))
    return copy, inputs


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
