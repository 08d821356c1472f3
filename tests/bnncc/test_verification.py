"""Verification: wrong bits are errors, bits at the threshold near-ties, what follows from those downstream."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from rich.console import Console

from bnncc import BadInput, BnnccError, Config
from bnncc.graphs import upstream
from bnncc.passes.base import SignTensor
from bnncc.passes.pipeline import run_passes
from bnncc.report import OptimizerReport
from bnncc.sign_tensors import pack, sign_tensors_from_json, sign_tensors_to_json, unpack
from bnncc.tables import print_verify
from bnncc.verification import compare

NAMES = ("reference", "compiled")


@pytest.fixture
def chain(builder):
    """x [N, 16] -> signs -> +-1 matrix -> signs -> +-1 matrix -> y, compiled."""
    b = builder(3)
    b.signs("x", "s1")
    b.node("MatMul", ["s1", b.weights("w", 16, 16)], "h")
    b.signs("h", "s2")
    b.node("MatMul", ["s2", b.weights("v", 16, 4)], "y")
    return run_passes(b.model({"x": ["N", 16]}, {"y": ["N", 4]}), Config())


@pytest.fixture
def stem_chain(builder):
    """As `chain`, behind a float layer that is the identity: its sums could be rounded."""
    b = builder(3)
    b.node("MatMul", ["x", b.constant("identity", np.eye(16, dtype=np.float32))], "stem")
    b.signs("stem", "s1")
    b.node("MatMul", ["s1", b.weights("w", 16, 16)], "h")
    b.signs("h", "s2")
    b.node("MatMul", ["s2", b.weights("v", 16, 4)], "y")
    return run_passes(b.model({"x": ["N", 16]}, {"y": ["N", 4]}), Config())


def with_first_threshold(model: onnx.ModelProto, value: float) -> onnx.ModelProto:
    """Copy with another threshold in its Binarize node: a compiled model that is wrong."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    name = next(node.input[1] for node in copy.graph.node if node.op_type == "Binarize")
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), value, np.float32), name))
    return copy


def data(tmp_path, x: np.ndarray, **more):
    path = tmp_path / "x.npz"
    np.savez(path, x=x.astype(np.float32), **more)
    return path


@pytest.mark.parametrize("through", ["library", "functions"])
def test_right_model_agrees(chain, through):
    report = compare(chain.reference, chain.model, chain.sign_tensors, NAMES, through=through)
    assert report.passed
    assert report.samples == 32
    assert report.bits_compared == 32 * 16 * len(chain.sign_tensors)
    assert (report.flipped_bits, report.near_ties, report.downstream) == (0, 0, 0)
    assert report.max_abs_diff < 1e-5
    assert report.argmax_agreement == 1.0
    assert report.accuracy is None


def test_wrong_threshold_is_counted_exactly(chain, tmp_path):
    x = np.tile(np.linspace(-1, 1, 16), (6, 1))
    x[:3, 9] = 0.25  # only these three lie below 0.3 and above 0, apart from what linspace gives
    x[:, [8, 9, 10, 11]] = [0.9, 0.9, 0.9, 0.9]
    x[:3, 9] = 0.25
    report = compare(
        chain.reference,
        with_first_threshold(chain.model, 0.3),
        chain.sign_tensors,
        NAMES,
        data=data(tmp_path, x),
        config=Config(verify_samples=1),
    )
    random = compare(
        chain.reference,
        with_first_threshold(chain.model, 0.3),
        chain.sign_tensors,
        NAMES,
        config=Config(verify_samples=1),
    )
    first = chain.sign_tensors[0].original
    assert report.flipped_by_tensor[first] - random.flipped_by_tensor.get(first, 0) == 3
    assert not report.passed
    assert report.near_ties == 0
    assert report.downstream == 0  # an error excuses nothing after it
    assert report.max_abs_diff > 0.1


def test_bits_at_the_threshold_are_near_ties(stem_chain, tmp_path):
    chain = stem_chain
    x = np.random.default_rng(0).uniform(0.5, 1, (4, 16)) * np.random.default_rng(1).choice([-1, 1], (4, 16))
    x[1, :8] = 1e-6  # the scale of the sample is about 1: within 1e-5 of it
    report = compare(
        chain.reference,
        with_first_threshold(chain.model, 2e-6),
        chain.sign_tensors,
        NAMES,
        data=data(tmp_path, x),
        config=Config(verify_samples=1),
    )
    assert report.passed
    assert report.near_ties == 8
    assert report.near_tie_samples == 1
    assert report.downstream > 0
    assert report.flipped_bits == 0
    # The sample counts in one figure and not in the other; onnxruntime's own optimizer flips nothing here.
    assert report.max_abs_diff < 1e-5 < 0.1 < report.max_abs_diff_all
    assert report.onnxruntime == OptimizerReport(0, 0, 0, 0)
    assert "near-ties           8 bits in 1 samples" in shown(report)
    assert report.argmax_agreement in (0.75, 1.0)
    assert any("1e-05 of the threshold" in note for note in report.notes)


def test_an_input_has_no_near_ties(chain, tmp_path):
    x = np.ones((2, 16))
    x[0, 0] = 1e-6
    wrong = with_first_threshold(chain.model, 2e-6)
    report = compare(chain.reference, wrong, chain.sign_tensors, NAMES, data=data(tmp_path, x))
    assert report.flipped_by_tensor["s1"] == 1
    assert report.near_ties == 0
    assert not report.passed


def test_zero_of_a_sign_is_no_near_tie(stem_chain, builder, tmp_path):
    """ONNX's Sign gives 0 there; a bit cannot."""
    b = builder(3)
    b.node("MatMul", ["x", b.constant("identity", np.eye(16, dtype=np.float32))], "stem")
    b.node("Sign", ["stem"], "s1")
    b.node("MatMul", ["s1", b.weights("w", 16, 16)], "h")
    b.signs("h", "s2")
    b.node("MatMul", ["s2", b.weights("v", 16, 4)], "y")
    reference = b.model({"x": ["N", 16]}, {"y": ["N", 4]})
    x = np.ones((1, 16))
    x[0, :3] = 0
    report = compare(reference, stem_chain.model, stem_chain.sign_tensors, NAMES, data=data(tmp_path, x))
    assert report.flipped_by_tensor["s1"] == 3
    assert report.near_ties == 0


@pytest.mark.parametrize(("samples", "passes"), [(3, True), (4, False)])
def test_more_near_ties_than_onnxruntime_makes(stem_chain, tmp_path, samples, passes):
    """Its optimizer makes none here, so that NEAR_TIE_SLACK = 3 are allowed."""
    x = np.ones((6, 16))
    x[:samples, 0] = 1e-6
    wrong = with_first_threshold(stem_chain.model, 2e-6)
    report = compare(stem_chain.reference, wrong, stem_chain.sign_tensors, NAMES, data=data(tmp_path, x))
    assert report.near_tie_samples == samples
    assert report.onnxruntime.near_tie_samples == 0
    assert report.passed == passes
    if not passes:
        assert report.failures == [
            "near-ties in 4 samples: more than the 3 allowed where onnxruntime's own optimizer has them in 0"
        ]
        assert "failed              near-ties in 4 samples" in shown(report)


def shown(report) -> str:
    buffer = io.StringIO()
    print_verify(report, Console(file=buffer, width=100))
    return buffer.getvalue()


def with_second_threshold_one_higher(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy whose second binarizer is wrong where the sum is the threshold itself."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    name = next(node.input[2] for node in copy.graph.node if node.op_type == "BinaryLinearThreshold")
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.int32(1), name))
    return copy


def test_near_ties_in_every_sample_leave_its_parts_to_compare(stem_chain, monkeypatch):
    """What follows the near-ties is compared on the reference's own bits: right here, and wrong below."""
    monkeypatch.setattr("bnncc.bit_tally.NEAR_TIE", 1.0)
    near = with_first_threshold(stem_chain.model, 1.5)
    report = compare(stem_chain.reference, near, stem_chain.sign_tensors, NAMES)
    assert report.near_tie_samples == report.samples == 32
    assert report.flipped_bits == 0
    assert report.max_abs_diff < 1e-5 < 0.1 < report.max_abs_diff_all
    assert any("part by part, on the reference's own bits" in note for note in report.notes)
    assert [failure[:27] for failure in report.failures] == ["near-ties in 32 samples: mo"]
    monkeypatch.setattr("bnncc.verification.NEAR_TIE_SLACK", 32)  # as if onnxruntime made as many
    assert compare(stem_chain.reference, near, stem_chain.sign_tensors, NAMES).passed


def test_near_ties_in_every_sample_hide_no_error_after_them(stem_chain, monkeypatch):
    monkeypatch.setattr("bnncc.bit_tally.NEAR_TIE", 1.0)
    monkeypatch.setattr("bnncc.verification.NEAR_TIE_SLACK", 32)
    wrong = with_second_threshold_one_higher(with_first_threshold(stem_chain.model, 1.5))
    report = compare(stem_chain.reference, wrong, stem_chain.sign_tensors, NAMES)
    assert report.near_tie_samples == report.samples
    assert report.flipped_bits > 0
    assert list(report.flipped_by_tensor) == ["s2"]
    assert not report.passed
    assert report.max_abs_diff > 0.1


@pytest.mark.parametrize("change", [{"threshold": np.zeros(7, np.float32)}, {"width": 400}, {"packed": "y"}])
def test_records_that_do_not_fit(stem_chain, change):
    chain = stem_chain
    tensors = [dataclasses.replace(tensor, **change) for tensor in chain.sign_tensors[:1]]
    with pytest.raises(BnnccError, match=r"does not (fit|hold)"):
        compare(chain.reference, with_first_threshold(chain.model, 0.3), tensors, NAMES)


def test_just_outside_the_near_tie_is_an_error(stem_chain, tmp_path):
    chain = stem_chain
    x = np.ones((2, 16))
    x[0, 0] = 1.5e-5
    report = compare(
        chain.reference,
        with_first_threshold(chain.model, 2e-5),
        chain.sign_tensors,
        NAMES,
        data=data(tmp_path, x),
        config=Config(verify_samples=1),
    )
    assert report.flipped_by_tensor[chain.sign_tensors[0].original] == 1
    assert report.near_ties == 0


def test_integers_have_no_near_ties(chain):
    """A kernel that compares > for >= is wrong only where the dot product is the threshold itself."""
    wrong = with_second_threshold_one_higher(chain.model)
    report = compare(chain.reference, wrong, chain.sign_tensors, NAMES)
    assert report.flipped_by_tensor == {"s2": report.flipped_bits}
    assert report.flipped_bits > 0
    assert report.near_ties == 0
    # The same bits where the original's sums are rounded: a sum at the threshold may fall on either side.
    rounded = [dataclasses.replace(tensor, exact=False) for tensor in chain.sign_tensors]
    excused = compare(chain.reference, wrong, rounded, NAMES)
    assert (excused.flipped_bits, excused.near_ties) == (0, report.flipped_bits)
    assert not excused.passed  # far more of them than onnxruntime makes


def test_accuracy_with_labels(chain, tmp_path):
    x = np.random.default_rng(0).standard_normal((9, 16))
    plain = compare(chain.reference, chain.model, chain.sign_tensors, NAMES, data=data(tmp_path, x))
    assert (plain.samples, plain.random_samples, plain.data_samples) == (41, 32, 9)
    assert plain.accuracy is None
    labelled = data(tmp_path, x, labels=np.zeros(9, int))
    report = compare(chain.reference, chain.model, chain.sign_tensors, NAMES, data=labelled)
    assert report.accuracy.reference == report.accuracy.compiled
    assert report.accuracy.reference * 9 == pytest.approx(round(report.accuracy.reference * 9))


def test_labels_without_classes_are_noted(builder, tmp_path):
    b = builder(0)
    b.node("Neg", ["x"], "y")
    model = b.model({"x": ["N", 1]}, {"y": ["N", 1]})
    path = data(tmp_path, np.ones((3, 1)), labels=np.zeros(3, int))
    report = compare(model, model, None, NAMES, data=path)
    assert report.argmax_agreement is None
    assert report.accuracy is None
    assert any("labels were given" in note for note in report.notes)


def test_outputs_whose_shape_depends_on_values_name_no_classes(builder, tmp_path):
    """Scores [1, 4, K] of the rows that pass a test, as detectors give them: K is another in each run."""
    b = builder(0)
    b.node("ReduceMean", ["x"], "mean", axes=[1], keepdims=0)
    b.node("Greater", ["mean", b.constant("zero", np.array(0, np.float32))], "passes")
    b.node("Compress", ["x", "passes"], "rows", axis=0)
    b.node("Transpose", ["rows"], "columns", perm=[1, 0])
    b.node("Unsqueeze", ["columns", b.constant("first", np.array([0]))], "y")
    model = b.model({"x": ["N", 4]}, {"y": [1, 4, "K"]})
    path = data(tmp_path, np.random.default_rng(1).standard_normal((200, 4)), labels=np.zeros(200, int))
    report = compare(model, model, None, NAMES, data=path)
    assert report.passed
    assert report.argmax_agreement is None
    assert report.accuracy is None


def test_outputs_only(chain):
    report = compare(chain.reference, with_first_threshold(chain.model, 0.3), None, NAMES)
    assert report.flipped_bits is None
    assert report.bits_compared is None
    assert not report.passed
    assert report.failures[0].startswith("output 'y' differs by")
    assert report.max_abs_diff > 0.1
    # A gate on the same figure takes the limit's place.
    assert compare(
        chain.reference, with_first_threshold(chain.model, 0.3), None, NAMES, config=Config(max_rel_diff=3)
    ).passed


@pytest.mark.parametrize(("factor", "passes"), [(1 + 1e-4, True), (1 + 2e-3, False)])
def test_outputs_may_differ_by_rounding_only(builder, factor, passes):
    models = []
    for scale in (1, factor):
        b = builder(0)
        b.node("Mul", ["x", b.constant("k", np.array(scale, np.float32))], "y")
        models.append(b.model({"x": ["N", 3]}, {"y": ["N", 3]}))
    assert compare(*models, None, NAMES).passed == passes


@pytest.mark.parametrize("batch", [1, 3, "N"])
def test_fixed_and_dynamic_batch_count_the_same(make_cnn, batch):
    outcome = run_passes(make_cnn(batch), Config())
    report = compare(outcome.reference, outcome.model, outcome.sign_tensors, NAMES, config=Config(verify_samples=7))
    assert report.samples == 7
    per_sample = {"signs0": 16 * 8 * 8, "signs1": 16 * 8 * 8}
    assert report.bits_compared == 7 * sum(per_sample[tensor.original] for tensor in outcome.sign_tensors)
    assert len(outcome.sign_tensors) == 2
    assert report.flipped_bits == 0


def test_small_chunks_give_the_same(make_cnn, monkeypatch):
    outcome = run_passes(make_cnn(), Config())
    wrong = with_first_threshold(outcome.model, 0.1)
    config = Config(verify_samples=10)
    whole = compare(outcome.reference, wrong, outcome.sign_tensors, NAMES, config=config)
    monkeypatch.setattr("bnncc.verification._ACTIVATION_BUDGET", 1)
    chunked = compare(outcome.reference, wrong, outcome.sign_tensors, NAMES, config=config)
    assert whole.flipped_bits == chunked.flipped_bits > 0
    assert whole.bits_compared == chunked.bits_compared
    assert whole.max_abs_diff == pytest.approx(chunked.max_abs_diff, rel=1e-5)


def test_nan_in_one_output_is_an_infinite_difference(builder):
    models = []
    for op in ("Log", "Abs"):
        b = builder(0)
        b.node(op, ["x"], "y")
        models.append(b.model({"x": ["N", 3]}, {"y": ["N", 3]}))
    assert compare(models[0], models[0], None, NAMES).max_abs_diff == 0
    report = compare(models[1], models[0], None, NAMES)
    assert report.max_abs_diff == math.inf
    assert "not finite where the original's are" in report.failures[0]
    # No gate and no near-tie excuses that.
    assert not compare(models[1], models[0], None, NAMES, config=Config(max_rel_diff=math.inf)).passed


def test_models_that_cannot_be_compared(chain, make_cnn):
    with pytest.raises(BadInput, match=r"compiled: inputs \['image'\] are not those of reference: \['x'\]"):
        compare(chain.reference, make_cnn(), None, NAMES)
    other = onnx.ModelProto()
    other.CopyFrom(chain.reference)
    other.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 17
    with pytest.raises(BadInput, match=r"input 'x' is float32 \['\?', 17\], in reference float32 \['\?', 16\]"):
        compare(chain.reference, other, None, NAMES)
    with pytest.raises(BadInput, match="through must be"):
        compare(chain.reference, chain.model, None, NAMES, through="luck")


def test_guessed_sizes_are_named_when_they_fail(builder):
    b = builder(0)
    b.node("MatMul", ["x", b.floats("w", 5, 5)], "y")
    model = b.model({"x": ["N", "K"]}, {"y": ["N", 5]})
    with pytest.raises(BadInput, match="sizes of its dynamic inputs were guessed: fix them with input_shapes"):
        compare(model, model, None, NAMES)
    assert compare(model, model, None, NAMES, config=Config(input_shapes={"x": [-1, 5]})).samples == 32


def test_missing_tensor_of_the_metadata(chain):
    tensor = SignTensor("s1", "x", np.zeros(1, np.float32), "nothing", 16)
    with pytest.raises(BadInput, match="compiled: its metadata names the tensor 'nothing'"):
        compare(chain.reference, chain.model, [tensor], NAMES)


def test_sign_tensors_survive_json():
    tensors = [
        SignTensor("a", "b", np.array([0.1, -2.5e-8], np.float32), "p", 9, exact=False),
        SignTensor("c", "d", np.full(64, 0.25, np.float32), "q", 64),
    ]
    one, two = sign_tensors_from_json(sign_tensors_to_json(tensors), "m")
    assert (one.original, one.pre_activation, one.packed, one.width) == ("a", "b", "p", 9)
    np.testing.assert_array_equal(one.threshold, tensors[0].threshold)
    np.testing.assert_array_equal(two.threshold, [0.25])
    assert (one.exact, two.exact) == (False, True)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"original": "a"}]', "null"])
def test_damaged_sign_tensors(text):
    with pytest.raises(BadInput, match=r"m: damaged metadata bnncc\.sign_tensors"):
        sign_tensors_from_json(text, "m")
    entry = {"original": "a", "pre_activation": "b", "threshold": "!!", "packed": "p", "width": 1}
    with pytest.raises(BadInput, match="damaged metadata"):
        sign_tensors_from_json(json.dumps([entry]), "m")


def test_unpack_is_little_endian():
    packed = np.array([[0b0000_0101, 0b1111_1110]], np.uint8)
    assert unpack(packed, 10).tolist() == [[1, -1, 1, -1, -1, -1, -1, -1, -1, 1]]
    assert pack(unpack(packed, 10), 10, packed.shape).tolist() == [[0b0000_0101, 0b0000_0010]]


def test_upstream_follows_the_graph_and_not_the_order():
    nodes = [
        helper.make_node("Add", ["b", "c"], ["d"]),  # before its sources in the file
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Neg", ["x"], ["c"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [])
    assert upstream(graph, ["a", "b", "c", "d"]) == {"a": set(), "b": {"a"}, "c": set(), "d": {"a", "b", "c"}}
