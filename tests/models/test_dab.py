"""DAB-Net's two values: the examples, brute force, never worse than XNOR-Net, gradients, centring, no NaN."""

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bnncc.models.layers import BinaryConv2d
from bnncc.models.quantizers import DabWeights, XnorWeights
from bnncc.models.quantizers.dab import two_means


def error(quantizer, row):
    latent = torch.tensor([row], dtype=torch.float64)
    return float((latent - quantizer(latent)).square().sum())


def test_examples():
    assert error(DabWeights(), [-1.0, -1.0, -1.0, 3.0]) == 0
    assert error(XnorWeights(), [-1.0, -1.0, -1.0, 3.0]) == 3
    upper, alpha, beta = two_means(torch.tensor([[1.0, 2.0, 9.0, 10.0]], dtype=torch.float64))
    assert (alpha.item(), beta.item(), upper[0].tolist()) == (9.5, 1.5, [False, False, True, True])
    assert error(DabWeights(), [1.0, 2.0, 9.0, 10.0]) == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", range(2, 11))
def test_the_theorem_is_brute_force(seed, size):
    row = np.random.default_rng(100 * size + seed).standard_normal(size).tolist()
    best = np.inf
    for count in range(1, size):
        for chosen in itertools.combinations(range(size), count):
            inside = np.isin(np.arange(size), chosen)
            parts = (np.array(row)[inside], np.array(row)[~inside])
            best = min(best, sum(float(np.sum((part - part.mean()) ** 2)) for part in parts))
    assert error(DabWeights(), row) == pytest.approx(best, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_never_worse_than_xnor_net(seed):
    rows = torch.randn(20, 37, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1 * seed
    ours, theirs = ((rows - q(rows)).square().sum(1) for q in (DabWeights(), XnorWeights()))
    assert bool((ours <= theirs + 1e-12).all())


def test_filters_are_told_apart_and_values_stored():
    rows = torch.tensor([[-1.0, -1.0, -1.0, 3.0], [1.0, 2.0, 9.0, 10.0], [0.5, 0.5, 0.5, 0.5]])
    weight = DabWeights()(rows)
    assert weight.tolist() == [[-1, -1, -1, 3], [1.5, 1.5, 9.5, 9.5], [0.5, 0.5, 0.5, 0.5]]
    stored = DabWeights().stored(rows)
    assert torch.equal(stored.weight, weight)
    assert stored.high.tolist() == [3, 9.5, 0.5]
    assert stored.low.tolist() == [-1, 1.5, 0.5]


def test_gradient_of_theorem_3():
    """Members of a part: 1 / count, and mean |w| of the part where |w| <= 1, where clamped weights are."""
    latent = torch.tensor([[2.0, 1.0, -0.1, -0.3, -1.5]], requires_grad=True)
    upper, *_ = two_means(latent.detach())
    assert upper[0].tolist() == [True, True, False, False, False]
    DabWeights()(latent).backward(torch.tensor([[1.0, 10.0, 1.0, 10.0, 100.0]]))
    high, low = (2 + 1) / 2, (0.1 + 0.3 + 1.5) / 3
    expected = [1 / 2, 10 * (1 / 2 + high), 1 / 3 + low, 10 * (1 / 3 + low), 100 / 3]
    np.testing.assert_allclose(latent.grad[0], expected, rtol=1e-6)


def test_constrained_latents_are_centred_over_input_channels_and_clamped():
    latent = torch.tensor([[[[3.0]], [[-0.5]], [[0.5]]]])
    DabWeights().constrain_(latent)
    np.testing.assert_allclose(latent.flatten(), [1, -1, -0.5])  # less the mean 1, clamped
    single = torch.tensor([[[[0.4, -2.0]]]])
    DabWeights().constrain_(single)
    np.testing.assert_allclose(single.flatten(), [0.4, -1])


@pytest.mark.parametrize(("channels", "groups", "kernel"), [(1, 1, 3), (4, 4, 3), (3, 1, 1), (1, 1, 1)])
def test_no_nan_for_constant_filters_or_one_input_channel(channels, groups, kernel):
    torch.manual_seed(0)
    layer = BinaryConv2d(channels, 4, kernel, padding=kernel // 2, groups=groups, weights="dab")
    layer.weight.data[0] = 0.5
    layer.weight.data[1] = 0
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(5):
        loss = layer(torch.randn(2, channels, 5, 5)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        layer.weight_quantizer.constrain_(layer.weight)
        assert bool(torch.isfinite(layer.weight).all())
        assert bool(torch.isfinite(layer.effective_weight()).all())
