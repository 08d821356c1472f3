"""Training for the minimum spanning tree: filters are drawn to a few centers, so that they differ in fewer bits.

MST-compression (Vo et al., ICCV 2023): beside the task's loss, lambda times the sum over all binary layers and output
channels of the Hamming distance from a filter to its center. Centers are binary filters, the majority of their members.
What a layer then costs is counted by the compiler's own trees (passes/filter_tree).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bnncc.models.layers import BinaryConv2d
from bnncc.passes.filter_tree import engine_tree, paper_tree


class _Hamming(torch.autograd.Function):
    """Differing bits of filters and centers, +-1 [M, D] each; the gradient is straight through the filters' signs."""

    @staticmethod
    def forward(ctx, latent: Tensor, bits: Tensor, centers: Tensor) -> Tensor:
        ctx.save_for_backward(centers)
        ctx.shape = latent.shape
        return (bits != centers).sum().to(latent.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (centers,) = ctx.saved_tensors  # (D - b c) / 2 by b
        return (-grad / 2 * centers).reshape(ctx.shape), None, None


class CenterLoss(nn.Module):
    """The distance loss of a network's binary convolutions, grouped ones left out, and the centers it is about.

    weight: lambda, of a sum and not a mean; centers: how many each layer has, at first filters drawn at random;
    refresh: after how many steps they are the majority of their members again, a filter being a member of the nearest.
    Buffers hold centers and membership, so that state_dict is all that a resumed run needs. Raises ValueError for
    numbers out of range.
    """

    def __init__(self, model: nn.Module, weight: float, centers: int = 1, refresh: int = 50) -> None:
        super().__init__()
        if not weight >= 0 or centers < 1 or refresh < 1:
            raise ValueError(f"weight {weight}, centers {centers} and refresh {refresh}: at least 0, 1 and 1")
        self.weight, self.refresh = weight, refresh
        self.layers = [layer for layer in model.modules() if isinstance(layer, BinaryConv2d) and layer.groups == 1]
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        for index, layer in enumerate(self.layers):
            bits = _signs(layer)
            chosen = torch.randperm(len(bits))[:centers]
            self.register_buffer(f"centers_{index}", bits[chosen].clone())
            self.register_buffer(f"members_{index}", _nearest(bits, bits[chosen]))

    def forward(self) -> Tensor:
        """Return lambda times the distances of all filters from their centers, which move first when they are due."""
        if self.step % self.refresh == 0:
            self.update_centers()
        self.step += 1
        total = self.layers[0].weight.new_zeros(()) if self.layers else torch.zeros(())
        for index, layer in enumerate(self.layers):
            bits = _signs(layer)
            total = total + _Hamming.apply(layer.weight, bits, self._center_of_each(index))
        return self.weight * total

    @torch.no_grad()
    def update_centers(self) -> None:
        """Make each filter a member of the nearest center, and each center its members' majority (+1 where equal).

        A center without members stays.
        """
        for index, layer in enumerate(self.layers):
            bits, centers = _signs(layer), getattr(self, f"centers_{index}")
            members = _nearest(bits, centers)
            for number in range(len(centers)):
                own = bits[members == number]
                if len(own):
                    centers[number] = torch.where(own.sum(0) >= 0, 1.0, -1.0)
            getattr(self, f"members_{index}").copy_(_nearest(bits, centers))

    def _center_of_each(self, index: int) -> Tensor:
        return getattr(self, f"centers_{index}")[getattr(self, f"members_{index}")]


def _signs(layer: BinaryConv2d) -> Tensor:
    """Bits of a layer's filters as +-1 [M, D]."""
    stored = layer.weight_quantizer.stored(layer.weight)
    return torch.where(stored.bits.flatten(1), 1.0, -1.0)


def _nearest(bits: Tensor, centers: Tensor) -> Tensor:
    return (bits @ centers.T).argmax(1)


# ---- What a tree costs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TreeCost:
    """What the binary convolutions of a network cost, summed: bits that are counted for one output position.

    dense: all bits; mst: those along the paper's tree; steiner: along the engine's, with a filter of zeros,
    complements and virtual filters. depth: edges of the deepest of the paper's trees.
    """

    dense: int
    mst: int
    steiner: int
    depth: int


@torch.no_grad()
def tree_cost(model: nn.Module, steiner: bool = True) -> TreeCost:
    """Count the trees of a network's binary 3x3 convolutions as the compiler does; `steiner` False: 0 of those."""
    dense = mst = virtual = depth = 0
    for layer in model.modules():
        if not isinstance(layer, BinaryConv2d) or layer.groups != 1 or layer.weight.shape[2:] != (3, 3):
            continue
        bits = (_signs(layer) > 0).numpy()
        packed, length = np.packbits(bits, axis=1, bitorder="little"), bits.shape[1]
        paper = paper_tree(packed, length)
        dense += bits.size
        mst += paper.planes
        depth = max(depth, paper.depth)
        if steiner:
            virtual += engine_tree(packed, length).planes
    return TreeCost(dense, mst, virtual, depth)
