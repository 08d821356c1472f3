"""VGG-small for small images, with a float first convolution and last layer and five binary 3x3 convolutions.

At full width (128) on 32x32 images it is the network of the binary-network literature (4,571,136 binary weights):
3-128 float; 128-128 pool, 128-256, 256-256 pool, 256-512, 512-512 pool binary; 8192-10 float. Each convolution is
followed by the pooling where there is one, then batch-norm, then hardtanh.
"""

from __future__ import annotations

from torch import Tensor, nn

from bnncc.models.layers import BinaryConv2d
from bnncc.models.quantizers import Spec


class VggSmall(nn.Module):
    """Images [N, in_channels, image_size, image_size] float32 -> logits [N, classes] float32.

    `width` is the number of channels of the first convolution; the others have 1, 2, 2, 4 and 4 times as many.
    `image_size` is at least 8 (three poolings by 2, rounding down).
    """

    def __init__(
        self,
        width: int = 128,
        in_channels: int = 3,
        image_size: int = 32,
        classes: int = 10,
        weights: Spec = "sign",
        activations: Spec = "sign",
    ) -> None:
        if width < 1 or in_channels < 1 or classes < 1:
            raise ValueError("width, channels and classes are at least 1")
        if image_size < 8:
            raise ValueError(f"images of {image_size} pixels are too small for three poolings; 8 at least")
        super().__init__()

        def binary(c_in: int, c_out: int, pool: bool) -> list[nn.Module]:
            conv = BinaryConv2d(c_in, c_out, 3, padding=1, weights=weights, activations=activations)
            return [conv, *([nn.MaxPool2d(2)] if pool else []), nn.BatchNorm2d(c_out), nn.Hardtanh()]

        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.Hardtanh(),
            *binary(width, width, pool=True),
            *binary(width, 2 * width, pool=False),
            *binary(2 * width, 2 * width, pool=True),
            *binary(2 * width, 4 * width, pool=False),
            *binary(4 * width, 4 * width, pool=True),
        )
        self.classifier = nn.Linear(4 * width * (image_size // 8) ** 2, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits."""
        return self.classifier(self.features(image).flatten(1))
