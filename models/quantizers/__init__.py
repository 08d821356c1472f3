"""Quantizers: how latent float weights and float activations become two values, and what gradient passes back.

Weights: "sign", "xnor" (XNOR-Net), "bi-half" and "bi-half-pruned" (Equal Bits), "dab" (DAB-Net), "ir-net" (a baseline).
Activations: "sign". `base` says what a quantizer is and how to add one.
"""

from bnncc.models.quantizers.base import (
    ACTIVATION_QUANTIZERS,
    WEIGHT_QUANTIZERS,
    ActivationQuantizer,
    Stored,
    WeightQuantizer,
    activation_quantizer,
    binarize,
    register,
    weight_quantizer,
)
from bnncc.models.quantizers.bihalf import BiHalfWeights, PrunedBiHalfWeights
from bnncc.models.quantizers.dab import DabWeights
from bnncc.models.quantizers.irnet import BalancedSignWeights
from bnncc.models.quantizers.sign import SignActivation, SignWeights
from bnncc.models.quantizers.xnor import XnorWeights

__all__ = [
    "ACTIVATION_QUANTIZERS",
    "WEIGHT_QUANTIZERS",
    "ActivationQuantizer",
    "BalancedSignWeights",
    "BiHalfWeights",
    "DabWeights",
    "PrunedBiHalfWeights",
    "SignActivation",
    "SignWeights",
    "Stored",
    "WeightQuantizer",
    "XnorWeights",
    "activation_quantizer",
    "binarize",
    "register",
    "weight_quantizer",
]
