"""Bi-half: exact ratios, brute-force optimal transport, what it is blind to, Figure 6's counts, gradients, pruning."""

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bnncc.models.layers import BinaryConv2d
from bnncc.models.quantizers import BiHalfWeights, PrunedBiHalfWeights
from bnncc.models.quantizers.bihalf import largest, ranks


def bits(latent, **options):
    return BiHalfWeights(**options)(latent) > 0


@pytest.mark.parametrize("fan_in", [1, 2, 7, 9, 1152])
@pytest.mark.parametrize("positive", [0.5, 0.3, 0.9, 0.01, 0.99])
def test_every_filter_has_the_ratio_exactly(fan_in, positive):
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(6, fan_in, generator=generator)
    latent[0] = 0.25  # all ties
    found = bits(latent, positive=positive).sum(1)
    assert found.tolist() == [math.ceil(positive * fan_in - 1e-9)] * 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # NumPy's way of choosing, and torch's
@pytest.mark.parametrize("count", [1, 2, 9, 17, 18])
def test_the_largest_are_those_of_the_first_ranks(dtype, count):
    """Rounded to halves, so that there are many equal ones on both sides of the limit."""
    rows = torch.randn(40, 18, generator=torch.Generator().manual_seed(3)).mul(2).round().div(2).to(dtype)
    rows[0] = 0.5
    chosen = largest(rows, count)
    assert torch.equal(chosen, ranks(rows) < count)
    assert chosen.sum(1).tolist() == [count] * 40


def test_ratios_stay_exact_at_every_step():
    torch.manual_seed(1)
    layer = BinaryConv2d(5, 8, 3, weights="bi-half")
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    flips, before = 0, layer.effective_weight() > 0
    for _ in range(20):
        loss = layer(torch.randn(4, 5, 7, 7)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        layer.weight_quantizer.constrain_(layer.weight)
        now = layer.effective_weight() > 0
        assert (~now).flatten(1).sum(1).tolist() == [45 // 2] * 8
        flips, before = flips + int((now != before).sum()), now
    assert flips > 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [3, 6, 9, 12])
def test_bits_are_the_optimal_transport(seed, size):
    """Of all assignments with half of the bits, the one with least sum of (w - b)^2, by trying all."""
    latent = torch.randn(1, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    best = min(
        itertools.combinations(range(size), math.ceil(size / 2)),
        key=lambda ones: sum((w - (1 if i in ones else -1)) ** 2 for i, w in enumerate(latent[0].tolist())),
    )
    assert torch.nonzero(bits(latent)[0]).flatten().tolist() == list(best)


def test_blind_to_shifts_and_positive_scales():
    latent = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = bits(latent)
    for changed in (latent + 0.7, latent - 3, 0.01 * latent, 5 * latent + 2):
        assert torch.equal(bits(changed), expected)
    assert torch.equal(bits(-latent[:, :2]), ~bits(latent[:, :2]))  # of an even number


def test_ties_are_broken_by_place():
    assert bits(torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0]])).tolist() == [[True, True, True, False, False]]


@pytest.mark.parametrize(("channels", "scale"), [(128, 1 / 24), (512, 1 / 48)])
def test_scale_is_a_constant_of_the_layer(channels, scale):
    weight = BiHalfWeights()(torch.randn(2, channels, 3, 3))
    np.testing.assert_allclose(weight.abs().unique().numpy(), [scale], rtol=1e-6)


def test_gradient_is_the_identity_and_not_clipped():
    latent = torch.tensor([[-3.0, 0.2, 5.0, -0.1]], requires_grad=True)
    BiHalfWeights()(latent).backward(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    np.testing.assert_allclose(latent.grad, np.array([[1, 2, 3, 4]]) * math.sqrt(2 / 4), rtol=1e-6)


def test_figure_6():
    """Networks sigmoid(w2 sigmoid(W1 x + b1)) of 12 bits: 4,096 settings, 924 with half of the bits; 76, 66 boundaries.

    A boundary is what the sign of the last sum splits a grid into; sides are not told apart, and no side may be empty.
    """
    grid = np.array(list(itertools.product(np.linspace(-3, 3, 41), repeat=2)))
    found, balanced, counted = set(), set(), 0
    for setting in itertools.product((-1.0, 1.0), repeat=12):
        w = np.array(setting)
        hidden = 1 / (1 + np.exp(-(grid @ w[:6].reshape(2, 3) + w[6:9])))
        side = np.sign(np.round(hidden @ w[9:], 9))  # exact zeros are part of the boundary
        half = w.sum() == 0
        counted += half
        if (side == side[0]).all():
            continue
        split = min(side.tobytes(), (-side).tobytes())
        found.add(split)
        if half:
            balanced.add(split)
    assert (counted, len(found), len(balanced)) == (924, 76, 66)


@pytest.mark.parametrize("keep", [0.25, 0.5, 1.0])
def test_pruned_survivors_are_balanced(keep):
    torch.manual_seed(3)
    quantizer = PrunedBiHalfWeights(keep)
    quantizer.build((6, 4, 3, 3))
    latent = torch.randn(6, 4, 3, 3, requires_grad=True)
    weight = quantizer(latent)
    mask = quantizer.mask()
    assert int(mask.sum()) == round(keep * 6 * 36)
    assert torch.equal(weight != 0, mask)
    survivors = mask.flatten(1).sum(1)
    assert torch.equal((weight > 0).flatten(1).sum(1), (survivors + 1) // 2)
    # alpha of the mean number of weights that a filter keeps; the gradient is that of what is kept
    alpha = math.sqrt(2 / (int(mask.sum()) / 6))
    torch.testing.assert_close(weight.abs(), alpha * mask)
    weight.sum().backward()
    torch.testing.assert_close(latent.grad, alpha * mask)


def test_masks_learn():
    """Scores of weights whose bit lessens the loss grow: the mask comes to what the target is made of."""
    torch.manual_seed(4)
    quantizer = PrunedBiHalfWeights(0.5)
    quantizer.build((1, 8))
    latent = torch.tensor([[1.0, 0.9, 0.8, 0.7, -0.7, -0.8, -0.9, -1.0]])
    target = torch.tensor([[1.0, 1, 0, 0, 0, 0, -1, -1]])
    optimizer = torch.optim.SGD([quantizer.scores], lr=0.1)
    for _ in range(100):
        loss = -(quantizer(latent) * target).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(quantizer.mask(), target != 0)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_refused_shares(share):
    with pytest.raises(ValueError, match="it is a share"):
        BiHalfWeights(share)
    with pytest.raises(ValueError, match="it is a share"):
        PrunedBiHalfWeights(share)
