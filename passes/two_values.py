"""Two values for each filter of trained float weights, without training: DAB-Net, XNOR-Net, bi-half.

Weights w [n] of a filter become `high` where a bit is 1 and `low` where it is 0. Each method is given filters as rows,
float64 [M, n], of which none matters to another, and works in float64.
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
    good splits the one with the most high weights; a filter of one weight, or of equal ones, has one value. Equal
    weights are never parted: between two of them D is convex in i.
    """
    n = rows.shape[1]
    if n == 1:
        return TwoValues(np.ones(rows.shape, bool), rows[:, 0], rows[:, 0])
    ordered = np.sort(rows, axis=1)
    # Of weights less their mean, T is 0 and D_i = P^2 n / (k (n - k)), P the sum of the k = n - i smallest: the same
    # choice, and nothing cancels.
    sums = np.cumsum(ordered - rows.mean(axis=1, keepdims=True), axis=1)[:, :-1]
    sizes = np.arange(1, n)
    smaller = 1 + (np.square(sums) / (sizes * (n - sizes))).argmax(axis=1, keepdims=True)  # the fewest of equally good
    return _means(rows, rows >= np.take_along_axis(ordered, smaller, axis=1))


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
    order = np.argsort(-rows, axis=1, kind="stable")
    upper = np.empty(rows.shape, bool)
    np.put_along_axis(upper, order, np.arange(rows.shape[1]) < (rows.shape[1] + 1) // 2, axis=1)
    return _means(rows, upper)


METHODS: dict[str, Callable[[np.ndarray], TwoValues]] = {"dab": dab, "bihalf": bihalf, "xnor": xnor}


def _means(rows: np.ndarray, upper: np.ndarray) -> TwoValues:
    """The means of the high and of the low weights; of one kind only, its mean for both."""
    count = upper.sum(axis=1)
    total, top = rows.sum(axis=1), np.where(upper, rows, 0).sum(axis=1)
    rest = rows.shape[1] - count
    high = top / np.maximum(count, 1)
    low = np.where(rest > 0, (total - top) / np.maximum(rest, 1), high)
    return TwoValues(upper, high, low)
