"""Training and shipped models: what of bnncc.models works without PyTorch.

The PyTorch side is imported by its full name (`bnncc.models.layers`, `bnncc.models.train`, ...) and needs the extra
`models`. This file imports none of it, so that a compile-only installation can reach the shipped ONNX files.
"""

from __future__ import annotations

from pathlib import Path

from bnncc.errors import BadInput

SHIPPED = Path(__file__).resolve().parent / "shipped"
"""Folder of the trained models that come with the package; `CARD.md` in it describes them."""


def shipped_names() -> list[str]:
    """Names of the shipped files that `shipped_path` accepts, sorted."""
    return sorted(path.name for path in SHIPPED.iterdir() if path.suffix in {".onnx", ".npz"})


def shipped_path(name: str) -> Path:
    """Path of a shipped file, for example `vgg_small_fashion_mnist.onnx` (the suffix `.onnx` may be left out).

    Raises `bnncc.errors.BadInput`, naming what there is, if nothing is shipped under that name.
    """
    names = shipped_names()
    for candidate in (name, f"{name}.onnx"):
        if candidate in names:
            return SHIPPED / candidate
    raise BadInput(f"no shipped model named {name!r}; there are: {', '.join(names)}")
