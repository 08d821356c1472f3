"""Bi-half ("Equal Bits", Li et al., 2022): the bits of each filter have exact ratios, by optimal transport.

Weights are moved to the binary distribution with a prior for +1, 1/2 where bits are to say most, at least cost: the
largest of a filter become +1, the rest -1 (equation 4). Only ranks count: a filter plus a constant, or times a positive
one, has the same bits.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from bnncc.models.quantizers.base import WeightQuantizer, register


def ranks(rows: Tensor) -> Tensor:
    """Return the rank of each element within its row [M, D], 0 for the largest; of equal ones the first comes first."""
    order = torch.argsort(rows, dim=1, descending=True, stable=True)
    places = torch.arange(rows.shape[1], device=rows.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def largest(rows: Tensor, count: int) -> Tensor:
    """Return which elements of each row [M, D] are its `count` largest, bool; of equal ones the first.

    The same as `ranks(rows) < count`, without sorting.
    """
    size = rows.shape[1]
    if count == size:
        return torch.ones_like(rows, dtype=torch.bool)
    least = _kth_smallest(rows, size - count)
    above, equal = rows > least, rows == least
    missing = count - above.sum(1, keepdim=True)
    if rows.is_cuda or bool((equal.sum(1, keepdim=True) > missing).any()):  # a GPU would have to be waited for
        equal &= equal.cumsum(1) <= missing
    return above | equal


def _kth_smallest(rows: Tensor, k: int) -> Tensor:
    """Return the element of rank k, counted from 0, of each row [M, D]: [M, 1]."""
    if rows.device.type == "cpu" and rows.dtype != torch.bfloat16:
        # NumPy, which has no bfloat16, selects with vector instructions: a seventh of the time of torch's.
        return torch.from_numpy(np.partition(rows.numpy(), k, axis=1)[:, k : k + 1].copy())
    return torch.kthvalue(rows, k + 1, dim=1, keepdim=True).values


def _ceil(share: float, count: Tensor | int) -> Tensor | int:
    """Return ceil(share * count), where products that rounding has lifted above a whole number count as that number.

    One at least, if any.
    """
    product = share * count - 1e-9
    return torch.ceil(product) if isinstance(product, Tensor) else max(1, math.ceil(product))


class _Transport(torch.autograd.Function):
    """Bits of exact ratios, +-1 [M, ...]; the gradient is the identity's, not clipped, as in the authors' code."""

    @staticmethod
    def forward(ctx, latent: Tensor, positive: float) -> Tensor:
        rows = latent.flatten(1)
        chosen = largest(rows, _ceil(positive, rows.shape[1]))
        return torch.where(chosen, rows.new_tensor(1.0), rows.new_tensor(-1.0)).reshape(latent.shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _MaskedTransport(torch.autograd.Function):
    """As _Transport with equal bits among the elements that a mask keeps; 0, without a gradient, elsewhere."""

    @staticmethod
    def forward(ctx, latent: Tensor, keep: Tensor) -> Tensor:
        rows, kept = latent.flatten(1), keep.flatten(1)
        # What is not kept ranks behind everything that is.
        rank = ranks(torch.where(kept, rows, -torch.inf))
        most = _ceil(0.5, kept.sum(1, keepdim=True).to(torch.float64))
        signs = torch.where(rank < most, rows.new_tensor(1.0), rows.new_tensor(-1.0)) * kept
        ctx.save_for_backward(keep)
        return signs.reshape(latent.shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        return grad * keep, None


@register("bi-half")
class BiHalfWeights(WeightQuantizer):
    """alpha B, with ceil(positive D) of each filter's D bits +1 and the others -1; alpha = sqrt(2 / D), a constant.

    positive: the prior of +1, between 0 and 1 (the paper's p_pos); 1/2 unless told. Raises ValueError for another.
    """

    exportable = False

    def __init__(self, positive: float = 0.5) -> None:
        super().__init__()
        if not 0 < positive < 1:
            raise ValueError(f"positive (p_pos) is {positive}; it is a share above 0 and below 1")
        self.positive = positive

    @torch.no_grad()
    def initialise_(self, latent: Tensor) -> None:
        """Fill new latents from a normal distribution of deviation sqrt(2 / D) (Kaiming), as the paper does."""
        nn.init.normal_(latent, std=math.sqrt(2 / latent[0].numel()))

    def forward(self, latent: Tensor) -> Tensor:
        """Return the scaled bits."""
        scale = math.sqrt(2 / latent[0].numel())
        return scale * _Transport.apply(latent, self.positive)

    def constrain_(self, latent: Tensor) -> None:
        """Leave the latents: only their ranks count."""


@register("bi-half-pruned")
class PrunedBiHalfWeights(WeightQuantizer):
    """Bi-half on the weights that a learnt mask keeps, the others 0: section "pruning" of the paper, after MPT.

    keep: share of a layer's weights that is left. Each weight has a score; those of the largest |score| are kept, and
    the scores' gradient is the mask's (straight-through), as in Multi-Prize Tickets (Diffenderfer and Kailkhura, 2021).
    alpha = sqrt(2 / D) with D the mean number of weights that a filter keeps. The result has three values: it is no
    binary layer, and stays float when compiled.
    """

    exportable = binary = False

    def __init__(self, keep: float = 0.5) -> None:
        super().__init__()
        if not 0 < keep <= 1:
            raise ValueError(f"keep is {keep}; it is a share above 0 and at most 1")
        self.keep = keep
        self.scores: nn.Parameter | None = None

    def build(self, shape: tuple[int, ...]) -> None:
        """Make the scores, of the latents' shape."""
        self.scores = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_uniform_(self.scores.data.view(shape[0], -1), a=math.sqrt(5))

    def mask(self) -> Tensor:
        """Return which weights are kept [M, ...], exactly round(keep * all) of them."""
        size = self.scores.detach().abs().flatten()
        count = max(1, round(self.keep * size.numel()))
        kept = torch.zeros_like(size, dtype=torch.bool)
        kept[torch.argsort(size, descending=True, stable=True)[:count]] = True
        return kept.reshape(self.scores.shape)

    def forward(self, latent: Tensor) -> Tensor:
        """Return the scaled bits of what is kept."""
        mask = self.mask()
        scale = math.sqrt(2 * len(mask) / int(mask.sum()))
        everything = _Transport.apply(latent, 0.5)
        bits = _MaskedTransport.apply(latent, mask)
        # The value is the bits'; a score's gradient is that of its weight's bit were it kept.
        through = (self.scores - self.scores.detach()) * (everything.detach() * self.scores.detach().sign())
        return scale * (bits + through)

    def constrain_(self, latent: Tensor) -> None:
        """Leave the latents: only their ranks count."""
