"""The onnx wheel's light models (real float architectures without weights): compiling changes no answer.

Their weights are ConstantOfShape nodes; the test puts seeded values there, of a size that keeps activations near 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_networks import session

from bnncc.config import Config
from bnncc.passes import run_passes

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
# Batch-norm folded into weights rounds each weight once more (2**-24) and reorders no sum; over up to 120 layers such
# differences add up to at most a few times 1e-5 of the largest value.
RELATIVE_TOLERANCE = 1e-4
MODELS = sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx"))


def materialised(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Replace each ConstantOfShape by an initializer of seeded values that suit its use; drop the final Softmax."""
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    role = {}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            role.update(zip(node.input[1:], ("scale", "bias", "mean", "variance"), strict=True))
    kept, values = [], []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            kept.append(node)
            continue
        shape, name = tuple(shapes[node.input[0]]), node.output[0]
        if role.get(name) in ("scale", "variance"):
            array = rng.uniform(0.5, 1.5, shape)
        elif len(shape) >= 2:
            array = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        else:
            array = rng.standard_normal(shape) * 0.1
        values.append(numpy_helper.from_array(array.astype(np.float32, copy=False), name))
    logits = model.graph.output[0].name
    if kept[-1].op_type == "Softmax":  # it would hide differences of the logits
        logits = kept.pop().input[0]
    used = {name for node in kept for name in node.input}
    del model.graph.node[:]
    model.graph.node.extend(kept)
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used] + values
    del model.graph.initializer[:]
    model.graph.initializer.extend(constants)
    inputs = [value for value in model.graph.input if value.name in used]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(logits, onnx.TensorProto.FLOAT, None))
    model.ir_version = 8
    return model


@pytest.mark.parametrize("name", MODELS)
def test_light_model_gives_the_same_answers(name):
    model = materialised(onnx.load(FOLDER / f"light_{name}.onnx"), seed=7)
    outcome = run_passes(model, Config())
    before, after = session(model, library=False), session(outcome.model, library=True)
    (entry,) = before.get_inputs()
    x = np.random.default_rng(11).standard_normal(entry.shape).astype(np.float32)
    (want,), (got,) = before.run(None, {entry.name: x}), after.run(None, {entry.name: x})
    assert np.isfinite(want).all()
    assert want.std() > 0
    assert np.abs(got - want).max() <= RELATIVE_TOLERANCE * np.abs(want).max()
    assert got.argmax() == want.argmax()
    folded = [record for record in outcome.passes if record.name == "fold-batchnorm"]
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert folded[0].changed == bool(norms)
