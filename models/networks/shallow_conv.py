"""Conv2, Conv4, Conv6 and Conv8: VGG-like networks without batch-norm in which every layer has binary weights.

Those of Frankle and Carbin (2019) that the Equal Bits paper trains (its Table 2): pairs of 3x3 convolutions of 64, 128,
256 and 512 channels, each pair followed by max-pooling, then linear layers of 256, 256 and 10 neurons, ReLU between.
"""

from __future__ import annotations

from torch import Tensor, nn

from bnncc.models.layers import BinaryConv2d, BinaryLinear
from bnncc.models.quantizers import Spec, activation_quantizer


class ShallowConv(nn.Module):
    """Images [N, in_channels, image_size, image_size] float32 -> logits [N, classes] float32.

    `convolutions` is 2, 4, 6 or 8; the first two have `width` channels, each pair twice as many as the one before, and
    the two hidden linear layers `hidden` neurons. `activations` "none": ReLU, whose variance quantizers with a scale of
    sqrt(2 / D) keep ("sign" with `scaled`, "bi-half"). Binary ones need batch-norms, one behind each layer, the last
    included, whose outputs are integers else; the image itself stays float.
    """

    def __init__(
        self,
        convolutions: int = 2,
        width: int = 64,
        hidden: int = 256,
        in_channels: int = 3,
        image_size: int = 32,
        classes: int = 10,
        weights: Spec = "sign",
        activations: Spec = "none",
    ) -> None:
        if convolutions not in (2, 4, 6, 8):
            raise ValueError(f"{convolutions} convolutions; there are 2, 4, 6 or 8")
        if min(width, hidden, in_channels, classes) < 1:
            raise ValueError("width, hidden neurons, channels and classes are at least 1")
        side = image_size // 2 ** (convolutions // 2)
        if side < 1:
            raise ValueError(f"images of {image_size} pixels are too small for {convolutions // 2} poolings")
        super().__init__()
        binary = activation_quantizer(activations).binary

        def active(layer: nn.Module, norm: type[nn.Module], channels: int) -> list[nn.Module]:
            return [layer, norm(channels), nn.Hardtanh()] if binary else [layer, nn.ReLU()]

        layers: list[nn.Module] = []
        channels, quantized = in_channels, "none"
        for index in range(convolutions):
            filters = width * 2 ** (index // 2)
            conv = BinaryConv2d(channels, filters, 3, padding=1, weights=weights, activations=quantized)
            layers += active(conv, nn.BatchNorm2d, filters)
            if index % 2:
                layers.append(nn.MaxPool2d(2))
            channels, quantized = filters, activations
        layers.append(nn.Flatten())
        inputs = channels * side**2
        for neurons in (hidden, hidden):
            linear = BinaryLinear(inputs, neurons, weights=weights, activations=activations)
            layers += active(linear, nn.BatchNorm1d, neurons)
            inputs = neurons
        layers.append(BinaryLinear(inputs, classes, weights=weights, activations=activations))
        if binary:
            layers.append(nn.BatchNorm1d(classes))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Compute the logits."""
        return self.layers(image)
