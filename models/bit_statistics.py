"""What the bits of a network's binary layers do in training: how many flip, and how much they say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bnncc.models.layers import binary_layers
from bnncc.models.quantizers import bits_of


@dataclass(frozen=True)
class BitStatistics:
    """Flips over an epoch to +1 and to -1, each counted at every step at which it happens, as shares of all bits.

    entropy: mean over filters of the entropy, in bits, of their share of +1 at the end; 1 where that is a half.
    """

    flips_up: float
    flips_down: float
    entropy: float


class BitWatch:
    """Counts the flips of bits while a network is trained, from the effective weights of each forward pass.

    It draws no random numbers and changes nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = list(binary_layers(model))
        self.up = self.down = 0
        self.bits: list[Tensor] = []
        self.hooks: list[RemovableHandle] = []
        for index, layer in enumerate(self.layers):
            self.bits.append(bits_of(layer.effective_weight().detach()))
            self.hooks.append(layer.weight_quantizer.register_forward_hook(partial(self._saw, index)))

    def close(self) -> None:
        """Leave the network as it was."""
        for hook in self.hooks:
            hook.remove()

    @torch.no_grad()
    def _saw(self, index: int, quantizer: nn.Module, arguments: tuple, weight: Tensor) -> None:
        bits, before = bits_of(weight.detach()), self.bits[index]
        self.up += (bits & ~before).sum()
        self.down += (before & ~bits).sum()
        self.bits[index] = bits

    def finish_epoch(self) -> BitStatistics | None:
        """Return the statistics since the last call; None for a network without binary layers."""
        if not self.layers:
            return None
        for layer in self.layers:
            layer.effective_weight()  # what the last step has flipped
        total = sum(bits.numel() for bits in self.bits)
        shares = torch.cat([bits.flatten(1).to(torch.float64).mean(1) for bits in self.bits])
        result = BitStatistics(int(self.up) / total, int(self.down) / total, float(entropy(shares).mean()))
        self.up = self.down = 0
        return result


def entropy(share: Tensor) -> Tensor:
    """Return the entropy in bits of a bit that is 1 with probability `share`."""
    return -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share)) / math.log(2)
