"""Finding libbnncc, opening it, and turning its errors into exceptions."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

import cffi
import onnxruntime

from bnncc.errors import BadInput

_FILE_NAME = "libbnncc.so"
_HEADER = Path(__file__).with_name("include") / "bnncc.h"


def library_path() -> str:
    """Return the path of libbnncc: the environment variable BNNCC_LIBRARY where it is set, else the installed one.

    A string, because that is what `onnxruntime.SessionOptions.register_custom_ops_library` takes. Raises BadInput where
    there is no such file.
    """
    chosen = os.environ.get("BNNCC_LIBRARY")
    if chosen:
        if not Path(chosen).is_file():
            raise BadInput(f"{chosen}: no such file (from the environment variable BNNCC_LIBRARY)")
        return str(Path(chosen).absolute())
    # In an editable install the package has two folders: the sources', and the one that the build installs into.
    from bnncc import runtime

    for folder in runtime.__path__:
        path = Path(folder, _FILE_NAME)
        if path.is_file():
            return str(path.absolute())
    raise BadInput(f"{_FILE_NAME}: not installed beside {Path(__file__).parent}; install bnncc anew")


def declarations(header: str) -> str:
    """Return what cffi can read of the C header's text: no preprocessor lines, no parts that are for C++ alone."""
    without_cpp = re.sub(r"#ifdef __cplusplus\n.*?#endif[^\n]*\n", "", header, flags=re.DOTALL)
    lines = [line for line in without_cpp.splitlines() if not line.startswith("#")]
    return "\n".join(lines).replace("BNNCC_API ", "")


@functools.cache
def interface() -> cffi.FFI:
    """Return the C declarations of the library, read from the header that is installed with it."""
    ffi = cffi.FFI()
    ffi.cdef(declarations(_HEADER.read_text(encoding="utf-8")))
    return ffi


@functools.cache
def _open(path: str) -> Any:
    try:
        return interface().dlopen(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be loaded: {error}") from error


def library() -> Any:
    """Return the opened library, its functions as attributes. Raises BadInput where it cannot be found or loaded."""
    return _open(library_path())


def check(status: int, error: Any) -> None:
    """Raise what a bnncc_status stands for: MemoryError, or BadInput with the message in the bnncc_error."""
    lib = library()
    if status == lib.BNNCC_OK:
        return
    message = interface().string(error.message).decode(errors="replace")
    if status == lib.BNNCC_OUT_OF_MEMORY:
        raise MemoryError(message)
    raise BadInput(message)


def register(options: onnxruntime.SessionOptions) -> onnxruntime.SessionOptions:
    """Give session options the ops of the domain `bnncc`, and return them.

    Raises BadInput where the library cannot be loaded.
    """
    library()  # whatever is wrong with the file, the loader says it better than onnxruntime
    options.register_custom_ops_library(library_path())
    return options
