"""Quantizers: values, gradients, constraint, registry."""

import pytest

torch = pytest.importorskip("torch")

from bnncc.errors import BadInput
from bnncc.models import quantizers
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
def test_signs_keep_the_dtype(dtype):
    assert SignActivation()(torch.zeros(3, dtype=dtype)).dtype == dtype


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
    assert quantizers.weight_quantizer(ready) is ready


def test_unknown_name_tells_what_there_is():
    with pytest.raises(BadInput, match=r"unknown weight quantizer 'cube'; there are: sign, xnor"):
        quantizers.weight_quantizer("cube")


def test_a_new_quantizer_plugs_in_by_name(monkeypatch):
    monkeypatch.setattr(quantizers, "WEIGHT_QUANTIZERS", dict(quantizers.WEIGHT_QUANTIZERS))

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
