"""Nodes that cannot be: one line that names the node and the cause, when the session is made."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from op_models import op_model, random_bits, run_both, session

from bnncc.passes.order_filters import tree_text

RNG = np.random.default_rng(0)
CONV = {
    "weight_shape": [4, 16, 3, 3],
    "width": 10,
    "strides": [1, 1],
    "pads": [1, 1, 1, 1],
    "dilations": [1, 1],
    "group": 1,
    "pad_value": 0,
}
STEPS = {"steps": [2, 3, 0]}  # the residual, PReLU, a shift
TREE = tree_text([([4, 4, -1, 5, 5, -1], [1, 0, 1, 0])])
LINEAR = {"weight_shape": [5, 20], "width": 20}
POOL = {
    "width": 10,
    "kernel_shape": [2, 2],
    "strides": [2, 2],
    "pads": [0, 0, 0, 0],
    "dilations": [1, 1],
    "ceil_mode": 0,
}


def constants(op: str) -> dict[str, np.ndarray]:
    if op.startswith("BinaryConv"):
        made = {"weight": random_bits(RNG, 4, 18)}
        filters = 4
    elif op.startswith("BinaryLinear"):
        made = {"weight": random_bits(RNG, 5, 3)}
        filters = 5
    elif op == "Binarize":
        return {"threshold": np.zeros(3, np.float32), "direction": np.ones(3, np.int8)}
    else:
        return {"direction": np.ones(6, np.int8)} if op == "MaxPoolSigns" else {}
    if not op.endswith("Threshold"):
        made |= {"scale": np.ones(filters, np.float32), "shift": np.zeros(filters, np.float32)}
    if "Steps" in op:
        made["operands"] = np.ones((3, filters), np.float32)
        if op.endswith("Dual"):
            made |= {"threshold": np.zeros(1, np.float32), "direction": np.ones(filters, np.int8)}
    elif op.endswith(("Threshold", "Dual")):
        made["threshold"] = np.zeros(filters, np.int32)
    return made


SOUND = {
    "BinaryConv": (["N", 16, "H", 2], CONV),
    "BinaryConvThreshold": (["N", 16, "H", 2], CONV),
    "BinaryConvDual": (["N", 16, "H", 2], CONV),
    "BinaryConvSteps": (["N", 16, "H", 2], CONV | STEPS),
    "BinaryConvStepsDual": (["N", 16, "H", 2], CONV | STEPS | {"nan_bit": 0}),
    "BinaryLinear": (["N", 3], LINEAR),
    "BinaryLinearThreshold": (["N", 3], LINEAR),
    "BinaryLinearDual": (["N", 3], LINEAR),
    "MaxPoolSigns": (["N", 6, "H", 2], POOL),
    "Binarize": (["N", 3, 4, 5], {"nan_bit": 0}),
    "UnpackSigns": (["N", 3], {"width": 20}),
}


CONVOLUTIONS = [op for op in SOUND if op.startswith("BinaryConv")]


def message(op: str, shape=None, attributes=None, values=None, drop=None, **model) -> str:
    sound_shape, sound_attributes = SOUND[op]
    attributes = {**sound_attributes, **(attributes or {})}
    attributes.pop(drop, None)
    made = op_model(op, shape or sound_shape, {**constants(op), **(values or {})}, attributes, "the node", **model)
    with pytest.raises(Exception, match="the node") as caught:
        session(made)
    assert f"({op})" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("op", sorted(SOUND))
def test_the_sound_nodes_are_accepted(op):
    shape, attributes = SOUND[op]
    session(op_model(op, shape, constants(op), attributes))


@pytest.mark.parametrize("op", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"pads": [1, -1, 1, 1]}, "pads"),
        ({"pads": [1, 1]}, "pads"),
        ({"pads": [2**40, 0, 0, 0]}, "pads"),
        ({"strides": [0, 1]}, "strides"),
        ({"dilations": [1, 0]}, "dilations"),
        ({"group": 0}, "group"),
        ({"group": 3}, "16, ?, 2], not [?, 48"),
        ({"pad_value": 2}, "pad_value"),
        ({"width": 0}, "width"),
        ({"width": 2**40}, "width"),
        ({"weight_shape": [0, 16, 3, 3]}, "weight_shape"),
        ({"weight_shape": [4, 0, 3, 3]}, "weight_shape"),
        ({"weight_shape": [4, 16, 3]}, "weight_shape"),
        ({"weight_shape": [2**31 - 1, 2**31 - 1, 2**31 - 1, 2**31 - 1]}, "weight_shape"),
        ({"weight_shape": [2**62, 16, 3, 3]}, "weight_shape"),
        ({"weight_shape": [5, 16, 3, 3]}, "weight"),
        ({"pads": [0, 0, 0, 0], "weight_shape": [4, 16, 1, 9], "width": 5}, ""),
    ],
)
def test_convolution_attributes(op, attributes, text):
    assert text in message(op, attributes=attributes)


def test_a_kernel_that_does_not_fit_a_known_height():
    assert "padded input's height" in message("BinaryConv", [2, 16, 4, 2], {"dilations": [3, 1]})


@pytest.mark.parametrize("name", sorted(CONV))
def test_missing_convolution_attribute(name):
    assert name in message("BinaryConv", drop=name)


@pytest.mark.parametrize("op", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ("", "'tree' ends before group 0 of 1"),
        (TREE[:2], "'tree' ends before group 0 of 1"),
        (TREE[:-1], "'tree' ends within group 0, whose tree has 6 nodes"),
        ("////////", "'tree' ends within group 0, whose tree has 65539 nodes"),
        (TREE + "A", "'tree' goes on for 1 characters after its last tree"),
        (TREE[:-1] + "=", "'tree' has a character that is none of base64's"),
        (TREE[:-1] + "\0", "'tree' has a character that is none of base64's"),
        (tree_text([([4, 4, -1, 5, 5, 6], [1, 0, 1, 0])]), "node 6 as a parent, but 6 nodes"),
        (tree_text([([4, 4, -1, 5, 5, 4], [1, 0, 1, 0])]), "group 0 has a cycle"),
        (tree_text([([0, 4, -1, 5, 5, -1], [1, 0, 1, 0])]), "group 0 has a cycle"),
    ],
)
def test_filter_trees(op, tree, text):
    assert text in message(op, attributes={"tree": tree})


@pytest.mark.parametrize("op", CONVOLUTIONS)
def test_filter_trees_change_no_result(op):
    """Kernels, function bodies and onnx's reference take the hint, which the bodies do not declare."""
    shape, attributes = SOUND[op]
    values = constants(op)
    plain, hinted = (op_model(op, shape, values, attributes | extra) for extra in ({}, {"tree": TREE}))
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(hinted))
    feeds = {"x": random_bits(RNG, 2, 16, 8, 2)}
    if "Steps" in op:
        feeds["residual"] = RNG.standard_normal((2, 4, 8, 10)).astype(np.float32)
    expected = session(plain).run(None, feeds)
    for got in (*run_both(hinted, feeds), ReferenceEvaluator(hinted).run(None, feeds)):
        assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("op", ["BinaryConvSteps", "BinaryConvStepsDual"])
@pytest.mark.parametrize(
    ("attributes", "values", "text"),
    [
        ({"steps": [0] * 17}, {"operands": np.ones((17, 4), np.float32)}, "'steps' has 17 values, not 1 to 16"),
        ({"steps": [2, 3]}, {}, "operands has shape [3, 4], not [2, ?]"),
        ({"steps": [2, 3, 7]}, {}, "step 2 is of kind 7"),
        ({"steps": [2, 3, -1]}, {}, "steps"),
        ({"steps": [2, 2**32, 0]}, {}, "steps"),
        ({"steps": [2, 0, 2]}, {}, "2 steps add the residual"),
        ({"steps": 2}, {}, "steps"),
        ({}, {"operands": np.ones((3, 3), np.float32)}, "operands of a step has 3 values, not 1 or 4"),
        ({}, {"operands": np.ones((3, 0), np.float32)}, "operands are empty"),
        ({}, {"operands": np.ones(3, np.float32)}, "operands"),
    ],
)
def test_steps(op, attributes, values, text):
    assert text in message(op, attributes=attributes, values=values)


def test_missing_attributes_of_steps():
    assert "'steps'" in message("BinaryConvSteps", drop="steps")
    assert "nan_bit" in message("BinaryConvStepsDual", drop="nan_bit")


@pytest.mark.parametrize(
    ("attributes", "values", "text"),
    [
        ({"nan_bit": 2}, {}, "nan_bit"),
        ({}, {"threshold": np.float32([np.nan])}, "threshold 0 is NaN"),
        ({}, {"threshold": np.zeros(3, np.float32)}, "threshold has 3 values, not 1 or 4"),
        ({}, {"threshold": np.zeros(0, np.float32)}, "threshold is empty"),
        ({}, {"direction": np.int8([1, 1, 0, 1])}, "direction 2 is 0, not +1 or -1"),
        ({}, {"direction": np.ones(2, np.int8)}, "direction has 2 values, not 1 or 4"),
    ],
)
def test_bits_of_steps(attributes, values, text):
    assert text in message("BinaryConvStepsDual", attributes=attributes, values=values)


@pytest.mark.parametrize("name", ["operands", "threshold", "direction"])
def test_constants_of_steps_must_be_constant(name):
    assert name in message("BinaryConvStepsDual", not_constant=name)


@pytest.mark.parametrize("shape", [["N", 5, "H", 10], ["N", 4, "H", 11], ["N", 4, "H"], [1, 4, 1, 10]])
def test_a_residual_of_another_shape(shape):
    """Refused with the session where it is declared, else when it arrives."""
    x = {"x": random_bits(RNG, 2, 16, 8, 2)}
    if shape != [1, 4, 1, 10]:  # which only the run can tell from the rest
        assert "residual has shape" in message("BinaryConvSteps", residual_shape=shape)
    made = session(
        op_model("BinaryConvSteps", *SOUND["BinaryConvSteps"][:1], constants("BinaryConvSteps"), CONV | STEPS)
    )
    sizes = [{"N": 2, "H": 8}.get(size, size) for size in shape]
    with pytest.raises(Exception, match="residual"):
        made.run(None, x | {"residual": np.zeros(sizes, np.float32)})


@pytest.mark.parametrize("op", ["BinaryConvThreshold", "BinaryConvDual", "BinaryLinearThreshold", "BinaryLinearDual"])
@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_wrong_threshold_count(op, count):
    assert "threshold" in message(op, values={"threshold": np.zeros(count, np.int32)})


@pytest.mark.parametrize("op", ["BinaryConv", "BinaryConvThreshold", "BinaryLinear"])
def test_wrong_packed_length(op):
    rows = 4 if "Conv" in op else 5
    assert "weight" in message(op, values={"weight": random_bits(RNG, rows, 17)})


def test_wrong_types():
    """Onnxruntime itself refuses these, by the ops' declared types."""
    assert "weight" in message("BinaryConv", values={"weight": np.zeros((4, 18), np.int32)})
    assert "scale" in message("BinaryConv", values={"scale": np.zeros(4, np.float64)})
    assert "threshold" in message("BinaryConvThreshold", values={"threshold": np.zeros(4, np.float32)})


@pytest.mark.parametrize(("op", "name"), [("BinaryConv", "weight"), ("BinaryConvThreshold", "threshold")])
def test_constants_must_be_constant(op, name):
    assert name in message(op, not_constant=name)


def test_linear_attributes():
    assert "weight_shape" in message("BinaryLinear", attributes={"weight_shape": [5, 0]})
    assert "weight_shape" in message("BinaryLinear", attributes={"weight_shape": [5, 2**40]})
    assert "width" in message("BinaryLinear", attributes={"width": 7})


def test_pool_attributes():
    assert "kernel_shape" in message("MaxPoolSigns", attributes={"kernel_shape": [0, 2]})
    assert "kernel_shape" in message("MaxPoolSigns", attributes={"kernel_shape": [2**31 - 1, 1]})
    assert "kernel_shape" in message("MaxPoolSigns", attributes={"kernel_shape": [4097, 4096]})
    assert "pads" in message("MaxPoolSigns", attributes={"pads": [0, 0, 0, -1]})
    assert "pad" in message("MaxPoolSigns", attributes={"pads": [2, 0, 0, 0]})
    assert "direction" in message("MaxPoolSigns", values={"direction": np.array([1, 1, 0, 1, 1, 1], np.int8)})


def test_binarize_constants():
    assert "threshold" in message("Binarize", values={"threshold": np.array([0, np.nan, 0], np.float32)})
    assert "direction" in message("Binarize", values={"direction": np.array([1, 2, 1], np.int8)})
    assert "nan_bit" in message("Binarize", attributes={"nan_bit": 2})


@pytest.mark.parametrize(
    ("op", "shape"),
    [("BinaryConv", (1, 15, 8, 2)), ("BinaryConv", (1, 16, 8, 3)), ("BinaryLinear", (1, 4)), ("UnpackSigns", (2, 4)),
     ("MaxPoolSigns", (1, 5, 8, 2))],
)  # fmt: skip
def test_input_of_another_shape_is_refused_when_run(op, shape):
    """A graph that leaves the shape open is accepted; the run says which node and why."""
    model = op_model(op, [None] * len(shape), constants(op), SOUND[op][1], "the node")
    made = session(model)
    with pytest.raises(Exception, match="bnncc: node 'the node'"):
        made.run(None, {"x": random_bits(RNG, *shape)})


def test_unknown_instruction_set(monkeypatch):
    monkeypatch.setenv("BNNCC_ISA", "avx1024")
    assert "avx1024" in message("BinaryConv")


def test_unknown_kernel(monkeypatch):
    monkeypatch.setenv("BNNCC_KERNEL", "fastest")
    assert 'BNNCC_KERNEL is "fastest"; it may be auto, dot, planes or channels' in message("BinaryConv")


def test_a_hint_that_names_no_kernel():
    assert 'the kernel "fastest" is none of auto, dot' in message("BinaryConv", attributes={"kernel": "fastest"})


def test_layer_beyond_the_kernel_asked_for(monkeypatch):
    """What a kernel cannot serve is an error where it is asked for, and else the dot kernel's."""
    attributes = {**SOUND["BinaryConv"][1], "weight_shape": [1, 1, 1, 70000], "width": 70000, "pads": [0, 0, 0, 0]}
    attributes |= {"dilations": [1, 1], "group": 1, "tree": tree_text([([-1], [0])])}
    one = np.ones(1, np.float32)
    values = {"weight": random_bits(RNG, 1, 70000 // 8), "scale": one, "shift": one}
    model = op_model("BinaryConv", [1, 1, 1, 70000 // 8], values, attributes)
    monkeypatch.setenv("BNNCC_KERNEL", "auto")
    session(model)
    for kernel in ("planes", "channels"):
        monkeypatch.setenv("BNNCC_KERNEL", kernel)
        with pytest.raises(Exception, match=f'BNNCC_KERNEL is "{kernel}", but the layer is too large'):
            session(model)
