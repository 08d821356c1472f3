"""What is taken for known of a layer's inputs, where neither data nor a batch-norm says it.

Inputs of a convolution, pixels and feature maps alike, change little from one position to the next: those of a channel
correlate by CORRELATION per step along each axis, those of different channels not at all, and all have standard
deviation 1 and mean MEAN. Measured on trained networks (tests/benchmarks/tropnnc/README.md): the correlation is worth
much without a batch-norm, and something with one.
"""

from __future__ import annotations

import numpy as np

CORRELATION = 0.8
MEAN = 0.5


def correlated(kernels: np.ndarray) -> np.ndarray:
    """Return rows [n, d] whose products are the covariances of what kernels give: sums over their weights and inputs.

    kernels: [n, channels, ...], with any number of axes along which inputs correlate.
    """
    result = kernels
    for axis in range(2, kernels.ndim):
        steps = np.arange(kernels.shape[axis])
        root = np.linalg.cholesky(CORRELATION ** np.abs(steps[:, None] - steps))
        result = np.moveaxis(np.tensordot(result, root, (axis, 0)), -1, axis)
    return result.reshape(len(kernels), -1)


def means(kernels: np.ndarray) -> np.ndarray:
    """Return the mean [n] of what kernels [n, ...] give."""
    return MEAN * kernels.reshape(len(kernels), -1).sum(axis=1)
