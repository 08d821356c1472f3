"""Networks: shapes, sizes, which layers are binary, and refused options."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from bnncc.errors import BadInput
from bnncc.models.layers import BinaryConv2d, BinaryLinear
from bnncc.models.networks import build_network


def binary_layers(model):
    return [module for module in model.modules() if isinstance(module, (BinaryConv2d, BinaryLinear))]


@torch.no_grad()
def test_vgg_small_at_full_width_is_the_published_one():
    model = build_network("vgg_small").eval()
    assert sum(layer.weight.numel() for layer in binary_layers(model)) == 4_571_136
    assert model.classifier.in_features == 8192
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "shape", "layers", "bits"),
    [
        ("resnet18", (3, 224, 224), 16, 10_985_472),  # the count of the literature
        ("resnet34", (3, 64, 64), 32, 21_086_208),
        ("resnet20", (3, 32, 32), 18, 267_264),
        ("reactnet18", (3, 64, 64), 16, 10_985_472),
        # 3-64-64, 16,384-256-256-10, and so on: every layer
        ("conv2", (3, 32, 32), 5, 1_728 + 36_864 + 4_194_304 + 65_536 + 2_560),
        ("conv8", (3, 32, 32), 11, 5_275_840),
        ("sketch_a_net", (1, 225, 225), 6, 8_364_032),
    ],
)
def test_networks_of_the_papers(name, shape, layers, bits):
    model = build_network(name).eval()
    weights = [module.weight for module in binary_layers(model)]
    assert (len(weights), sum(weight.numel() for weight in weights)) == (layers, bits)
    assert model(torch.zeros(1, *shape)).shape[0] == 1


@torch.no_grad()
@pytest.mark.parametrize("size", [23, 28, 130, 131, 225])
def test_sketch_a_net_takes_images_of_many_sizes(size):
    model = build_network("sketch_a_net", width=2, image_size=size, classes=6).eval()
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 6)


@torch.no_grad()
@pytest.mark.parametrize("activations", ["none", "sign", "learnt-sign"])
def test_shallow_networks_with_float_and_with_binary_activations(activations):
    model = build_network("conv4", width=4, hidden=8, image_size=9, in_channels=1, activations=activations)
    assert model(torch.rand(3, 1, 9, 9)).shape == (3, 10)
    kinds = {type(module).__name__ for module in model.modules()}
    assert ("ReLU" in kinds) == (activations == "none")
    assert ("BatchNorm2d" in kinds) == (activations != "none")


@torch.no_grad()
def test_react_block_is_the_bireal_block_with_rprelu_behind():
    torch.manual_seed(3)
    model = build_network("reactnet18", width=4, depths=(1,), stem="small").eval()
    (block,) = model.blocks
    for parameter in (block.active.move, block.active.shift):
        nn.init.uniform_(parameter, -1, 1)
    x = torch.randn(2, 4, 6, 6)
    inner = block.norm(block.conv(x)) + x - block.active.move
    torch.testing.assert_close(block(x), torch.where(inner > 0, inner, 0.25 * inner) + block.active.shift)


@torch.no_grad()
def test_basic_block_has_one_shortcut_around_two_convolutions():
    torch.manual_seed(4)
    model = build_network("bireal_resnet", width=4, depths=(2, 4), block="basic").eval()
    assert len(model.blocks) == 3
    block = model.blocks[0]
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(block(x), x.clamp(-1, 1))


@torch.no_grad()
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 32, 100), (1, 8, 2)])
def test_vgg_small_shapes(channels, size, classes):
    model = build_network("vgg_small", width=4, in_channels=channels, image_size=size, classes=classes).eval()
    assert model(torch.zeros(3, channels, size, size)).shape == (3, classes)


def test_vgg_small_order_of_layers():
    model = build_network("vgg_small", width=4)
    kinds = [type(module).__name__ for module in model.features]
    plain, pooled = (
        ["BinaryConv2d", "BatchNorm2d", "Hardtanh"],
        ["BinaryConv2d", "MaxPool2d", "BatchNorm2d", "Hardtanh"],
    )
    assert kinds == ["Conv2d", "BatchNorm2d", "Hardtanh", *pooled, *plain, *pooled, *plain, *pooled]


@torch.no_grad()
@pytest.mark.parametrize(
    ("depths", "stem_stride", "size"), [((1,), 1, 8), ((2, 2), 2, 28), ((1, 3, 1), 2, 27), ((1, 1, 1, 1), 1, 9)]
)
def test_resnet_shapes_odd_sizes_included(depths, stem_stride, size):
    model = build_network("bireal_resnet", width=4, depths=depths, in_channels=1, stem_stride=stem_stride).eval()
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 10)
    layers = binary_layers(model)
    assert len(layers) == sum(depths)
    assert layers[-1].weight.shape[0] == 4 * 2 ** (len(depths) - 1)


@torch.no_grad()
def test_resnet_has_a_shortcut_around_every_binary_convolution():
    torch.manual_seed(0)
    model = build_network("bireal_resnet", width=4, depths=(2, 2), in_channels=1).eval()
    x = torch.randn(2, 1, 8, 8)
    for block in model.blocks:
        nn.init.zeros_(block.norm.weight)  # silences the binary path; what is left is the shortcuts
    expected = model.stem(x)
    for block in model.blocks:
        expected = block.shortcut(expected)
    expected = model.classifier(expected.mean((2, 3)))
    torch.testing.assert_close(model(x), expected)
    assert expected.abs().max() > 0.01


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "alexnet",
            {},
            "unknown network 'alexnet'; there are: bireal_resnet, conv2, conv4, conv6, conv8, hidden_layer_cnn",
        ),
        ("vgg_small", {"image_size": 7}, "7 pixels are too small"),
        ("vgg_small", {"width": 0}, "at least 1"),
        ("vgg_small", {"width": "4"}, "network vgg_small: width is '4', not a whole number"),
        ("vgg_small", {"width": 4.5}, "network vgg_small: width is 4.5, not a whole number"),
        ("bireal_resnet", {"depths": 3}, "depths is 3, not a list of whole numbers"),
        ("vgg_small", {"depth": 3}, "vgg_small: .*depth"),
        ("vgg_small", {"weights": "cube"}, "unknown weight quantizer 'cube'"),
        ("bireal_resnet", {"depths": ()}, "depths are one or more positive numbers"),
        ("bireal_resnet", {"depths": (2, 0)}, "depths are one or more positive numbers"),
        ("bireal_resnet", {"block": "wide"}, "unknown block 'wide'; there are: bireal, basic, react"),
        ("bireal_resnet", {"depths": (2, 3), "block": "basic"}, "do not divide into blocks of 2 convolutions"),
        ("bireal_resnet", {"stem": "large"}, "unknown stem 'large'; there are: small, imagenet"),
        ("conv2", {"convolutions": 3}, "3 convolutions; there are 2, 4, 6 or 8"),
        ("conv8", {"image_size": 15}, "15 pixels are too small for 4 poolings"),
        ("sketch_a_net", {"image_size": 22}, "22 pixels are too small"),
        ("sketch_a_net", {"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_refused_options(name, options, message):
    with pytest.raises(BadInput, match=message):
        build_network(name, **options)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("mlp", {}, 784 * 512 + 512 + 512 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10),
        ("hidden_layer_cnn", {}, 16 * 10 + 32 * (144 + 1) + 1000 * (1568 + 1) + 10 * 1001),
        ("lenet", {"activation": "relu"}, 61_706),  # LeNet-5 with all 6 maps read by each of the 16
        ("lenet", {}, 61_706),
    ],
)
def test_small_float_networks(name, options, parameters):
    model = build_network(name, **options).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert build_network(name, **options, classes=1).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 1)
    with pytest.raises(BadInput, match="pixels"):
        build_network(name, **options, image_size=0)


def test_lenet_has_the_activation_asked_for():
    kinds = {type(module) for module in build_network("lenet", activation="sigmoid").modules()}
    assert {nn.Sigmoid, nn.AvgPool2d} <= kinds
    assert nn.ReLU not in kinds
    with pytest.raises(BadInput, match="unknown activation 'swish'"):
        build_network("lenet", activation="swish")
