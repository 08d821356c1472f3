"""Binary layers against straightforward arithmetic on signs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bnncc.models.layers import BinaryConv2d, BinaryLinear, constrain_weights


def signs(x):
    return np.where(x.detach().numpy() >= 0, 1, -1)


def direct_convolution(x, w, stride, padding, dilation, groups):
    """Integer convolution of x [N, C, H, W] with w [M, C/groups, kh, kw] by its definition."""
    n, _, height, width = x.shape
    m, c_group, kh, kw = w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    ho = (height + 2 * padding - dilation * (kh - 1) - 1) // stride + 1
    wo = (width + 2 * padding - dilation * (kw - 1) - 1) // stride + 1
    out = np.zeros((n, m, ho, wo), np.int64)
    for o in range(m):
        first = o // (m // groups) * c_group
        for i in range(ho):
            for j in range(wo):
                rows = slice(i * stride, i * stride + dilation * (kh - 1) + 1, dilation)
                columns = slice(j * stride, j * stride + dilation * (kw - 1) + 1, dilation)
                window = padded[:, first : first + c_group, rows, columns]
                out[:, o, i, j] = (window * w[o]).sum((1, 2, 3))
    return out


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [(3, 1, 1, 1, 1), (3, 2, 1, 1, 1), (1, 1, 0, 1, 1), (3, 1, 2, 2, 2), ((2, 3), 1, 0, 1, 4)],
)
def test_convolution_counts_signs_exactly(kernel, stride, padding, dilation, groups):
    torch.manual_seed(0)
    layer = BinaryConv2d(4, 8, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    x = torch.randn(2, 4, 7, 6)
    x[0, 0] = 0.0  # zero is +1 in the image and 0 in the padding
    expected = direct_convolution(signs(x), signs(layer.weight), stride, padding, dilation, groups)
    np.testing.assert_array_equal(layer(x).detach().numpy(), expected)


def test_linear_counts_signs_exactly():
    torch.manual_seed(1)
    layer = BinaryLinear(37, 5)
    x = torch.randn(2, 3, 37)
    np.testing.assert_array_equal(layer(x).detach().numpy(), signs(x) @ signs(layer.weight).T)


def test_xnor_scales_each_output_channel():
    torch.manual_seed(2)
    layer = BinaryConv2d(3, 4, 3, weights="xnor")
    plain = BinaryConv2d(3, 4, 3)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 5, 5)
    alpha = layer.weight.abs().mean((1, 2, 3)).view(1, -1, 1, 1)
    torch.testing.assert_close(layer(x), plain(x) * alpha)


def test_weight_binary_layer_leaves_its_input_float():
    torch.manual_seed(3)
    layer = BinaryLinear(6, 2, activations="none")
    x = torch.randn(4, 6)
    torch.testing.assert_close(layer(x), x @ torch.from_numpy(signs(layer.weight)).float().T)


def test_gradients_reach_latents_and_input():
    torch.manual_seed(4)
    layer = BinaryLinear(3, 2)
    x = torch.tensor([[0.5, -2.0, 0.0]], requires_grad=True)
    layer(x).sum().backward()
    # Each latent gets the sign of its input; the input at -2 is outside (-1, 1) and gets nothing.
    assert layer.weight.grad.tolist() == [[1.0, -1.0, 1.0]] * 2
    expected = signs(layer.weight).sum(0)
    assert x.grad.tolist() == [[expected[0], 0.0, expected[2]]]


def test_constrain_weights_touches_binary_layers_only():
    model = torch.nn.Sequential(BinaryLinear(4, 4), torch.nn.Linear(4, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(5.0)
    constrain_weights(model)
    assert model[0].weight.unique().tolist() == [1.0]
    assert model[1].weight.unique().tolist() == [5.0]


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match="do not divide into 3 groups"):
        BinaryConv2d(4, 6, 3, groups=3)
    with pytest.raises(ValueError, match="do not divide into 0 groups"):
        BinaryConv2d(4, 6, 3, groups=0)
