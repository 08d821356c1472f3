"""Quantizers: values, gradients, constraint, registry."""

import pytest

torch = pytest.importorskip("torch")

from bnncc.errors import BadInput
from bnncc.models import quantizers
from bnncc.models.layers import BinaryConv2d
from bnncc.models.quantizers import (
    ActivationQuantizer,
    SignActivation,
    SignWeights,
    WeightQuantizer,
    XnorWeights,
    register,
)

EDGES = [-2.0, -1.0, -0.5, -0.0, 0.0, 1e-30, 0.5, 1.0, 2.0]


def gradient_of(quantizer, values, upstream):
    x = torch.tensor(values, requires_grad=True)
    quantizer(x).backward(torch.tensor(upstream))
    return x.grad.tolist()


def test_signs_map_zero_to_plus_one_and_nan_to_minus_one():
    x = torch.tensor([*EDGES, float("nan"), float("inf"), -float("inf")])
    expected = [-1.0] * 3 + [1.0] * 6 + [-1.0, 1.0, -1.0]
    for quantizer in (SignWeights(), SignActivation()):
        assert quantizer(x).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_quantizers_keep_the_dtype(dtype):
    assert SignActivation()(torch.zeros(3, dtype=dtype)).dtype == dtype
    for name in quantizers.WEIGHT_QUANTIZERS:
        assert BinaryConv2d(6, 4, 3, weights=name).to(dtype).effective_weight().dtype == dtype, name


def test_activation_gradient_is_zero_outside_the_open_interval():
    upstream = [float(i + 1) for i in range(len(EDGES))]
    expected = [0.0, 0.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.0, 0.0]
    assert gradient_of(SignActivation(), EDGES, upstream) == expected


def test_weight_gradient_is_the_identity():
    upstream = [float(i + 1) for i in range(len(EDGES))]
    assert gradient_of(SignWeights(), EDGES, upstream) == upstream


def test_xnor_scale_is_the_mean_magnitude_of_each_filter():
    latent = torch.tensor([[[[0.5, -1.5]]], [[[0.25, 0.75]]]])
    assert XnorWeights()(latent).flatten(1).tolist() == [[1.0, -1.0], [0.5, 0.5]]


def test_xnor_gradient_passes_through_sign_and_scale():
    # y = alpha * s with alpha = mean|w|: dL/dw_i = alpha * g_i + sign(w_i) / n * sum_j(g_j * s_j)
    latent = torch.tensor([[0.5, -1.5]], requires_grad=True)
    XnorWeights()(latent).backward(torch.tensor([[2.0, 3.0]]))
    through_scale = (2.0 - 3.0) / 2
    assert latent.grad.tolist() == [[2.0 + through_scale, 3.0 - through_scale]]


def test_constrain_clamps_in_place():
    latent = torch.nn.Parameter(torch.tensor([-3.0, -0.5, 2.0]))
    SignWeights().constrain_(latent)
    assert latent.tolist() == [-1.0, -0.5, 1.0]


def test_names_are_per_family():
    assert isinstance(quantizers.weight_quantizer("sign"), SignWeights)
    assert isinstance(quantizers.activation_quantizer("sign"), SignActivation)
    ready = XnorWeights()
    made = quantizers.weight_quantizer(ready)  # a copy: a layer's own
    assert isinstance(made, XnorWeights)
    assert made is not ready


def test_unknown_name_tells_what_there_is():
    with pytest.raises(
        BadInput,
        match=r"unknown weight quantizer 'cube'; there are: bi-half, bi-half-pruned, dab, ir-net, none, sign, xnor",
    ):
        quantizers.weight_quantizer("cube")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"name": "bi-half", "positive": 0.0},
            r"bi-half: positive \(p_pos\) is 0.0; it is a share above 0 and below 1",
        ),
        ({"name": "bi-half", "positive": 1.0}, r"p_pos\) is 1.0"),
        ({"name": "bi-half", "positive": float("nan")}, r"p_pos\) is nan"),
        ({"name": "bi-half", "negative": 0.5}, "weight quantizer bi-half: takes no negative; it takes positive"),
        ({"name": "bi-half", "positive": "half"}, "bi-half: positive is 'half', not a number"),
        ({"name": "sign", "scaled": 3}, "sign: scaled is 3, not true or false"),
        ({"name": "dab", "positive": 0.5}, "weight quantizer dab: takes no positive; it takes centered"),
        ({"positive": 0.5}, "unknown weight quantizer None"),
        ({"name": ["sign"]}, r"unknown weight quantizer \['sign'\]"),
        (["sign"], r"unknown weight quantizer \['sign'\]"),
        ({"name": "bi-half-pruned", "keep": 0}, "bi-half-pruned: keep is 0"),
    ],
)
def test_refused_arguments(spec, message):
    with pytest.raises(BadInput, match=message):
        quantizers.weight_quantizer(spec)


def test_tables_give_arguments():
    latent = torch.randn(3, 50, generator=torch.Generator().manual_seed(8))
    quantizer = quantizers.weight_quantizer({"name": "bi-half", "positive": 0.3})
    assert (quantizer(latent) > 0).sum(1).tolist() == [15] * 3
    for name in ("sign", "ir-net"):
        scaled = quantizers.weight_quantizer({"name": name, "scaled": True})(latent)
        torch.testing.assert_close(scaled.abs(), torch.full((3, 50), (2 / 50) ** 0.5))


@pytest.mark.parametrize("name", ["xnor", "dab"])
def test_centred_latents(name):
    """Over the input channels, at each place of the kernel; of a single channel nothing would be left."""
    latent = torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(10)) + 2
    left = latent.clone()
    quantizers.weight_quantizer({"name": name, "centered": False}).constrain_(left)
    torch.testing.assert_close(left, latent.clamp(-1, 1))
    quantizer = quantizers.weight_quantizer({"name": name, "centered": True})
    centered = latent - latent.mean(1, keepdim=True)
    quantizer.constrain_(latent)
    torch.testing.assert_close(latent, centered.clamp(-1, 1))
    alone = torch.full((2, 1, 3), 0.5)
    quantizer.constrain_(alone)
    assert alone.tolist() == [[[0.5] * 3]] * 2


def test_learnt_sign_has_a_threshold_per_channel():
    quantizer = quantizers.activation_quantizer("learnt-sign")
    quantizer.build((1, 2, 1, 1))
    with torch.no_grad():
        quantizer.shift[0, 1] = 0.5
    x = torch.tensor([-0.6, -0.5, 0.0, 2.0]).expand(1, 2, 1, 4)
    assert quantizer(x).tolist() == [[[[-1, -1, 1, 1]], [[-1, 1, 1, 1]]]]
    quantizer(x).sum().backward()
    # Passed on where |x + shift| < 1, and summed over the channel's places.
    assert quantizer.shift.grad.flatten().tolist() == [3, 3]


def test_none_leaves_weights_and_activations_float():
    latent = torch.randn(3, 4, generator=torch.Generator().manual_seed(9))
    weights = quantizers.weight_quantizer("none")
    assert torch.equal(weights(latent), latent)
    weights.constrain_(before := 5 * latent)
    assert torch.equal(before, 5 * latent)
    assert torch.equal(quantizers.activation_quantizer("none")(latent), latent)


def test_a_new_quantizer_plugs_in_by_name(monkeypatch):
    monkeypatch.setattr(quantizers.base, "WEIGHT_QUANTIZERS", dict(quantizers.WEIGHT_QUANTIZERS))

    @register("negated")
    class Negated(WeightQuantizer):
        def forward(self, latent):
            return -quantizers.binarize(latent)

    from bnncc.models.layers import BinaryLinear

    layer = BinaryLinear(4, 2, weights="negated")
    assert torch.equal(layer.effective_weight(), -quantizers.binarize(layer.weight))


def test_register_refuses_a_taken_name_and_a_stranger():
    with pytest.raises(ValueError, match="'sign' is taken by SignActivation"):
        register("sign")(type("Other", (ActivationQuantizer,), {}))
    with pytest.raises(TypeError, match="neither"):
        register("plain")(torch.nn.Identity)


# ---- What all weight quantizers have in common -----------------------------------------------------------------


TWO_VALUED = [name for name, quantizer in quantizers.WEIGHT_QUANTIZERS.items() if quantizer.binary]


@pytest.mark.parametrize("name", TWO_VALUED)
@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (6, 17), (2, 1, 1, 1)])
def test_stored_bits_and_values_are_the_effective_weights(name, shape):
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    quantizer = quantizers.weight_quantizer(name)
    stored = quantizer.stored(latent)
    assert stored.bits.dtype == torch.bool
    assert stored.bits.shape == shape
    assert bool((stored.high >= stored.low).all())
    assert torch.equal(stored.weight, quantizer(latent))


@pytest.mark.parametrize("shape", [(5, 4, 3, 3), (3, 1, 1, 1), (4, 27), (2, 4608)])
@pytest.mark.parametrize("fill", [None, 0.1, 0.3, 1e-8])
@pytest.mark.parametrize("name", quantizers.WEIGHT_QUANTIZERS)
def test_gradients_reach_the_latents_and_are_finite(name, fill, shape):
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    latent = (latent if fill is None else latent.fill_(fill)).requires_grad_()
    quantizer = quantizers.weight_quantizer(name)
    quantizer.build(latent.shape)
    weight = quantizer(latent)
    assert bool(torch.isfinite(weight).all())
    (weight * torch.arange(float(latent.numel())).reshape(shape)).sum().backward()
    assert bool(torch.isfinite(latent.grad).all())
    if fill is None and latent[0].numel() > 1:
        assert float(latent.grad.abs().sum()) > 0


def test_three_values_are_not_stored_as_two():
    quantizer = quantizers.weight_quantizer("bi-half-pruned")
    quantizer.build((2, 8))
    with pytest.raises(ValueError, match="PrunedBiHalfWeights gives more than two values"):
        quantizer.stored(torch.randn(2, 8))


def test_balanced_signs_of_ir_net():
    """About half of the bits, whatever the mean; a power of two for a scale; constant filters without NaN."""
    latent = torch.randn(4, 1000, generator=torch.Generator().manual_seed(7)) + 3
    latent[3] = 0.1  # whose mean is not 0.1 exactly
    weight = quantizers.weight_quantizer("ir-net")(latent)
    assert ((weight[:3] > 0).float().mean(1) - 0.5).abs().max() < 0.05
    sizes = weight.abs().amax(1)
    assert torch.equal(torch.log2(sizes), torch.log2(sizes).round())
    assert sizes[:3].tolist() == [1, 1, 1]  # mean |v| of a Gaussian is 0.8
    assert weight[3].tolist() == [1.0] * 1000


def test_gradient_of_ir_net_goes_through_mean_and_deviation():
    latent = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64) + 0.5
    factors = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(10), dtype=torch.float64)
    ours, plain = (latent.clone().requires_grad_() for _ in range(2))
    weight = quantizers.weight_quantizer("ir-net")(ours)
    (weight * factors).sum().backward()
    standard = (plain - plain.mean((1, 2, 3), keepdim=True)) / plain.std((1, 2, 3), keepdim=True, unbiased=False)
    scale = weight.detach().abs().amax((1, 2, 3), keepdim=True)
    (scale * standard * factors).sum().backward()  # the sign's gradient is the identity
    torch.testing.assert_close(ours.grad, plain.grad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("name", TWO_VALUED)
def test_a_gpu_gives_the_bits_of_the_cpu(name):
    latent = torch.randn((32, 16, 3, 3), generator=torch.Generator().manual_seed(8))
    latents = [latent.clone().to(device).requires_grad_() for device in ("cpu", "cuda")]
    quantizer = quantizers.weight_quantizer(name)
    expected, found = (quantizer.stored(values) for values in latents)
    assert torch.equal(found.bits.cpu(), expected.bits)
    # Means of 144 floats, in another order.
    assert torch.allclose(found.high.cpu(), expected.high, rtol=1e-5)
    assert torch.allclose(found.low.cpu(), expected.low, rtol=1e-5)
    for values in latents:
        quantizer(values).square().sum().backward()
    assert torch.allclose(latents[1].grad.cpu(), latents[0].grad, rtol=1e-4, atol=1e-5)
