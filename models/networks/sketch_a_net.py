"""Sketch-A-Net (Yu et al. 2015), the network that DAB-Net trains on sketches: large first filters, no texture to see.

Its first and last layers stay float, the others are binary, as in DAB-Net (section 5.1).
"""

from __future__ import annotations

from torch import Tensor, nn

from bnncc.models.layers import BinaryConv2d
from bnncc.models.quantizers import Spec

LARGE = 131
"""Images of this size and above have the first convolution and the poolings of the paper."""


class SketchANet(nn.Module):
    """Images [N, in_channels, image_size, image_size] float32 -> logits [N, classes] float32.

    Convolutions of `width` channels (15x15, stride 3), 2 `width` (5x5) and three times 4 `width` (3x3), max-pooling by
    3 with stride 2 behind the first, second and fifth; then two layers of 8 `width` neurons with dropout. 225 pixels
    and width 64 are the paper's. Images below 131 pixels, which that would leave nothing of, 23 at least, have a first
    convolution of 7x7 with stride 1, and 5x5 is padded. A binary layer is XNOR-Net's, as in DAB-Net: batch-norm,
    activation quantizer, convolution without bias, ReLU, and the pooling.
    """

    def __init__(
        self,
        width: int = 64,
        dropout: float = 0.5,
        in_channels: int = 1,
        image_size: int = 225,
        classes: int = 250,
        weights: Spec = "sign",
        activations: Spec = "sign",
    ) -> None:
        if width < 1 or in_channels < 1 or classes < 1:
            raise ValueError("width, channels and classes are at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; it is a share of at least 0 and below 1")
        if image_size < 23:
            raise ValueError(f"images of {image_size} pixels are too small for three poolings; 23 at least")
        super().__init__()
        large = image_size >= LARGE

        def binary(c_in: int, c_out: int, kernel: int, padding: int, *behind: nn.Module) -> list[nn.Module]:
            conv = BinaryConv2d(c_in, c_out, kernel, padding=padding, weights=weights, activations=activations)
            return [nn.BatchNorm2d(c_in), conv, nn.ReLU(), *behind]

        first = (15, 3, 0) if large else (7, 1, 3)
        side = (image_size - 15) // 3 + 1 if large else image_size
        side = (side - 3) // 2 + 1
        side = ((side - 4 if large else side) - 3) // 2 + 1
        side = (side - 3) // 2 + 1
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, first[0], stride=first[1], padding=first[2], bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            *binary(width, 2 * width, 5, 0 if large else 2, nn.MaxPool2d(3, 2)),
            *binary(2 * width, 4 * width, 3, 1),
            *binary(4 * width, 4 * width, 3, 1),
            *binary(4 * width, 4 * width, 3, 1, nn.MaxPool2d(3, 2)),
            *binary(4 * width, 8 * width, side, 0),
            nn.Dropout(dropout),
            *binary(8 * width, 8 * width, 1, 0),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(8 * width, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits."""
        return self.layers(image)
