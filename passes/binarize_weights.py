"""binarize-weights: the weights of trained float layers become two values per filter (passes/two_values.py).

Without training. A lossy pass, so it runs before all that is exact. Layers behind a binarizer become binary layers by
it, as trained ones do; the others keep their float arithmetic, and passes/pack_weights.py packs their weights.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.errors import BadInput
from bnncc.passes import binary_layers as bl
from bnncc.passes import graph as g
from bnncc.passes.base import LAYER_OPS, Context, Note, PassResult
from bnncc.passes.canonicalize_weights import factor
from bnncc.passes.two_values import METHODS

_NAMES_SHOWN = 8
_WEIGHTS_AT_ONCE = 1 << 22  # the methods' float64 copies of them take a few hundred MB
_IS_BINARY = "its weights take two values per filter already"


@dataclass(frozen=True)
class Settings:
    """method: one of METHODS; layers: patterns of names, none for the default; calibrate: see passes/calibrate.py."""

    method: str
    layers: tuple[str, ...] = ()
    calibrate: bool = False


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Read {"method": "dab", "layers": ["conv2*"], "calibrate": true}. Raises BadInput for anything else."""
    for name in values:
        if name not in ("method", "layers", "calibrate"):
            raise BadInput(f"binarize: unknown option {name!r}; known: method, layers, calibrate")
    method, layers, calibrate = values.get("method"), values.get("layers", ()), values.get("calibrate", False)
    if not isinstance(method, str) or method not in METHODS:
        raise BadInput(f"binarize: method must be one of {', '.join(METHODS)}, not {method!r}")
    if not isinstance(layers, list | tuple) or not all(isinstance(pattern, str) for pattern in layers):
        raise BadInput(f"binarize: layers must be a list of patterns of layers' names, not {layers!r}")
    if not isinstance(calibrate, bool):
        raise BadInput(f"binarize: calibrate must be true or false, not {calibrate!r}")
    return Settings(method, tuple(layers), calibrate)


@dataclass(frozen=True)
class BinarizedLayer:
    """A layer whose weights have two values per filter now.

    weights: how many it has; error: ||W - W~|| / ||W|| over all of them, before any calibration; values: W~, float32,
    as the layer stores them.
    """

    node: str
    weights: int
    error: float
    values: np.ndarray


@dataclass(frozen=True)
class Calibrated:
    """A node whose statistics were taken from samples: a BatchNormalization, or a binarized layer without one."""

    node: str
    op: str
    channels: int


@dataclass
class Binarization:
    """What was done: `before` is the graph as it was, `calibrated` and `samples` are what passes/calibrate.py adds."""

    settings: Settings
    layers: list[BinarizedLayer]
    before: gs.Graph
    calibrated: list[Calibrated] = field(default_factory=list)
    samples: int = 0


class BinarizeWeights:
    """Weights of two values per filter in float layers: all but the first and the last, or those that are named."""

    name = "binarize-weights"
    requires = ("simplify",)
    guarantees = "the float layers that the settings choose have weights of two values per filter"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        """Binarize; the context's `binarization` says what was done.

        Raises BadInput for a pattern that names no layer that can be binarized, where there is none at all, and for
        weights that are not finite.
        """
        if context.binarization is not None:
            return PassResult(lossy=True)  # done
        g.tidy(graph)
        able, reasons = _layers(graph, context)
        chosen, notes = self._choose(graph, able, reasons, context)
        before = graph.copy()
        layers = []
        made: dict[str, list[gs.Constant]] = {}  # by the float weights: layers that share them go on sharing
        for node in chosen:
            name, binarized = node.inputs[1].name, self._binarize(node)
            own = made.setdefault(name, [])
            same = [constant for constant in own if np.array_equal(constant.values, binarized.values)]
            if not same:
                same = [gs.Constant(g.fresh_name(graph, f"{name}_{self.settings.method}"), binarized.values)]
                own += same
            node.inputs[1] = same[0]
            layers.append(binarized)
        context.binarization = Binarization(self.settings, layers, before)
        g.tidy(graph)
        return PassResult(True, notes, lossy=True)

    def _choose(
        self, graph: gs.Graph, able: list[gs.Node], reasons: dict[str, str], context: Context
    ) -> tuple[list[gs.Node], list[Note]]:
        """The layers to binarize, and why others are left."""
        notes = [Note(name, f"not binarized: {why}") for name, why in reasons.items() if why != _IS_BINARY]
        if self.settings.layers:
            self._check_patterns([node.name for node in able], reasons)
            return [node for node in able if _matches(node.name, self.settings.layers)], notes
        ends = _ends(graph, context)
        if not able:
            found = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:_NAMES_SHOWN])
            raise BadInput(f"binarize: no layer can be binarized{f' ({found})' if found else ''}")
        chosen = [node for node in able if node.name not in ends]
        if not chosen:
            names = _listed(node.name for node in able)
            raise BadInput(f"binarize: only first and last layers could be ({names}); name them with --layers")
        notes += [Note(node.name, f"not binarized: {ends[node.name]}") for node in able if node.name in ends]
        return chosen, notes

    def _check_patterns(self, names: list[str], reasons: dict[str, str]) -> None:
        for pattern in self.settings.layers:
            if any(_matches(name, [pattern]) for name in names):
                continue
            for name, reason in reasons.items():
                if _matches(name, [pattern]):
                    named = f"'{name}'" if pattern == name else f"{pattern!r}: '{name}'"
                    raise BadInput(f"binarize: {named} cannot be binarized: {reason}")
            known = f"there are {_listed(names)}" if names else "there is none"
            raise BadInput(f"binarize: no layer that can be binarized is named {pattern!r}; {known}")

    def _binarize(self, node: gs.Node) -> BinarizedLayer:
        filters = bl.weights_of(node)
        if not np.isfinite(filters).all():
            raise BadInput(f"binarize: node '{node.name}': its weights are not all finite numbers")
        rows = filters.reshape(filters.shape[0], -1)
        weights = np.empty_like(rows)
        size = change = 0.0
        at_once = max(1, _WEIGHTS_AT_ONCE // rows.shape[1])
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            exact = rows[part].astype(np.float64)
            weights[part] = METHODS[self.settings.method](exact).weights
            size += float(np.square(exact).sum())
            change += float(np.square(exact - weights[part]).sum())
        error = math.sqrt(change / size) if size else 0.0
        values = np.ascontiguousarray(bl.as_stored(node, weights.reshape(filters.shape)))
        return BinarizedLayer(node.name, int(filters.size), error, values)


def _layers(graph: gs.Graph, context: Context) -> tuple[list[gs.Node], dict[str, str]]:
    """The float layers that can be binarized, in order, and why the others with constant weights cannot."""
    able, reasons = [], {}
    for node in graph.nodes:
        reason = _obstacle(node)
        if reason:
            reasons[node.name] = reason
        elif node.name in context.layers and node.op in LAYER_OPS:
            able.append(node)
    for node in g.nested_nodes(graph):
        if node.name in context.layers:
            reasons[node.name] = "inside a branch of If, Loop or Scan"
    return able, reasons


def _obstacle(node: gs.Node) -> str | None:
    """Why a layer with constant weights cannot be binarized; None where it can, and for what is no such layer."""
    if node.op not in LAYER_OPS or len(node.inputs) < 2:
        return None
    values = g.constant(node.inputs[1])
    if values is None:
        left = node.op == "MatMul" and g.constant(node.inputs[0]) is not None
        return "its weights are the left operand" if left else None
    if values.dtype != np.float32:
        return f"its weights are {values.dtype}"
    filters = bl.weights_of(node)
    if filters is None or not filters.size:
        return "its weights are no filters or matrix"
    if filters[0].size == 1:
        return "one weight per filter"
    if np.isfinite(filters).all() and not isinstance(factor(filters), str):
        return _IS_BINARY
    return None


def _ends(graph: gs.Graph, context: Context) -> dict[str, str]:
    """The layers with no other before them, or none behind them, and that in words.

    What a network reads and what it says pass through them alone; the papers keep them in float, in training too.
    """
    found: dict[str, str] = {}
    for nodes, sources, results, words in (
        (graph.nodes, g.reads, _outputs, "a first layer"),
        (graph.nodes[::-1], _outputs, g.reads, "a last layer"),
    ):
        beyond: set[int] = set()  # tensors with a layer on their way
        for node in nodes:
            is_layer = node.op in LAYER_OPS and node.name in context.layers
            passed = any(id(tensor) in beyond for tensor in sources(node))
            if is_layer and not passed:
                found.setdefault(node.name, f"{words} (--layers names it)")
            if is_layer or passed:
                beyond.update(id(tensor) for tensor in results(node))
    return found


def _outputs(node: gs.Node) -> list[gs.Tensor]:
    return node.outputs


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of the patterns, as it stands (with brackets, say) or as a pattern."""
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
