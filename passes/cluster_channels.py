"""tropnnc: hidden channels of float ReLU layers that do nearly the same become one (passes/tropnnc).

A pass that changes what a network computes, so it runs before all that is exact.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.errors import BadInput
from bnncc.passes import graph as g
from bnncc.passes.base import LAYER_OPS, Context, Note, PassResult
from bnncc.passes.fold_batchnorm import FoldBatchNorm
from bnncc.passes.tropnnc import graph_layers
from bnncc.passes.tropnnc.compress import Change, OutOfReach, compress, find_layers, no_layers, reach
from bnncc.passes.tropnnc.cost import count_flops, count_params
from bnncc.passes.tropnnc.graph_layers import GraphLayer
from bnncc.passes.tropnnc.settings import Settings


@dataclass
class Compression:
    """What a compression did: `constant` is the distance's that reached a target; costs before and after."""

    settings: Settings
    changes: list[Change]
    params_before: int
    params_after: int
    flops_before: int | None
    flops_after: int | None
    constant: float | None = None


class ClusterChannels:
    """TropNNC on every hidden ReLU layer that it can be used on."""

    name = "tropnnc"
    requires = ("simplify",)
    guarantees = "hidden channels of float ReLU layers are as few as the settings ask for"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        """Compress the graph; the context's `compression` says what was done.

        Raises BadInput for weights that are not finite, where nothing can be compressed, for a pattern that no layer's
        name matches, and for a target out of reach.
        """
        _check_finite(graph)
        params, flops = count_params(graph), count_flops(graph)
        if self.settings.fold_first:
            FoldBatchNorm().apply(graph, context)
        layers, notes = self._layers(graph)
        if not layers:
            raise no_layers(notes)
        for layer in layers:
            _check_fused(layer)
        self._check_patterns([layer.first.name for layer in layers], notes)
        constant = self._solve(graph, params, flops, context.progress) if self.settings.is_target else None
        changes = compress(
            graph, layers, lambda name: self.settings.choice(name, constant), self.settings.radius, context.progress
        )
        context.compression = Compression(
            self.settings, changes, params, count_params(graph), flops, count_flops(graph), constant
        )
        notes += [
            Note(layer.first.name, f"{layer.activation.op}, not ReLU: clustering is a heuristic")
            for layer in layers
            if not layer.is_relu
        ]
        result = PassResult(any(change.after < change.before for change in changes), notes, lossy=True)
        _record_sizes(graph, context)
        return result

    def _layers(self, graph: gs.Graph) -> tuple[list[GraphLayer], list[Note]]:
        return find_layers(graph, self.settings.mode, self.settings.any_activation)

    def _check_patterns(self, names: list[str], notes: list[Note]) -> None:
        for pattern, *_ in self.settings.layers:
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                continue
            for note in notes:
                if fnmatch.fnmatchcase(note.node, pattern):
                    raise BadInput(f"tropnnc: {pattern!r}: '{note.node}' cannot be compressed: {note.text}")
            known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise BadInput(f"tropnnc: no layer that can be compressed is named {pattern!r}; there are {known}")

    def _solve(self, graph: gs.Graph, params: int, flops: int | None, progress: Callable[[str], None] | None) -> float:
        """The smallest constant, nearly, whose result costs no more than the target."""
        by_params = self.settings.amount == "target_params"
        if not by_params and flops is None:
            raise BadInput("tropnnc: target-flops needs the sizes of all tensors; fix them with an input shape")
        count, whole = (count_params, params) if by_params else (count_flops, flops)
        least = math.inf

        def cost(constant: float) -> int:
            nonlocal least
            if progress is not None:
                progress(f"tropnnc: trying {self.settings.threshold}={constant:.4g}")
            copy = graph.copy()
            compress(copy, self._layers(copy)[0], lambda name: self.settings.choice(name, constant))
            least = min(least, count(copy))
            return count(copy)

        found = reach(cost, self.settings.value * whole)
        if found is None:
            what, target = ("parameters", "target-params") if by_params else ("operations", "target-flops")
            raise OutOfReach(
                f"tropnnc: {target}={self.settings.value:g} cannot be reached: with as few channels as the settings "
                f"allow there are {least / whole:.3f} of the {what} left"
            )
        return found


def _check_finite(graph: gs.Graph) -> None:
    for node in graph.nodes:
        weights = g.constant(node.inputs[1]) if node.op in LAYER_OPS and len(node.inputs) > 1 else None
        if weights is not None and weights.dtype.kind == "f" and not np.isfinite(weights).all():
            raise BadInput(f"tropnnc: node '{node.name}': its weights are not all finite numbers")


def _check_fused(layer: GraphLayer) -> None:
    with np.errstate(all="ignore"):  # what comes of it is checked
        fused = graph_layers.fused_layer(layer)
    if not (np.isfinite(fused.extended).all() and np.isfinite(fused.outputs).all()):
        raise BadInput(
            f"tropnnc: node '{layer.first.name}': its weights and bias, with what follows up to the activation folded "
            "in, are not all finite numbers"
        )


def _record_sizes(graph: gs.Graph, context: Context) -> None:
    """Note in the layers' records what they have become."""
    for node in graph.nodes:
        record = context.layers.get(node.name)
        if record is not None and node.op in LAYER_OPS:
            constants = [values for tensor in node.inputs[1:] if (values := g.constant(tensor)) is not None]
            record.size_after = sum(values.nbytes for values in constants)
            record.weight_count = int(constants[0].size)
