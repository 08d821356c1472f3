"""Layers of two-valued weights that are not -c and +c: scale * I + offset * S, with bits found for exact zeros.

canonicalize-weights writes such a layer as two binary ones, I = signs . a and S = sum(a), added with a factor each.
Where scale and offset are multiples of one power of two, few enough of it, the sums are exact in float32, and which of
them a chain of ops turns into exactly 0 is a question of integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import binary_layers as bl
from bnncc.passes import elementwise as ew
from bnncc.passes import graph as g
from bnncc.passes.exact_sums import trailing_exponent


@dataclass(frozen=True)
class OffsetSums:
    """scale * I + offset * S per channel, float64 [M]; `layer` gives I.

    plus, minus: how many weights of each filter are +1 and -1, int64 [M]. I + S is twice the sum of the activations
    that meet a +1, |I + S| <= 2 plus, and S - I twice that of the others, |S - I| <= 2 minus. whole: whether no padding
    leaves out any of them; I + S is then even or odd times 2 as plus is. Else parity is that of all S, 0 or 1, or None
    where there are sums of both.
    """

    layer: gs.Node
    scale: np.ndarray
    offset: np.ndarray
    plus: np.ndarray
    minus: np.ndarray
    whole: bool
    parity: int | None

    @property
    def fan_in(self) -> int:
        """The most that |I| and |S| can be."""
        return int(self.plus[0] + self.minus[0])

    @property
    def are_exact(self) -> bool:
        """Whether all sums, and what is added to give them, are exact in float32."""
        # Both are multiples of 2**-shift, and then so is what they add up to, at most 2**24 of it.
        exponents = [trailing_exponent(values) for values in (self.scale, self.offset)]
        largest = (np.abs(self.scale) + np.abs(self.offset)) * self.fan_in
        return bool((largest <= np.exp2(np.minimum(*exponents) + 24)).all())

    def one_within(self, low: np.ndarray, high: np.ndarray) -> tuple[int, int, int] | None:
        """Return (channel, I, S) of a sum v with low <= v < high, float64 [M] each, if there is one."""
        totals = np.arange(-self.fan_in, self.fan_in + 1)
        if self.parity is not None:
            totals = totals[totals % 2 == self.parity]
        beyond = (np.abs(self.scale) + np.abs(self.offset)) * self.fan_in + 1
        low, high = np.maximum(low, -beyond), np.minimum(high, beyond)
        for channel in np.flatnonzero(low < high):
            least = np.maximum(-2 * self.plus[channel] - totals, totals - 2 * self.minus[channel])
            most = np.minimum(2 * self.plus[channel] - totals, totals + 2 * self.minus[channel])
            scale, shifted = self.scale[channel], self.offset[channel] * totals
            # The I nearest to the edge where the sums begin to be `low` or more, and its neighbours: one of them is the
            # first that there is. Sums rise with I where the scale is positive, and fall where it is negative.
            edge = least if scale == 0 else np.round((low[channel] - shifted) / scale)
            dots = np.clip(edge, least, most) + np.arange(-5, 6)[:, None]
            values = scale * dots + shifted
            found = (values >= low[channel]) & (values < high[channel])
            found &= (dots >= least) & (dots <= most)
            found &= (dots + totals) % 4 == 2 * self.plus[channel] % 4 if self.whole else dots % 2 == totals % 2
            if found.any():
                row, column = np.argwhere(found)[0]
                return int(channel), int(dots[row, column]), int(totals[column])
        return None


def match(tensor: gs.Tensor) -> OffsetSums | None:
    """Return the sums that a layer of two-valued weights gives, as canonicalize-weights writes it; else None."""
    node = g.producer(tensor)
    if node is None or node.op != "Add":
        return None
    for first, second in (node.inputs, reversed(node.inputs)):
        (dots, scale), (total, offset) = _factored(first), _factored(second)
        layer = g.producer(dots)
        if layer is None or not bl.is_binary(layer) or not _is_window_sum(total, layer):
            continue
        signs = bl.weights_of(layer)
        plus = (signs.reshape(len(signs), -1) > 0).sum(axis=1)
        if any(values is None or values.size not in (1, len(signs)) for values in (scale, offset)):
            continue
        scale, offset = (np.broadcast_to(values.astype(np.float64), len(signs)) for values in (scale, offset))
        fan_in, whole = bl.fan_in(layer), not bl.is_padded(layer)
        parity = fan_in % 2 if whole or signs.shape[1] % 2 == 0 else None
        return OffsetSums(layer, scale, offset, plus, fan_in - plus, whole, parity)
    return None


def zero_of(sums: OffsetSums, nodes: list[gs.Node], opset: int) -> str | None:
    """Why elementwise ops behind the sums can give exactly 0, in words; None where they cannot."""
    if not sums.are_exact:
        return f"for sums of '{sums.layer.name}', which are rounded"
    if any(node.op not in ew.MONOTONE for node in nodes):
        return f"behind '{sums.layer.name}', by ops that are not monotone"
    function = ew.ChainFunction(nodes, len(sums.scale), opset)
    largest = np.full(len(sums.scale), np.finfo(np.float32).max, np.float32)
    falls = _at(function, -largest) > _at(function, largest)
    turned = np.where(falls, np.float32(-1), np.float32(1))
    # The floats for which the ops give 0: from the first that gives none on the one side to the first beyond it.
    low = ew.smallest_float(lambda values: turned * _at(function, values) >= 0, len(sums.scale))
    high = ew.smallest_float(lambda values: turned * _at(function, values) > 0, len(sums.scale))
    hit = sums.one_within(low.astype(np.float64), high.astype(np.float64))
    if hit is None:
        return None
    channel, dot, total = hit
    return f"for the sums {dot} and {total} in channel {channel} of '{sums.layer.name}'"


def _at(function: ew.ChainFunction, values: np.ndarray) -> np.ndarray:
    """The function at one value for each channel, float32 [M]."""
    return function(values[:, None])[:, 0]


def _factored(tensor: gs.Tensor) -> tuple[gs.Tensor, np.ndarray | None]:
    """A tensor as another times constants per channel, of shape [1] or [M]; None for constants that are not."""
    node = g.producer(tensor)
    if node is None or node.op != "Mul":
        return tensor, np.ones(1, np.float32)
    data, factor = sorted(node.inputs, key=lambda operand: g.constant(operand) is not None)
    return data, g.channel_vector(factor, g.rank(data))


def _is_window_sum(tensor: gs.Tensor, layer: gs.Node) -> bool:
    """Whether a tensor has the sum of what each filter of a layer sees: of all there is, or of its group."""
    groups, filters = layer.attrs.get("group", 1), len(bl.weights_of(layer))
    node = g.producer(tensor)
    if groups > 1:
        if node is None or node.op != "Gather" or node.attrs.get("axis", 0) != 1:
            return False
        if not np.array_equal(g.constant(node.inputs[1]), np.repeat(np.arange(groups), filters // groups)):
            return False
        node = g.producer(node.inputs[0])
    if node is None or not bl.is_binary(node) or (node.op, node.attrs) != (layer.op, layer.attrs):
        return False
    ones = bl.weights_of(node)
    return (
        node.inputs[0] is layer.inputs[0]
        and ones.shape == (groups, *bl.weights_of(layer).shape[1:])
        and bool((ones == 1).all())
    )
