"""A hidden layer as TropNNC sees it: neurons between one affine map and the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HiddenLayer:
    """v(x) = C relu(A x + b) for n neurons with d inputs and m outputs, float64.

    inputs: A [n, d]; bias: b [n]; outputs: C transposed [n, m], the weights that leave each neuron. The channels of a
    convolution are neurons whose kernels are flattened into rows: those of the filter in `inputs`, those of all filters
    of the next layer that read the channel in `outputs`.
    """

    inputs: np.ndarray
    bias: np.ndarray
    outputs: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.inputs)
        if self.inputs.ndim != 2 or self.outputs.ndim != 2 or self.bias.shape != (n,) or len(self.outputs) != n:
            raise ValueError(
                f"inputs {self.inputs.shape}, bias {self.bias.shape} and outputs {self.outputs.shape} are no "
                "[n, d], [n] and [n, m]"
            )

    @property
    def neurons(self) -> int:
        """Return n."""
        return len(self.inputs)

    @property
    def extended(self) -> np.ndarray:
        """Return (A, b) [n, d + 1]: the directions of the neurons' generators, bias last."""
        return np.column_stack([self.inputs, self.bias])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return v(x) [N, m] of points [N, d]."""
        return np.maximum(x @ self.inputs.T + self.bias, 0) @ self.outputs


def from_extended(extended: np.ndarray, outputs: np.ndarray) -> HiddenLayer:
    """Return the layer with input weights and biases [n, d + 1] and output weights [n, m]."""
    return HiddenLayer(extended[:, :-1], extended[:, -1], outputs)
