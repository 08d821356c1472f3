"""Where the time of a call goes, op by op, as onnxruntime's profiler tells it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from bnncc.data import Feeds
from bnncc.report import KindTime, OpTime, ProfileReport

KINDS = ("binary", "conversion", "float")

# Ops of bnncc have these names; all others are float.
_BINARY = ("Binary", "MaxPoolSigns")
# Between floats and packed signs, and onnxruntime's between its layouts of floats.
_CONVERSIONS = ("Binarize", "UnpackSigns", "ReorderInput", "ReorderOutput")
# The nodes that these run are in the profile themselves.
_CONTROL_FLOW = ("If", "Loop", "Scan")

_SUFFIX = "_kernel_time"
_WARM_UP_CALLS = 3
_FEWEST_CALLS, _MOST_CALLS = 10, 300
_MOST_EVENTS = 200_000


def profiling_options(options: onnxruntime.SessionOptions, folder: Path) -> onnxruntime.SessionOptions:
    """Have a session write a profile to a folder, and return its options."""
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    return options


def profile_calls(
    make_sessions: Sequence[Callable[[Path], onnxruntime.InferenceSession]],
    feeds: Feeds,
    nodes: int,
    kernels: Sequence[Mapping[str, str]],
    folder: Path,
    calls: int | None = None,
) -> list[ProfileReport]:
    """Call sessions in turns and report on each.

    `make_sessions`: each makes a session with `profiling_options` for the folder that it is given. `nodes`: about how
    many the largest model has. `kernels`: for each model, by name of a node, the kernel of the library that serves it.
    Each is called `calls` times, but not more often than 300 times, or ten where it has very many nodes: onnxruntime
    drops what comes after a million events. The profiles are deleted.
    """
    most = max(_FEWEST_CALLS, min(_MOST_CALLS, _MOST_EVENTS // max(nodes, 1)))
    calls = most if calls is None else min(calls, most)
    # A profiler keeps its events in memory that ops would take anew, so that their time has page faults in it. Where
    # another has freed its own before, there is room for both.
    _profiles(make_sessions, feeds, calls, folder)
    profiles = _profiles(make_sessions, feeds, calls, folder)
    return [_report(events, names) for events, names in zip(profiles, kernels, strict=True)]


def _profiles(
    make_sessions: Sequence[Callable[[Path], onnxruntime.InferenceSession]], feeds: Feeds, calls: int, folder: Path
) -> list[list[dict[str, Any]]]:
    """Return the events of each session's profile."""
    sessions = []
    for number, make in enumerate(make_sessions):
        own = folder / f"session{number}"  # older onnxruntime names all profiles of a second alike
        own.mkdir(exist_ok=True)
        sessions.append(make(own))
    for _ in range(_WARM_UP_CALLS + calls):
        for session in sessions:
            session.run(None, feeds)
    files = [Path(session.end_profiling()) for session in sessions]
    profiles = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for file in files:
        file.unlink()
    return profiles


def _report(events: list[dict[str, Any]], kernels: Mapping[str, str]) -> ProfileReport:
    """Sum up the events of a profile, in which the nodes of a call come before the call itself."""
    calls: list[int] = []
    ops: dict[tuple[str, str, str], dict[int, int]] = {}  # microseconds by call
    for event in events:
        name = event["name"]
        if event["cat"] == "Session" and name == "model_run":
            calls.append(event["dur"])
        elif event["cat"] == "Node" and name.endswith(_SUFFIX) and event["args"]["op_name"] not in _CONTROL_FLOW:
            key = (name.removesuffix(_SUFFIX), event["args"]["op_name"], event["args"]["node_index"])
            times = ops.setdefault(key, {})
            times[len(calls)] = times.get(len(calls), 0) + event["dur"]
    counted = range(_WARM_UP_CALLS, len(calls))
    medians = {key: _median([times.get(call, 0) for call in counted]) for key, times in ops.items()}
    total = sum(medians.values())
    rows = [
        OpTime(name, op, kernels.get(name), kind_of(op), median, median / total)
        for (name, op, _), median in medians.items()
    ]
    kinds = {}
    for kind in KINDS:
        times = [row.median_us for row in rows if row.kind == kind]
        kinds[kind] = KindTime(len(times), sum(times), sum(times) / total if times else 0.0)
    return ProfileReport(rows, kinds, total, _median([calls[call] for call in counted]), len(counted))


def _median(microseconds: list[int]) -> float:
    """Return the median of times of which the profiler has cut off the fractions.

    So many calls have the same figure that its place among them tells the fraction.
    """
    return statistics.median_grouped([time + 0.5 for time in microseconds], interval=1)


def kind_of(op: str) -> str:
    """Return to which of `KINDS` the time of an op counts."""
    if op in _CONVERSIONS:
        return "conversion"
    return "binary" if op.startswith(_BINARY) else "float"
