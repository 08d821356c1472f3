"""Signs: the plainest quantizer of weights, and the usual one of activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bnncc.models.quantizers.base import (
    ActivationQuantizer,
    SignIdentity,
    WeightQuantizer,
    binarize_activation,
    register,
)


@register("sign")
class SignWeights(WeightQuantizer):
    """sign(W) in {-1, +1}, straight-through identity gradient; no scale, where a batch-norm follows and supplies it.

    scaled: times sqrt(2 / D), D the weights of a filter, as bi-half's are: the variance of activations is kept through
    ReLU where no batch-norm follows.
    """

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.scaled = scaled

    def forward(self, latent: Tensor) -> Tensor:
        """Return the signs of the latents."""
        signs = SignIdentity.apply(latent)
        return math.sqrt(2 / latent[0].numel()) * signs if self.scaled else signs


@register("sign")
class SignActivation(ActivationQuantizer):
    """sign(x) in {-1, +1}; the gradient passes where |x| < 1 and is zero elsewhere (BinaryNet's straight-through)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the signs."""
        return binarize_activation(x)


@register("learnt-sign")
class LearntSignActivation(ActivationQuantizer):
    """sign(x + shift) with a shift learnt for each channel, 0 at first (RSign of ReActNet, Liu et al. 2020, eq. 6)."""

    def build(self, shape: tuple[int, ...]) -> None:
        """Make the shifts, of the shape [1, C, 1, 1] or [1, K]."""
        self.shift = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Return the signs."""
        return binarize_activation(x + self.shift)
