"""What each custom op computes, written in standard ONNX ops: the bodies that every compiled file carries.

onnxruntime prefers the library's kernel where the library is registered and runs the body where it is not, so a
compiled file runs anywhere. The bodies are also the definition that the kernels are tested against.

Packed signs: a +-1 tensor [..., L] is uint8 [..., ceil(L / 8)], bits along the last axis, little-endian, 1 for +1.
The bodies use ops and types that onnxruntime's CPU provider has from its version 1.18 and from opset 13 on (1.18 cannot
compare int8), in forms that take an empty batch; `+-1` sums are exact in float32 because the runtime admits at most
2**24 terms.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import parser

DOMAIN = "bnncc"
VERSION = 1
MIN_OPSET = 13

# Served by a kernel of the library; the other functions below are parts of these bodies only.
KERNEL_OPS = (
    "Binarize",
    "UnpackSigns",
    "MaxPoolSigns",
    "BinaryConv",
    "BinaryConvThreshold",
    "BinaryConvDual",
    "BinaryConvSteps",
    "BinaryConvStepsDual",
    "BinaryLinear",
    "BinaryLinearThreshold",
    "BinaryLinearDual",
)

# What the steps of BinaryConvSteps and BinaryConvStepsDual are called, by the numbers in their attribute `steps`
# (bnncc_step in bnncc.h), and each in ops on `value` (what the steps before have made of the layer's float output) and
# its row of `operands`, a value per channel, on the one residual, or on the sums of the signs in the windows. PRelu is
# written out because what it makes of infinities differs between versions of onnxruntime.
STEPS = {
    "add": "{y} = Add (value, operand)",
    "multiply": "{y} = Mul (value, operand)",
    "residual": "{y} = Add (value, residual)",
    "prelu": "below = Less (value, zero_f) sloped = Mul (value, operand) {y} = Where (below, sloped, value)",
    "maximum": "{y} = Max (value, operand)",
    "minimum": "{y} = Min (value, operand)",
    "window_sum": "term = Mul (operand, window_sums) {y} = Add (value, term)",
}
STEP_NUMBERS = {name: number for number, name in enumerate(STEPS)}
MOST_STEPS = 16  # BNNCC_STEP_LIMIT

# A convolution may also have the attributes tree (passes/order_filters.py) and kernel (bnncc/kernel_choice.py): hints
# to the library that the bodies do not declare, so that onnx and onnxruntime pass over them.
_CONV_ATTRIBUTES = "weight_shape, width, strides, pads, dilations, group, pad_value"
_PADDED_CALL = "width: int = @width, pads: ints = @pads, pad_value: int = @pad_value"
_WINDOW_CALL = "strides: ints = @strides, dilations: ints = @dilations, group: int = @group"
_CONV_CALL = f"weight_shape: ints = @weight_shape, {_PADDED_CALL}, {_WINDOW_CALL}"
_LINEAR_ATTRIBUTES = "weight_shape, width"
_LINEAR_CALL = "weight_shape: ints = @weight_shape, width: int = @width"

# Bits of the last axis as +-1 float32, the axis cut to `length` (int64 [1]).
_UNPACK_TO_LENGTH = """
UnpackToLength (packed, length) => (signs) {
    shifts = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
    two_byte = Constant <value = uint8[1] {2}> ()
    zero = Constant <value = int64[1] {0}> ()
    eight = Constant <value = int64[1] {8}> ()
    last = Constant <value = int64[1] {-1}> ()
    one_f = Constant <value = float {1}> ()
    two_f = Constant <value = float {2}> ()
    bytes = Unsqueeze (packed, last)
    shifted = BitShift <direction = "RIGHT"> (bytes, shifts)
    bits = Mod (shifted, two_byte)
    shape = Shape (packed)
    outer = Slice (shape, zero, last)
    byte_count = Gather (shape, last)
    bit_count = Mul (byte_count, eight)
    flat_shape = Concat <axis = 0> (outer, bit_count)
    flat = Reshape (bits, flat_shape)
    cut = Slice (flat, zero, length, last)
    cut_f = Cast <to = 1> (cut)
    doubled = Mul (cut_f, two_f)
    signs = Sub (doubled, one_f)
}"""

# Booleans (true is +1) packed along the last axis, the last byte filled up with zeros. The place values are a matrix
# because onnxruntime's MatMul by a vector refuses an empty batch.
_PACK = """
Pack (is_plus) => (packed) {
    zero = Constant <value = int64[1] {0}> ()
    one = Constant <value = int64[1] {1}> ()
    seven = Constant <value = int64[1] {7}> ()
    eight = Constant <value = int64[1] {8}> ()
    last = Constant <value = int64[1] {-1}> ()
    zero_f = Constant <value = float {0}> ()
    place_values = Constant <value = float[8, 1] {1, 2, 4, 8, 16, 32, 64, 128}> ()
    shape = Shape (is_plus)
    rank = Shape (shape)
    outer = Slice (shape, zero, last)
    length = Gather (shape, last)
    length_up = Add (length, seven)
    byte_count = Div (length_up, eight)
    bit_count = Mul (byte_count, eight)
    missing = Sub (bit_count, length)
    two_ranks = Add (rank, rank)
    leading = Sub (two_ranks, one)
    no_pads = ConstantOfShape <value = int64[1] {0}> (leading)
    pads = Concat <axis = 0> (no_pads, missing)
    bits = Cast <to = 1> (is_plus)
    filled = Pad (bits, pads, zero_f)
    grouped_shape = Concat <axis = 0> (outer, byte_count, eight)
    grouped = Reshape (filled, grouped_shape)
    sums = MatMul (grouped, place_values)
    packed_shape = Concat <axis = 0> (outer, byte_count)
    ungrouped = Reshape (sums, packed_shape)
    packed = Cast <to = 2> (ungrouped)
}"""

# Weights of two values per filter: the bits of all weights in a row, and the two values as tensors that broadcast to
# `weight_shape`. Values are chosen, not computed, so that the weights are the same floats, bit for bit (but for -0,
# which onnxruntime's Where makes 0). A table of the bits of every byte takes a quarter of the time of shifts. No kernel
# of the library does this: all inputs are constants, and onnxruntime folds the body when a session is made.
_UNPACK_WEIGHTS = """
UnpackWeights <weight_shape> (packed, high, low) => (weights) {
    first = Constant <value = int64 {0}> ()
    step = Constant <value = int64 {1}> ()
    bytes = Constant <value = int64 {256}> ()
    two = Constant <value = int64 {2}> ()
    zero = Constant <value = int64[1] {0}> ()
    last = Constant <value = int64[1] {-1}> ()
    column = Constant <value = int64[2] {-1, 1}> ()
    place_values = Constant <value = int64[8] {1, 2, 4, 8, 16, 32, 64, 128}> ()
    values = Range (first, bytes, step)
    value_column = Reshape (values, column)
    shifted = Div (value_column, place_values)
    digits = Mod (shifted, two)
    bits_of_byte = Cast <to = 9> (digits)
    weight_shape = Constant <value_ints: ints = @weight_shape> ()
    count = ReduceProd <keepdims = 1> (weight_shape)
    indices = Cast <to = 6> (packed)
    bits = Gather (bits_of_byte, indices)
    flat = Reshape (bits, last)
    cut = Slice (flat, zero, count)
    is_high = Reshape (cut, weight_shape)
    weights = Where (is_high, high, low)
}"""

_UNPACK_SIGNS = """
UnpackSigns <width> (packed) => (signs) {
    one = Constant <value = int64[1] {1}> ()
    width = Constant <value_int: int = @width> ()
    length = Reshape (width, one)
    signs = bnncc.UnpackToLength (packed, length)
}"""

_BINARIZE = """
Binarize <nan_bit> (x, threshold, direction) => (packed) {
    zero_f = Constant <value = float {0}> ()
    zero_i = Constant <value = int64 {0}> ()
    two = Constant <value = int64[1] {2}> ()
    lead = Constant <value = int64[2] {1, -1}> ()
    shape = Shape (x)
    rank = Shape (shape)
    trailing = Sub (rank, two)
    ones = ConstantOfShape <value = int64[1] {1}> (trailing)
    per_channel = Concat <axis = 0> (lead, ones)
    t = Reshape (threshold, per_channel)
    direction_f = Cast <to = 1> (direction)
    d = Reshape (direction_f, per_channel)
    upward = Greater (d, zero_f)
    above = GreaterOrEqual (x, t)
    below = LessOrEqual (x, t)
    downward = Not (upward)
    above_up = And (above, upward)
    below_down = And (below, downward)
    compared = Or (above_up, below_down)
    nan_bit = Constant <value_int: int = @nan_bit> ()
    nan_is_plus = Greater (nan_bit, zero_i)
    is_nan = IsNaN (x)
    nan_plus = And (is_nan, nan_is_plus)
    is_plus = Or (compared, nan_plus)
    packed = bnncc.Pack (is_plus)
}"""

# The maximum of signs over a window, or the minimum where `direction` is -1: min(x) = -max(-x). With ceil_mode,
# onnxruntime 1.18 adds windows that begin in the padding, in this body as in any MaxPool; later ones and the kernel
# do not.
_MAX_POOL_SIGNS = """
MaxPoolSigns <width, kernel_shape, strides, pads, dilations, ceil_mode> (packed, direction) => (pooled) {
    zero_f = Constant <value = float {0}> ()
    per_channel = Constant <value = int64[4] {1, -1, 1, 1}> ()
    direction_f = Cast <to = 1> (direction)
    d = Reshape (direction_f, per_channel)
    signs = bnncc.UnpackSigns <width: int = @width> (packed)
    turned = Mul (signs, d)
    maxima = MaxPool <kernel_shape: ints = @kernel_shape, strides: ints = @strides, pads: ints = @pads,
                      dilations: ints = @dilations, ceil_mode: int = @ceil_mode> (turned)
    result = Mul (maxima, d)
    is_plus = Greater (result, zero_f)
    pooled = bnncc.Pack (is_plus)
}"""

# What a convolution's windows see: signs as float32, padded with pad_value by (top, left, bottom, right).
_PADDED_SIGNS = """
PaddedSigns <width, pads, pad_value> (packed) => (padded) {
    zero = Constant <value = int64[1] {0}> ()
    two = Constant <value = int64[1] {2}> ()
    four = Constant <value = int64[1] {4}> ()
    outer = Constant <value = int64[2] {0, 0}> ()
    signs = bnncc.UnpackSigns <width: int = @width> (packed)
    pads = Constant <value_ints: ints = @pads> ()
    begin = Slice (pads, zero, two)
    end = Slice (pads, two, four)
    all_pads = Concat <axis = 0> (outer, begin, outer, end)
    pad_value = Constant <value_int: int = @pad_value> ()
    pad_value_f = Cast <to = 1> (pad_value)
    padded = Pad (signs, all_pads, pad_value_f)
}"""

# The integer convolution of signs by signs as float32.
_CONV_DOT = f"""
ConvDot <{_CONV_ATTRIBUTES}> (packed, weight) => (dot) {{
    one = Constant <value = int64[1] {{1}}> ()
    four = Constant <value = int64[1] {{4}}> ()
    weight_shape = Constant <value_ints: ints = @weight_shape> ()
    fan_in_shape = Slice (weight_shape, one, four)
    fan_in = ReduceProd <keepdims = 1> (fan_in_shape)
    weight_flat = bnncc.UnpackToLength (weight, fan_in)
    weight_signs = Reshape (weight_flat, weight_shape)
    padded = bnncc.PaddedSigns <{_PADDED_CALL}> (packed)
    dot = Conv <{_WINDOW_CALL}> (padded, weight_signs)
}}"""

# The integer sum of the signs in each window of the filter's group as float32, of the shape of ConvDot's result: over
# the channels of a group first, then over the kernel's taps, each filter of the group the same.
_WINDOW_SUMS = f"""
WindowSums <{_CONV_ATTRIBUTES}> (packed) => (sums) {{
    zero = Constant <value = int64[1] {{0}}> ()
    one = Constant <value = int64[1] {{1}}> ()
    two = Constant <value = int64[1] {{2}}> ()
    four = Constant <value = int64[1] {{4}}> ()
    weight_shape = Constant <value_ints: ints = @weight_shape> ()
    filters = Slice (weight_shape, zero, one)
    channels = Slice (weight_shape, one, two)
    kernel = Slice (weight_shape, two, four)
    group = Constant <value_int: int = @group> ()
    groups = Reshape (group, one)
    channel_shape = Concat <axis = 0> (groups, channels, one, one)
    channel_ones = ConstantOfShape <value = float[1] {{1}}> (channel_shape)
    tap_shape = Concat <axis = 0> (filters, one, kernel)
    tap_ones = ConstantOfShape <value = float[1] {{1}}> (tap_shape)
    padded = bnncc.PaddedSigns <{_PADDED_CALL}> (packed)
    over_channels = Conv <group: int = @group> (padded, channel_ones)
    sums = Conv <{_WINDOW_CALL}> (over_channels, tap_ones)
}}"""

_LINEAR_DOT = f"""
LinearDot <{_LINEAR_ATTRIBUTES}> (packed, weight) => (dot) {{
    one = Constant <value = int64[1] {{1}}> ()
    two = Constant <value = int64[1] {{2}}> ()
    weight_shape = Constant <value_ints: ints = @weight_shape> ()
    fan_in = Slice (weight_shape, one, two)
    weight_signs = bnncc.UnpackToLength (weight, fan_in)
    signs = bnncc.UnpackSigns <width: int = @width> (packed)
    features = Flatten <axis = 1> (signs)
    columns = Transpose <perm = [1, 0]> (weight_signs)
    dot = MatMul (features, columns)
}}"""


def _epilogues(name: str, attributes: str, call: str, per_channel_shape: str) -> list[str]:
    """The three forms of a binary layer over the same dot product: float, packed signs, both."""
    dot = f"dot = bnncc.{name.removeprefix('Binary')}Dot <{call}> (packed, weight)"
    shape = f"per_channel = Constant <value = {per_channel_shape}> ()"
    affine = """
    channel_scale = Reshape (scale, per_channel)
    channel_shift = Reshape (shift, per_channel)
    scaled = Mul (dot, channel_scale)
    y = Add (scaled, channel_shift)"""
    compare = """
    channel_threshold = Reshape (threshold, per_channel)
    dot_i = Cast <to = 6> (dot)
    is_plus = GreaterOrEqual (dot_i, channel_threshold)
    bits = bnncc.Pack (is_plus)"""
    return [
        f"{name} <{attributes}> (packed, weight, scale, shift) => (y) {{\n    {dot}\n    {shape}{affine}\n}}",
        f"{name}Threshold <{attributes}> (packed, weight, threshold) => (bits) {{\n    {dot}\n    {shape}{compare}\n}}",
        f"{name}Dual <{attributes}> (packed, weight, scale, shift, threshold) => (y, bits) "
        f"{{\n    {dot}\n    {shape}{affine}{compare}\n}}",
    ]


def _choice(names: list[str]) -> str:
    """Nodes that give `next` by the first of the steps named whose number is `kind`; the last one needs no question."""
    name = names[0]
    if len(names) == 1:
        return STEPS[name].format(y=f"next_{name}")
    return f"""
        is_{name} = Equal (kind, number_{name})
        next_{name} = If (is_{name}) <
            then_branch = take_{name} () => (then_{name}) {{ {STEPS[name].format(y=f"then_{name}")} }},
            else_branch = pass_{name} () => (next_{names[1]}) {{ {_choice(names[1:])} }}
        >"""


# Steps one after the other. The numbers are an attribute, so that one body serves every sequence. Windows are summed up
# where a step adds the sums.
_APPLY_STEPS = f"""
ApplySteps <{_CONV_ATTRIBUTES}, steps> (packed, x, operands, residual) => (y) {{
    per_channel = Constant <value = int64[4] {{1, -1, 1, 1}}> ()
    always = Constant <value = bool {{1}}> ()
    zero_f = Constant <value = float {{0}}> ()
    {"".join(f"number_{name} = Constant <value = int64 {{{n}}}> (){chr(10)}    " for name, n in STEP_NUMBERS.items())}
    steps = Constant <value_ints: ints = @steps> ()
    count = Size (steps)
    adding_sums = Equal (steps, number_window_sum)
    adding_sums_f = Cast <to = 1> (adding_sums)
    any_f = ReduceMax <keepdims = 0> (adding_sums_f)
    any = Greater (any_f, zero_f)
    window_sums = If (any) <
        then_branch = sum_up () => (sums) {{ sums = bnncc.WindowSums <{_CONV_CALL}> (packed) }},
        else_branch = no_sums () => (zero_sums) {{ zero_sums = Identity (zero_f) }}
    >
    y = Loop (count, always, x) <body = apply (int64 step, bool before, float value) => (bool after, float next_add) {{
        after = Identity (before)
        kind = Gather (steps, step)
        row = Gather (operands, step)
        operand = Reshape (row, per_channel){_choice(list(STEPS))}
    }}>
}}"""

_STEPS_BODIES = (
    f"""
BinaryConvSteps <{_CONV_ATTRIBUTES}, steps> (packed, weight, scale, shift, operands, residual) => (y) {{
    first = bnncc.BinaryConv <{_CONV_CALL}> (packed, weight, scale, shift)
    y = bnncc.ApplySteps <{_CONV_CALL}, steps: ints = @steps> (packed, first, operands, residual)
}}""",
    f"""
BinaryConvStepsDual <{_CONV_ATTRIBUTES}, steps, nan_bit>
(packed, weight, scale, shift, operands, residual, threshold, direction) => (y, bits) {{
    first = bnncc.BinaryConv <{_CONV_CALL}> (packed, weight, scale, shift)
    y = bnncc.ApplySteps <{_CONV_CALL}, steps: ints = @steps> (packed, first, operands, residual)
    bits = bnncc.Binarize <nan_bit: int = @nan_bit> (y, threshold, direction)
}}""",
)

_BODIES = (
    _UNPACK_TO_LENGTH,
    _PACK,
    _UNPACK_WEIGHTS,
    _UNPACK_SIGNS,
    _BINARIZE,
    _MAX_POOL_SIGNS,
    _PADDED_SIGNS,
    _CONV_DOT,
    _WINDOW_SUMS,
    _LINEAR_DOT,
    *_epilogues("BinaryConv", _CONV_ATTRIBUTES, _CONV_CALL, "int64[4] {1, -1, 1, 1}"),
    *_epilogues("BinaryLinear", _LINEAR_ATTRIBUTES, _LINEAR_CALL, "int64[2] {1, -1}"),
    _APPLY_STEPS,
    *_STEPS_BODIES,
)


def all_functions(opset: int) -> list[onnx.FunctionProto]:
    """FunctionProtos of every op of the domain `bnncc`, for a model of the given default-domain opset (>= 13)."""
    if opset < MIN_OPSET:
        raise ValueError(f"function bodies need opset {MIN_OPSET} or later, not {opset}")
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}, "{DOMAIN}" : {VERSION}]>'
    return [_without_scalars(parser.parse_function(header + body)) for body in _BODIES]


def _without_scalars(function: onnx.FunctionProto) -> onnx.FunctionProto:
    """Leave the shapes of float tensors in loops open: the text cannot say that of a tensor whose type it must give."""
    for node in function.node:
        for attribute in node.attribute:
            for value in (*attribute.g.input, *attribute.g.output):
                if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
                    value.type.tensor_type.ClearField("shape")
    return function


def functions_for(graph: onnx.GraphProto, opset: int) -> list[onnx.FunctionProto]:
    """The functions that the graph's nodes need, directly or through one another, in definition order."""
    by_name = {function.name: function for function in all_functions(opset)}
    wanted: set[str] = set()
    pending = _calls(graph.node)
    while pending:
        name = pending.pop()
        if name not in wanted:
            wanted.add(name)
            pending += _calls(by_name[name].node)
    return [function for name, function in by_name.items() if name in wanted]


def _calls(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """The ops of the domain that nodes are, or have in their branches."""
    calls = []
    for node in nodes:
        calls += [node.op_type] if node.domain == DOMAIN else []
        for attribute in node.attribute:
            calls += _calls(attribute.g.node)
    return calls
