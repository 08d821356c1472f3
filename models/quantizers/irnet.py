"""IR-Net's balanced signs (Qin et al., 2020): weights are standardised first, so that about half are +1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bnncc.models.quantizers.base import SignIdentity, WeightQuantizer, register


@register("ir-net")
class BalancedSignWeights(WeightQuantizer):
    """2^s sign(V), V = (W - mean W) / std W of each output channel and s = round(log2(mean |V|)) (Libra-PB).

    A baseline of bi-half, without IR-Net's schedule of gradients: the sign's is the identity, and mean and deviation
    are differentiated. A channel of equal weights has V = 0, hence +1 throughout. scaled: times sqrt(2 / D) instead of
    2^s, as in SignWeights.
    """

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.scaled = scaled

    def forward(self, latent: Tensor) -> Tensor:
        """Return the balanced signs, scaled by a power of two."""
        dims = tuple(range(1, latent.dim()))
        centered = latent - latent.mean(dims, keepdim=True)
        # What rounding leaves of equal weights is no spread: V is 0 there, and its gradient is that of the mean alone.
        spread, size = (values.detach().abs().amax(dims, keepdim=True) for values in (centered, latent))
        equal = spread <= 1e-6 * size
        centered = centered - centered.detach() * equal
        deviation = (centered.square().mean(dims, keepdim=True) + equal).sqrt()
        standard = centered / deviation
        signs = SignIdentity.apply(standard)
        if self.scaled:
            return math.sqrt(2 / latent[0].numel()) * signs
        size = standard.detach().abs().mean(dims, keepdim=True)
        scale = torch.where(size > 0, 2.0 ** torch.round(torch.log2(size.clamp_min(1e-12))), torch.ones_like(size))
        return scale * signs

    def constrain_(self, latent: Tensor) -> None:
        """Leave the latents: standardising bounds what counts of them."""
