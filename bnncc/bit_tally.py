"""Bits that differ at binarizers, sorted by cause: flipped, near-tie, downstream.

A bit that differs is a **near-tie** if the float that it was taken from lies within 1e-5 of the threshold, measured
against the largest magnitude of that tensor in that sample: sums of floats in another order may cross there. Where
nothing is rounded between the binarizers (`SignTensor.exact`, or a binarizer of the input itself) there is no near-tie,
nor where an ONNX Sign of the reference gave 0, which no bit can stand for. It is **downstream** if, in the same sample,
a near-tie flipped in a binarizer that it depends on. Every other bit that differs is **flipped**: an error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from bnncc.data import Feeds
from bnncc.errors import BadInput
from bnncc.graphs import upstream
from bnncc.passes.base import SignTensor

NEAR_TIE = 1e-5
"""Distance from the threshold, relative to the tensor's largest magnitude in the sample, that rounding may cross."""


@dataclasses.dataclass(frozen=True)
class Rows:
    """The samples of one run: `valid` of them real, `total` with those that fill up a fixed batch."""

    valid: int
    total: int

    def split(self, array: np.ndarray) -> np.ndarray:
        """View as [valid, rest]; as [1, all] where the first axis is not the batch."""
        if array.ndim == 0 or array.size == 0 or len(array) != self.total:
            return array.reshape(1, -1)
        return array.reshape(self.total, -1)[: self.valid]

    def any(self, mask: np.ndarray) -> np.ndarray:
        """Reduce what `split` gave to one bool per sample: what belongs to no one sample belongs to all."""
        return mask.any(axis=1) if len(mask) == self.valid else np.full(self.valid, bool(mask.any()))

    def select(self, samples: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the rows of `mask`, as `split` gave it, that belong to chosen samples (bool [valid])."""
        return samples if len(mask) == self.valid else np.array([samples.any()])


class BitTally:
    """Bits that differ at the binarizers of the reference, sorted by cause, summed up over runs."""

    def __init__(
        self, reference: onnx.ModelProto, tensors: Sequence[SignTensor], exact: set[str], chained: bool = True
    ) -> None:
        """`exact` names the +-1 tensors of the reference behind which nothing is rounded: they have no near-ties.

        `chained`: whether each depends on those before it; not where the bits before it were the reference's.
        """
        originals = [tensor.original for tensor in tensors]
        self.upstream = upstream(reference.graph, originals) if chained else {name: set() for name in originals}
        # A binarizer has more others above it than any of those have: so each comes after what it depends on.
        self.tensors = sorted(tensors, key=lambda tensor: len(self.upstream[tensor.original]))
        self.exact = exact
        self.compared = self.flipped = self.near_ties = self.downstream = self.near_tie_samples = 0
        self.by_tensor: dict[str, int] = {}
        # Samples in which nothing before the binarizer excuses a wrong bit.
        self.checked = dict.fromkeys(self.upstream, 0)

    def add(self, values: Feeds, signs_of: Callable[[SignTensor], np.ndarray], rows: Rows) -> np.ndarray:
        """Count one run: `values` of the reference against the +-1 that `signs_of` gives for each sign tensor.

        Returns which samples have near-ties, bool [valid].
        """
        near_at: dict[str, np.ndarray] = {}
        doubtful = np.zeros(rows.valid, dtype=bool)
        for tensor in self.tensors:
            expected = values[tensor.original]
            flipped = np.sign(rows.split(expected)) != rows.split(signs_of(tensor))
            excused = np.zeros(rows.valid, dtype=bool)
            for above in self.upstream[tensor.original]:
                excused |= near_at.get(above, False)
            self.compared += flipped.size
            self.checked[tensor.original] += int((~excused).sum())
            if not flipped.any():
                continue
            consequence = rows.select(excused, flipped)
            self.downstream += int(flipped[consequence].sum())
            near = np.zeros_like(flipped)
            if tensor.original not in self.exact:
                near = flipped & _near_threshold(tensor, values[tensor.pre_activation], expected.shape, rows)
                near &= rows.split(expected) != 0
                near[consequence] = False
                near_at[tensor.original] = near_at.get(tensor.original, False) | rows.any(near)
                doubtful |= near_at[tensor.original]
            self.near_ties += int(near.sum())
            wrong = flipped & ~near
            wrong[consequence] = False
            count = int(wrong.sum())
            self.flipped += count
            if count:
                self.by_tensor[tensor.original] = self.by_tensor.get(tensor.original, 0) + count
        self.near_tie_samples += int(doubtful.sum())
        return doubtful


def _near_threshold(tensor: SignTensor, source: np.ndarray, shape: tuple[int, ...], rows: Rows) -> np.ndarray:
    """Return where `source` is within NEAR_TIE of the threshold, bool, split as an array of `shape` would be."""
    threshold = np.asarray(tensor.threshold, dtype=np.float64).reshape(-1)
    channels = source.shape[1] if source.ndim > 1 else 1
    if threshold.size not in (1, channels) or source.size != math.prod(shape):
        raise BadInput(f"the record of the binarizer {tensor.original!r} does not fit {tensor.pre_activation!r}")
    if threshold.size > 1:
        threshold = threshold.reshape((1, -1) + (1,) * (source.ndim - 2))
    source = source.astype(np.float64)
    distance = rows.split(np.abs(source - threshold).reshape(shape))
    magnitude = np.abs(rows.split(source.reshape(shape)))
    scale = np.where(np.isfinite(magnitude), magnitude, 0.0).max(axis=1, keepdims=True)
    return distance <= NEAR_TIE * scale
