"""Bi-half ("Equal Bits", Li et al., 2022): the bits of each filter have exact ratios, by optimal transport.

Weights are moved to the binary distribution with a prior for +1, 1/2 where bits are to say most, at least cost: the
largest of a filter become +1, the rest -1 (equation 4). Only ranks count: a filter plus a constant, or times a positive
one, has the same bits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bnncc.models.quantizers.base import WeightQuantizer, register


def ranks(rows: Tensor) -> Tensor:
    """Return the rank of each element within its row [M, D], 0 for the largest; of equal ones the first comes first."""
    order = torch.argsort(rows, dim=1, descending=True, stable=True)
    places = torch.arange(rows.shape[1], device=rows.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


class _Transport(torch.autograd.Function):
    """Bits of exact ratios among the elements that a mask keeps, 0 elsewhere; the gradient is the identity's there.

    Backward is not clipped, as in the authors' code.
    """

    @staticmethod
    def forward(ctx, latent: Tensor, keep: Tensor, positive: float) -> Tensor:
        rows, kept = latent.flatten(1), keep.flatten(1)
        # What is not kept ranks behind everything that is.
        rank = ranks(torch.where(kept, rows, -torch.inf))
        count = kept.sum(1, keepdim=True)
        most = torch.ceil(positive * count.to(torch.float64) - 1e-9)
        signs = torch.where(rank < most, rows.new_tensor(1.0), rows.new_tensor(-1.0)) * kept
        ctx.save_for_backward(keep)
        return signs.reshape(latent.shape)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return grad * keep, None, None


@register("bi-half")
class BiHalfWeights(WeightQuantizer):
    """alpha B, with ceil(positive D) of each filter's D bits +1 and the others -1; alpha = sqrt(2 / D), a constant.

    positive: the prior of +1, between 0 and 1; 1/2 unless told. Raises ValueError for another.
    """

    exportable = False

    def __init__(self, positive: float = 0.5) -> None:
        super().__init__()
        if not 0 <= positive <= 1:
            raise ValueError(f"positive is {positive}; it is a share from 0 to 1")
        self.positive = positive

    def forward(self, latent: Tensor) -> Tensor:
        """Return the scaled bits."""
        scale = math.sqrt(2 / latent[0].numel())
        return scale * _Transport.apply(latent, torch.ones_like(latent, dtype=torch.bool), self.positive)

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

    exportable = False

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
        everything = _Transport.apply(latent, torch.ones_like(mask), 0.5)
        bits = _Transport.apply(latent, mask, 0.5)
        # The value is the bits'; a score's gradient is that of its weight's bit were it kept.
        through = (self.scores - self.scores.detach()) * (everything.detach() * self.scores.detach().sign())
        return scale * (bits + through)

    def constrain_(self, latent: Tensor) -> None:
        """Leave the latents: only their ranks count."""
