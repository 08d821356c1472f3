"""Random shifts and flips of image batches, seeded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """What was drawn for n images: rows and columns to move by [2, n, 1], 0 to 2 shift, and which to mirror [n, 1]."""

    shift: int
    offsets: Tensor | None
    mirrored: Tensor | None

    def part(self, which: slice) -> Draws:
        """Return the draws of some of the images."""
        return Draws(
            self.shift,
            None if self.offsets is None else self.offsets[:, which],
            None if self.mirrored is None else self.mirrored[which],
        )


def draw(count: int, shift: int, flip: bool, generator: torch.Generator) -> Draws:
    """Draw moves by up to `shift` pixels each way and, if `flip`, mirrorings with probability 1/2, for `count` images.

    The generator's state fixes the outcome.
    """
    mirrored = torch.rand(count, 1, generator=generator) < 0.5 if flip else None
    offsets = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator) if shift else None
    return Draws(shift, offsets, mirrored)


def augment(images: Tensor, draws: Draws) -> Tensor:
    """Move and mirror the images [N, C, H, W] as drawn. What moves in from outside is 0."""
    n, _, height, width = images.shape
    rows = torch.arange(height).expand(n, height)
    columns = torch.arange(width).expand(n, width)
    if draws.mirrored is not None:
        columns = torch.where(draws.mirrored, columns.flip(1), columns)
    if draws.offsets is not None:
        images = F.pad(images, (draws.shift,) * 4)
        rows, columns = rows + draws.offsets[0], columns + draws.offsets[1]
    # Advanced indices separated by a slice put their shape first: [N, H, W, C].
    picked = images[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
