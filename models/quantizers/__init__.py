"""Quantizers: how latent float weights and float activations become two values, and what gradient passes back.

Weights: "sign", "xnor" (XNOR-Net), "bi-half" and "bi-half-pruned" (Equal Bits), "dab" (DAB-Net), "ir-net" (a baseline).
Activations: "sign", "learnt-sign" with a threshold for each channel (ReActNet). `base` says what a quantizer is and how
to add one.
"""

from bnncc.models.quantizers.base import (
    ACTIVATION_QUANTIZERS,
    WEIGHT_QUANTIZERS,
    ActivationQuantizer,
    Spec,
    Stored,
    WeightQuantizer,
    activation_quantizer,
    binarize,
    bits_of,
    register,
    weight_quantizer,
)
from bnncc.models.quantizers.bihalf import BiHalfWeights, PrunedBiHalfWeights
from bnncc.models.quantizers.dab import DabWeights
from bnncc.models.quantizers.irnet import BalancedSignWeights
from bnncc.models.quantizers.none import FloatActivation, FloatWeights
from bnncc.models.quantizers.sign import LearntSignActivation, SignActivation, SignWeights
from bnncc.models.quantizers.xnor import XnorWeights

__all__ = [
    "ACTIVATION_QUANTIZERS",
    "WEIGHT_QUANTIZERS",
    "ActivationQuantizer",
    "BalancedSignWeights",
    "BiHalfWeights",
    "DabWeights",
    "FloatActivation",
    "FloatWeights",
    "LearntSignActivation",
    "PrunedBiHalfWeights",
    "SignActivation",
    "SignWeights",
    "Spec",
    "Stored",
    "WeightQuantizer",
    "XnorWeights",
    "activation_quantizer",
    "binarize",
    "bits_of",
    "register",
    "weight_quantizer",
]
