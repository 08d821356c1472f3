"""Two-valued weights and a bias before a Sign: a binarizer where no sum of the lattice gives exactly 0."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from small_networks import Network, feed, session

from bnncc.config import Config
from bnncc.passes import run_passes
from bnncc.passes.offset_sums import OffsetSums

# Weights of 1.5 and -0.5 give I + S / 2: of 36 products all whole numbers, I and S even; of 27 odd I and S, and all
# fourths that are odd halves more.
CASES = {
    "beside the lattice": (4, [0, 0, 0, 0], 0.25, True),
    "on it": (4, [0, 0, 0, 0], -1.0, False),
    "a sum of the wrong parity": (3, [0, 0, 0, 0], -1.0, True),
    "a sum of the right parity": (3, [0, 0, 0, 0], -1.5, False),
    "padding gives both": (3, [1, 1, 1, 1], -1.0, False),
    "beyond the largest sum": (4, [0, 0, 0, 0], -100.0, True),
}


def two_valued(n, channels, pads, bias, between=lambda n, y: y, weights=(-0.5, 1.5)):
    values = n.constant(n.rng.choice(np.array(weights, np.float32), (4, channels, 3, 3)))
    y = n.op(
        "Conv", n.binarize(n.input([2, channels, 8, 8])), values, n.constant(np.full(4, bias, np.float32)), pads=pads
    )
    return n.conv(n.op("Sign", between(n, y)), n.signs(3, 4, 1, 1))


def statuses_and_results(n, z, channels):
    model, feeds = n.model(z), feed(shape=(2, channels, 8, 8))
    outcome = run_passes(model, Config())
    expected = session(model, library=False).run(None, feeds)[0]
    np.testing.assert_array_equal(session(outcome.model, library=True).run(None, feeds)[0], expected)
    return [layer.status for layer in outcome.layers], [note.text for record in outcome.passes for note in record.notes]


@pytest.mark.parametrize("case", CASES)
def test_sign_behind_two_valued_weights_and_a_bias(case):
    channels, pads, bias, is_binary = CASES[case]
    n = Network(seed=5)
    statuses, notes = statuses_and_results(n, two_valued(n, channels, pads, bias), channels)
    assert statuses == ["binary", "binary" if is_binary else "weight-binary"]
    assert any("can be exactly 0 (for the sums" in note for note in notes) != is_binary


@pytest.mark.parametrize(
    ("between", "is_binary"),
    [
        (lambda n, y: n.op("MaxPool", n.op("Neg", n.op("Mul", y, n.scalar(0.5))), kernel_shape=[2, 2]), True),
        (lambda n, y: n.op("Relu", y), False),
        (lambda n, y: n.op("Add", y, n.scalar(0.75)), False),
        (lambda n, y: n.op("Elu", y), False),
    ],
    ids=["falling", "a range of zeros", "moved onto the lattice", "not known to be monotone"],
)
def test_ops_between(between, is_binary):
    n = Network(seed=5)
    statuses, _ = statuses_and_results(n, two_valued(n, 4, [0, 0, 0, 0], 0.25, between), 4)
    assert statuses == ["binary", "binary" if is_binary else "weight-binary"]


def test_sums_that_are_rounded():
    n = Network(seed=5)
    z = two_valued(n, 4, [0, 0, 0, 0], 0.25, weights=(-0.3, 1.1))
    outcome = run_passes(n.model(z), Config())
    assert [layer.status for layer in outcome.layers] == ["binary", "weight-binary"]


def test_sums_that_no_signs_give():
    """I = S = 27 would be -13.5 and more, if it could be: one weight of the filter is -1."""
    n = Network(seed=5)
    weights = np.full((2, 3, 3, 3), 1.5, np.float32)
    weights[:, 0, 0, 0] = -0.5
    signs = n.binarize(n.input([2, 3, 8, 8]))
    y = n.op("Conv", signs, n.constant(weights), n.constant(np.full(2, -27 - 13.5, np.float32)))
    statuses, _ = statuses_and_results(n, n.conv(n.op("Sign", y), n.signs(3, 2, 1, 1)), 3)
    assert statuses == ["binary", "binary"]


def beside_another_window(n, **geometry):
    signs = n.binarize(n.input([2, 3, 8, 8]))
    ones = n.conv(signs, np.ones((1, 3, 3, 3), np.float32), **geometry)
    return n.op("Add", n.op("Add", n.conv(signs, n.signs(4, 3, 3, 3), pads=[1] * 4), ones), n.scalar(1))


def broadcast_to_more_channels(n):
    signs = n.binarize(n.input([2, 3, 8, 8]))
    factors = n.constant(np.array([1, 2, 3, 4], np.float32).reshape(4, 1, 1))
    sums = n.op("Mul", n.conv(signs, np.ones((4, 3, 3, 3), np.float32)), factors)
    return n.op("Add", n.op("Add", n.conv(signs, n.signs(1, 3, 3, 3)), sums), n.scalar(0.5))


@pytest.mark.parametrize(
    "make",
    [lambda n: beside_another_window(n, pads=[2] * 4, dilations=[2, 2]), broadcast_to_more_channels],
    ids=["another window", "other channels"],
)
def test_sums_of_other_layers(make):
    n = Network(seed=5)
    statuses, _ = statuses_and_results(n, n.conv(n.op("Sign", make(n)), n.signs(3, 4, 1, 1)), 3)
    assert statuses == ["binary", "binary", "weight-binary"]


@pytest.mark.parametrize("seed", range(5))
def test_lattice_against_all_signs(seed):
    rng = np.random.default_rng(seed)
    fan_in, step, channels = 7, 0.25, 40
    scale, offset = step * rng.integers(-8, 9, channels), step * rng.integers(-8, 9, channels)
    filters = rng.choice((-1, 1), (channels, fan_in))
    plus = (filters > 0).sum(1)
    for values, whole in (((-1, 1), True), ((-1, 0, 1), False)):  # with padding, some products are left out
        sums = OffsetSums(None, scale, offset, plus, fan_in - plus, whole, 1 if whole else None)
        assert sums.are_exact
        activations = np.array(list(itertools.product(values, repeat=fan_in)))
        totals = activations.sum(1)
        missed = 0
        for channel, (factor, other) in enumerate(zip(scale, offset, strict=True)):
            dots = activations @ filters[channel]
            pairs = set(zip(dots.tolist(), totals.tolist(), strict=True))
            reached = set((factor * dots + other * totals).tolist())
            for value in step * rng.integers(-80, 81, 20):
                width = rng.choice((0.0, 1.0, 3.0))
                low, high = np.full(channels, np.inf), np.full(channels, np.inf)
                low[channel], high[channel] = value, np.nextafter(value + width, np.inf)
                found = sums.one_within(low, high)
                assert (found is not None) == any(value <= sum_ <= value + width for sum_ in reached)
                missed += found is None
                if found is not None:
                    assert found[0] == channel
                    assert found[1:] in pairs
                    assert value <= factor * found[1] + other * found[2] <= value + width
        assert missed
