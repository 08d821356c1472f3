"""Where windows of convolutions and pools lie: explicit padding, Pad nodes, and sizes that are not clear."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import graph as g
from bnncc.passes.base import Unsuitable

UNCLEAR = "the output size of this ceil_mode, auto_pad and dilations differs between ONNX and onnxruntime"


def has_unclear_size(pool: gs.Node) -> bool:
    """Whether ONNX and onnxruntime may disagree on a pool's size.

    They do where ceil_mode adds a window that starts outside the input (onnxruntime drops it, ONNX only from opset 22
    on), where auto_pad comes with ceil_mode, and where SAME padding comes with dilations.
    """
    if pool.op not in ("MaxPool", "AveragePool", "LpPool"):
        return False
    mode = pool.attrs.get("auto_pad", "NOTSET")
    kernel = pool.attrs.get("kernel_shape", [])
    dilations = pool.attrs.get("dilations", [1] * len(kernel))
    strides = pool.attrs.get("strides", [1] * len(kernel))
    if mode.startswith("SAME") and any(dilation != 1 for dilation in dilations):
        return True
    skips = any(s > (k - 1) * d + 1 for s, k, d in zip(strides, kernel, dilations, strict=True))
    explicit = any(pool.attrs.get("pads", []))
    return bool(pool.attrs.get("ceil_mode", 0)) and (explicit or skips or mode not in ("NOTSET", ""))


def behind_unclear_pools(graph: gs.Graph) -> set[int]:
    """Nodes whose input sizes depend on a pool of unclear size: the width that an op would carry may be wrong there."""
    pending = [node for node in graph.nodes if has_unclear_size(node)]
    behind: set[int] = set()
    while pending:
        for reader in (reader for output in pending.pop().outputs for reader in output.outputs):
            if id(reader) not in behind:
                behind.add(id(reader))
                pending.append(reader)
    return behind


def explicit_pads(node: gs.Node, source: gs.Tensor, kernel: list[int]) -> list[int]:
    """Explicit (top, left, bottom, right), or first begins and then ends of all axes, of a Conv or MaxPool."""
    mode, axes = node.attrs.get("auto_pad", "NOTSET"), len(kernel)
    if mode in ("NOTSET", ""):
        return list(node.attrs.get("pads", [0] * 2 * axes))
    if mode == "VALID":
        return [0] * 2 * axes
    begins, ends = [], []
    strides, dilations = node.attrs.get("strides", [1] * axes), node.attrs.get("dilations", [1] * axes)
    for size, extent, stride, dilation in zip(source.shape[2:], kernel, strides, dilations, strict=True):
        length = g.static(size)
        if length is None:
            raise Unsuitable(f"'{node.name}' has auto_pad {mode} on a dynamic size; fix it with an input shape")
        total = max(0, (-(-length // stride) - 1) * stride + (extent - 1) * dilation + 1 - length)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


def conv_geometry(node: gs.Node, weights: np.ndarray) -> tuple[dict, gs.Tensor]:
    """Attributes of a convolution with explicit padding, and the tensor before any Pad node.

    Raises Unsuitable where the padding is none that the kernels have.
    """
    source, explicit, value = node.inputs[0], np.zeros(4, np.int64), None
    while (pad := g.producer(source)) is not None and pad.op == "Pad":
        amounts, pad_value = _explicit_pad(pad)
        if value is not None and pad_value != value:
            raise Unsuitable(f"Pad '{pad.name}' and the padding after it have different values")
        explicit, value = explicit + amounts, pad_value
        source = pad.inputs[0]
    inner = np.asarray(explicit_pads(node, node.inputs[0], list(weights.shape[2:])))
    if (inner < 0).any() or (explicit < 0).any():
        raise Unsuitable("negative padding")
    if inner.any():
        if value not in (None, 0):
            raise Unsuitable("an explicit Pad with +-1 and zero padding in the convolution as well")
        value = 0
    attrs = {
        "weight_shape": list(weights.shape),
        "strides": list(node.attrs.get("strides", [1, 1])),
        "dilations": list(node.attrs.get("dilations", [1, 1])),
        "pads": [int(total) for total in inner + explicit],
        "group": int(node.attrs.get("group", 1)),
        "pad_value": int(value or 0),
    }
    return attrs, source


def _explicit_pad(pad: gs.Node) -> tuple[np.ndarray, int]:
    """Amounts (top, left, bottom, right) and value of a Pad node of an NCHW tensor."""
    amounts = g.constant(pad.inputs[1])
    value = g.filled_value(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2].name else 0
    axes = g.constant(pad.inputs[3]) if len(pad.inputs) > 3 and pad.inputs[3].name else np.arange(4)
    if amounts is None or axes is None or pad.attrs.get("mode", "constant") != "constant" or value not in (-1, 0, 1):
        raise Unsuitable(f"Pad '{pad.name}' is not a constant padding with 0, +1 or -1")
    begin, end = np.zeros(4, np.int64), np.zeros(4, np.int64)
    begin[axes], end[axes] = np.split(amounts, 2)
    if begin[:2].any() or end[:2].any():
        raise Unsuitable(f"Pad '{pad.name}' pads batch or channels")
    return np.array([begin[2], begin[3], end[2], end[3]]), int(value)
