"""Variance matching: moments of ReLUs against samples and closed forms, merged layers against what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from bnncc.passes.tropnnc import clustering, merging
from bnncc.passes.tropnnc import variance_matching as vm
from bnncc.passes.tropnnc.hidden_layer import HiddenLayer


def draw_layer(rng: np.random.Generator, neurons: int, inputs: int, outputs: int) -> tuple:
    """A layer of white Gaussian inputs and its pre-activations: mean b, std |a|, correlations the cosines."""
    layer = HiddenLayer(
        rng.standard_normal((neurons, inputs)) / inputs**0.5,
        rng.standard_normal(neurons) / 2,
        rng.standard_normal((neurons, outputs)),
    )
    return layer, vm.PreActivations(layer.bias, np.linalg.norm(layer.inputs, axis=1), vm.cosines(layer.inputs))


def test_moments_of_relus_against_samples():
    rng = np.random.default_rng(0)
    mean, std = np.array([0.3, -0.7, 2.0, -1.0, 0.0]), np.array([1.0, 0.5, 2.0, 1.5, 1.0])
    correlation = vm.cosines(rng.standard_normal((5, 4)))
    values, vectors = np.linalg.eigh(correlation)
    root = vectors * np.sqrt(np.maximum(values, 0))
    relus = np.maximum(mean + std * (rng.standard_normal((400_000, 5)) @ root.T), 0)
    # A sample's mean is off by std / sqrt(400,000), 0.003 at most; a covariance by about 4 times that
    np.testing.assert_allclose(vm.relu_mean(mean, std), relus.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(vm.relu_variance(mean, std), relus.var(axis=0), atol=0.04)
    hermite = vm.relu_hermite(mean, std)
    np.testing.assert_allclose(vm.relu_covariance(hermite, correlation, hermite), np.cov(relus.T), atol=0.04)


def test_covariance_without_mean_is_the_arc_cosine_kernel():
    """E relu(x) relu(y) = (sin a + (pi - a) cos a) / 2 pi for Gaussians at the angle a (Cho and Saul, 2009)."""
    angle = np.linspace(0.2, np.pi - 0.2, 12)
    hermite = vm.relu_hermite(np.zeros(1), np.ones(1))
    found = [vm.relu_covariance(hermite, np.array([[np.cos(a)]]), hermite)[0, 0] for a in angle]
    kernel = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    np.testing.assert_allclose(found, kernel - 1 / (2 * np.pi), atol=5e-4)  # what is beyond 30 terms


def test_neurons_that_do_not_vary_have_no_variance():
    mean, std = np.array([1.0, -1.0]), np.zeros(2)
    assert vm.relu_mean(mean, std).tolist() == [1, 0]
    assert vm.relu_variance(mean, std).tolist() == [0, 0]
    assert not vm.relu_hermite(mean, std).any()


@pytest.mark.parametrize("seed", range(5))
def test_as_many_clusters_as_neurons_leave_the_function(seed):
    rng = np.random.default_rng(seed)
    layer, given = draw_layer(rng, 8, 5, 6)
    labels, x = np.arange(8), rng.standard_normal((50, 5))
    rescaled, _ = vm.merge_rescaled(layer, labels, given)
    np.testing.assert_allclose(rescaled(x), layer(x), atol=1e-12)
    matched = vm.merge_variance_matched(layer, labels, given, np.arange(6) // 2)
    np.testing.assert_allclose(matched.layer(x), layer(x), atol=1e-9)  # through the solution of a system
    np.testing.assert_allclose(matched.shift, 0, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_merged_pre_activations_have_the_variance_and_outputs_the_moments_promised(seed):
    rng = np.random.default_rng(seed)
    layer, given = draw_layer(rng, 24, 10, 6)
    labels = clustering.kmeans_labels(clustering.neuron_vectors(layer), 10, seed)
    rescaled, after = vm.merge_rescaled(layer, labels, given)
    wanted = [np.mean(given.std[labels == k] ** 2) for k in range(10)]
    np.testing.assert_allclose(np.linalg.norm(rescaled.inputs, axis=1) ** 2, wanted)  # of white inputs
    np.testing.assert_allclose(rescaled.bias, after.mean)
    np.testing.assert_allclose(after.std**2, wanted)

    channels = np.arange(6)
    matched = vm.merge_variance_matched(layer, labels, given, channels, most_scale=(0, np.inf))
    x = rng.standard_normal((200_000, 10))
    before, now = layer(x), matched.layer(x) + matched.shift
    spread = before.std(axis=0)
    # Samples, and terms of the series that are left out: a hundredth of what varies
    np.testing.assert_allclose(now.mean(axis=0), before.mean(axis=0), atol=0.02 * spread.max())
    np.testing.assert_allclose(now.std(axis=0), spread, rtol=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_nearer_to_the_layer_than_algorithm_2(seed):
    """On white Gaussian inputs, for which it is made, and neurons of no order, which are far from parallel."""
    rng = np.random.default_rng(seed)
    layer, given = draw_layer(rng, 40, 12, 8)
    labels = clustering.kmeans_labels(clustering.neuron_vectors(layer), 12, seed)
    x = rng.standard_normal((20_000, 12))
    plain = merging.merge_multi_output(layer, labels)
    matched = vm.merge_variance_matched(layer, labels, given, np.arange(8))
    error = [np.mean((y - layer(x)) ** 2) for y in (plain(x), matched.layer(x) + matched.shift)]
    assert error[1] < error[0]
