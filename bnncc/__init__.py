"""bnncc: compiles binary neural networks in ONNX for fast, exact CPU inference with onnxruntime.

    result = bnncc.compile("model.onnx", output="out.onnx")       # result.report, result.model
    session = bnncc.InferenceSession("out.onnx", threads=1)       # an onnxruntime.InferenceSession

The names below load what they need when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from bnncc.errors import BadInput, BnnccError, GateFailed

if TYPE_CHECKING:
    from bnncc.benchmark import bench
    from bnncc.config import Config, load_config
    from bnncc.inspection import inspect
    from bnncc.pipeline import CompileResult, compile
    from bnncc.runtime import library_path
    from bnncc.session import InferenceSession, register
    from bnncc.verification import verify

__version__ = importlib.metadata.version("bnncc")

_PLACES = {
    "CompileResult": "bnncc.pipeline",
    "Config": "bnncc.config",
    "InferenceSession": "bnncc.session",
    "bench": "bnncc.benchmark",
    "compile": "bnncc.pipeline",
    "inspect": "bnncc.inspection",
    "library_path": "bnncc.runtime",
    "load_config": "bnncc.config",
    "register": "bnncc.session",
    "verify": "bnncc.verification",
}

# Their argument `config` is checked here, where users come in.
_CONFIGURED = {"bench", "compile", "inspect", "verify"}

__all__ = [
    "BadInput",
    "BnnccError",
    "CompileResult",
    "Config",
    "GateFailed",
    "InferenceSession",
    "__version__",
    "bench",
    "compile",
    "inspect",
    "library_path",
    "load_config",
    "register",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    if name in _CONFIGURED:
        value = importlib.import_module("bnncc.config").checks_config(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
