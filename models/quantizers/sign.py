"""Signs: the plainest quantizer of weights, and the usual one of activations."""

from __future__ import annotations

from torch import Tensor

from bnncc.models.quantizers.base import ActivationQuantizer, SignHardTanh, SignIdentity, WeightQuantizer, register


@register("sign")
class SignWeights(WeightQuantizer):
    """sign(W) in {-1, +1}, straight-through identity gradient; no scale (a following batch-norm supplies it)."""

    def forward(self, latent: Tensor) -> Tensor:
        """Return the signs of the latents."""
        return SignIdentity.apply(latent)


@register("sign")
class SignActivation(ActivationQuantizer):
    """sign(x) in {-1, +1}; the gradient passes where |x| < 1 and is zero elsewhere (BinaryNet's straight-through)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the signs."""
        return SignHardTanh.apply(x)
