"""Residual networks of binary 3x3 convolutions: after Bi-Real net (Liu et al. 2018), plain ones, and ReActNet's.

The residual path stays float, and so do the stem, the last layer, and where the image halves the shortcut: 2x2 average
pooling and a 1x1 convolution with batch-norm. These are the layers that Bi-Real net, IR-Net and bi-half leave out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bnncc.models.layers import BinaryConv2d
from bnncc.models.quantizers import Spec


def shortcut_around(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return what takes a block's input to the shape of its output; nothing where that is the same."""
    layers: list[nn.Module] = []
    if stride != 1:
        # Rounding up and counting only real pixels makes odd sizes agree with the padded convolution's.
        layers.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
    if in_channels != out_channels:
        layers += [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers)


class BinaryResidual(nn.Module):
    """One binary 3x3 convolution with its shortcut: [N, C, H, W] -> [N, M, ceil(H/stride), ceil(W/stride)]."""

    convolutions = 1

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, weights: Spec = "sign", activations: Spec = "sign"
    ) -> None:
        super().__init__()
        self.conv = BinaryConv2d(
            in_channels, out_channels, 3, stride=stride, padding=1, weights=weights, activations=activations
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut_around(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add the binary convolution's normalised output to the shortcut."""
        return self.norm(self.conv(x)) + self.shortcut(x)


class BasicBlock(nn.Module):
    """Two binary 3x3 convolutions with one shortcut around both, as He et al. (2015) have it, hardtanh after each."""

    convolutions = 2

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, weights: Spec = "sign", activations: Spec = "sign"
    ) -> None:
        super().__init__()
        self.conv1 = BinaryConv2d(
            in_channels, out_channels, 3, stride=stride, padding=1, weights=weights, activations=activations
        )
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = BinaryConv2d(out_channels, out_channels, 3, padding=1, weights=weights, activations=activations)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut_around(in_channels, out_channels, stride)
        self.active = nn.Hardtanh()

    def forward(self, x: Tensor) -> Tensor:
        """Add what the two convolutions make of the input to the shortcut."""
        hidden = self.active(self.norm1(self.conv1(x)))
        return self.active(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class RPReLU(nn.Module):
    """PReLU(x - move) + shift with a slope, a move and a shift for each channel of [N, C, H, W] (ReActNet, eq. 7)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.move = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.prelu = nn.PReLU(channels)
        self.shift = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply it."""
        return self.prelu(x - self.move) + self.shift


class ReActBlock(BinaryResidual):
    """BinaryResidual with RPReLU behind, made for "learnt-sign" activations: a block of ReActNet (Liu et al. 2020)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, weights: Spec = "sign", activations: Spec = "sign"
    ) -> None:
        super().__init__(in_channels, out_channels, stride, weights, activations)
        self.active = RPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the normalised output to the shortcut, and apply RPReLU."""
        return self.active(super().forward(x))


BLOCKS: dict[str, type[nn.Module]] = {"bireal": BinaryResidual, "basic": BasicBlock, "react": ReActBlock}


class BinaryResNet(nn.Module):
    """Images [N, in_channels, H, W] float32, H and W free, -> logits [N, classes] float32.

    `depths` gives the number of binary convolutions of each stage; stage i has `width * 2**i` channels, and the first
    convolution of each stage but the first has stride 2. `block`: "bireal", a shortcut around each convolution;
    "basic", around two; "react", as "bireal" with RPReLU. `stem`: "small", a 3x3 convolution of stride `stem_stride`,
    for small images; "imagenet", 7x7 of stride 2 and max-pooling by 2.
    """

    def __init__(
        self,
        width: int = 64,
        depths: Sequence[int] = (4, 4, 4, 4),
        in_channels: int = 3,
        classes: int = 10,
        stem: str = "small",
        stem_stride: int = 1,
        block: str = "bireal",
        weights: Spec = "sign",
        activations: Spec = "sign",
    ) -> None:
        if width < 1 or in_channels < 1 or classes < 1 or stem_stride < 1:
            raise ValueError("width, channels, classes and stem stride are at least 1")
        if not depths or min(depths) < 1:
            raise ValueError(f"depths are one or more positive numbers, not {tuple(depths)}")
        if block not in BLOCKS:
            raise ValueError(f"unknown block {block!r}; there are: {', '.join(BLOCKS)}")
        kind = BLOCKS[block]
        if any(depth % kind.convolutions for depth in depths):
            raise ValueError(f"depths {tuple(depths)} do not divide into blocks of {kind.convolutions} convolutions")
        super().__init__()
        self.stem = _stem(stem, in_channels, width, stem_stride)
        blocks: list[nn.Module] = []
        channels = width
        for stage, depth in enumerate(depths):
            for index in range(depth // kind.convolutions):
                stride = 2 if stage > 0 and index == 0 else 1
                out_channels = width * 2**stage
                blocks.append(kind(channels, out_channels, stride, weights, activations))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits."""
        return self.classifier(self.pool(self.blocks(self.stem(image))).flatten(1))


def _stem(kind: str, in_channels: int, width: int, stride: int) -> nn.Sequential:
    if kind == "small":
        convolution: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False)]
        return nn.Sequential(*convolution, nn.BatchNorm2d(width))
    if kind == "imagenet":
        convolution = [nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)]
        return nn.Sequential(*convolution, nn.BatchNorm2d(width), nn.MaxPool2d(3, 2, 1))
    raise ValueError(f"unknown stem {kind!r}; there are: small, imagenet")
