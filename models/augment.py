"""Random shifts and flips of image batches, seeded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image of [N, C, H, W] moved by up to `shift` pixels each way and, if `flip`, mirrored with probability 1/2.

    What moves in from outside is 0. The generator's state fixes the outcome; its draws do not depend on the images.
    """
    n, _, height, width = images.shape
    rows = torch.arange(height).expand(n, height)
    columns = torch.arange(width).expand(n, width)
    if flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    if shift:
        images = F.pad(images, (shift, shift, shift, shift))
        offsets = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator)
        rows, columns = rows + offsets[0], columns + offsets[1]
    # Advanced indices separated by a slice put their shape first: [N, H, W, C].
    picked = images[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)
