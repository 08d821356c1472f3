"""Merging neurons without data beyond the paper: by what is known of the distribution of their pre-activations.

Averaging the input weights of neurons that are not parallel shrinks the variance of what comes out of them, layer
after layer. What pre-activations are like is known well enough to undo that: z_i ~ N(mean_i, std_i^2) as a batch-norm
after the first map says it, or as a convolution makes them of inputs that are like most (input_statistics); so are
their correlations. From that follow the covariances of the ReLUs, to which the merged layer is fitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from bnncc.passes.tropnnc.hidden_layer import HiddenLayer

HERMITE_TERMS = 30  # of the series below; what is beyond them is one term more


@dataclass(frozen=True)
class PreActivations:
    """Gaussian pre-activations of n neurons: mean [n], std [n] (not negative) and correlation [n, n]."""

    mean: np.ndarray
    std: np.ndarray
    correlation: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """Return the covariance [n, n]."""
        return self.std[:, None] * self.correlation * self.std


def cosines(rows: np.ndarray) -> np.ndarray:
    """Return the cosines [n, n] of the angles between rows [n, d]: 0 of a row of zeros with others, 1 with itself."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    product = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(product, 1)
    return product


# ---- ReLUs of Gaussians --------------------------------------------------------------------------------------


def relu_mean(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return E relu(z) for z ~ N(mean, std^2): mean Phi(t) + std phi(t) with t = mean / std."""
    t = _standardized(mean, std)
    return np.where(std > 0, mean * ndtr(t) + std * _density(t), np.maximum(mean, 0))


def relu_hermite(mean: np.ndarray, std: np.ndarray, terms: int = HERMITE_TERMS) -> np.ndarray:
    """Return the coefficients [n, terms + 1] of relu(mean + std g) in normalised Hermite polynomials h_1, ... of g.

    For correlated standard Gaussians, E h_k(g) h_l(g') is correlation^k where k = l, else 0. The first coefficient is
    std Phi(t), and the k-th std phi(t) (-1)^k He_(k-2)(t) / sqrt(k!), He the probabilists' polynomials. The last one
    stands for all that follow: the squares of all are the variance.
    """
    t = _standardized(mean, std)
    density = _density(t) * std
    found = [std * ndtr(t)]
    # he[k] is He_k(t) / sqrt(k!), by He_(k+1) = t He_k - k He_(k-1)
    previous, he = np.zeros_like(t), np.ones_like(t)
    for k in range(2, terms + 1):
        found.append((-1) ** k * density * he / np.sqrt(k * (k - 1)))
        previous, he = he, (t * he - np.sqrt(k - 2) * previous) / np.sqrt(k - 1)
    rest = relu_variance(mean, std) - np.sum(np.square(found), axis=0)
    found.append(np.sqrt(np.maximum(rest, 0)))
    return np.where(std[:, None] > 0, np.stack(found, axis=1), 0)


def relu_variance(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return Var relu(z) for z ~ N(mean, std^2): (mean^2 + std^2) Phi(t) + mean std phi(t) - (E relu(z))^2."""
    t = _standardized(mean, std)
    square = (mean**2 + std**2) * ndtr(t) + mean * std * _density(t)
    return np.where(std > 0, np.maximum(square - relu_mean(mean, std) ** 2, 0), 0)


def relu_covariance(first: np.ndarray, correlation: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the covariances [n, k] of ReLUs of Gaussians, from their coefficients [n, terms] and [k, terms].

    first, second: see relu_hermite; correlation: [n, k], of the Gaussians.
    """
    power, total = np.ones_like(correlation), np.zeros_like(correlation)
    for k in range(first.shape[1]):
        power = power * correlation
        total += first[:, k, None] * power * second[None, :, k]
    return total


def _standardized(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    return np.divide(mean, std, out=np.zeros_like(mean), where=std > 0)


def _density(t: np.ndarray) -> np.ndarray:
    return np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)


# ---- Merging -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matched:
    """A merged layer, and what is to be added to each output channel so that its mean is what it was."""

    layer: HiddenLayer
    shift: np.ndarray


def merge_rescaled(layer: HiddenLayer, labels: np.ndarray, given: PreActivations) -> tuple[HiddenLayer, PreActivations]:
    """Return Algorithm 2's layer with every merged pre-activation scaled about its mean, and what it is then like.

    Its variance becomes the mean variance of the cluster's members. given: of the layer's own pre-activations.
    """
    clusters = labels.max() + 1
    mixing = np.zeros((clusters, layer.neurons))  # mean over the members
    mixing[labels, np.arange(layer.neurons)] = 1
    sums = mixing @ layer.outputs
    mixing /= mixing.sum(axis=1, keepdims=True)
    mean, wanted = mixing @ given.mean, np.sqrt(mixing @ given.std**2)
    covariance = mixing @ given.covariance @ mixing.T
    std = np.sqrt(np.diag(covariance))
    factor = np.divide(wanted, std, out=np.ones(clusters), where=std > 1e-12 * wanted)
    inputs = factor[:, None] * (mixing @ layer.inputs)
    bias = factor * (mixing @ layer.bias) + (1 - factor) * mean
    correlation = _correlation(covariance, std, std)
    np.fill_diagonal(correlation, 1)
    return HiddenLayer(inputs, bias, sums), PreActivations(mean, np.where(std > 0, factor * std, 0), correlation)


def merge_variance_matched(
    layer: HiddenLayer,
    labels: np.ndarray,
    given: PreActivations,
    channels: np.ndarray,
    *,
    ridge: float = 0.1,
    most_scale: tuple[float, float] = (0.5, 3.0),
) -> Matched:
    """Return merge_rescaled's layer with output weights fitted to what the layer's outputs are like.

    The weights are those of least squares under the covariances of the ReLUs, drawn to Algorithm 2's sums by `ridge`
    times their mean variance; then the weights of each output channel are scaled so that its variance is as before,
    within most_scale, and its mean is put right by a shift. channels: int [m], which output channel each column of
    outputs belongs to (a convolution's taps are taken for independent of each other).
    """
    merged, after = merge_rescaled(layer, labels, given)
    clusters = merged.neurons
    mixing = np.zeros((clusters, layer.neurons))
    mixing[labels, np.arange(layer.neurons)] = 1
    mixing /= mixing.sum(axis=1, keepdims=True)
    between = mixing @ given.covariance
    cross = _correlation(between, np.sqrt(np.maximum(np.sum(between * mixing, axis=1), 0)), given.std)

    old, new = relu_hermite(given.mean, given.std), relu_hermite(after.mean, after.std)
    old_covariance = relu_covariance(old, given.correlation, old)
    new_covariance = relu_covariance(new, after.correlation, new)
    towards = ridge * max(float(np.mean(np.diag(new_covariance))), 1e-30) * np.eye(clusters)
    outputs = np.linalg.solve(
        new_covariance + towards, relu_covariance(new, cross, old) @ layer.outputs + towards @ merged.outputs
    )
    count = int(channels.max()) + 1
    before_variance = _sum_by(channels, count, np.einsum("im,ij,jm->m", layer.outputs, old_covariance, layer.outputs))
    variance = _sum_by(channels, count, np.einsum("im,ij,jm->m", outputs, new_covariance, outputs))
    scale = np.sqrt(np.divide(before_variance, variance, out=np.ones(count), where=variance > 0))
    outputs = outputs * np.clip(scale, *most_scale)[channels]
    before_mean = _sum_by(channels, count, relu_mean(given.mean, given.std) @ layer.outputs)
    mean = _sum_by(channels, count, relu_mean(after.mean, after.std) @ outputs)
    return Matched(HiddenLayer(merged.inputs, merged.bias, outputs), before_mean - mean)


def _correlation(covariance: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    size = first[:, None] * second
    return np.clip(np.divide(covariance, size, out=np.zeros_like(covariance), where=size > 0), -1, 1)


def _sum_by(channels: np.ndarray, count: int, values: np.ndarray) -> np.ndarray:
    return np.bincount(channels, values, minlength=count)
