"""DAB-Net (Prabhu et al., 2018): the best two values for each filter, by the distribution of its weights.

W ~ alpha e + beta (1 - e), e in {0, 1}^n. The error is least where e is the K largest weights and alpha and beta the
means of those and of the others, for the K with the largest P_K^2 / K + (T - P_K)^2 / (n - K), P_K their sum and T that
of all (Theorem 1): exact 2-means in one dimension, found for all K by one sort (Theorem 2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bnncc.models.quantizers.base import WeightQuantizer, center_, register


def two_means(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best split of each row [M, n]: which weights are in its upper part [M, n], the means alpha, beta [M].

    Sums in float64. Of equally good splits the one with the most in the upper part; of equal weights the first are in
    it first. A row of one weight, or of equal ones, has alpha = beta up to rounding.
    """
    exact = rows.to(torch.float64)
    n = exact.shape[1]
    values, order = torch.sort(exact, dim=1, descending=True, stable=True)
    if n == 1:
        only = exact[:, 0].to(rows.dtype)
        return torch.ones_like(rows, dtype=torch.bool), only, only
    count = torch.arange(1, n, device=rows.device, dtype=torch.float64)
    # Of weights less their mean, T is 0 and the gain P_K^2 n / (K (n - K)): the same choice, and nothing cancels.
    mean = exact.mean(dim=1, keepdim=True)
    sums = torch.cumsum(values - mean, dim=1)[:, :-1]
    gain = sums.square() / (count * (n - count))
    best = n - 2 - gain.flip(1).argmax(dim=1, keepdim=True)  # the last of the largest
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(n, device=rows.device).expand_as(order))
    top, k = sums.gather(1, best), best + 1
    alpha, beta = mean + top / k, mean - top / (n - k)
    return ranks <= best, alpha[:, 0].to(rows.dtype), beta[:, 0].to(rows.dtype)


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
    (line 4); alpha and beta are then never far from opposite.
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
