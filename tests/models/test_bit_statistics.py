"""Flips and entropy of bits: against counting them by hand, and without a trace in the network."""

import math

import pytest

torch = pytest.importorskip("torch")

from bnncc.models.bit_statistics import BitWatch, entropy
from bnncc.models.layers import BinaryLinear, binary_layers
from bnncc.models.networks.vgg import VggSmall
from bnncc.models.quantizers.bihalf import BiHalfWeights


def layer_of(rows, **options):
    layer = BinaryLinear(len(rows[0]), len(rows), **options)
    layer.weight.data = torch.tensor(rows)
    return torch.nn.Sequential(layer)


def test_every_flip_counts_even_back_and_forth():
    model = layer_of([[0.5, 0.5, -0.5, -0.5]])
    watch = BitWatch(model)
    x = torch.zeros(1, 4)
    for values in ([-0.5, 0.5, -0.5, -0.5], [0.5, 0.5, -0.5, -0.5], [0.5, 0.5, 0.5, 0.5]):
        model(x)
        model[0].weight.data = torch.tensor([values])
    found = watch.finish_epoch()  # sees what the last step has done
    assert (found.flips_up, found.flips_down) == (3 / 4, 1 / 4)
    assert found.entropy == 0  # all bits are +1
    again = watch.finish_epoch()
    assert (again.flips_up, again.flips_down) == (0, 0)


def test_entropy():
    assert entropy(torch.tensor([0.0, 0.5, 1.0, 0.25])).tolist() == pytest.approx(
        [0, 1, 0, -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))]
    )
    assert BitWatch(layer_of([[1.0, -1.0, 1.0, -1.0], [1.0, 1.0, 1.0, 1.0]])).finish_epoch().entropy == 0.5


@pytest.mark.parametrize("weights", ["dab", "bi-half", "xnor", "ir-net"])
def test_bits_are_those_that_are_stored(weights):
    torch.manual_seed(0)
    model = torch.nn.Sequential(BinaryLinear(40, 5, weights=weights))
    watch = BitWatch(model)
    before = model[0].weight_quantizer.stored(model[0].weight).bits
    model[0].weight.data = torch.randn(5, 40)
    after = model[0].weight_quantizer.stored(model[0].weight).bits
    found = watch.finish_epoch()
    assert found.flips_up == int((after & ~before).sum()) / 200
    assert found.flips_down == int((before & ~after).sum()) / 200
    if weights == "bi-half":
        assert found.flips_up == found.flips_down  # the ratio never changes
        assert found.entropy == 1


def test_networks_without_binary_layers_have_none():
    for model in (torch.nn.Sequential(torch.nn.Linear(3, 2)), layer_of([[1.0]], weights="none")):
        assert BitWatch(model).finish_epoch() is None


def test_the_network_is_left_as_it_was():
    model = layer_of([[1.0, -1.0]])
    watch = BitWatch(model)
    assert model[0].weight_quantizer._forward_hooks
    watch.close()
    assert not model[0].weight_quantizer._forward_hooks


def test_a_quantizer_object_serves_all_layers_of_a_network():
    network = VggSmall(width=4, in_channels=1, image_size=28, weights=BiHalfWeights())
    layers = list(binary_layers(network))
    assert len({layer.weight_quantizer for layer in layers}) == len(layers) == 5
    watch = BitWatch(network)
    network(torch.zeros(2, 1, 28, 28))
    assert watch.finish_epoch().flips_up == 0
