"""The library's functions on NumPy arrays, for use without onnxruntime.

Packed signs: an array of +-1 of shape [..., width] is uint8 [..., ceil(width / 8)], bits along the last axis, little-
endian, 1 for +1 and 0 for -1; unused high bits of a row's last byte are 0 on output and ignored on input. `isa` is
"auto" (the environment variable BNNCC_ISA if set, else the best that the CPU has) or one of `isas()`. Everything runs
on the caller's thread, without holding Python's lock. Errors in the arguments raise bnncc.errors.BadInput.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bnncc.errors import BadInput
from bnncc.runtime.functions import STEP_NUMBERS
from bnncc.runtime.library import check, interface, library

Packed = NDArray[np.uint8]
Floats = NDArray[np.float32]
Result = Floats | Packed | tuple[Floats, Packed]


def version() -> str:
    """Return the library's version."""
    return interface().string(library().bnncc_version()).decode()


def isas() -> tuple[str, ...]:
    """Return the names of the instruction sets that this machine can run, the most capable last."""
    return tuple(name for name, isa in _isa_numbers().items() if library().bnncc_isa_supported(isa))


def selected_isa(isa: str = "auto") -> str:
    """Return the name of the instruction set that `isa` stands for on this machine."""
    ffi, lib = interface(), library()
    resolved, error = ffi.new("bnncc_isa *"), ffi.new("bnncc_error *")
    check(lib.bnncc_isa_resolve(_isa_number(isa), resolved, error), error)
    return ffi.string(lib.bnncc_isa_name(resolved[0])).decode()


def pack_signs(signs: ArrayLike) -> Packed:
    """Return +-1 (or boolean, true for +1) values of shape [..., width] as packed signs [..., ceil(width / 8)]."""
    signs = np.asarray(signs)
    if signs.ndim < 1:
        raise BadInput("signs is a scalar, not an array of +-1")
    if signs.dtype != np.bool_ and not np.all(np.abs(signs) == 1):
        raise BadInput("signs has values other than +1 and -1")
    return np.packbits(signs > 0, axis=-1, bitorder="little")


def unpack_signs(bits: ArrayLike, width: int) -> Floats:
    """Return packed signs [..., ceil(width / 8)] as +-1 of float32 [..., width]."""
    ffi, lib = interface(), library()
    bits = _packed(bits, "bits", width)
    y = np.empty((*bits.shape[:-1], width), np.float32)
    if y.size:
        error = ffi.new("bnncc_error *")
        rows = y.size // width
        check(lib.bnncc_unpack_signs(_in(bits), rows, width, _out(y), ffi.NULL, error), error)
    return y


def binarize(
    x: ArrayLike, threshold: ArrayLike = 0.0, direction: ArrayLike = 1, nan_bit: int = 0, isa: str = "auto"
) -> Packed:
    """Return packed signs of `x >= threshold` where direction is +1, of `x <= threshold` where it is -1.

    Parameters: `x`, float32 [N, C, ...] of two or more dimensions; `threshold`, one value or C; `direction`, one
    value or C, each +1 or -1; `nan_bit`, the bit of a NaN in x. Returns uint8 [N, C, ..., ceil(L / 8)] for a last
    axis of L.
    """
    ffi, lib = interface(), library()
    x = _array(x, np.float32, "x")
    if x.ndim < 2:
        raise BadInput(f"x has shape {list(x.shape)}, not two or more dimensions")
    threshold = _vector(threshold, np.float32, "threshold")
    direction = _vector(direction, np.int8, "direction")
    bits = np.empty((*x.shape[:-1], -(-x.shape[-1] // 8)), np.uint8)
    if not bits.size:
        return bits
    per_feature = x.ndim == 2
    params = ffi.new("bnncc_binarize_params *")
    params.channels = 1 if per_feature else x.shape[1]
    params.rows = int(np.prod(x.shape[2:-1]))
    params.width = x.shape[-1]
    params.per_feature = per_feature
    params.nan_bit = nan_bit
    params.threshold, params.threshold_count = _in(threshold), threshold.size
    params.direction, params.direction_count = _in(direction), direction.size
    error = ffi.new("bnncc_error *")
    check(lib.bnncc_binarize(params, _in(x), x.shape[0], _out(bits), _isa_number(isa), ffi.NULL, error), error)
    return bits


def max_pool_signs(
    x: ArrayLike,
    *,
    width: int,
    kernel_shape: Sequence[int],
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
    direction: ArrayLike = 1,
) -> Packed:
    """Return the maximum of signs over each window, or the minimum in channels whose direction is -1.

    Parameters: `x`, packed signs [N, C, H, ceil(width / 8)]; `kernel_shape`, `strides`, `dilations`, (height, width);
    `pads`, (top, left, bottom, right), which never win; `direction`, one value or C. Sizes as ONNX's MaxPool. Returns
    packed signs [N, C, Ho, ceil(Wo / 8)].
    """
    ffi, lib = interface(), library()
    x = _packed(x, "x", width, rank=4)
    direction = _vector(direction, np.int8, "direction")
    params = ffi.new("bnncc_pool_params *")
    params.channels, params.height, params.width = x.shape[1], x.shape[2], width
    params.kernel_shape = _integers(kernel_shape, 2, "kernel_shape")
    params.strides = _integers(strides, 2, "strides")
    params.dilations = _integers(dilations, 2, "dilations")
    params.pads = _integers(pads, 4, "pads")
    params.ceil_mode = ceil_mode
    params.direction, params.direction_count = _in(direction), direction.size
    error = ffi.new("bnncc_error *")
    out = ffi.new("int64_t[2]")
    check(lib.bnncc_pool_output_shape(params, out, out + 1, error), error)
    bits = np.empty((x.shape[0], x.shape[1], out[0], -(-out[1] // 8)), np.uint8)
    if bits.size:
        check(lib.bnncc_max_pool_signs(params, _in(x), x.shape[0], _out(bits), ffi.NULL, error), error)
    return bits


@dataclass(frozen=True)
class ConvTree:
    """Trees over a convolution's filters, a hint to its kernel (bnncc_filter_tree in bnncc.h).

    `group_nodes`, the number of nodes of each group's tree; `parents`, those of all groups one after the other, each
    numbered within its group, -1 for the filter of zeros; `flipped`, [M], true where a node is its filter's complement.
    """

    group_nodes: Sequence[int]
    parents: ArrayLike
    flipped: ArrayLike


class Conv2d:
    """A binary convolution with its epilogue, prepared once and run many times, by many threads if wanted.

    Parameters: `weight`, packed signs [M, ceil(K / 8)] with K = C/group * kh * kw in (channel, row, column) order;
    `weight_shape`, (M, C/group, kh, kw); `width` of the input; `strides` and `dilations`, (height, width); `pads`,
    (top, left, bottom, right); `group`; `pad_value`, 0 for padding that contributes nothing, or the sign that it has;
    `tree`, trees over the filters, without which none is counted along; `kernel`, the one to use where it can be had
    ("dot", "planes", "channels", the latter two perhaps with the bits of their lanes: "planes 512"), by default the one
    that seems fastest for each run.
    The epilogue: `scale` and `shift`, float32 of one value or M, give the float output dot * scale + shift, each step
    rounded; `threshold`, int32 [M], gives the bit output dot >= threshold. Without any of them the float output is
    the dot product itself. `steps` is what the float output goes through, and what its bits are.
    """

    def __init__(
        self,
        weight: ArrayLike,
        *,
        weight_shape: Sequence[int],
        width: int,
        strides: Sequence[int] = (1, 1),
        pads: Sequence[int] = (0, 0, 0, 0),
        dilations: Sequence[int] = (1, 1),
        group: int = 1,
        pad_value: int = 0,
        scale: ArrayLike | None = None,
        shift: ArrayLike | None = None,
        threshold: ArrayLike | None = None,
        steps: Steps | None = None,
        tree: ConvTree | None = None,
        kernel: str | None = None,
        isa: str = "auto",
    ) -> None:
        ffi, lib = interface(), library()
        weight = _array(weight, np.uint8, "weight")
        shape = _integers(weight_shape, 4, "weight_shape")
        params = ffi.new("bnncc_conv_params *")
        params.out_channels = shape[0]
        params.in_channels = _int64(shape[1] * group, "in_channels")
        params.group = group
        params.kernel_shape = shape[2:]
        params.strides = _integers(strides, 2, "strides")
        params.dilations = _integers(dilations, 2, "dilations")
        params.pads = _integers(pads, 4, "pads")
        params.pad_value = pad_value
        params.width = width
        self.epilogue = _Epilogue(scale, shift, threshold, steps)
        self.in_channels, self.out_channels, self.width = params.in_channels, shape[0], width
        hints = ffi.new("bnncc_conv_hints *")
        hints.tree, kept = _filter_tree(tree, group, shape[0])
        hints.kernel = kernel_name = ffi.NULL if kernel is None else ffi.new("char[]", kernel.encode())
        handle, error = ffi.new("bnncc_conv **"), ffi.new("bnncc_error *")
        status = lib.bnncc_conv_create(
            params, _in(weight), weight.size, self.epilogue.struct, hints, _isa_number(isa), handle, error
        )
        del kept, kernel_name  # the library has copied what it needs
        check(status, error)
        self._handle = ffi.gc(handle[0], lib.bnncc_conv_destroy)

    @property
    def kernel(self) -> str:
        """The kernel and instruction set in use, such as "dot/avx512vpopcntdq"."""
        return interface().string(library().bnncc_conv_kernel(self._handle)).decode()

    def estimates(self, batch: int, height: int, differing: float = 0.2) -> dict[str, float]:
        """Return the seconds that each kernel it may use would roughly take on one thread, the fastest first.

        `differing`: the share of inputs whose sign is not that of most in their map, at most 0.5 (coin flips).
        """
        ffi, lib = interface(), library()
        found, count = ffi.new(f"bnncc_kernel_estimate[{lib.BNNCC_KERNEL_LIMIT}]"), ffi.new("size_t *")
        error = ffi.new("bnncc_error *")
        check(lib.bnncc_conv_estimate(self._handle, batch, height, differing, found, count, error), error)
        times = {ffi.string(found[i].kernel).decode(): found[i].nanoseconds * 1e-9 for i in range(count[0])}
        return dict(sorted(times.items(), key=lambda item: item[1]))

    def __call__(self, x: ArrayLike, residual: ArrayLike | None = None) -> Result:
        """Run on packed signs [N, C, H, ceil(width / 8)], with a residual of the output's shape where a step adds it.

        Returns float32 [N, M, Ho, Wo], packed signs [N, M, Ho, ceil(Wo / 8)], or both, as the epilogue asks.
        """
        run, result = self.bind(x, residual)
        run()
        return result

    def bind(self, x: ArrayLike, residual: ArrayLike | None = None) -> tuple[Callable[[], None], Result]:
        """Return a function that runs on `x`, and the result, which each of its calls writes anew.

        For loops over the same arrays, and for timing: a call does nothing but call the library.
        """
        ffi, lib = interface(), library()
        x = _packed(x, "x", self.width, rank=4)
        if x.shape[1] != self.in_channels:
            raise BadInput(f"x has {x.shape[1]} channels, not {self.in_channels}")
        out, error = ffi.new("int64_t[2]"), ffi.new("bnncc_error *")
        check(lib.bnncc_conv_output_shape(self._handle, x.shape[2], out, out + 1, error), error)
        y, bits = self.epilogue.outputs((x.shape[0], self.out_channels, out[0]), out[1])
        if residual is not None:
            residual = _array(residual, np.float32, "residual")
            if y is None or residual.shape != y.shape:
                raise BadInput(f"residual has shape {list(residual.shape)}, not the float output's")
        added = ffi.NULL if residual is None else _in(residual)
        arguments = (self._handle, _in(x), added, x.shape[0], x.shape[2], _out(y), _out(bits), ffi.NULL, error)
        return _runner(lib.bnncc_conv_run, arguments, error), self.epilogue.result(y, bits)


class Linear:
    """A binary linear layer with its epilogue, prepared once and run many times, by many threads if wanted.

    Parameters: `weight`, packed signs [M, ceil(K / 8)]; `weight_shape`, (M, K); `width`, the length of the input's last
    axis, which divides K; the epilogue as in `Conv2d`.
    """

    def __init__(
        self,
        weight: ArrayLike,
        *,
        weight_shape: Sequence[int],
        width: int,
        scale: ArrayLike | None = None,
        shift: ArrayLike | None = None,
        threshold: ArrayLike | None = None,
        isa: str = "auto",
    ) -> None:
        ffi, lib = interface(), library()
        weight = _array(weight, np.uint8, "weight")
        out_features, in_features = _integers(weight_shape, 2, "weight_shape")
        if width < 1 or in_features % width:
            raise BadInput(f"width is {width}, which does not divide the {in_features} input features")
        params = ffi.new("bnncc_linear_params *")
        params.out_features, params.rows, params.width = out_features, in_features // width, width
        self.epilogue = _Epilogue(scale, shift, threshold)
        self.out_features, self.rows, self.width = out_features, in_features // width, width
        handle, error = ffi.new("bnncc_linear **"), ffi.new("bnncc_error *")
        status = lib.bnncc_linear_create(
            params, _in(weight), weight.size, self.epilogue.struct, _isa_number(isa), handle, error
        )
        check(status, error)
        self._handle = ffi.gc(handle[0], lib.bnncc_linear_destroy)

    @property
    def kernel(self) -> str:
        """The kernel and instruction set in use, such as "dot/avx512vpopcntdq"."""
        return interface().string(library().bnncc_linear_kernel(self._handle)).decode()

    def __call__(self, x: ArrayLike) -> Result:
        """Run on packed signs [N, ..., ceil(width / 8)], the axes after the first flattened to K features.

        Returns float32 [N, M], packed signs [N, ceil(M / 8)], or both, as the epilogue asks.
        """
        run, result = self.bind(x)
        run()
        return result

    def bind(self, x: ArrayLike) -> tuple[Callable[[], None], Result]:
        """Return a function that runs on `x`, and the result, which each of its calls writes anew."""
        ffi, lib = interface(), library()
        x = _packed(x, "x", self.width)
        if x.ndim < 2 or np.prod(x.shape[1:-1], dtype=np.int64) != self.rows:
            raise BadInput(f"x has shape {list(x.shape)}, not {self.rows} rows of {self.width} signs per item")
        y, bits = self.epilogue.outputs((x.shape[0],), self.out_features)
        error = ffi.new("bnncc_error *")
        arguments = (self._handle, _in(x), x.shape[0], _out(y), _out(bits), ffi.NULL, error)
        return _runner(lib.bnncc_linear_run, arguments, error), self.epilogue.result(y, bits)


def conv2d(x: ArrayLike, weight: ArrayLike, **parameters: Any) -> Result:
    """Run a binary convolution once: `Conv2d(weight, **parameters)(x)`."""
    return Conv2d(weight, **parameters)(x)


def linear(x: ArrayLike, weight: ArrayLike, **parameters: Any) -> Result:
    """Run a binary linear layer once: `Linear(weight, **parameters)(x)`."""
    return Linear(weight, **parameters)(x)


class Steps:
    """What a convolution's float output goes through, step by step, and the bits taken from what comes out.

    Parameters: `kinds`, names of steps ("add", "multiply", "residual", "prelu", "maximum", "minimum", "window_sum":
    STEPS in functions.py); `operands`, float32 [len(kinds), 1 or M], a row per step; for bits `threshold` and
    `direction`, one value or M, and `nan_bit`, as in `binarize`.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        operands: ArrayLike,
        threshold: ArrayLike | None = None,
        direction: ArrayLike = 1,
        nan_bit: int = 0,
    ) -> None:
        ffi = interface()
        if unknown := [name for name in kinds if name not in STEP_NUMBERS]:
            raise BadInput(f"{unknown[0]!r} is no step; there are {', '.join(STEP_NUMBERS)}")
        self._operands = _array(operands, np.float32, "operands")
        if self._operands.ndim != 2 or len(self._operands) != len(kinds):
            raise BadInput(f"operands has shape {list(self._operands.shape)}, not a row for each of {len(kinds)} steps")
        self._kinds = np.array([STEP_NUMBERS[name] for name in kinds], np.int32)
        self.gives_bits = threshold is not None
        self.struct = ffi.new("bnncc_steps *")
        self.struct.kinds, self.struct.count = _in(self._kinds), len(kinds)
        self.struct.operands, self.struct.operand_count = _in(self._operands), self._operands.shape[1]
        if self.gives_bits:
            self._threshold = _vector(threshold, np.float32, "threshold")
            self._direction = _vector(direction, np.int8, "direction")
            self.struct.threshold, self.struct.threshold_count = _in(self._threshold), self._threshold.size
            self.struct.direction, self.struct.direction_count = _in(self._direction), self._direction.size
            self.struct.nan_bit = nan_bit


class _Epilogue:
    """A bnncc_epilogue, the arrays that it points to, and the outputs that it makes."""

    def __init__(
        self,
        scale: ArrayLike | None,
        shift: ArrayLike | None,
        threshold: ArrayLike | None,
        steps: Steps | None = None,
    ) -> None:
        if scale is None and shift is None and threshold is None:
            scale = 1.0
        self.gives_float = scale is not None or shift is not None
        self.gives_bits = threshold is not None or (steps is not None and steps.gives_bits)
        self.struct = interface().new("bnncc_epilogue *")
        if self.gives_float:
            self._scale = _vector(1.0 if scale is None else scale, np.float32, "scale")
            self._shift = _vector(0.0 if shift is None else shift, np.float32, "shift")
            self.struct.scale, self.struct.scale_count = _in(self._scale), self._scale.size
            self.struct.shift, self.struct.shift_count = _in(self._shift), self._shift.size
        if threshold is not None:
            self._threshold = _vector(threshold, np.int32, "threshold")
            self.struct.threshold, self.struct.threshold_count = _in(self._threshold), self._threshold.size
        if steps is not None:
            self._steps = steps
            self.struct.steps = steps.struct

    def outputs(self, outer: tuple[int, ...], width: int) -> tuple[Floats | None, Packed | None]:
        """Return the arrays to write to: float32 [*outer, width] and uint8 [*outer, ceil(width / 8)]."""
        y = np.empty((*outer, width), np.float32) if self.gives_float else None
        bits = np.empty((*outer, -(-width // 8)), np.uint8) if self.gives_bits else None
        return y, bits

    def result(self, y: Floats | None, bits: Packed | None) -> Result:
        """Return what was asked for of the two."""
        if y is None:
            return bits
        return y if bits is None else (y, bits)


def _runner(function: Any, arguments: tuple[Any, ...], error: Any) -> Callable[[], None]:
    """Return a call of one of the library's run functions; the arguments, and so their arrays, live as long as it."""

    def run() -> None:
        status = function(*arguments)
        if status:
            check(status, error)

    return run


def _filter_tree(tree: ConvTree | None, groups: int, channels: int) -> tuple[Any, list[Any]]:
    """Return a bnncc_filter_tree, NULL for none, and what must be kept alive meanwhile."""
    if tree is None:
        return interface().NULL, []
    group_nodes = np.array(_integers(tree.group_nodes, groups, "group_nodes"), np.int64)
    parents, flipped = _vector(tree.parents, np.int32, "parents"), _vector(tree.flipped, np.uint8, "flipped")
    if np.any(group_nodes < 0) or sum(map(int, group_nodes)) != parents.size:
        raise BadInput(f"group_nodes are {group_nodes.tolist()}, but there are {parents.size} parents")
    if flipped.size != channels:
        raise BadInput(f"flipped has {flipped.size} values, not one for each of {channels} channels")
    struct = interface().new("bnncc_filter_tree *")
    struct.group_nodes, struct.parents, struct.flipped = _in(group_nodes), _in(parents), _in(flipped)
    struct.node_count = parents.size
    return struct, [struct, group_nodes, parents, flipped]


def _isa_numbers() -> dict[str, int]:
    lib = library()
    numbers = (
        lib.BNNCC_ISA_PORTABLE,
        lib.BNNCC_ISA_AVX2,
        lib.BNNCC_ISA_AVX512BW,
        lib.BNNCC_ISA_AVX512VPOPCNTDQ,
    )
    return {interface().string(lib.bnncc_isa_name(number)).decode(): number for number in numbers}


def _isa_number(name: str) -> int:
    if name == "auto":
        return library().BNNCC_ISA_AUTO
    numbers = _isa_numbers()
    if name not in numbers:
        raise BadInput(f"isa is {name!r}; it may be auto, {', '.join(numbers)}")
    return numbers[name]


def _array(values: ArrayLike, dtype: type, name: str) -> NDArray[Any]:
    """Return a C-ordered array; its element type must be the wanted one, or the one of Python's own numbers."""
    array = np.asarray(values)
    if array.dtype != dtype:
        raise BadInput(f"{name} has element type {array.dtype}, not {np.dtype(dtype)}")
    return np.ascontiguousarray(array)


def _vector(values: ArrayLike, dtype: type, name: str) -> NDArray[Any]:
    """Return one value or a list of them as a vector; values that the element type cannot hold are refused."""
    given = np.asarray(values)
    array = np.ascontiguousarray(given.astype(dtype)).reshape(-1) if given.ndim < 2 else None
    if array is None:
        raise BadInput(f"{name} has shape {list(given.shape)}, not one dimension")
    if np.issubdtype(dtype, np.integer) and not np.array_equal(array, given.reshape(-1)):
        raise BadInput(f"{name} has values that {np.dtype(dtype)} cannot hold")
    return array


def _packed(values: ArrayLike, name: str, width: int, rank: int | None = None) -> Packed:
    """Return packed signs whose last axis holds `width` of them."""
    array = _array(values, np.uint8, name)
    if width < 1:
        raise BadInput(f"width is {width}, not at least 1")
    if (rank is not None and array.ndim != rank) or array.ndim < 1:
        raise BadInput(f"{name} has shape {list(array.shape)}, not {rank or 'one or more'} dimensions")
    if array.shape[-1] != -(-width // 8):
        raise BadInput(f"{name} has rows of {array.shape[-1]} bytes, not {-(-width // 8)} for {width} signs")
    return array


def _int64(value: int, name: str) -> int:
    if not -(2**63) <= value < 2**63:
        raise BadInput(f"{name} is {value}, more than 64 bits hold")
    return int(value)


def _integers(values: Sequence[int], count: int, name: str) -> list[int]:
    if len(values) != count:
        raise BadInput(f"{name} has {len(values)} values, not {count}")
    return [_int64(value, name) for value in values]


_TYPES = {"int64": "int64_t[]", "float32": "float[]", "uint8": "uint8_t[]", "int8": "int8_t[]", "int32": "int32_t[]"}


def _in(array: NDArray[Any]) -> Any:
    """Return a pointer to an array's first element; the array must be kept alive meanwhile."""
    return interface().from_buffer(_TYPES[array.dtype.name], array)


def _out(array: NDArray[Any] | None) -> Any:
    """Return a pointer to write through, NULL for None."""
    return interface().NULL if array is None else interface().from_buffer(_TYPES[array.dtype.name], array)
