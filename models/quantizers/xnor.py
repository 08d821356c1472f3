"""XNOR-Net (Rastegari et al., 2016): signs with one scale for each output channel."""

from __future__ import annotations

import torch
from torch import Tensor

from bnncc.models.quantizers.base import SignIdentity, WeightQuantizer, center_, register


@register("xnor")
class XnorWeights(WeightQuantizer):
    """alpha * sign(W) with alpha = mean |W| of each output channel (equation 6).

    Gradients flow through the sign (straight-through identity) and through alpha. centered: latents are mean-centred
    after each step as DAB-Net's are, which XNOR-Net's public code does and DAB-Net compares itself with.
    """

    def __init__(self, centered: bool = False) -> None:
        super().__init__()
        self.centered = centered

    def forward(self, latent: Tensor) -> Tensor:
        """Return the scaled signs of the latents."""
        alpha = latent.abs().mean(dim=tuple(range(1, latent.dim())), keepdim=True)
        return alpha * SignIdentity.apply(latent)

    @torch.no_grad()
    def constrain_(self, latent: Tensor) -> None:
        """Centre the latents, if that is wanted, and clamp them to [-1, 1]."""
        if self.centered:
            center_(latent)
        super().constrain_(latent)
