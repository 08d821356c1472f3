"""Training for the minimum spanning tree: filters are drawn together, so that they differ in fewer bits.

MST-compression (Vo et al., ICCV 2023): beside the task's loss, lambda times the sum over all binary layers and output
channels of the Hamming distance from a filter to its center. Centers are binary filters, the majority of their members.
The variant "tree" takes the distances along the tree that the engine counts instead, virtual filters included: what is
drawn together is then what that tree has together. What the filters cost is counted by models/tree_cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from bnncc.models.tree_cost import filter_signs, find_tree, tree_layers
from bnncc.passes.filter_tree import NO_PARENT


class _Pull(torch.autograd.Function):
    """A given distance, whose gradient draws latents [M, ...] to targets [M, D], straight through the signs.

    Signs b at a distance (D - b t) / 2 from targets t of +-1 have the gradient -t / 2; sums of targets, of distances.
    """

    @staticmethod
    def forward(ctx, latent: Tensor, targets: Tensor, distance: Tensor) -> Tensor:
        ctx.save_for_backward(targets)
        ctx.shape = latent.shape
        return distance.to(latent.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (targets,) = ctx.saved_tensors
        return (-grad / 2 * targets).reshape(ctx.shape), None, None


class DistanceLoss(nn.Module, ABC):
    """Base of the losses: lambda times a distance of a network's convolutions with trees, grouped ones left out.

    weight: lambda, of a sum and not a mean, which may change from step to step; refresh: after how many steps what the
    filters are drawn to is found again.
    Until then the distance is that of the filters as they were. Buffers hold that and the step, so that state_dict is
    all that a resumed run needs. Raises ValueError for numbers out of range, and for a network without such layers.
    """

    def __init__(self, model: nn.Module, weight: float, refresh: int = 50) -> None:
        super().__init__()
        if not weight >= 0 or refresh < 1:
            raise ValueError(f"weight {weight} and refresh {refresh}: at least 0 and 1")
        self.weight, self.refresh = weight, refresh
        self.layers = [layer for layer in tree_layers(model) if layer.groups == 1]
        if not self.layers:
            raise ValueError("no convolution has binary weights and activations, and filters to be drawn together")
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        for index, layer in enumerate(self.layers):
            self.register_buffer(f"targets_{index}", layer.weight.new_zeros(layer.weight.flatten(1).shape))
            self.register_buffer(f"distance_{index}", layer.weight.new_zeros(()))

    def forward(self) -> Tensor:
        """Return lambda times the distances of all layers; what the filters are drawn to is found first when due."""
        if self.step % self.refresh == 0:
            for index, layer in enumerate(self.layers):
                targets, distance = self.find(index, filter_signs(layer))
                # Not in place: backward may have to come.
                setattr(self, f"targets_{index}", targets.to(layer.weight))
                setattr(self, f"distance_{index}", distance.to(layer.weight))
        self.step += 1
        total = self.layers[0].weight.new_zeros(())
        for index, layer in enumerate(self.layers):
            targets, distance = getattr(self, f"targets_{index}"), getattr(self, f"distance_{index}")
            total = total + _Pull.apply(layer.weight, targets, distance)
        return self.weight * total

    @abstractmethod
    def find(self, index: int, bits: Tensor) -> tuple[Tensor, Tensor]:
        """Return what draws a layer's filters, of signs [M, D]: a sum of signs for each [M, D]; and the distance []."""


class CenterLoss(DistanceLoss):
    """The distances from filters to the nearest of their layer's centers.

    centers: how many each layer has, at least 1, at first filters drawn at random. When they are due, a center becomes
    the majority of its members (+1 where equal), a filter being a member of the nearest; one without members stays.
    """

    def __init__(self, model: nn.Module, weight: float, centers: int = 1, refresh: int = 50) -> None:
        super().__init__(model, weight, refresh)
        if centers < 1:
            raise ValueError(f"centers {centers}: at least 1")
        for index, layer in enumerate(self.layers):
            bits = filter_signs(layer)
            if centers > len(bits):
                raise ValueError(f"{centers} centers are more than the {len(bits)} filters of convolution {index + 1}")
            self.register_buffer(f"centers_{index}", bits[torch.randperm(len(bits))[:centers]])

    def find(self, index: int, bits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the center of each filter, after the centers have moved, and how many bits differ from those."""
        centers = getattr(self, f"centers_{index}")
        members = _nearest(bits, centers)
        for number in range(len(centers)):
            own = bits[members == number]
            if len(own):
                centers[number] = torch.where(own.sum(0) >= 0, 1.0, -1.0)
        targets = centers[_nearest(bits, centers)]
        return targets, (bits != targets).sum()


class TreeLoss(DistanceLoss):
    """The bits along the engine's trees, found anew when they are due.

    Each filter is drawn to its neighbours as they were then, filters or virtual ones, in the form in which it is
    counted: its complement if the tree has that.
    """

    def find(self, index: int, bits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of each filter's neighbours in the tree of the filters, +-1 each, and the bits along it."""
        filters = (bits > 0).cpu().numpy()
        tree = find_tree(filters)
        rows = np.unpackbits(tree.bits, axis=1, count=filters.shape[1], bitorder="little").astype(np.float32) * 2 - 1
        around = np.zeros_like(rows)
        real = tree.parents != NO_PARENT
        around[real] += rows[tree.parents[real]]
        around[~real] -= 1  # the filter of zeros
        np.add.at(around, tree.parents[real], rows[real])
        around[tree.flipped] *= -1
        return torch.from_numpy(around[: len(filters)]), torch.tensor(tree.planes)


def _nearest(bits: Tensor, centers: Tensor) -> Tensor:
    return (bits @ centers.T).argmax(1)


LOSSES: dict[str, type[DistanceLoss]] = {"centers": CenterLoss, "tree": TreeLoss}


def distance_loss(kind: str, model: nn.Module, weight: float, centers: int, refresh: int) -> DistanceLoss:
    """Make the loss of that name; `centers` matters to "centers" alone."""
    more = {"centers": centers} if kind == "centers" else {}
    return LOSSES[kind](model, weight, refresh=refresh, **more)
