"""What a network's binary convolutions cost along trees over their filters, by the compiler's own counting."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

from bnncc.models.layers import BinaryConv2d, binary_layers
from bnncc.models.quantizers import bits_of
from bnncc.passes.filter_tree import engine_tree, paper_tree


def filter_signs(layer: BinaryConv2d) -> Tensor:
    """Return the bits of a layer's filters as -1 and +1, float [M, D]."""
    return torch.where(bits_of(layer.effective_weight().detach()).flatten(1), 1.0, -1.0)


@dataclass(frozen=True)
class TreeCost:
    """What the binary 3x3 convolutions of a network cost, summed over them.

    dense: their bits; mst: those that are counted along the paper's tree, all of a root's and the differing ones of
    each edge; steiner: along the engine's, with a filter of zeros, complements and virtual filters, as it is where
    edges have no price (`bnncc compile --tree-ripple 0`). The same with _operations: each bit counted at every output
    position, H W of them, for one image. distance: the differing bits of the paper's trees alone. depth: edges of the
    deepest of those.
    """

    dense: int
    mst: int
    steiner: int
    dense_operations: int
    mst_operations: int
    steiner_operations: int
    distance: int
    depth: int


@torch.no_grad()
def output_positions(model: nn.Module, image_shape: tuple[int, ...]) -> dict[nn.Module, int]:
    """Return the output positions H W of each binary convolution for an image of shape [C, H, W]."""
    found: dict[nn.Module, int] = {}

    def saw(layer: nn.Module, arguments: tuple, output: Tensor) -> None:
        found[layer] = output.shape[2] * output.shape[3]

    hooks = [layer.register_forward_hook(saw) for layer in binary_layers(model) if isinstance(layer, BinaryConv2d)]
    was_training = model.training
    model.eval()(torch.zeros(1, *image_shape, device=next(model.parameters()).device))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def tree_cost(model: nn.Module, positions: dict[nn.Module, int] | None = None, steiner: bool = True) -> TreeCost:
    """Count the trees of a network's binary 3x3 convolutions as the compiler does.

    `positions`: of `output_positions`; without them one position of each layer is counted. `steiner` False: 0 of those.
    """
    cost = dict.fromkeys((field.name for field in fields(TreeCost)), 0)
    for layer in binary_layers(model):
        if not isinstance(layer, BinaryConv2d) or layer.groups != 1 or layer.weight.shape[2:] != (3, 3):
            continue
        bits = (filter_signs(layer) > 0).cpu().numpy()
        packed, length = np.packbits(bits, axis=1, bitorder="little"), bits.shape[1]
        paper = paper_tree(packed, length)
        counted = {"dense": bits.size, "mst": paper.planes}
        counted["steiner"] = engine_tree(packed, length).planes if steiner else 0
        for name, count in counted.items():
            cost[name] += count
            cost[f"{name}_operations"] += count * (1 if positions is None else positions[layer])
        cost["distance"] += paper.planes - length
        cost["depth"] = max(cost["depth"], paper.depth)
    return TreeCost(**cost)
