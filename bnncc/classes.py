"""The classes that a model's outputs name, joined over batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def joined(batches: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return the classes [N, ...] of all batches.

    None where a batch has none, or where their shapes depend on the values: what is named there is not samples.
    """
    parts = [batch for batch in batches if batch is not None]
    if len(parts) < len(batches) or len({part.shape[1:] for part in parts}) != 1:
        return None
    return np.concatenate(parts)
