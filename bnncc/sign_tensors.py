"""The record in a compiled file of where the bits of each binarizer are, and the unpacking of those bits."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable

import numpy as np

from bnncc.errors import BadInput
from bnncc.onnxruntime_errors import one_line
from bnncc.passes.base import SignTensor

SIGN_TENSORS_KEY = "bnncc.sign_tensors"


def sign_tensors_to_json(tensors: Iterable[SignTensor]) -> str:
    """Write the sign tensors of the passes as the metadata of a compiled file; thresholds as little-endian float32."""
    entries = []
    for tensor in tensors:
        threshold = np.ascontiguousarray(tensor.threshold, dtype="<f4").reshape(-1)
        if threshold.size and (threshold == threshold[0]).all():
            threshold = threshold[:1]
        entries.append(
            {
                "original": tensor.original,
                "pre_activation": tensor.pre_activation,
                "threshold": base64.b64encode(threshold.tobytes()).decode("ascii"),
                "packed": tensor.packed,
                "width": int(tensor.width),
                "exact": tensor.exact,
            }
        )
    return json.dumps(entries)


def sign_tensors_from_json(text: str, name: str) -> list[SignTensor]:
    """Read what `sign_tensors_to_json` wrote. Raises BadInput, naming the model, for metadata edited by hand."""
    try:
        return [
            SignTensor(
                str(entry["original"]),
                str(entry["pre_activation"]),
                np.frombuffer(base64.b64decode(entry["threshold"], validate=True), dtype="<f4").astype(np.float32),
                str(entry["packed"]),
                int(entry["width"]),
                _bool(entry["exact"]),
            )
            for entry in json.loads(text)
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{name}: damaged metadata {SIGN_TENSORS_KEY}: {one_line(error)}") from error


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def pack(signs: np.ndarray, width: int, shape: tuple[int, ...]) -> np.ndarray:
    """Pack signs, any shape with rows of `width`, to uint8 of `shape` [..., ceil(width / 8)]."""
    return np.packbits(signs.reshape(-1, width) > 0, axis=1, bitorder="little").reshape(shape)


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    """Unpack uint8 [..., ceil(width / 8)] to +-1 int8 [..., width]."""
    bits = np.unpackbits(packed, axis=-1, bitorder="little")[..., :width]
    return bits.view(np.int8) * np.int8(2) - np.int8(1)
