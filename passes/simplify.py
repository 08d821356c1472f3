"""simplify: what is computed from constants alone becomes a constant, and nodes that do nothing go.

Weights often arrive as expressions: Sign or Where on latent weights, Cast of int8, alpha * sign(W), Transpose. The
folding itself is onnx-graphsurgeon's, which evaluates with onnxruntime.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import graph as g
from bnncc.passes.base import Context, PassResult

# Not functions of their inputs.
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")


class Simplify:
    """Constant expressions evaluated, identities removed, shapes inferred."""

    name = "simplify"
    requires = ()
    guarantees = "weights, thresholds, reshape targets are constants; static shapes are known; no Identity or Dropout"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        before = len(graph.nodes)
        g.tidy(graph)
        g.infer_shapes(graph)
        for node in list(graph.nodes):
            if node.op == "Shape":
                _fold_shape(graph, node)
        graph.fold_constants(
            fold_shapes=False, recurse_subgraphs=False, error_ok=False, should_exclude_node=lambda n: n.op in _RANDOM
        )
        g.tidy(graph)
        for node in list(graph.nodes):
            if _does_nothing(node) and not g.is_graph_output(graph, node.outputs[0]):
                g.replace_uses(graph, node.outputs[0], node.inputs[0])
        g.tidy(graph)
        g.infer_shapes(graph)  # shapes computed by nodes are known only now
        return PassResult(changed=len(graph.nodes) != before)


def _fold_shape(graph: gs.Graph, node: gs.Node) -> None:
    """Make a static shape a constant; onnx-graphsurgeon's own folding overlooks the attributes start and end."""
    dims = node.inputs[0].shape
    if dims is None:
        return
    wanted = [g.static(dim) for dim in dims[node.attrs.get("start", 0) : node.attrs.get("end", len(dims))]]
    if None not in wanted and not g.is_graph_output(graph, node.outputs[0]):
        values = gs.Constant(g.fresh_name(graph, f"{node.outputs[0].name}_static"), np.array(wanted, np.int64))
        g.replace_uses(graph, node.outputs[0], values)


def _does_nothing(node: gs.Node) -> bool:
    if node.op == "Identity":
        return True
    if node.op != "Dropout" or any(output.outputs for output in node.outputs[1:]):
        return False
    mode = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    return mode is None or g.filled_value(mode) == 0
