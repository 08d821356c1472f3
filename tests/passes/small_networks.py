"""Building small ONNX networks and comparing their compiled form with the original, bit for bit."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import bnncc
from bnncc.config import Config
from bnncc.passes import Outcome, run_passes

# A float sum of K products of magnitude s is off by at most K roundings of 2**-24 s; 1e-5 of the largest output leaves
# room for the few hundred terms of these tests.
RELATIVE_TOLERANCE = 1e-5


SHAPE = ["N", 6, 8, 8]


def feed(seed: int = 1, shape: tuple[int, ...] = (3, 6, 8, 8)) -> dict[str, np.ndarray]:
    """Seeded noise for the one input of a network."""
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


class Network:
    """A graph under construction; methods return tensor names."""

    def __init__(self, seed: int = 0, opset: int = 17) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.count = 0

    def name(self, base: str) -> str:
        self.count += 1
        return f"{base}_{self.count}"

    def input(self, shape: list, name: str = "x") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def constant(self, values: np.ndarray, name: str | None = None) -> str:
        name = name or self.name("c")
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def op(self, op_type: str, *inputs: str, name: str | None = None, domain: str = "", **attributes) -> str:
        output = name or self.name(op_type.lower())
        self.nodes.append(
            helper.make_node(op_type, list(inputs), [output], name=f"n_{output}", domain=domain, **attributes)
        )
        return output

    def signs(self, *shape: int) -> np.ndarray:
        return self.rng.choice(np.array([-1, 1], np.float32), shape)

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32)

    def batchnorm(self, x: str, channels: int, spread: float = 1.0, gamma: np.ndarray | None = None) -> str:
        """Parameters as after training on sums of standard deviation `spread`, slopes of both signs."""
        gamma = self.normal(channels) if gamma is None else gamma
        return self.op(
            "BatchNormalization",
            x,
            self.constant(gamma.astype(np.float32)),
            self.constant(self.normal(channels)),
            self.constant(self.normal(channels) * np.float32(spread) / 4),
            self.constant((self.rng.uniform(0.5, 2, channels) * spread**2).astype(np.float32)),
        )

    def binarize(self, x: str) -> str:
        return self.op(
            "Where", self.op("GreaterOrEqual", x, self.scalar(0)), self.scalar(1), self.scalar(-1), name=self.name("s")
        )

    def conv(self, x: str, weights: np.ndarray, **attributes) -> str:
        return self.op("Conv", x, self.constant(weights), name=self.name("conv"), **attributes)

    def model(self, *outputs: str, extra_imports: tuple = ()) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "network",
            self.inputs,
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            self.initializers,
        )
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(*entry) for entry in extra_imports)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        model = onnx.shape_inference.infer_shapes(model)
        for value in model.graph.output:  # foreign ops have no shape inference; onnxruntime needs a type only
            if not value.type.tensor_type.elem_type:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        return model


def session(model: onnx.ModelProto, library: bool) -> ort.InferenceSession:
    """A session without graph optimizations, one thread; `library`: with the kernels, else through function bodies."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if library:
        bnncc.register(options)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def with_outputs(model: onnx.ModelProto, names: dict[str, int]) -> onnx.ModelProto:
    """A copy that also gives the tensors named (name -> element type)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, kind, None) for name, kind in names.items() if name not in present
    )
    return copy


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    return np.unpackbits(packed, axis=-1, count=width, bitorder="little").astype(np.float32) * 2 - 1


def compile_and_compare(model: onnx.ModelProto, feeds: dict[str, np.ndarray], **config) -> Outcome:
    """Compile; demand equal bits at every binarizer and outputs within rounding, with and without the library."""
    outcome = run_passes(model, Config(**config))
    onnx.checker.check_model(outcome.model)
    signs = {s.original: s for s in outcome.sign_tensors}
    reference = session(with_outputs(outcome.reference, dict.fromkeys(signs, TensorProto.FLOAT)), library=False)
    expected = dict(zip([o.name for o in reference.get_outputs()], reference.run(None, feeds), strict=True))
    assert [o.name for o in outcome.model.graph.output] == [o.name for o in model.graph.output]
    for library in (True, False):
        packed_names = {s.packed: TensorProto.UINT8 for s in signs.values()}
        compiled = session(with_outputs(outcome.model, packed_names), library)
        actual = dict(zip([o.name for o in compiled.get_outputs()], compiled.run(None, feeds), strict=True))
        for name, sign in signs.items():
            bits = unpack(actual[sign.packed], sign.width).reshape(expected[name].shape)
            flips = int((bits != np.sign(expected[name])).sum())
            assert flips == 0, f"{flips} of {bits.size} bits flipped at {name} (library: {library})"
        for output in model.graph.output:
            want, got = expected[output.name], actual[output.name]
            assert got.shape == want.shape
            scale = max(np.abs(want).max(initial=0), 1e-30)
            assert np.abs(got - want).max(initial=0) <= RELATIVE_TOLERANCE * scale, (
                f"{output.name} (library: {library})"
            )
    return outcome


def statuses(outcome: Outcome) -> list[str]:
    return [layer.status for layer in outcome.layers]


def ops(outcome: Outcome) -> list[str]:
    return [node.op_type for node in outcome.model.graph.node]
