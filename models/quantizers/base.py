"""What a quantizer is, the two families of them, their names, and straight-through gradients.

A quantizer is a `torch.nn.Module` that maps a tensor to one of the same shape. There are two families:

* `WeightQuantizer`: latent weights [M, ...] (output channel first) to effective weights that take at most two values
  per output channel. A scale is computed from the latents at each forward pass; what else is learnt is made by `build`.
  `constrain_` is called on the latents after each optimiser step.
* `ActivationQuantizer`: activations [N, C, ...] to -1 and +1. Zero maps to +1, as everywhere in bnncc; NaN to -1.

Either may be "none", which leaves what is float as it is: for weight-binary layers, and for float baselines.

A new quantizer is one subclass with a decorator, after which every layer and network know it, and the command line if
its file is in this folder and `__init__.py` imports it:

    @register("bi-half")
    class BiHalfWeights(WeightQuantizer):
        def forward(self, latent): ...

Both families have names of their own: "sign" is `SignWeights` for weights and `SignActivation` for activations.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from bnncc.errors import BadInput
from bnncc.models.arguments import check_arguments


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


def bits_of(weight: Tensor) -> Tensor:
    """Return which effective weights [M, ...] are the upper value of their channel; in one of one value, their sign."""
    rows = weight.flatten(1)
    high, low = rows.amax(1, keepdim=True), rows.amin(1, keepdim=True)
    return torch.where(high == low, rows >= 0, rows == high).reshape(weight.shape)


class WeightQuantizer(nn.Module, ABC):
    """Base of weight quantizers: latent [M, ...] float -> effective weights of that shape, two values per channel."""

    exportable = True
    """Whether the arithmetic from latent to effective weights can be written to ONNX; sorting cannot."""
    binary = True
    """Whether effective weights take two values per output channel; else the layer stays float when compiled."""

    @abstractmethod
    def forward(self, latent: Tensor) -> Tensor:
        """Return the effective weights."""

    def build(self, shape: tuple[int, ...]) -> None:
        """Make what the quantizer itself learns, for latents of a shape; called once, by the layer. Nothing here."""

    @torch.no_grad()
    def initialise_(self, latent: Tensor) -> None:
        """Fill new latents, in place: uniform in +-1/sqrt(D), D the weights of a channel.

        That is small against the clamp at 1, so that early steps can flip signs.
        """
        bound = 1.0 / math.sqrt(latent[0].numel())
        nn.init.uniform_(latent, -bound, bound)

    @torch.no_grad()
    def stored(self, latent: Tensor) -> Stored:
        """Return the bits and values of the effective weights; of a channel of one value the bit is its sign.

        Raises ValueError where a channel takes a third value.
        """
        weight = self(latent)
        bits, rows = bits_of(weight), weight.flatten(1)
        high, low = rows.amax(1), rows.amin(1)
        if not bool(((rows == high[:, None]) | (rows == low[:, None])).all()):
            raise ValueError(f"{type(self).__name__} gives more than two values in an output channel")
        return Stored(bits, high, low)

    @torch.no_grad()
    def constrain_(self, latent: Tensor) -> None:
        """Bring the latent weights back, in place, to where this quantizer wants them; called after each step.

        Latents are clamped to [-1, 1]: with an identity straight-through gradient nothing else stops a weight whose
        sign is right from growing until it can no longer change.
        """
        latent.clamp_(-1.0, 1.0)


class ActivationQuantizer(nn.Module, ABC):
    """Base of activation quantizers: float [N, C, ...] -> -1 and +1 of that shape and dtype."""

    binary = True
    """Whether they are -1 and +1; else the layer computes with floats when compiled."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the signs."""

    def build(self, shape: tuple[int, ...]) -> None:
        """Make what the quantizer itself learns, in a shape that inputs broadcast with: [1, C, 1, 1]. Nothing here."""


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


Spec = str | Mapping[str, object] | nn.Module
"""A quantizer by name, by a table of its name (key "name") and its arguments, or the object itself."""


def weight_quantizer(spec: Spec) -> WeightQuantizer:
    """Make the weight quantizer that is meant; of an object a copy, as each layer has its own.

    Raises BadInput, naming what there is, for an unknown one or an argument that it does not take.
    """
    return _resolve(spec, WEIGHT_QUANTIZERS, "weight")


def activation_quantizer(spec: Spec) -> ActivationQuantizer:
    """Make the activation quantizer that is meant, as weight_quantizer does."""
    return _resolve(spec, ACTIVATION_QUANTIZERS, "activation")


def _resolve(spec, family: dict, kind: str):
    if isinstance(spec, nn.Module):
        return copy.deepcopy(spec)
    arguments = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in family:
        raise BadInput(f"unknown {kind} quantizer {name!r}; there are: {', '.join(sorted(family))}")
    check_arguments(family[name], arguments, f"{kind} quantizer {name}")
    try:
        return family[name](**arguments)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{kind} quantizer {name}: {error}") from error


def binarize(x: Tensor) -> Tensor:
    """Return +1 where x >= 0, else -1 (so 0 gives +1 and NaN gives -1), in the dtype of x. No gradient.

    The scalars are of x's dtype, so that the exported graph is GreaterOrEqual and Where and has no Cast.
    """
    return torch.where(x >= 0, x.new_tensor(1.0), x.new_tensor(-1.0))


def center_(latent: Tensor) -> None:
    """Subtract from latents [M, C, ...], in place, their mean over the input channels C.

    One input channel is left as it is: its mean is itself, and zeros would be left.
    """
    if latent.shape[1] > 1:
        latent.sub_(latent.mean(dim=1, keepdim=True))


class SignIdentity(torch.autograd.Function):
    """`binarize` whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return binarize(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


class SignHardTanh(torch.autograd.Function):
    """`binarize` whose gradient is that of hardtanh: passed on inside (-1, 1), zero at and beyond the ends.

    For training, on whole maps: torch's Where takes two and a half times as long as this arithmetic forward, and
    twenty times as long as hardtanh's own kernel backward.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype).mul_(2).sub_(1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, x, -1.0, 1.0)


def binarize_activation(x: Tensor) -> Tensor:
    """Return the signs of activations: with SignHardTanh's gradient, or in the form to export where there is none."""
    return SignHardTanh.apply(x) if torch.is_grad_enabled() else binarize(x)
