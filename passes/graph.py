"""Reading and editing the graph: small questions that several passes ask of onnx-graphsurgeon's IR."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from bnncc.errors import BadInput


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor; None for graph inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def constant(tensor: gs.Tensor) -> np.ndarray | None:
    """The values of a constant tensor, else None."""
    return tensor.values if isinstance(tensor, gs.Constant) else None


def is_graph_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether the tensor is one of the graph's outputs."""
    return any(output is tensor for output in graph.outputs)


def has_one_use(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Whether exactly one node of the graph itself, not of a branch, reads the tensor and it is no graph output."""
    return len(tensor.outputs) == 1 and not is_graph_output(graph, tensor) and is_own(graph, tensor.outputs[0])


def is_own(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether a node is the graph's own; nodes in the branches of If, Loop and Scan read outer tensors too."""
    return any(own is node for own in graph.nodes)


def nested_nodes(graph: gs.Graph) -> list[gs.Node]:
    """The nodes inside branches (If, Loop, Scan), at any depth."""
    inner: list[gs.Node] = []
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                inner += [*value.nodes, *nested_nodes(value)]
    return inner


def reads(node: gs.Node) -> list[gs.Tensor]:
    """The tensors that a node reads, those that its branches take from outside included."""
    tensors = list(node.inputs)
    for value in node.attrs.values():
        if isinstance(value, gs.Graph):
            for inner in value.nodes:
                tensors += reads(inner)
    return tensors


def optional_input(node: gs.Node, index: int) -> gs.Tensor | None:
    """An input that may be absent, or present with an empty name."""
    tensor = node.inputs[index] if len(node.inputs) > index else None
    return tensor if tensor is not None and tensor.name else None


def rank(tensor: gs.Tensor) -> int | None:
    """Number of axes, where it is known."""
    return None if tensor.shape is None else len(tensor.shape)


def static(dimension: object) -> int | None:
    """A dimension as a number where it is one (dynamic dimensions are strings or None)."""
    return int(dimension) if isinstance(dimension, int | np.integer) and dimension >= 0 else None


def channels(tensor: gs.Tensor) -> int | None:
    """The length of axis 1 where it is known."""
    return static(tensor.shape[1]) if tensor.shape is not None and len(tensor.shape) >= 2 else None


def filled_value(tensor: gs.Tensor) -> np.generic | None:
    """The one value that fills the tensor whatever its shape (constants, ones_like and full_like), else None."""
    values = constant(tensor)
    if values is not None:
        flat = np.asarray(values).reshape(-1)
        return flat[0] if flat.size and (flat == flat[0]).all() else None
    node = producer(tensor)
    if node is None:
        return None
    if node.op == "ConstantOfShape":
        value = node.attrs.get("value")
        if value is None:
            return np.float32(0)
        return np.asarray(value.values if isinstance(value, gs.Constant) else value).reshape(-1)[0]
    if node.op in ("Expand", "Identity", "Reshape", "Unsqueeze", "Squeeze"):
        return filled_value(node.inputs[0])
    return None


def broadcasts_into(operand: gs.Tensor, data: gs.Tensor) -> bool:
    """Whether combining data with an operand, element by element, certainly gives the shape of data."""
    values, node = constant(operand), producer(operand)
    shape = values.shape if values is not None else operand.shape
    if node is not None and node.op == "ConstantOfShape":  # full_like and ones_like
        source = producer(node.inputs[0])
        if source is not None and source.op == "Shape" and _same_shape(source.inputs[0], data):
            return True
    if shape is None:
        return False
    if data.shape is None:
        return len(shape) == 0 or all(size == 1 for size in shape)
    if len(shape) > len(data.shape):
        return False
    pairs = zip(shape, data.shape[len(data.shape) - len(shape) :], strict=True)
    return all(size == 1 or (size is not None and size == known) for size, known in pairs)


def _same_shape(a: gs.Tensor, b: gs.Tensor) -> bool:
    return same_value(a, b) or (a.shape is not None and None not in a.shape and a.shape == b.shape)


def channel_vector(tensor: gs.Tensor, data_rank: int | None) -> np.ndarray | None:
    """A constant that broadcasts along axis 1 of a tensor of the given rank, as [1] (one value) or [C]; else None."""
    value = filled_value(tensor)
    if value is not None:
        return np.asarray([value])
    values = constant(tensor)
    if values is None or data_rank is None or data_rank < 2 or values.ndim > data_rank:
        return None
    aligned = values.reshape((1,) * (data_rank - values.ndim) + values.shape)
    if aligned.size != aligned.shape[1]:
        return None
    return aligned.reshape(-1)


def per_channel_constant(name: str, values: np.ndarray, data_rank: int) -> gs.Constant:
    """A constant of values [1] or [C] shaped to broadcast along axis 1 of a tensor of the given rank."""
    shape = () if values.size == 1 else (values.size,) + (1,) * (data_rank - 2)
    return gs.Constant(name, np.ascontiguousarray(values).reshape(shape))


def constant_bytes(nodes: list[gs.Node]) -> int:
    """Bytes of the constants that nodes read."""
    return sum(t.values.nbytes for node in nodes for t in node.inputs if isinstance(t, gs.Constant))


def fresh_name(graph: gs.Graph, base: str) -> str:
    """`base`, or `base` with a number, not yet used by a tensor or node of the graph."""
    taken = graph.tensors().keys() | {node.name for node in graph.nodes}
    name, count = base, 1
    while name in taken:
        name, count = f"{base}_{count}", count + 1
    return name


def add_node(
    graph: gs.Graph,
    op: str,
    inputs: list[gs.Tensor],
    output: gs.Variable | str,
    *,
    attrs: dict | None = None,
    dtype: np.dtype | type | None = None,
    shape: list | tuple | None = None,
    domain: str | None = None,
    name: str | None = None,
) -> gs.Variable:
    """Append a node; `output` is an existing tensor that loses its producer, or the name of a new one."""
    if isinstance(output, str):
        output = gs.Variable(output, dtype=dtype, shape=shape)
    else:
        output.inputs.clear()
    node = gs.Node(op, name=name or output.name, attrs=attrs or {}, inputs=inputs, outputs=[output], domain=domain)
    graph.nodes.append(node)
    return output


def replace_uses(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    """Make every reader of `old` read `new`. The graph's outputs keep their tensors."""
    for node in list(old.outputs):
        for index, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[index] = new


def same_value(a: gs.Tensor, b: gs.Tensor) -> bool:
    """Whether two tensors are computed by equal expressions, so that they hold the same values."""
    if a is b:
        return True
    x, y = constant(a), constant(b)
    if x is not None or y is not None:
        return x is not None and y is not None and x.dtype == y.dtype and np.array_equal(x, y)
    p, q = producer(a), producer(b)
    if p is None or q is None or p.op != q.op or p.domain != q.domain or len(p.inputs) != len(q.inputs):
        return False
    return (
        p.attrs == q.attrs
        and p.outputs.index(a) == q.outputs.index(b)
        and all(same_value(s, t) for s, t in zip(p.inputs, q.inputs, strict=True))
    )


def tidy(graph: gs.Graph) -> None:
    """Drop what nothing reads and sort the nodes."""
    graph.cleanup(remove_unused_graph_inputs=False).toposort()


# Shape inference reads the values of small constants (axes, reshape targets), never those of weights.
_LARGEST_READ = 1 << 12  # bytes


def infer_shapes(graph: gs.Graph) -> None:
    """Fill in the shapes and types that follow from the graph as it is now.

    Raises BadInput where they contradict one another.
    """
    model = gs.export_onnx(graph, do_type_check=False)
    weights = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) > _LARGEST_READ]
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    skeleton.graph.name = model.graph.name
    skeleton.graph.node.extend(model.graph.node)
    skeleton.graph.input.extend(model.graph.input)
    skeleton.graph.output.extend(model.graph.output)
    skeleton.graph.value_info.extend(model.graph.value_info)
    large = {tensor.name for tensor in weights}
    skeleton.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in large)
    skeleton.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in weights
    )
    try:
        inferred = gs.import_onnx(onnx.shape_inference.infer_shapes(skeleton, data_prop=True)).tensors()
    except onnx.shape_inference.InferenceError as error:
        raise BadInput(f"shapes are inconsistent: {str(error).splitlines()[0]}") from error
    for name, tensor in graph.tensors().items():
        known = inferred.get(name)
        if isinstance(tensor, gs.Variable) and isinstance(known, gs.Variable):
            tensor.shape, tensor.dtype = known.shape, known.dtype
