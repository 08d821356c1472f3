"""Floats whose sums are exact in float32, whatever the order: few enough multiples of one power of two."""

from __future__ import annotations

import numpy as np


def exact_in_sums(values: np.ndarray, size: np.ndarray, count: int) -> np.ndarray:
    """Round values to float32 whose sums of `count`, with any signs, are exact in float32 in whatever order.

    `size`: the largest magnitude among the values of each sum, of a shape that `values` broadcast with. They become
    multiples of a power of two with count * size at most 2**23 of it, so that sums of half their sum and difference are
    exact as well; that moves them by count * 2**-23 of the size at most. A layer behind a binarizer then gives the same
    floats by adding and by counting, exact zeros included.
    """
    bound = np.where(size > 0, size * count, 1.0)
    step = np.exp2(np.ceil(np.log2(bound)) - 23)
    return (np.round(values / step) * step + 0.0).astype(np.float32)  # 0 for -0, which no bit stands for


def trailing_exponent(values: np.ndarray) -> np.ndarray:
    """Return the exponent of the largest power of two that each float64 is a multiple of, float64; 128 for 0.

    Sums of multiples of 2**e are exact in float32 as long as none is larger than 2**(e + 24).
    """
    mantissas, exponents = np.frexp(values)
    whole = np.abs(mantissas * 2.0**53).astype(np.int64)
    trailing = np.log2(np.maximum(whole & -whole, 1).astype(np.float64))
    return np.where(whole == 0, 128, exponents - 53 + trailing)
