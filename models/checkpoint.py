"""Checkpoints of training: written whole or not at all, read back with checks."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from bnncc.errors import BadInput
from bnncc.models.files import replacing

FORMAT = 3
KEYS = {"format", "config", "epoch", "model", "optimizer", "distances", "generator", "torch_rng", "history"}


def save(path: Path, state: dict[str, object]) -> None:
    """Write `state` (tensors and plain Python values) to `path`, replacing what was there only once it is complete."""
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def load(path: str | Path) -> dict[str, object]:
    """Read a checkpoint. Raises `BadInput` for a file that is missing, damaged or not a checkpoint of this format."""
    path = Path(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise BadInput(f"{path}: not a checkpoint, or a damaged one") from error
    if not isinstance(state, dict) or not state.keys() >= KEYS or state["format"] != FORMAT:
        raise BadInput(f"{path}: not a checkpoint of this version")
    return state
