"""What a network costs: its parameters and the floating-point operations of one sample."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import graph as g
from bnncc.passes.base import LAYER_OPS


def count_params(graph: gs.Graph) -> int:
    """Return the parameters as the paper's tables count them: weights, biases, scales and shifts of batch-norms.

    Additions of constants behind a layer are its bias. A tensor that several nodes read counts once. Running means and
    variances are not counted, nor constants of other ops.
    """
    seen: dict[int, int] = {}
    for node in graph.nodes:
        read = node.inputs[1:3] if node.op in (*LAYER_OPS, "BatchNormalization") else []
        if node.op == "Add" and any(getattr(g.producer(tensor), "op", None) in LAYER_OPS for tensor in node.inputs):
            read = node.inputs
        for tensor in read:
            values = g.constant(tensor)
            if values is not None:
                seen[id(tensor)] = int(values.size)
    return sum(seen.values())


def count_flops(graph: gs.Graph) -> int | None:
    """Return the operations of convolutions and matrix products on one sample: a product and a sum per weight used.

    None where a size that they depend on is not known.
    """
    total = 0
    for node in graph.nodes:
        weights = g.constant(node.inputs[1]) if node.op in LAYER_OPS and len(node.inputs) > 1 else None
        if weights is None:
            continue
        # Each output position of a convolution uses all weights; of a transposed one, each input position does.
        shape = (node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0]).shape
        if shape is None:
            return None
        sizes = [g.static(size) for size in (shape[2:] if "Conv" in node.op else shape[1:-1])]
        if None in sizes:
            return None
        total += 2 * int(weights.size) * int(np.prod(sizes, dtype=np.int64))
    return total
