"""Weights or activations that stay float: parts of a binary layer that are not quantized."""

from __future__ import annotations

import torch
from torch import Tensor

from bnncc.models.quantizers.base import ActivationQuantizer, WeightQuantizer, register


@register("none")
class FloatWeights(WeightQuantizer):
    """The latent weights themselves: a float layer, to compare with."""

    binary = False

    def forward(self, latent: Tensor) -> Tensor:
        """Return the latents."""
        return latent

    @torch.no_grad()
    def constrain_(self, latent: Tensor) -> None:
        """Leave the latents."""


@register("none")
class FloatActivation(ActivationQuantizer):
    """The input itself: of a layer whose weights alone are binary, or whose input is binary already."""

    binary = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the input."""
        return x
