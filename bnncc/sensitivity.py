"""What each layer costs that `--binarize` chose, by itself: the network with only that layer's weights binarized.

A measure for choosing layers with `--layers`. It is taken without calibration, and costs do not add up: several layers
together cost more than any of them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bnncc.classes import joined
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
    fitting = Stepper.that_fit(graph, nodes, samples, config.threads, with_outputs=True)
    stepper = Stepper(graph, fitting, config.threads)
    expected = list(stepper.outputs())
    found = {}
    for node in nodes:
        progress(f"binarize: sensitivity of {node.name}")
        stepper.advance(node)
        actual = stepper.outputs_with(node, chosen[node.name].values)
        found[node.name] = _difference(expected, actual, labels)
    return found


def _difference(
    expected: list[list[np.ndarray]], actual: Iterable[list[np.ndarray]], labels: np.ndarray | None
) -> LayerSensitivity:
    """Sum up the differences of all outputs of floats, and of the classes that the first output of classes names.

    Both are outputs by batch; of the actual ones no more than a batch is held.
    """
    classes, changes, count = [], [], 0
    for first, second in zip(expected, actual, strict=True):
        classes.append((_classes(first), _classes(second)))
        changes.append(_squares(first, second))
        count += len(first[0]) if first[0].ndim else 1
    change = _relative(changes) if any(x.dtype.kind == "f" for x in expected[0]) else None
    before, after = (joined(side) for side in zip(*classes, strict=True))
    if before is None or after is None or before.shape != after.shape:
        return LayerSensitivity(count, None, None, None, change)
    accuracies = (None, None)
    if labels is not None and before.ndim == 1 and len(labels) >= len(before):
        right = labels[: len(before)]
        accuracies = float((before == right).mean()), float((after == right).mean())
    return LayerSensitivity(len(before), float((before == after).mean()), *accuracies, change)


def _squares(expected: list[np.ndarray], actual: list[np.ndarray]) -> tuple[float, float] | None:
    """The sums of squares of a batch's float outputs and of their changes; None where shapes depend on the values."""
    size = change = 0.0
    for one, other in zip(expected, actual, strict=True):
        if one.dtype.kind == "f":
            if one.shape != other.shape:
                return None
            size += float(np.square(one, dtype=np.float64).sum())
            change += float(np.square(np.subtract(one, other, dtype=np.float64)).sum())
    return size, change


def _relative(changes: Sequence[tuple[float, float] | None]) -> float | None:
    """L2 norm of the change against the outputs'; None where a batch has none, and where all outputs were 0."""
    if None in changes:
        return None
    size, change = (sum(side) for side in zip(*changes, strict=True))
    if size:
        return float(np.sqrt(change / size))
    return None if change else 0.0


def _classes(outputs: list[np.ndarray]) -> np.ndarray | None:
    """The classes that the first output of them names: scores [N, C, ...], or numbers [N] of classes; None without."""
    for output in outputs:
        if output.dtype.kind == "f" and output.ndim >= 2 and output.shape[1] > 1:
            return output.argmax(axis=1)
        if output.dtype.kind in "iu" and (output.ndim == 1 or output.shape[1:] == (1,)):
            return output.reshape(-1)
    return None
