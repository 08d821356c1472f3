"""The reference model: what is rewritten before compilation starts, and what is refused."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_networks import Network, compile_and_compare, ops, session, statuses

from bnncc.config import Config
from bnncc.errors import BadInput
from bnncc.passes import run_passes
from bnncc.passes.prepare import default_opset, reference_model


def binary_network(seed: int = 0, opset: int = 17) -> onnx.ModelProto:
    n = Network(seed, opset)
    signs = n.op("Sign", n.input([2, 4, 6, 6]))
    return n.model(n.conv(signs, n.signs(3, 4, 3, 3)))


def feed() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((2, 4, 6, 6)).astype(np.float32)}


def test_the_model_given_is_not_changed():
    model = binary_network()
    before = model.SerializeToString()
    reference_model(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_old_opsets_are_raised(opset):
    model = binary_network(opset=opset)
    reference, notes = reference_model(model)
    assert default_opset(reference) == 13
    assert [note.text for note in notes] == [f"opset {opset} raised to 13"]
    assert statuses(compile_and_compare(model, feed())) == ["binary"]


def test_initializers_among_the_inputs_are_constants():
    model = binary_network()
    weight = model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims)))
    reference, notes = reference_model(model)
    assert [value.name for value in reference.graph.input] == ["x"]
    assert "1 graph inputs" in notes[0].text
    outcome = compile_and_compare(model, feed())
    assert statuses(outcome) == ["binary"]


def test_functions_of_the_model_are_inlined():
    n = Network(seed=2)
    x = n.input([2, 4, 6, 6])
    body = [
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("GreaterOrEqual", ["v", "zero"], ["c"]),
        helper.make_node("Constant", [], ["plus"], value_float=1.0),
        helper.make_node("Constant", [], ["minus"], value_float=-1.0),
        helper.make_node("Where", ["c", "plus", "minus"], ["s"]),
    ]
    imports = [helper.make_opsetid("", 17)]
    signs = n.op("Binarized", x, domain="mine")
    model = n.model(n.conv(signs, n.signs(3, 4, 3, 3)), extra_imports=(("mine", 1),))
    model.functions.append(helper.make_function("mine", "Binarized", ["v"], ["s"], body, imports))
    model.graph.output[0].type.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(4))
    outcome = compile_and_compare(model, feed())
    assert ops(outcome) == ["Binarize", "BinaryConv"]


def test_nodes_get_unique_names():
    model = binary_network()
    for node in model.graph.node:
        node.name = "same"
    reference, _ = reference_model(model)
    assert len({node.name for node in reference.graph.node}) == len(reference.graph.node)


def test_identity_and_dropout_between_layers_are_no_obstacle():
    n = Network(seed=3)
    x = n.op("Identity", n.input([2, 4, 6, 6]))
    signs = n.op("Dropout", n.op("Identity", n.binarize(x)))
    y = n.op("Identity", n.conv(signs, n.signs(3, 4, 3, 3)))
    assert ops(compile_and_compare(n.model(y), feed())) == ["Binarize", "BinaryConv", "Identity"]


def test_an_identity_of_an_initializer_becomes_the_initializer():
    """TorchScript writes initializers of equal values once, and an Identity for the second."""
    n = Network(seed=7)
    bias = n.constant(n.normal(3))
    signs = n.binarize(n.input([2, 4, 6, 6]))
    convs = [n.op("Conv", signs, n.constant(n.signs(3, 4, 3, 3)), b) for b in (bias, n.op("Identity", bias))]
    outcome = compile_and_compare(n.model(n.op("Add", *convs)), feed())
    assert ops(outcome) == ["Binarize", "BinaryConv", "BinaryConvSteps"]


def test_part_of_a_static_shape():
    """Shape with start and end, as torch's dynamo exporter writes it before a Reshape."""
    n = Network(seed=8)
    signs = n.binarize(n.input([2, 4, 6, 6]))
    batch = n.op("Shape", signs, start=0, end=1)
    flat = n.op("Reshape", signs, n.op("Concat", batch, n.constant(np.array([-1], np.int64)), axis=0))
    outcome = compile_and_compare(n.model(n.op("MatMul", flat, n.constant(n.signs(144, 5)))), feed())
    assert ops(outcome) == ["Binarize", "BinaryLinear"]


def test_random_dropout_is_kept():
    n = Network(seed=4)
    training = n.constant(np.array(True))
    y = n.op("Dropout", n.op("Sign", n.input([2, 4, 6, 6])), n.scalar(0.5), training)
    reference, _ = reference_model(n.model(n.conv(y, n.signs(3, 4, 3, 3))))

    assert "Dropout" in ops(run_passes(reference, Config()))


def test_metadata_of_the_original_is_kept():
    model = binary_network()
    model.metadata_props.add(key="author", value="somebody")
    outcome = compile_and_compare(model, feed())
    assert {entry.key: entry.value for entry in outcome.model.metadata_props} == {"author": "somebody"}


def test_a_compiled_model_is_refused():
    outcome = compile_and_compare(binary_network(), feed())
    with pytest.raises(BadInput, match="compiled already"):
        reference_model(outcome.model)


def test_an_unknown_domain_is_refused():
    n = Network(seed=5)
    model = n.model(n.op("Mystery", n.input([2, 4, 6, 6]), domain="elsewhere"), extra_imports=(("elsewhere", 1),))
    with pytest.raises(BadInput, match="Mystery of the domain 'elsewhere'"):
        reference_model(model)


def test_bipolar_quant_with_missing_scale_is_refused():
    n = Network(seed=6)
    domain = "qonnx.custom_op.general"
    model = n.model(n.op("BipolarQuant", n.input([2, 4]), domain=domain), extra_imports=((domain, 1),))
    with pytest.raises(BadInput, match="takes x and scale, not 1 inputs"):
        reference_model(model)


def test_the_reference_computes_what_the_model_computes():
    model = binary_network(opset=9)
    reference, _ = reference_model(model)
    before, after = (session(m, library=False).run(None, feed())[0] for m in (model, reference))
    assert np.array_equal(before, after)
    assert reference.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
