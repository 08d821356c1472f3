"""A residual network of binary 3x3 convolutions with one shortcut around each, after Bi-Real net (Liu et al. 2018).

The residual path stays float: x + BN(conv(sign(x))). Where the image halves, the shortcut is a 2x2 average pooling and
a float 1x1 convolution with batch-norm. The stem is one float 3x3 convolution and the last layer is float.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from bnncc.models.layers import BinaryConv2d
from bnncc.models.quantizers import ActivationQuantizer, WeightQuantizer


class BinaryResidual(nn.Module):
    """One binary 3x3 convolution with its shortcut: [N, C, H, W] -> [N, M, ceil(H/stride), ceil(W/stride)]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        weights: str | WeightQuantizer = "sign",
        activations: str | ActivationQuantizer = "sign",
    ) -> None:
        super().__init__()
        self.conv = BinaryConv2d(
            in_channels, out_channels, 3, stride=stride, padding=1, weights=weights, activations=activations
        )
        self.norm = nn.BatchNorm2d(out_channels)
        shortcut: list[nn.Module] = []
        if stride != 1:
            # Rounding up and counting only real pixels makes odd sizes agree with the padded convolution's.
            shortcut.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        if in_channels != out_channels:
            shortcut += [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Add the binary convolution's normalised output to the shortcut."""
        return self.norm(self.conv(x)) + self.shortcut(x)


class BiRealResNet(nn.Module):
    """Images [N, in_channels, H, W] float32, H and W free, -> logits [N, classes] float32.

    `depths` gives the number of binary convolutions of each stage; stage i has `width * 2**i` channels, and the first
    convolution of each stage but the first has stride 2. `stem_stride` 2 halves the image before the binary part.
    """

    def __init__(
        self,
        width: int = 64,
        depths: Sequence[int] = (4, 4, 4, 4),
        in_channels: int = 3,
        classes: int = 10,
        stem_stride: int = 1,
        weights: str | WeightQuantizer = "sign",
        activations: str | ActivationQuantizer = "sign",
    ) -> None:
        if width < 1 or in_channels < 1 or classes < 1 or stem_stride < 1:
            raise ValueError("width, channels, classes and stem stride are at least 1")
        if not depths or min(depths) < 1:
            raise ValueError(f"depths are one or more positive numbers, not {tuple(depths)}")
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=stem_stride, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        blocks: list[nn.Module] = []
        channels = width
        for stage, depth in enumerate(depths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                out_channels = width * 2**stage
                blocks.append(BinaryResidual(channels, out_channels, stride, weights, activations))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits."""
        return self.classifier(self.pool(self.blocks(self.stem(image))).flatten(1))
