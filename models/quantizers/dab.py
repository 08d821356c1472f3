"""DAB-Net (Prabhu et al., 2018): the best two values for each filter, by the distribution of its weights.

W ~ alpha e + beta (1 - e), e in {0, 1}^n. The error is least where e is the K largest weights and alpha and beta the
means of those and of the others, for the K with the largest P_K^2 / K + (T - P_K)^2 / (n - K), P_K their sum and T that
of all (Theorem 1): exact 2-means in one dimension, found for all K by one sort (Theorem 2).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bnncc.models.quantizers.base import WeightQuantizer, center_, register


def two_means(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best split of each row [M, n]: which weights are in its upper part [M, n], the means alpha, beta [M].

    Sums in float64. Of equally good splits the one with the most in the upper part. Equal weights are never parted:
    between two of them the gain is convex in K, so it is larger at an end of theirs. A row of one weight, or of equal
    ones, has an empty part, and alpha = beta.
    """
    n = rows.shape[1]
    if n == 1:
        return torch.ones_like(rows, dtype=torch.bool), rows[:, 0], rows[:, 0]
    ordered = _ascending(rows)
    mean = ordered.mean(dim=1, keepdim=True, dtype=torch.float64)
    # Of weights less their mean, T is 0 and the gain P^2 n / (k (n - k)) with P the sum of the k smallest: the same
    # choice as by the largest, and nothing cancels.
    sums = torch.cumsum(ordered - mean, dim=1)
    smaller = torch.arange(1, n, device=rows.device, dtype=torch.float64)
    gain = sums[:, :-1].square().div_(smaller * (n - smaller))
    upper = rows > ordered.gather(1, gain.argmax(dim=1, keepdim=True))  # the first of the largest gains
    k = n - upper.sum(1, keepdim=True)
    bottom = sums.gather(1, k - 1)
    beta = mean + bottom / k
    alpha = torch.where(k < n, mean - bottom / (n - k).clamp_min(1), beta)
    return upper, alpha[:, 0].to(rows.dtype), beta[:, 0].to(rows.dtype)


def _ascending(rows: Tensor) -> Tensor:
    """Sort the elements of each row, the smallest first."""
    if rows.device.type == "cpu" and rows.dtype != torch.bfloat16:
        # NumPy, which has no bfloat16, sorts with vector instructions: a fraction of the time of torch's.
        return torch.from_numpy(np.sort(rows.numpy(), axis=1))
    return torch.sort(rows, dim=1).values


class _TwoValues(torch.autograd.Function):
    """The best two values; backward as Theorem 3 has it, with the indicator of |w| <= 1 for its STE (equation 5)."""

    @staticmethod
    def forward(ctx, latent: Tensor) -> Tensor:
        rows = latent.flatten(1)
        upper, alpha, beta = two_means(rows)
        ctx.save_for_backward(latent, upper)
        return torch.where(upper, alpha[:, None], beta[:, None]).reshape(latent.shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        latent, upper = ctx.saved_tensors
        rows = latent.flatten(1)
        through = rows.abs() <= 1  # the ends belong to it: latents are clamped to them
        factor = torch.zeros_like(rows)
        for part in (upper, ~upper):
            count = part.sum(1, keepdim=True).clamp_min(1)
            size = (rows.abs() * part).sum(1, keepdim=True) / count
            factor += part * (1 / count + size * through)
        return grad * factor.reshape(latent.shape)


@register("dab")
class DabWeights(WeightQuantizer):
    """alpha where a weight is among the K largest of its filter, beta elsewhere; see two_means.

    `centered`: whether latents lose their mean over the input channels after each step, as in the paper's Algorithm 2
    (line 4). A filter whose split is in half then has opposite alpha and beta.
    """

    exportable = False

    def __init__(self, centered: bool = True) -> None:
        super().__init__()
        self.centered = centered

    def forward(self, latent: Tensor) -> Tensor:
        """Return the two values of each filter in the places of its weights."""
        return _TwoValues.apply(latent)

    @torch.no_grad()
    def constrain_(self, latent: Tensor) -> None:
        """Subtract the mean over the input channels, where it is asked for, and clamp (Algorithm 2, lines 4 and 5)."""
        if self.centered:
            center_(latent)
        super().constrain_(latent)
