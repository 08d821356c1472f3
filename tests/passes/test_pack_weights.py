"""pack-weights: the same floats bit for bit from a bit each, with plain onnxruntime too, folded at load."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from small_networks import Network
from test_binarize_weights import all_kinds

import bnncc
from bnncc.config import Config
from bnncc.passes import Outcome, run_passes
from bnncc.passes.pack_weights import UNPACK


def binary_matrices(*shapes: tuple[int, int], values=(1.0, -1.0), opset: int = 17) -> onnx.ModelProto:
    """Products of float activations and matrices of two values, as training of weights alone leaves them."""
    n = Network(5, opset)
    y = n.input(["N", shapes[0][0]])
    for shape in shapes:
        y = n.op("Relu", n.op("MatMul", y, n.constant(n.rng.choice(np.array(values, np.float32), shape))))
    return n.model(y)


def packed_nodes(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The node that unpacks the weights of each layer, by the layer's name."""
    made = {node.output[0]: node for node in model.graph.node if node.op_type == UNPACK}
    return {node.name: made[node.input[1]] for node in model.graph.node if node.input[1:] and node.input[1] in made}


def unpacked(model: onnx.ModelProto, library: bool) -> dict[str, np.ndarray]:
    """The weights of each packed layer as onnxruntime gives them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = packed_nodes(model)
    names = list(dict.fromkeys(node.output[0] for node in nodes.values()))
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    if library:
        bnncc.register(options)
    x = {value.name: np.zeros([1, *(d.dim_value for d in value.type.tensor_type.shape.dim[1:])], np.float32)
         for value in copy.graph.input}  # fmt: skip
    found = dict(zip(names, ort.InferenceSession(copy.SerializeToString(), options).run(names, x), strict=True))
    return {name: found[node.output[0]] for name, node in nodes.items()}


def layer_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {node.name: values[node.input[1]] for node in model.graph.node if node.input[1:] and node.input[1] in values}


def check_weights(outcome: Outcome) -> list[str]:
    """Demand that all packed weights are what they were, with the library and without; returns the layers."""
    before = layer_weights(outcome.reference)
    for library in (False, True):
        for name, found in unpacked(outcome.model, library).items():
            assert found.shape == before[name].shape
            np.testing.assert_array_equal(found.view(np.int32), before[name].view(np.int32))
    return list(packed_nodes(outcome.model))


@pytest.mark.parametrize("opset", [13, 17, 21])
def test_every_kind_of_layer_bit_for_bit(opset):
    outcome = run_passes(all_kinds(opset=opset), Config(binarize={"method": "dab"}, fold_batchnorm=False))
    onnx.checker.check_model(outcome.model)
    assert check_weights(outcome) == [layer.name for layer in outcome.layers[1:-1]]
    assert [(layer.status, layer.weight_bits) for layer in outcome.layers[1:-1]] == [("weight-binary", 1)] * 7


@pytest.mark.parametrize("shape", [(33, 7), (64, 64), (257, 3), (1, 999), (999, 1), (7, 131)])
@pytest.mark.parametrize("values", [(1, -1), (0.1, 0.3), (0, 1e-40), (np.inf, -2), (3, 3)])
def test_odd_sizes_and_values(shape, values):
    outcome = run_passes(binary_matrices(shape, (shape[1], 300), values=values), Config())
    assert check_weights(outcome)


def test_what_lies_in_the_file():
    """A bit per weight and two floats per filter; of a filter with one value, or where all have the same, fewer."""
    outcome = run_passes(binary_matrices((200, 300), (300, 33), values=(0.5, -0.5)), Config())
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in outcome.model.graph.initializer}
    for node, shape in zip(packed_nodes(outcome.model).values(), [(200, 300), (300, 33)], strict=True):
        packed, high, low = (constants[name] for name in node.input)
        assert packed.dtype == np.uint8
        assert packed.shape == ((shape[0] * shape[1] + 7) // 8,)
        assert (high.shape, low.shape) == ((1, 1), (1, 1))
    assert [layer.size_after for layer in outcome.layers] == [200 * 300 // 8 + 8, (300 * 33 + 7) // 8 + 8]


def test_file_is_a_thirty_second():
    model = binary_matrices((1000, 1000), (1000, 1000))
    compiled = run_passes(model, Config()).model
    assert compiled.ByteSize() < model.ByteSize() / 31


def test_nothing_is_left_of_it_in_a_session(tmp_path):
    """onnxruntime folds it at load, so that layers run as those of the float file: the same nodes, the same bits."""
    outcome = run_passes(all_kinds(), Config(binarize={"method": "xnor"}))
    x = {"x": np.random.default_rng(0).standard_normal((2, 6, 9, 9)).astype(np.float32)}
    graphs, results = [], []
    float_model = run_passes(all_kinds(), Config(binarize={"method": "xnor"}, pack_weights=False)).model
    for model, library in ((float_model, False), (outcome.model, False), (outcome.model, True)):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        if library:
            bnncc.register(options)
        results.append(ort.InferenceSession(model.SerializeToString(), options).run(None, x)[0])
        graphs.append(sorted(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node))
    assert graphs[0] == graphs[1] == graphs[2]
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_shared_weights_are_packed_once():
    n = Network(1)
    shared = n.constant(n.signs(40, 40))
    y = n.op("MatMul", n.input(["N", 40]), shared, name="a")
    y = n.op("Gemm", n.op("Relu", y), shared, transB=1, name="b")
    y = n.op("Add", y, n.op("ReduceSum", shared, keepdims=0))  # a reader that is no layer, folded
    outcome = run_passes(n.model(y), Config())
    assert check_weights(outcome) == ["n_a", "n_b"]
    assert sum(node.op_type == UNPACK for node in outcome.model.graph.node) == 1


def test_what_stays_float():
    third = np.where(np.arange(6400).reshape(80, 80) == 477, 2.0, 1.0)
    third[0] = -1  # three values in column 77
    cases = {
        "three values": third,
        "doubles": np.random.default_rng(0).choice([-1.0, 1.0], (80, 80)),
        "-0": np.where(np.eye(80) > 0, -0.0, 1.0),
        "+0": np.where(np.eye(80) > 0, 0.0, 1.0),
    }
    left = {}
    for name, values in cases.items():
        n = Network(0)
        x = n.input(["N", 80])
        if name == "doubles":
            x = n.op("Cast", x, to=onnx.TensorProto.DOUBLE)
        kind = np.float64 if name == "doubles" else np.float32
        outcome = run_passes(n.model(n.op("MatMul", x, n.constant(values.astype(kind)), name="m")), Config())
        left[name] = not packed_nodes(outcome.model)
        check_weights(outcome) if not left[name] else None
        if name == "-0":
            (record,) = (record for record in outcome.passes if record.name == "pack-weights")
            assert [note.text for note in record.notes] == ["not packed: -0 is among its weights, and would become 0"]
    assert left == {"three values": True, "doubles": True, "-0": True, "+0": False}


def test_only_where_the_file_gets_smaller():
    """One small layer is not worth the definition of the op; several are."""
    one = run_passes(binary_matrices((12, 24)), Config())
    several = run_passes(binary_matrices((12, 24), (24, 24), (24, 24), (24, 24)), Config())
    assert not packed_nodes(one.model)
    assert [layer.status for layer in one.layers] == ["weight-binary"]
    assert [layer.weight_bits for layer in one.layers] == [32]
    assert len(packed_nodes(several.model)) == 4
    unpacked_size = run_passes(binary_matrices((12, 24), (24, 24), (24, 24), (24, 24)), Config(pack_weights=False))
    assert several.model.ByteSize() < unpacked_size.model.ByteSize()


def test_can_be_left_out():
    for config in (Config(pack_weights=False), Config(lower=False)):
        outcome = run_passes(binary_matrices((64, 64), (64, 64)), config)
        assert not packed_nodes(outcome.model)
        assert not outcome.model.functions
        assert [layer.weight_bits for layer in outcome.layers] == [32, 32]


def test_same_result_again():
    first, again = (run_passes(all_kinds(), Config(binarize={"method": "dab"})).model for _ in range(2))
    assert first.SerializeToString() == again.SerializeToString()
