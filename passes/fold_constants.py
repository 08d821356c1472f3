"""fold-constants: what is computed from constants alone becomes a constant.

Weights often arrive as expressions: Sign or Where on latent weights, Cast of int8, alpha * sign(W), Transpose. The
folding itself is onnx-graphsurgeon's, which evaluates with onnxruntime.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from bnncc.passes import graph as g
from bnncc.passes.base import Context, PassResult


class FoldConstants:
    """Constant expressions evaluated, shapes inferred."""

    name = "fold-constants"
    requires = ()
    guarantees = "weights, thresholds and reshape targets are constants; shapes are known where they are static"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        before = len(graph.nodes)
        g.tidy(graph)
        g.infer_shapes(graph)
        graph.fold_constants(fold_shapes=True, error_ok=False)
        g.tidy(graph)
        g.infer_shapes(graph)  # shapes computed by nodes are known only now
        return PassResult(changed=len(graph.nodes) != before)
