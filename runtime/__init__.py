"""The C library: where it is, its functions on NumPy arrays, and the operators that it adds to onnxruntime."""

from bnncc.runtime.binding import (
    Conv2d,
    ConvTree,
    Linear,
    Steps,
    binarize,
    conv2d,
    isas,
    linear,
    max_pool_signs,
    pack_signs,
    selected_isa,
    unpack_signs,
    version,
)
from bnncc.runtime.library import library_path, register

__all__ = [
    "Conv2d",
    "ConvTree",
    "Linear",
    "Steps",
    "binarize",
    "conv2d",
    "isas",
    "library_path",
    "linear",
    "max_pool_signs",
    "pack_signs",
    "register",
    "selected_isa",
    "unpack_signs",
    "version",
]
