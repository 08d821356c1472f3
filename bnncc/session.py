"""Sessions of onnxruntime with the library of binary kernels registered."""

from __future__ import annotations

import os
from typing import Any

import onnxruntime

from bnncc import runtime
from bnncc.errors import BadInput
from bnncc.onnxruntime_errors import one_line, runtime_errors

OPTIMIZED = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
UNOPTIMIZED = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

# onnxruntime would print the message of an exception to stderr as well.
_SILENT = 4

# onnxruntime refuses a second registration only when a session is made. Options shared by sessions carry this mark.
_REGISTERED = "bnncc.registered"


def register(options: onnxruntime.SessionOptions) -> onnxruntime.SessionOptions:
    """Give session options the ops of compiled models, and return them; those that have them are left as they are.

    Raises BadInput where the library cannot be loaded.
    """
    try:
        options.get_session_config_entry(_REGISTERED)
    except runtime_errors():  # onnxruntime's way to say that there is no such entry
        runtime.register(options)
        options.add_session_config_entry(_REGISTERED, "1")
    return options


class InferenceSession(onnxruntime.InferenceSession):
    """An `onnxruntime.InferenceSession` on the CPU that runs compiled models on the library's kernels.

    Parameters: `model`, a path or the bytes of a model; `threads`, how many onnxruntime may use within an operator
    (None: as it likes); `sess_options`, session options to start from, which are changed; `library`, False to run the
    function bodies of the file instead of the kernels; other keywords go to onnxruntime.

    Raises BadInput, with the file's name and onnxruntime's cause in one line, when no session can be made.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        threads: int | None = None,
        sess_options: onnxruntime.SessionOptions | None = None,
        library: bool = True,
        **keywords: Any,
    ) -> None:
        if sess_options is None:
            sess_options = onnxruntime.SessionOptions()
            sess_options.log_severity_level = _SILENT
        if threads is not None:
            sess_options.intra_op_num_threads = threads
        if library:
            register(sess_options)
        keywords.setdefault("providers", ["CPUExecutionProvider"])
        # Without a second provider the fallback only tries the same again, and says so on stdout.
        keywords.setdefault("enable_fallback", 0)
        name = "model in memory" if isinstance(model, bytes) else os.fspath(model)
        if not isinstance(model, bytes) and not os.path.exists(name):
            raise BadInput(f"{name}: no such file")
        try:
            super().__init__(model if isinstance(model, bytes) else name, sess_options, **keywords)
        except runtime_errors() as error:
            raise BadInput(f"{name}: onnxruntime cannot load it: {one_line(error)}") from error


def session_options(level: onnxruntime.GraphOptimizationLevel = OPTIMIZED) -> onnxruntime.SessionOptions:
    """Return options for a session of bnncc's own: sequential, silent, at a level of graph optimization."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = level
    options.inter_op_num_threads = 1
    return options
