"""Learning rates over a run: a cosine, or steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

SCHEDULES = ("cosine", "steps")


def learning_rate(
    schedule: str, first: float, progress: float, milestones: Sequence[float], gamma: float, least: float
) -> float:
    """Return the rate at `progress`, epochs over all epochs, in [0, 1).

    cosine: from `first` at 0 to `least` at 1. steps: `first`, times `gamma` at each of the milestones, which are
    progresses too, but never below `least`; without milestones a constant.
    """
    if schedule == "cosine":
        return least + (first - least) * 0.5 * (1 + math.cos(math.pi * progress))
    passed = sum(progress >= milestone for milestone in milestones)
    return max(least, first * gamma**passed)
