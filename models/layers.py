"""Binary layers: a convolution and a linear layer whose weights and inputs pass through quantizers.

They have no bias: in most networks here a batch-norm follows, and its shift is the bias.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnncc.models import quantizers
from bnncc.models.quantizers import Spec


class _BinaryLayer(nn.Module):
    """What the binary layers share: latent weights (parameter `weight`) and the two quantizers."""

    def __init__(self, shape: tuple[int, ...], inputs: tuple[int, ...], weights: Spec, activations: Spec) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.weight_quantizer = quantizers.weight_quantizer(weights)
        self.weight_quantizer.build(shape)
        self.activation_quantizer = quantizers.activation_quantizer(activations)
        self.activation_quantizer.build(inputs)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new latents, as the weight quantizer wants them."""
        self.weight_quantizer.initialise_(self.weight)

    def effective_weight(self) -> Tensor:
        """Return the weights that multiply: two values per output channel, same shape as the latents."""
        return self.weight_quantizer(self.weight)


class BinaryConv2d(_BinaryLayer):
    """2-D convolution [N, C, H, W] -> [N, M, Ho, Wo] of quantized inputs with quantized weights [M, C/groups, kh, kw].

    Arguments are those of `torch.nn.Conv2d` (integers or pairs; no bias). The input is quantized first and padded
    after, so that `padding` contributes exactly 0. `weights` and `activations` are quantizers
    (`bnncc.models.quantizers.Spec`); "none" leaves float what it stands for. Channels that `groups` does not divide
    are a ValueError.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        weights: Spec = "sign",
        activations: Spec = "sign",
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"channels {in_channels} -> {out_channels} do not divide into {groups} groups")
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        super().__init__((out_channels, in_channels // groups, *kernel), (1, in_channels, 1, 1), weights, activations)
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the quantized input with the quantized weights."""
        return F.conv2d(
            self.activation_quantizer(x),
            self.effective_weight(),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    def extra_repr(self) -> str:
        """Describe the layer in `print(model)`."""
        return f"{tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}, groups={self.groups}"


class BinaryLinear(_BinaryLayer):
    """Linear layer [..., K] -> [..., M] of quantized inputs with quantized weights [M, K]; no bias."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        weights: Spec = "sign",
        activations: Spec = "sign",
    ) -> None:
        super().__init__((out_features, in_features), (1, in_features), weights, activations)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the quantized input with the quantized weights."""
        return F.linear(self.activation_quantizer(x), self.effective_weight())

    def extra_repr(self) -> str:
        """Describe the layer in `print(model)`."""
        return f"{tuple(self.weight.shape)}"


def constrain_weights(model: nn.Module) -> None:
    """Let each binary layer's quantizer bring its latent weights back into range; to be called after each step."""
    for module in model.modules():
        if isinstance(module, _BinaryLayer):
            module.weight_quantizer.constrain_(module.weight)


def binary_layers(model: nn.Module) -> Iterator[_BinaryLayer]:
    """Return the layers whose weights are of two values per output channel, in the network's order."""
    for module in model.modules():
        if isinstance(module, _BinaryLayer) and module.weight_quantizer.binary:
            yield module
