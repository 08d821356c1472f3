"""Timing calls in turns in one process, so that a drifting machine slows all alike; and what the machine is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_WARM_UP_CALLS = 3
_FEWEST_CALLS = 10
_MOST_CALLS = 10_000

Call = Callable[[], object]
Progress = Callable[[str], None]


def interleave(
    calls: Sequence[Call],
    repeats: int | None = None,
    min_time: float = 2.0,
    burst: int = 1,
    progress: Progress | None = None,
) -> list[list[float]]:
    """Return the seconds of each call, in rounds that make every call once, after a warm-up.

    There are `repeats` rounds, or (None) as many as take `min_time` seconds in all, ten at least. With a `burst` of n
    each call of a round is made n times in a row after one that is not counted, which has the caches as others left
    them: so small functions are timed, whole models are not.
    """
    for _ in range(_WARM_UP_CALLS):
        for call in calls:
            call()
    times: list[list[float]] = [[] for _ in calls]
    begun = shown = time.perf_counter()
    rounds = 0
    while True:
        now = time.perf_counter()
        if repeats is not None:
            if rounds >= repeats:
                return times
        elif rounds >= _MOST_CALLS or (rounds >= _FEWEST_CALLS and now - begun >= min_time):
            return times
        if progress is not None and now - shown > 0.2:
            progress(f"{rounds} rounds, {now - begun:.1f} s")
            shown = now
        for call, series in zip(calls, times, strict=True):
            if burst > 1:
                call()
            for _ in range(burst):
                start = time.perf_counter()
                call()
                series.append(time.perf_counter() - start)
        rounds += 1


def cpu_name() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def cpu_count() -> int:
    """Return how many CPUs, as the system counts them, this process may run on."""
    return len(os.sched_getaffinity(0))
