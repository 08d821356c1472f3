"""Two values for each filter of trained float weights, without training: DAB-Net, XNOR-Net, bi-half.

Weights w [n] of a filter become `high` where a bit is 1 and `low` where it is 0. Each method is given all filters of a
layer as rows, float64 [M, n], and works in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bnncc.passes.exact_sums import exact_in_sums


@dataclass(frozen=True)
class TwoValues:
    """upper: which weights are high, bool [M, n]; high, low: float64 [M], high >= low."""

    upper: np.ndarray
    high: np.ndarray
    low: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """The weights that the bits stand for, float32 [M, n], rounded by `exact_in_sums`."""
        count, size = self.upper.shape[1], np.maximum(np.abs(self.high), np.abs(self.low))
        high, low = (exact_in_sums(values, size, count)[:, None] for values in (self.high, self.low))
        return np.where(self.upper, high, low)


def dab(rows: np.ndarray) -> TwoValues:
    """The two values with the least squared error (DAB-Net, Prabhu et al., 2018).

    The i largest weights of a filter become their mean, the others theirs, for the i with the largest
    D_i = P_i^2 / i + (T - P_i)^2 / (n - i), P_i the sum of the i largest and T that of all (Theorem 1): the error is
    ||w||^2 - D_i, and i = 1 .. n - 1 are all splits worth a look. It is 2-means in one dimension, exactly. Of equally
    good splits the one with the most high weights; a filter of one weight, or of equal ones, has one value.
    """
    n = rows.shape[1]
    if n == 1:
        return TwoValues(np.ones(rows.shape, bool), rows[:, 0], rows[:, 0])
    order = _descending(rows)
    # Of weights less their mean, T is 0 and D_i = P_i^2 n / (i (n - i)): the same choice, and nothing cancels.
    centred = rows - rows.mean(axis=1, keepdims=True)
    sums = np.cumsum(np.take_along_axis(centred, order, axis=1), axis=1)[:, :-1]
    sizes = np.arange(1, n)
    gain = np.square(sums) / (sizes * (n - sizes))
    best = n - 1 - gain[:, ::-1].argmax(axis=1)  # how many are high, the last of the largest gains
    return _means(rows, _first_of(order, best))


def xnor(rows: np.ndarray) -> TwoValues:
    """Signs times their least-squares scale, the mean magnitude (XNOR-Net, Rastegari et al., 2016, eq. 6)."""
    scale = np.abs(rows).mean(axis=1)
    return TwoValues(rows >= 0, scale, -scale)


def bihalf(rows: np.ndarray) -> TwoValues:
    """The larger half of a filter's weights is high, the smaller low (bi-half, Li et al., 2022, eq. 7).

    Of an odd number one more is high; of equal weights the first are. These bits do not change where all weights grow
    by the same, so the values, which have the least squared error for them, are the means of the halves. (In training
    the paper scales signs by sqrt(2 / n), which is not the scale of a trained filter.)
    """
    count, n = rows.shape
    return _means(rows, _first_of(_descending(rows), np.full(count, (n + 1) // 2)))


METHODS: dict[str, Callable[[np.ndarray], TwoValues]] = {"dab": dab, "bihalf": bihalf, "xnor": xnor}


def _descending(rows: np.ndarray) -> np.ndarray:
    """Indices of each row's weights, the largest first, equal ones in their order."""
    return np.argsort(-rows, axis=1, kind="stable")


def _first_of(order: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which weights are among the first `counts` [M] of an order [M, n], bool [M, n]."""
    upper = np.empty(order.shape, bool)
    np.put_along_axis(upper, order, np.arange(order.shape[1]) < counts[:, None], axis=1)
    return upper


def _means(rows: np.ndarray, upper: np.ndarray) -> TwoValues:
    """The means of the high and of the low weights; of one kind only, its mean for both."""
    count = upper.sum(axis=1)
    total, top = rows.sum(axis=1), np.where(upper, rows, 0).sum(axis=1)
    rest = rows.shape[1] - count
    high = top / np.maximum(count, 1)
    low = np.where(rest > 0, (total - top) / np.maximum(rest, 1), high)
    return TwoValues(upper, high, low)
