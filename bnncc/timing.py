"""Timing calls in turns in one process, so that a drifting machine slows all alike; and what the machine is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_WARM_UP_ROUNDS = 3
_FEWEST_ROUNDS, _MOST_ROUNDS = 10, 10_000
_LOOK_SECONDS, _LONGEST_PAUSE_SECONDS = 2e-3, 0.2
_GATHERING_SECONDS = 0.08  # until the system has found a CPU for each thread

Progress = Callable[[str], None]

Turn = Callable[[], list[float]]
"""Makes some calls of something and returns the seconds of each."""


def turn(call: Callable[[], object], calls: int = 1) -> Turn:
    """Return turns of `calls` calls in a row. Where they are several, one more goes before them and is not counted.

    It has the caches as others left them: so small functions are timed, whole models are not.
    """

    def take() -> list[float]:
        if calls > 1:
            call()
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return times

    return take


def interleave(
    turns: Sequence[Turn],
    rounds: int | None = None,
    min_time: float = 2.0,
    progress: Progress | None = None,
    threads: int = 1,
) -> list[list[float]]:
    """Return the seconds of all calls of each, in rounds that give everyone a turn, after a warm-up.

    There are so many `rounds`, or (None) as many as take `min_time` seconds in all, ten at least. `threads`: of the
    sessions that are called; other than 1, a turn begins when the threads of the one before are asleep,
    and its first calls, which its own threads may come late for, are not counted.
    """
    for _ in range(_WARM_UP_ROUNDS):
        for take in turns:
            take()
    times: list[list[float]] = [[] for _ in turns]
    begun = shown = time.perf_counter()
    done = 0
    while True:
        now = time.perf_counter()
        if rounds is not None:
            if done >= rounds:
                return times
        elif done >= _MOST_ROUNDS or (done >= _FEWEST_ROUNDS and now - begun >= min_time):
            return times
        if progress is not None and now - shown > 0.2:
            progress(f"timing: {done} rounds, {now - begun:.1f} s")
            shown = now
        for take, series in zip(turns, times, strict=True):
            if threads != 1:
                _await_idle_threads()
                awake = time.perf_counter() + _GATHERING_SECONDS
                while time.perf_counter() < awake:
                    take()
            series += take()
        done += 1


def _await_idle_threads() -> None:
    """Wait until this process uses no CPU: after a call, threads of a session look for more work, some 40 ms long."""
    pause = time.perf_counter()
    while time.perf_counter() - pause < _LONGEST_PAUSE_SECONDS:
        used = time.process_time()
        time.sleep(_LOOK_SECONDS)
        if time.process_time() - used < _LOOK_SECONDS / 4:
            return


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
