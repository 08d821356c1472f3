"""Augmentation: what may come out, and that the seed fixes it."""

import pytest

torch = pytest.importorskip("torch")

from bnncc.models.augment import augment, draw


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def shifted(image, dy, dx):
    """`image` [C, H, W] moved down by dy and right by dx, zeros moving in."""
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    _, height, width = image.shape
    return padded[:, 2 - dy : 2 - dy + height, 2 - dx : 2 - dx + width]


def test_every_image_is_a_shift_of_itself_or_its_mirror():
    images = torch.rand(200, 2, 5, 6, generator=seeded(0)) + 1
    seen = set()
    for before, after in zip(images, augment(images, draw(200, 1, True, seeded(1))), strict=True):
        matches = [
            (mirror, dy, dx)
            for mirror in (False, True)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if torch.equal(after, shifted(before.flip(2) if mirror else before, dy, dx))
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 18  # all of them occur


def test_nothing_asked_nothing_done():
    images = torch.rand(4, 1, 3, 3)
    assert torch.equal(augment(images, draw(4, 0, False, seeded(0))), images)


def test_seed_fixes_the_outcome():
    images = torch.rand(8, 1, 6, 6)
    first, again, other = (augment(images, draw(8, 2, True, seeded(seed))) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_parts_are_parts_of_the_whole():
    images = torch.rand(8, 1, 6, 6, generator=seeded(5))
    draws = draw(8, 2, True, seeded(6))
    halves = [augment(images[part], draws.part(part)) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat(halves), augment(images, draws))
