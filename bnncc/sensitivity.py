"""What each layer costs that `--binarize` chose, by itself: the network with only that layer's weights binarized.

A measure for choosing layers with `--layers`. It is taken without calibration, and costs do not add up: several layers
together cost more than any of them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bnncc.config import Config
from bnncc.data import Feeds
from bnncc.passes.binarize_weights import Binarization
from bnncc.passes.stepping import Stepper
from bnncc.report import LayerSensitivity

SAMPLES = 200
"""Samples of the data that it is measured on, the first ones: a share of them is within 7 points of that of all."""


def measure_sensitivity(
    binarization: Binarization,
    samples: Sequence[Feeds],
    labels: np.ndarray | None,
    config: Config,
    progress: Callable[[str], None],
) -> dict[str, LayerSensitivity]:
    """Return what each binarized layer changes of the float network's outputs, by its name.

    All layers before it run once, on the float weights; only what is behind it runs for each.
    """
    graph = binarization.before
    chosen = {layer.node: layer for layer in binarization.layers}
    nodes = [node for node in graph.nodes if node.name in chosen]
    stepper = Stepper(graph, Stepper.that_fit(graph, nodes, samples, config.threads), config.threads)
    expected = stepper.outputs()
    found = {}
    for node in nodes:
        progress(f"binarize: sensitivity of {node.name}")
        stepper.advance(node)
        actual = stepper.outputs_with(node, chosen[node.name].values)
        found[node.name] = _difference(expected, actual, labels)
    return found


def _difference(
    expected: list[list[np.ndarray]], actual: list[list[np.ndarray]], labels: np.ndarray | None
) -> LayerSensitivity:
    """Sum up the differences of all outputs of floats, and of the classes that the first output of classes names."""
    before, after = (_classes(side) for side in (expected, actual))
    change = _relative_change(expected, actual)
    if before is None or after is None or before.shape != after.shape:
        return LayerSensitivity(sum(len(x[0]) if x[0].ndim else 1 for x in expected), None, None, None, change)
    accuracies = (None, None)
    if labels is not None and before.ndim == 1 and len(labels) >= len(before):
        right = labels[: len(before)]
        accuracies = float((before == right).mean()), float((after == right).mean())
    return LayerSensitivity(len(before), float((before == after).mean()), *accuracies, change)


def _relative_change(expected: list[list[np.ndarray]], actual: list[list[np.ndarray]]) -> float | None:
    """L2 norm of the change of the float outputs against theirs; None where that says nothing.

    So it is without such outputs, where their shapes depend on the values, and where all were 0.
    """
    pairs = [
        (one.astype(np.float64), other)
        for first, second in zip(expected, actual, strict=True)
        for one, other in zip(first, second, strict=True)
        if one.dtype.kind == "f"
    ]
    if not pairs or any(one.shape != other.shape for one, other in pairs):
        return None
    size = sum(float(np.square(one).sum()) for one, _ in pairs)
    change = sum(float(np.square(one - other).sum()) for one, other in pairs)
    if size:
        return float(np.sqrt(change / size))
    return None if change else 0.0


def _classes(side: list[list[np.ndarray]]) -> np.ndarray | None:
    """The classes that the first output of them names: scores [N, C, ...], or numbers [N] of classes; None without."""
    for place, first in enumerate(side[0]):
        if first.dtype.kind == "f" and first.ndim >= 2 and first.shape[1] > 1:
            return np.concatenate([outputs[place].argmax(axis=1) for outputs in side])
        if first.dtype.kind in "iu" and (first.ndim == 1 or first.shape[1:] == (1,)):
            return np.concatenate([outputs[place].reshape(-1) for outputs in side])
    return None
