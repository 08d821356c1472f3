"""Networks by name: what the command line and checkpoints use to build one."""

from __future__ import annotations

from torch import nn

from bnncc.errors import BadInput
from bnncc.models.networks.resnet import BiRealResNet
from bnncc.models.networks.small_float import HiddenLayerCnn, LeNet, Mlp
from bnncc.models.networks.vgg import VggSmall

NETWORKS: dict[str, type[nn.Module]] = {
    "vgg_small": VggSmall,
    "bireal_resnet": BiRealResNet,
    "mlp": Mlp,
    "hidden_layer_cnn": HiddenLayerCnn,
    "lenet": LeNet,
}


def build_network(name: str, **options: object) -> nn.Module:
    """Build a new network of that name; `options` are its constructor's arguments.

    Raises `BadInput` for an unknown name or an option that the network does not have.
    """
    if name not in NETWORKS:
        raise BadInput(f"unknown network {name!r}; there are: {', '.join(sorted(NETWORKS))}")
    try:
        return NETWORKS[name](**options)
    except (TypeError, ValueError) as error:
        raise BadInput(f"network {name}: {error}") from error
