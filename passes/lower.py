"""lower: canonical binary layers become custom ops that pass packed signs to one another.

Signs stay packed from a binarizer through pooling to every binary layer that reads them. A binarizer that compares
the dot product of a binary layer with integers is that layer's epilogue; one on a float tensor becomes Binarize.
What still needs the signs as floats reads them through UnpackSigns, and a layer that needs to give both gives both.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import binarizers
from bnncc.passes import binary_layers as bl
from bnncc.passes import graph as g
from bnncc.passes.affine import affine_tail
from bnncc.passes.base import Context, PassResult, SignTensor, Unsuitable
from bnncc.passes.geometry import UNCLEAR, behind_unclear_pools, conv_geometry, explicit_pads, has_unclear_size
from bnncc.runtime.functions import DOMAIN

MAX_FAN_IN = 1 << 24  # sums are exact in float32, and so in the function bodies


@dataclass
class _Layer:
    """A binary layer on its way to a custom op."""

    node: gs.Node
    weights: np.ndarray  # float32 +-1, output channel first
    attrs: dict
    packed: gs.Variable
    exact: bool = True  # the original's float sums are exact
    signs: gs.Variable | None = None  # the binarizer output that becomes the bit output
    comparison: binarizers.Comparison | None = None
    bits: gs.Variable | None = None


@dataclass
class _Packing:
    """Tensors of signs that exist packed and the planned layers, each by the identity of the float tensor they give."""

    packed: dict[int, gs.Variable] = field(default_factory=dict)
    tensors: dict[int, gs.Variable] = field(default_factory=dict)
    layers: dict[int, _Layer] = field(default_factory=dict)
    exact: dict[int, bool] = field(default_factory=dict)  # whether the signs compare exact sums
    reshaped: dict[str, int] = field(default_factory=dict)  # names of the same signs in another shape


class Lower:
    """Custom ops for canonical binary layers and for what lies between them."""

    name = "lower"
    requires = ("thresholds",)
    guarantees = "binary layers are ops of the domain bnncc on packed signs"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        result = PassResult()
        packing = _Packing()
        unclear = behind_unclear_pools(graph)
        for node in [node for node in graph.nodes if bl.is_binary(node)]:
            try:
                if id(node) in unclear:
                    raise Unsuitable(f"behind a pooling: {UNCLEAR}")
                layer = _plan(graph, node, packing)
            except Unsuitable as reason:
                result.note(node.name, str(reason))
                record = context.layers.get(node.name)
                if record is not None:
                    record.status, record.reason = "float", str(reason)
                continue
            record = context.layers.get(node.name)
            layer.exact = record is None or record.exact_sums
            packing.layers[id(node.outputs[0])] = layer
        _demote(context, packing)
        if not packing.layers:
            return result
        _pack_what_layers_give(graph, packing)
        for layer in packing.layers.values():
            _emit(graph, layer, context)
        _unpack_for_the_rest(graph, packing)
        g.tidy(graph)
        _record_sign_tensors(graph, packing, context)
        result.changed = True
        return result


def _demote(context: Context, packing: _Packing) -> None:
    """Layers that looked binary, but whose activations turned out not to be (restore-signs), stay as they are."""
    lowered = {layer.node.name for layer in packing.layers.values()}
    for record in context.layers.values():
        if record.status == "binary" and record.name not in lowered:
            record.status = "weight-binary"
            record.reason = "weights are binary, but the activations come from a Sign of values that can be exactly 0"


# ---- Packed signs ------------------------------------------------------------------------------------------


def _width(tensor: gs.Tensor) -> int:
    width = g.static(tensor.shape[-1]) if tensor.shape is not None and len(tensor.shape) else None
    if width is None:
        raise Unsuitable(f"the last axis of '{tensor.name}' is dynamic; fix it with an input shape")
    return width


def _packed(graph: gs.Graph, tensor: gs.Variable, packing: _Packing) -> gs.Variable:
    """The packed signs of a tensor of canonical signs, made if they do not exist yet."""
    if id(tensor) in packing.packed:
        return packing.packed[id(tensor)]
    node = g.producer(tensor)
    comparison = binarizers.match(tensor)
    if comparison is not None:
        packed = _packed_binarizer(graph, tensor, comparison, packing)
    elif node.op in ("MaxPool", "Mul"):
        packed = _packed_pool(graph, tensor, node, packing)
    else:
        raise Unsuitable(f"{node.op} '{node.name}' between the binarizer and the layer has no form on packed signs")
    packing.packed[id(tensor)] = packed
    packing.tensors[id(tensor)] = tensor
    packing.exact[id(tensor)] = _compares_exact_sums(tensor, packing)
    return packed


def _compares_exact_sums(tensor: gs.Variable, packing: _Packing) -> bool:
    """Whether the binarizer behind signs is the epilogue of a layer whose original sums are exact."""
    while (comparison := binarizers.match(tensor)) is None:
        tensor = g.producer(tensor).inputs[0]
    layer = packing.layers.get(id(comparison.source))
    return layer is not None and layer.exact


def _packed_shape(tensor: gs.Variable) -> list:
    return [*tensor.shape[:-1], (_width(tensor) + 7) // 8]


def _packed_binarizer(
    graph: gs.Graph, tensor: gs.Variable, comparison: binarizers.Comparison, packing: _Packing
) -> gs.Variable:
    name = g.fresh_name(graph, f"{tensor.name}_bits")
    layer = packing.layers.get(id(comparison.source))
    if layer is not None and layer.bits is None and _integral(comparison, layer):
        layer.signs, layer.comparison = tensor, comparison
        layer.bits = gs.Variable(name, dtype=np.uint8, shape=_packed_shape(tensor))
        return layer.bits
    threshold = gs.Constant(g.fresh_name(graph, f"{name}_threshold"), comparison.threshold.astype(np.float32))
    direction = gs.Constant(g.fresh_name(graph, f"{name}_direction"), comparison.direction.astype(np.int8))
    return g.add_node(
        graph, "Binarize", [comparison.source, threshold, direction], name, attrs={"nan_bit": comparison.nan_bit},
        dtype=np.uint8, shape=_packed_shape(tensor), domain=DOMAIN,
    )  # fmt: skip


def _integral(comparison: binarizers.Comparison, layer: _Layer) -> bool:
    """Whether the thresholds pass brought the comparison to integers, one per output channel or one for all."""
    thresholds = comparison.threshold
    return thresholds.size in (1, layer.weights.shape[0]) and bool((thresholds == np.rint(thresholds)).all())


def _packed_pool(graph: gs.Graph, tensor: gs.Variable, node: gs.Node, packing: _Packing) -> gs.Variable:
    """MaxPool of signs, or Mul(d) -> MaxPool -> Mul(d) with d = -1 in channels that take the minimum."""
    pool, direction = _match_pool(node)
    if pool is None or len(pool.attrs.get("kernel_shape", [])) != 2 or pool.attrs.get("storage_order", 0):
        raise Unsuitable(f"{node.op} '{node.name}' between the binarizer and the layer has no form on packed signs")
    source = pool.inputs[0] if direction is None else g.producer(pool.inputs[0]).inputs[0]
    if g.rank(source) != 4:
        raise Unsuitable(f"MaxPool '{pool.name}' of a tensor that is not [N, C, H, W]")
    if has_unclear_size(pool):
        raise Unsuitable(f"MaxPool '{pool.name}': {UNCLEAR}")
    packed = _packed(graph, source, packing)
    attrs = {
        "width": _width(source),
        "kernel_shape": list(pool.attrs["kernel_shape"]),
        "strides": list(pool.attrs.get("strides", [1, 1])),
        "dilations": list(pool.attrs.get("dilations", [1, 1])),
        "pads": explicit_pads(pool, source, pool.attrs["kernel_shape"]),
        "ceil_mode": int(pool.attrs.get("ceil_mode", 0)),
    }
    name = g.fresh_name(graph, f"{tensor.name}_bits")
    values = np.ones(1, np.int8) if direction is None else direction.astype(np.int8)
    constant = gs.Constant(g.fresh_name(graph, f"{name}_direction"), values)
    return g.add_node(graph, "MaxPoolSigns", [packed, constant], name, attrs=attrs, dtype=np.uint8,
                      shape=_packed_shape(tensor), domain=DOMAIN)  # fmt: skip


def _match_pool(node: gs.Node) -> tuple[gs.Node | None, np.ndarray | None]:
    """The MaxPool behind a node and its direction per channel (None: +1 everywhere)."""
    if node.op == "MaxPool":
        turn = g.producer(node.inputs[0])
        inner = None if turn is None or turn.op != "Mul" else g.channel_vector(turn.inputs[1], 4)
        return (node, None) if inner is None else (None, None)
    pool = g.producer(node.inputs[0])
    if pool is None or pool.op != "MaxPool":
        return None, None
    turn = g.producer(pool.inputs[0])
    if turn is None or turn.op != "Mul":
        return None, None
    inner, outer = (g.channel_vector(n.inputs[1], 4) for n in (turn, node))
    matches = inner is not None and outer is not None and np.array_equal(inner, outer) and np.isin(inner, (-1, 1)).all()
    return (pool, inner) if matches else (None, None)


# ---- Layers ------------------------------------------------------------------------------------------------


def _plan(graph: gs.Graph, node: gs.Node, packing: _Packing) -> _Layer:
    weights = bl.weights_of(node)
    if bl.fan_in(node) > MAX_FAN_IN:
        raise Unsuitable(f"{bl.fan_in(node)} products per output are more than the kernels count")
    if node.op == "Conv":
        attrs, source = conv_geometry(node, weights)
        packed = _packed(graph, source, packing)
        return _Layer(node, weights, attrs | {"width": _width(source)}, packed)
    source, passed = _before_reshapes(node.inputs[0])
    width = _width(source)
    features = np.prod([g.static(size) or 0 for size in source.shape[1:]], dtype=np.int64)
    if features != weights.shape[1]:
        raise Unsuitable(f"'{node.inputs[0].name}' is no plain flattening of '{source.name}'")
    packed = _packed(graph, source, packing)
    packing.reshaped.update((tensor.name, id(source)) for tensor in passed)
    return _Layer(node, weights, {"weight_shape": list(weights.shape), "width": width}, packed)


def _before_reshapes(tensor: gs.Tensor) -> tuple[gs.Tensor, list[gs.Tensor]]:
    """The tensor before the reshapes that end a sign path, and those after it: linear kernels flatten by themselves."""
    passed = []
    node = g.producer(tensor)
    while node is not None and node.op in bl.RESHAPING:
        passed.append(tensor)
        tensor = node.inputs[0]
        node = g.producer(tensor)
    return tensor, passed


def _pack_what_layers_give(graph: gs.Graph, packing: _Packing) -> None:
    """Signs that a binary layer can give are packed at once, also where only floats are read from them later.

    Then float readers unpack them, which moves a thirty-second of what comparing a float output would.
    """
    for node in list(graph.nodes):
        base = _base_signs(node)
        comparison = None if base is None else binarizers.match(base)
        if comparison is None or id(comparison.source) not in packing.layers:
            continue
        try:
            _packed(graph, node.outputs[0], packing)
        except Unsuitable:
            continue  # stays in float; the layer gives floats as well


def _base_signs(node: gs.Node) -> gs.Tensor | None:
    """The binarizer's output behind a node that gives it, or pools it."""
    if node.op == "Where":
        return node.outputs[0]
    if node.op in ("MaxPool", "Mul"):
        pool, direction = _match_pool(node)
        if pool is not None:
            path = bl.sign_path(pool.inputs[0] if direction is None else g.producer(pool.inputs[0]).inputs[0])
            return None if path is None else path.signs
    return None


def _emit(graph: gs.Graph, layer: _Layer, context: Context) -> None:
    """Replace a planned layer by its custom op."""
    node, dot = layer.node, layer.node.outputs[0]
    flip = np.ones(layer.weights.shape[0], np.float32)
    absorbed = 0  # bytes of the parameters that the op's own replace
    inputs: list[gs.Tensor] = []
    outputs: list[gs.Variable] = []
    if layer.bits is not None:
        # x <= t is -x >= -t: turn the filter, so that every channel compares upwards.
        flip = np.broadcast_to(layer.comparison.direction, flip.shape).astype(np.float32)
    if layer.bits is None or _float_readers(graph, layer):
        scale, shift, last, absorbed = affine_tail(
            graph, dot, _float_readers(graph, layer), flip.size, layer.weights.ndim
        )
        inputs += [
            gs.Constant(g.fresh_name(graph, f"{node.name}_scale"), _shortest(scale * flip)),
            gs.Constant(g.fresh_name(graph, f"{node.name}_shift"), _shortest(shift)),
        ]
        last.inputs.clear()
        outputs.append(last)
    if layer.bits is not None:
        threshold = (layer.comparison.threshold * flip).astype(np.int32)  # [1] * [M] is [M]
        inputs.append(gs.Constant(g.fresh_name(graph, f"{node.name}_threshold"), threshold))
        outputs.append(layer.bits)
    signs = (layer.weights * flip.reshape(-1, *(1,) * (layer.weights.ndim - 1))).reshape(flip.size, -1)
    packed = gs.Constant(g.fresh_name(graph, f"{node.name}_packed"), pack(signs))
    suffix = "" if layer.bits is None else "Dual" if len(outputs) == 2 else "Threshold"
    op = ("BinaryConv" if node.op == "Conv" else "BinaryLinear") + suffix
    name, node.name = node.name, f"{node.name}_float"
    graph.nodes.append(gs.Node(op, name, layer.attrs, [layer.packed, packed, *inputs], outputs, domain=DOMAIN))
    record = context.layers.get(name)
    if record is not None:
        record.size_before += absorbed
        record.compiled_node, record.weight_bits = name, 1
        record.size_after = packed.values.nbytes + sum(tensor.values.nbytes for tensor in inputs)
        positions = []
        if node.op == "Conv":
            positions = [g.static(size) for size in (dot.shape or ())[2:]]
            record.input_shape = [*(g.static(size) for size in layer.packed.shape[1:3]), layer.attrs["width"]]
        record.bit_ops_dense = int(np.prod([size or 0 for size in positions], dtype=np.int64)) * layer.weights.size


def pack(signs: np.ndarray) -> np.ndarray:
    """+-1 values [..., L] as packed signs uint8 [..., ceil(L / 8)]."""
    return np.packbits(signs > 0, axis=-1, bitorder="little")


def _shortest(values: np.ndarray) -> np.ndarray:
    """[M] as [1] where all values are equal."""
    values = np.asarray(values, np.float32)
    return values[:1] if (values == values[0]).all() else values


def _float_readers(graph: gs.Graph, layer: _Layer) -> list[gs.Node]:
    """Nodes that read the layer's dot product, other than the binarizer that became its bit output."""
    dot = layer.node.outputs[0]
    own: set[int] = set()
    if layer.signs is not None:
        tensor = g.producer(layer.signs).inputs[0]
        while tensor is not dot:
            own.add(id(g.producer(tensor)))
            tensor = g.producer(tensor).inputs[0]
    readers = [node for node in dot.outputs if id(node) not in own]
    if not readers and g.is_graph_output(graph, dot):
        return list(dot.outputs)
    return readers


# ---- What reads signs as floats ----------------------------------------------------------------------------


def _unpack_for_the_rest(graph: gs.Graph, packing: _Packing) -> None:
    """UnpackSigns for each tensor of signs that the outputs still need as floats."""
    pending, seen = [*graph.outputs, *(t for node in g.nested_nodes(graph) for t in node.inputs)], set()
    while pending:
        tensor = pending.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) in packing.packed:
            packed = packing.packed[id(tensor)]
            g.add_node(graph, "UnpackSigns", [packed], tensor, attrs={"width": _width(tensor)}, domain=DOMAIN,
                       name=g.fresh_name(graph, f"{tensor.name}_unpack"))  # fmt: skip
        pending += [source for node in tensor.inputs for source in node.inputs]


def _record_sign_tensors(graph: gs.Graph, packing: _Packing, context: Context) -> None:
    """Note for verification where the bits of each reference binarizer are."""
    present = graph.tensors()
    keys = {tensor.name: key for key, tensor in packing.tensors.items()} | packing.reshaped
    for name, key in keys.items():
        record, packed = context.binarizers.get(name), packing.packed[key]
        if record is not None and packed.name in present:
            width, exact = _width(packing.tensors[key]), packing.exact[key]
            context.sign_tensors.append(
                SignTensor(record.signs, record.source, record.threshold, packed.name, width, exact)
            )
