"""Checkpoints of training: written whole or not at all, read back with checks."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from bnncc.errors import BadInput
from bnncc.models.files import replacing

FORMAT = 3
UNREADABLE = (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, TypeError, LookupError, AttributeError)
"""What torch raises for files of other contents: the last ones where it takes a text for instructions of pickle."""
KINDS = {
    "format": int,
    "config": dict,
    "epoch": int,
    "model": dict,
    "optimizer": dict,
    "distances": dict,
    "generator": torch.Tensor,
    "torch_rng": list,
    "history": list,
}
"""What a checkpoint holds."""


def save(path: Path, state: dict[str, object]) -> None:
    """Write `state` (tensors and plain Python values) to `path`, replacing what was there only once it is complete.

    Raises `BadInput` where that fails.
    """
    with replacing(path) as temporary:
        try:
            torch.save({"format": FORMAT, **state}, temporary)
        except RuntimeError as error:  # its writer's, for a full disk
            raise BadInput(f"{path}: cannot be written: {' '.join(str(error).split())}") from error


def load(path: str | Path) -> dict[str, object]:
    """Read a checkpoint. Raises `BadInput` for a file that is missing, damaged or not a checkpoint of this format."""
    path = Path(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error
    except UNREADABLE as error:
        raise BadInput(f"{path}: not a checkpoint, or a damaged one") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise BadInput(f"{path}: not a checkpoint of this version")
    for key, kind in KINDS.items():
        if not isinstance(state.get(key, ...), kind):
            raise BadInput(f"{path}: a damaged checkpoint: its {key} is missing or of another kind")
    return state
