"""What a quantizer is, the two families of them, their names, and straight-through gradients.

A quantizer is a `torch.nn.Module` that maps a tensor to one of the same shape. There are two families:

* `WeightQuantizer`: latent weights [M, ...] (output channel first) to effective weights that take at most two values
  per output channel. Only the latent weights are stored; a scale is computed from them at each forward pass.
  `constrain_` is called on the latents after each optimiser step.
* `ActivationQuantizer`: activations [N, C, ...] to -1 and +1. Zero maps to +1, as everywhere in bnncc; NaN to -1.

A new quantizer is one subclass with a decorator, after which every layer, network and the command line know it:

    @register("bi-half")
    class BiHalfWeights(WeightQuantizer):
        def forward(self, latent): ...

Both families have names of their own: "sign" is `SignWeights` for weights and `SignActivation` for activations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from bnncc.errors import BadInput


@dataclass(frozen=True)
class Stored:
    """What inference needs of a layer's weights: bool bits [M, ...], and the two values [M] of each output channel.

    The effective weight is `high` where a bit is set, else `low`.
    """

    bits: Tensor
    high: Tensor
    low: Tensor

    @property
    def weight(self) -> Tensor:
        """Return the effective weights [M, ...]."""
        shape = (-1, *[1] * (self.bits.dim() - 1))
        return torch.where(self.bits, self.high.reshape(shape), self.low.reshape(shape))


class WeightQuantizer(nn.Module):
    """Base of weight quantizers: latent [M, ...] float -> effective weights of that shape, two values per channel."""

    exportable = True
    """Whether the arithmetic from latent to effective weights can be written to ONNX; sorting cannot."""

    def forward(self, latent: Tensor) -> Tensor:
        """Return the effective weights."""
        raise NotImplementedError

    def build(self, shape: tuple[int, ...]) -> None:
        """Make what the quantizer itself learns, for latents of a shape; called once, by the layer. Nothing here."""

    @torch.no_grad()
    def stored(self, latent: Tensor) -> Stored:
        """Return the bits and values of the effective weights; of a channel of one value the bit is its sign.

        Raises ValueError where a channel takes a third value.
        """
        weight = self(latent)
        rows = weight.flatten(1)
        high, low = rows.amax(1), rows.amin(1)
        bits = torch.where((high == low)[:, None], rows >= 0, rows == high[:, None])
        if not bool(((rows == high[:, None]) | (rows == low[:, None])).all()):
            raise ValueError(f"{type(self).__name__} gives more than two values in an output channel")
        return Stored(bits.reshape(weight.shape), high, low)

    @torch.no_grad()
    def constrain_(self, latent: Tensor) -> None:
        """Bring the latent weights back, in place, to where this quantizer wants them; called after each step.

        Latents are clamped to [-1, 1]: with an identity straight-through gradient nothing else stops a weight whose
        sign is right from growing until it can no longer change.
        """
        latent.clamp_(-1.0, 1.0)


class ActivationQuantizer(nn.Module):
    """Base of activation quantizers: float [N, C, ...] -> -1 and +1 of that shape and dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the signs."""
        raise NotImplementedError


QuantizerClass = TypeVar("QuantizerClass", bound=type[nn.Module])
WEIGHT_QUANTIZERS: dict[str, type[WeightQuantizer]] = {}
ACTIVATION_QUANTIZERS: dict[str, type[ActivationQuantizer]] = {}


def register(name: str) -> Callable[[QuantizerClass], QuantizerClass]:
    """Class decorator: make a quantizer available under `name` in its family. A name taken twice is a ValueError."""

    def add(cls: QuantizerClass) -> QuantizerClass:
        family = WEIGHT_QUANTIZERS if issubclass(cls, WeightQuantizer) else ACTIVATION_QUANTIZERS
        if family is ACTIVATION_QUANTIZERS and not issubclass(cls, ActivationQuantizer):
            raise TypeError(f"{cls.__name__} is neither a WeightQuantizer nor an ActivationQuantizer")
        if name in family:
            raise ValueError(f"quantizer name {name!r} is taken by {family[name].__name__}")
        family[name] = cls
        return cls

    return add


def weight_quantizer(spec: str | WeightQuantizer) -> WeightQuantizer:
    """Make the registered weight quantizer of that name; a quantizer object is passed through."""
    return _resolve(spec, WEIGHT_QUANTIZERS, "weight")


def activation_quantizer(spec: str | ActivationQuantizer) -> ActivationQuantizer:
    """Make the registered activation quantizer of that name; a quantizer object is passed through."""
    return _resolve(spec, ACTIVATION_QUANTIZERS, "activation")


def _resolve(spec, family: dict, kind: str):
    if isinstance(spec, nn.Module):
        return spec
    if spec not in family:
        raise BadInput(f"unknown {kind} quantizer {spec!r}; there are: {', '.join(sorted(family))}")
    return family[spec]()


def binarize(x: Tensor) -> Tensor:
    """Return +1 where x >= 0, else -1 (so 0 gives +1 and NaN gives -1), in the dtype of x. No gradient.

    The scalars are of x's dtype, so that the exported graph is GreaterOrEqual and Where and has no Cast.
    """
    return torch.where(x >= 0, x.new_tensor(1.0), x.new_tensor(-1.0))


class SignIdentity(torch.autograd.Function):
    """`binarize` whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return binarize(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


class SignHardTanh(torch.autograd.Function):
    """`binarize` whose gradient is that of hardtanh: passed on inside (-1, 1), zero at and beyond the ends."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return binarize(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x.abs() < 1, grad, 0)
