"""IR-Net's balanced signs (Qin et al., 2020): weights are standardised first, so that about half are +1."""

from __future__ import annotations

import torch
from torch import Tensor

from bnncc.models.quantizers.base import SignIdentity, WeightQuantizer, register


@register("ir-net")
class BalancedSignWeights(WeightQuantizer):
    """2^s sign(V), V = (W - mean W) / std W of each output channel and s = round(log2(mean |V|)) (Libra-PB).

    A baseline of bi-half, without IR-Net's schedule of gradients: the sign's is the identity, and mean and deviation
    are differentiated. A channel of equal weights has V = 0, hence +1 throughout.
    """

    def forward(self, latent: Tensor) -> Tensor:
        """Return the balanced signs, scaled by a power of two."""
        dims = tuple(range(1, latent.dim()))
        centered = latent - latent.mean(dims, keepdim=True)
        deviation = centered.square().mean(dims, keepdim=True).sqrt()
        standard = centered / deviation.clamp_min(torch.finfo(latent.dtype).tiny)
        size = standard.detach().abs().mean(dims, keepdim=True)
        scale = torch.where(size > 0, 2.0 ** torch.round(torch.log2(size.clamp_min(1e-12))), torch.ones_like(size))
        return scale * SignIdentity.apply(standard)

    def constrain_(self, latent: Tensor) -> None:
        """Leave the latents: standardising bounds what counts of them."""
