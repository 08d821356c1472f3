"""What changes over a run: the learning rate, and the weight of the distances in training for the tree."""

from __future__ import annotations

import math
from collections.abc import Sequence

SCHEDULES = ("cosine", "steps")
MST_SCHEDULES = ("constant", "rising", "falling")


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


def distance_weight(schedule: str, mean: float, progress: float) -> float:
    """Return lambda at `progress`, in [0, 1): its mean over a run is `mean`, whatever the schedule.

    constant: `mean`. rising: in proportion to the progress, to twice the mean. falling: from twice the mean to 0.
    """
    return {"constant": mean, "rising": 2 * mean * progress, "falling": 2 * mean * (1 - progress)}[schedule]
