"""XNOR-Net (Rastegari et al., 2016): signs with one scale for each output channel."""

from __future__ import annotations

from torch import Tensor

from bnncc.models.quantizers.base import SignIdentity, WeightQuantizer, register


@register("xnor")
class XnorWeights(WeightQuantizer):
    """alpha * sign(W) with alpha = mean |W| of each output channel (equation 6).

    Gradients flow through the sign (straight-through identity) and through alpha.
    """

    def forward(self, latent: Tensor) -> Tensor:
        """Return the scaled signs of the latents."""
        alpha = latent.abs().mean(dim=tuple(range(1, latent.dim())), keepdim=True)
        return alpha * SignIdentity.apply(latent)
