"""Networks by name: what the command line and checkpoints use to build one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from bnncc.errors import BadInput
from bnncc.models.arguments import check_arguments
from bnncc.models.networks.resnet import BinaryResNet
from bnncc.models.networks.shallow_conv import ShallowConv
from bnncc.models.networks.sketch_a_net import SketchANet
from bnncc.models.networks.small_float import HiddenLayerCnn, LeNet, Mlp
from bnncc.models.networks.vgg import VggSmall

# Those of the papers are a class with their arguments as defaults, which may be overridden like any.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "vgg_small": VggSmall,
    "bireal_resnet": BinaryResNet,
    "resnet18": partial(BinaryResNet, stem="imagenet", classes=1000),
    "resnet34": partial(BinaryResNet, depths=(6, 8, 12, 6), stem="imagenet", classes=1000),
    "resnet20": partial(BinaryResNet, width=16, depths=(6, 6, 6)),
    "reactnet18": partial(BinaryResNet, stem="imagenet", classes=1000, block="react", activations="learnt-sign"),
    "conv2": ShallowConv,
    "conv4": partial(ShallowConv, convolutions=4),
    "conv6": partial(ShallowConv, convolutions=6),
    "conv8": partial(ShallowConv, convolutions=8),
    "sketch_a_net": SketchANet,
    "mlp": Mlp,
    "hidden_layer_cnn": HiddenLayerCnn,
    "lenet": LeNet,
}


def network_class(name: str) -> Callable[..., nn.Module]:
    """Return what makes a network of that name. Raises `BadInput`, naming what there is, for an unknown one."""
    if not isinstance(name, str) or name not in NETWORKS:
        raise BadInput(f"unknown network {name!r}; there are: {', '.join(sorted(NETWORKS))}")
    return NETWORKS[name]


def build_network(name: str, **options: object) -> nn.Module:
    """Build a new network of that name; `options` are its constructor's arguments.

    Raises `BadInput` for an unknown name and for options that the network does not have or cannot use.
    """
    make = network_class(name)
    check_arguments(make, options, f"network {name}", free=("weights", "activations"))
    try:
        return make(**options)
    except ValueError as error:
        raise BadInput(f"network {name}: {error}") from error
