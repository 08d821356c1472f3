"""Small float networks for images of one size: those that TropNNC's experiments compress (its section 7).

They have no batch-norm: linear layers and convolutions with biases, each but the last followed by its activation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def _check(image_size: int, least: int, *numbers: int) -> None:
    if image_size < least:
        raise ValueError(f"images of {image_size} pixels; {least} at least")
    if min(numbers) < 1:
        raise ValueError("widths, channels and classes are at least 1")


class Mlp(nn.Module):
    """Images [N, in_channels, image_size, image_size] float32 -> logits [N, classes]: linear layers and ReLU.

    `widths` are the hidden layers' neurons; as they are it is the paper's "deepNN".
    """

    def __init__(
        self, widths: Sequence[int] = (512, 256, 128), in_channels: int = 1, image_size: int = 28, classes: int = 10
    ) -> None:
        super().__init__()
        _check(image_size, 1, in_channels, classes, *widths)
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = in_channels * image_size**2
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, classes))

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits."""
        return self.layers(image)


class HiddenLayerCnn(nn.Module):
    """Images [N, in_channels, image_size, image_size] float32 -> logits [N, classes], through one large hidden layer.

    Two 3x3 convolutions of `width` and 2 `width` channels, ReLU and max-pooling by 2 after each, then a hidden linear
    layer of `hidden` neurons: the CNN of the paper's Tables 1 to 3. One class makes one logit, of the second of two.
    """

    def __init__(
        self, width: int = 16, hidden: int = 1000, in_channels: int = 1, image_size: int = 28, classes: int = 10
    ) -> None:
        super().__init__()
        _check(image_size, 4, in_channels, classes, width, hidden)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(),
        )  # fmt: skip
        self.hidden = nn.Linear(2 * width * (image_size // 4) ** 2, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits."""
        return self.output(self.hidden(self.features(image)).relu())


class LeNet(nn.Module):
    """Images [N, in_channels, image_size, image_size] float32 -> logits [N, classes]: LeNet-5's layers (1998).

    5x5 convolutions of 6 and 16 channels, each pooled by 2, linear layers of 120 and 84 neurons. `activation`: "relu"
    with max-pooling (the paper's "deepCNN2D"), or "tanh" or "sigmoid" with average pooling, as LeNet-5 has it.
    """

    def __init__(self, activation: str = "tanh", in_channels: int = 1, image_size: int = 28, classes: int = 10) -> None:
        super().__init__()
        _check(image_size, 12, in_channels, classes)
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; there are: {', '.join(ACTIVATIONS)}")
        active = ACTIVATIONS[activation]
        pool = nn.MaxPool2d if activation == "relu" else nn.AvgPool2d
        side = (image_size // 2 - 4) // 2
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2), active(), pool(2),
            nn.Conv2d(6, 16, 5), active(), pool(2),
            nn.Flatten(),
            nn.Linear(16 * side**2, 120), active(),
            nn.Linear(120, 84), active(),
            nn.Linear(84, classes),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits."""
        return self.layers(image)
