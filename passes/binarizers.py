"""The canonical binarizer in standard ops: building one and recognising one.

    signs = Where(GreaterOrEqual(x, t), +1, -1)        NaN becomes -1
    signs = Where(Less(x, t), -1, +1)                  NaN becomes +1

t is a scalar or one value per channel (axis 1). Channels that compare the other way round (x <= t) are turned first,
x * d with d = -1 there: -x >= -t is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import graph as g


@dataclass(frozen=True)
class Comparison:
    """+1 where `source` >= threshold (direction +1) or <= threshold (direction -1), else -1; NaN gives nan_bit.

    threshold: float32 [1] or [C]; direction: int8 [1] or [C].
    """

    source: gs.Tensor
    threshold: np.ndarray
    direction: np.ndarray
    nan_bit: int = 0


def build(graph: gs.Graph, comparison: Comparison, output: gs.Variable | str) -> gs.Variable:
    """Append the canonical nodes for a comparison; returns the tensor of signs."""
    source, rank = comparison.source, g.rank(comparison.source)
    name = output if isinstance(output, str) else output.name
    threshold = comparison.threshold.astype(np.float32)
    if (comparison.direction < 0).any():
        direction = comparison.direction.astype(np.float32)
        threshold = threshold * direction
        turn = g.per_channel_constant(g.fresh_name(graph, f"{name}_direction"), direction, rank or 2)
        turned = g.fresh_name(graph, f"{name}_turned")
        source = g.add_node(graph, "Mul", [source, turn], turned, dtype=np.float32, shape=source.shape)
    bound = g.per_channel_constant(g.fresh_name(graph, f"{name}_threshold"), threshold, rank or 2)
    plus = gs.Constant(g.fresh_name(graph, f"{name}_plus"), np.array(1, np.float32))
    minus = gs.Constant(g.fresh_name(graph, f"{name}_minus"), np.array(-1, np.float32))
    op, chosen, other = ("Less", minus, plus) if comparison.nan_bit else ("GreaterOrEqual", plus, minus)
    condition = g.add_node(
        graph, op, [source, bound], g.fresh_name(graph, f"{name}_compared"), dtype=np.bool_, shape=source.shape
    )
    return g.add_node(graph, "Where", [condition, chosen, other], output, dtype=np.float32, shape=source.shape)


def match(tensor: gs.Tensor) -> Comparison | None:
    """The comparison behind a tensor of canonical signs, else None."""
    where = g.producer(tensor)
    if where is None or where.op != "Where":
        return None
    condition = g.producer(where.inputs[0])
    chosen, other = g.filled_value(where.inputs[1]), g.filled_value(where.inputs[2])
    if condition is None or (condition.op, chosen, other) not in (("GreaterOrEqual", 1, -1), ("Less", -1, 1)):
        return None
    source, bound = condition.inputs
    threshold = g.channel_vector(bound, g.rank(source))
    if g.constant(source) is not None or threshold is None or threshold.dtype != np.float32:
        return None
    if not all(g.broadcasts_into(operand, source) for operand in (bound, *where.inputs[1:])):
        return None  # the signs have another shape than what is compared
    direction = np.ones(1, np.int8)
    turn = g.producer(source)
    if turn is not None and turn.op == "Mul":
        factors = g.channel_vector(turn.inputs[1], g.rank(turn.inputs[0]))
        if factors is not None and np.isin(factors, (-1, 1)).all():
            source, direction = turn.inputs[0], factors.astype(np.int8)
            threshold = threshold * factors.astype(np.float32)
    return Comparison(source, threshold, direction, int(condition.op == "Less"))
