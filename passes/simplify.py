"""simplify: what is computed from constants alone becomes a constant, and nodes that do nothing go.

Weights often arrive as expressions: Sign or Where on latent weights, Cast of int8, alpha * sign(W), Transpose. The
folding itself is onnx-graphsurgeon's, which evaluates with onnxruntime.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from bnncc.passes import graph as g
from bnncc.passes.base import Context, PassResult


class Simplify:
    """Constant expressions evaluated, identities removed, shapes inferred."""

    name = "simplify"
    requires = ()
    guarantees = "weights, thresholds, reshape targets are constants; static shapes are known; no Identity or Dropout"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        before = len(graph.nodes)
        g.tidy(graph)
        g.infer_shapes(graph)
        graph.fold_constants(fold_shapes=True, error_ok=False)
        for node in list(graph.nodes):
            if _does_nothing(node) and not g.is_graph_output(graph, node.outputs[0]):
                g.replace_uses(graph, node.outputs[0], node.inputs[0])
        g.tidy(graph)
        g.infer_shapes(graph)  # shapes computed by nodes are known only now
        return PassResult(changed=len(graph.nodes) != before)


def _does_nothing(node: gs.Node) -> bool:
    if node.op == "Identity":
        return True
    if node.op != "Dropout" or any(output.outputs for output in node.outputs[1:]):
        return False
    mode = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    return mode is None or g.filled_value(mode) == 0
