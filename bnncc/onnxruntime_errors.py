"""What onnxruntime raises, and its messages as one line."""

from __future__ import annotations

import onnxruntime


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that onnxruntime raises, which share no base but Exception.

    Of Python's own there are RuntimeError, for what is thrown in C++, and UnicodeDecodeError, where a message repeats
    bytes of a damaged file.
    """
    state = onnxruntime.capi.onnxruntime_pybind11_state
    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NoSuchFile",
        "NotFound",
        "NotImplemented",
        "RuntimeException",
        "EPFail",
    )
    known = (getattr(state, name, None) for name in names)
    return (*(error for error in known if error is not None), RuntimeError, UnicodeDecodeError)


def one_line(error: BaseException | str, limit: int = 400) -> str:
    """Return a library's message as one line of at most `limit` characters, without onnxruntime's prefix."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):
        parts = text.split(" : ", 3)
        text = parts[3] if len(parts) == 4 else text
    return text if len(text) <= limit else text[: limit - 3] + "..."
