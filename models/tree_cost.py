"""What a network's binary convolutions cost along trees over their filters, by the compiler's own counting."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

from bnncc.models.layers import BinaryConv2d, binary_layers
from bnncc.models.quantizers import bits_of
from bnncc.passes.filter_tree import FilterTree, TreeOptions, engine_tree, feasible_options, paper_tree


def tree_layers(model: nn.Module) -> list[BinaryConv2d]:
    """Return the convolutions for which the compiler finds trees: weights and activations are binary."""
    return [
        layer
        for layer in binary_layers(model)
        if isinstance(layer, BinaryConv2d)
        and layer.activation_quantizer.binary
        and _options(layer.weight.shape[0] // layer.groups, layer.weight[0].numel()) is not None
    ]


@torch.no_grad()
def filter_signs(layer: BinaryConv2d) -> Tensor:
    """Return the bits of a layer's filters as -1 and +1, float [M, D]."""
    return torch.where(bits_of(layer.effective_weight()).flatten(1), 1.0, -1.0)


def find_tree(filters: np.ndarray) -> FilterTree:
    """Return the engine's tree over filters, bool [M, D], as the compiler finds it where edges have no price."""
    return engine_tree(np.packbits(filters, axis=1, bitorder="little"), filters.shape[1], _options(*filters.shape))


def _options(filters: int, length: int) -> TreeOptions | None:
    return feasible_options(filters, length, TreeOptions())


@dataclass(frozen=True)
class TreeCost:
    """What the convolutions of a network that have trees cost, summed over them and their groups.

    dense: their bits; mst: those that are counted along the paper's tree, all of a root's and the differing ones of
    each edge; steiner: along the engine's, with a filter of zeros, complements and virtual filters, as it is where
    edges have no price (`bnncc compile --tree-ripple 0`). The same with _operations: each bit counted at every output
    position, H W of them, for one image. distance: the differing bits of the paper's trees alone. depth: edges of the
    deepest of those. What concerns the engine's trees is None where they were not looked for.
    """

    dense: int
    mst: int
    steiner: int | None
    dense_operations: int
    mst_operations: int
    steiner_operations: int | None
    distance: int
    depth: int


@torch.no_grad()
def output_positions(model: nn.Module, image_shape: tuple[int, ...]) -> dict[nn.Module, int]:
    """Return the output positions H W of each convolution of `tree_layers` for an image of shape [C, H, W]."""
    found: dict[nn.Module, int] = {}

    def saw(layer: nn.Module, arguments: tuple, output: Tensor) -> None:
        found[layer] = output.shape[2] * output.shape[3]

    hooks = [layer.register_forward_hook(saw) for layer in tree_layers(model)]
    was_training = model.training
    model.eval()(torch.zeros(1, *image_shape, device=next(model.parameters()).device))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def tree_cost(model: nn.Module, positions: dict[nn.Module, int], engine: bool = True) -> TreeCost:
    """Count the trees of a network's convolutions as the compiler does; `positions` are those of `output_positions`.

    engine: whether the engine's are found as well, which takes seconds for the 512 filters of a layer.
    """
    cost: dict[str, int | None] = dict.fromkeys((field.name for field in fields(TreeCost)), 0)
    if not engine:
        cost |= {"steiner": None, "steiner_operations": None}
    for layer in tree_layers(model):
        bits = (filter_signs(layer) > 0).cpu().numpy()
        for group in np.split(bits, layer.groups):
            length = group.shape[1]
            paper = paper_tree(np.packbits(group, axis=1, bitorder="little"), length)
            counts = {"dense": group.size, "mst": paper.planes}
            if engine:
                counts["steiner"] = find_tree(group).planes
            for name, count in counts.items():
                cost[name] += count
                cost[f"{name}_operations"] += count * positions[layer]
            cost["distance"] += paper.planes - length
            cost["depth"] = max(cost["depth"], paper.depth)
    return TreeCost(**cost)
