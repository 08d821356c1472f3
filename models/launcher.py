"""What torch's launcher (`torchrun`) tells each process that it starts, in the environment."""

from __future__ import annotations

import os

from bnncc.errors import BadInput


def process_count() -> int:
    """Return how many processes there are; 1 without a launcher."""
    count = _number("WORLD_SIZE", "1")
    if count < 1:
        raise BadInput("WORLD_SIZE in the environment is 0")
    return count


def rank() -> int:
    """Return this process's number; 0 where it is alone."""
    count = process_count()
    own = _number("RANK", "0") if count > 1 else 0
    if own >= count:
        raise BadInput(f"RANK in the environment is {own}, of {count} processes")
    return own


def local_rank() -> int:
    """Return this process's number on its machine, which is that of its GPU; 0 where it is alone."""
    return _number("LOCAL_RANK", "0") if process_count() > 1 else 0


def _number(name: str, default: str) -> int:
    text = os.environ.get(name, default)
    if not text.isdecimal():
        raise BadInput(f"{name} in the environment is {text!r}, not a number")
    return int(text)
