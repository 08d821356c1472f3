"""Damages compiled models and opens each in onnxruntime: an error with a message is fine, a crash is not.

    python mutate.py MODEL.onnx COUNT SEED

Attributes, packed tensors, thresholds, types and shapes of the nodes of the domain `bnncc` are changed, dropped or made
huge, or bytes of the file anywhere. A model that still makes a session is run once on small inputs. Prints how many
were refused and how many ran. Run as a program of its own, so that a crash is an exit status.
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as states

from bnncc import runtime

WILD = [0, 1, -1, 2, 3, 7, 2**15, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, -(2**31), -(2**63), 2**63 - 1]
OPS = ["BinaryConv", "BinaryConvDual", "BinaryConvSteps", "BinaryLinear", "MaxPoolSigns", "Binarize"]
REFUSALS = tuple(
    getattr(states, name)
    for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
)


def mutate_attribute(rng: np.random.Generator, node: onnx.NodeProto) -> None:
    if not node.attribute:
        return
    attribute = node.attribute[rng.integers(len(node.attribute))]
    name, value = attribute.name, int(WILD[rng.integers(len(WILD))])
    action = rng.integers(5)
    if action == 0:
        node.attribute.remove(attribute)
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = mutate_text(rng, attribute.s)
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = value if action < 4 else attribute.i + int(rng.integers(-2, 3))
    elif action == 1 and attribute.ints:
        del attribute.ints[-1]
    elif action == 2:
        attribute.ints.append(value)
    elif action == 3:
        attribute.CopyFrom(helper.make_attribute(name, value))
    elif attribute.ints:
        attribute.ints[rng.integers(len(attribute.ints))] = value


def mutate_text(rng: np.random.Generator, text: bytes) -> bytes:
    """Cut it, make it longer, or change some of its characters, for the most part into others of base64's."""
    characters = np.frombuffer(text, np.uint8).copy()
    action = rng.integers(4)
    if action == 0:
        return text[: rng.integers(len(text) + 1)]
    if action == 1:
        return text + text[: rng.integers(len(text) + 1)]
    for _ in range(int(rng.integers(1, 5))):
        alphabet = b"AB/+09az" if action == 2 else bytes(range(256))
        if characters.size:
            characters[rng.integers(characters.size)] = alphabet[rng.integers(len(alphabet))]
    return characters.tobytes()


def mutate_constant(rng: np.random.Generator, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    names = [name for name in node.input if name in tensors]
    if not names:
        return
    tensor = tensors[names[rng.integers(len(names))]]
    array = numpy_helper.to_array(tensor).copy()
    action = rng.integers(6)
    if action == 0 and array.size:
        array.reshape(-1)[rng.integers(array.size)] = np.iinfo(array.dtype).min if array.dtype.kind in "iu" else np.nan
    elif action == 1:
        array = array[:-1]
    elif action == 2:
        array = array.reshape(-1)
    elif action == 3:
        array = np.concatenate([array, array])
    elif action == 4:
        array = array.astype(rng.choice([np.float64, np.int64, np.uint8, np.int8, np.float32]))
    else:
        array = rng.integers(0, 100, array.shape).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def mutate_wiring(rng: np.random.Generator, node: onnx.NodeProto) -> None:
    action = rng.integers(4)
    if action == 0 and len(node.input) > 1:
        first, second = rng.integers(len(node.input), size=2)
        node.input[first], node.input[second] = node.input[second], node.input[first]
    elif action == 1:
        del node.input[-1]
    elif action == 2:
        node.input.append(node.input[-1])
    else:
        node.op_type = str(rng.choice(OPS))


def mutated(rng: np.random.Generator, original: onnx.ModelProto) -> bytes:
    model = onnx.ModelProto()
    model.CopyFrom(original)
    nodes = [node for node in model.graph.node if node.domain == "bnncc"]
    for _ in range(rng.integers(1, 3)):
        node = nodes[rng.integers(len(nodes))]
        kind = rng.integers(4)
        if kind < 2:
            mutate_attribute(rng, node)
        elif kind == 2:
            mutate_constant(rng, model, node)
        else:
            mutate_wiring(rng, node)
    return model.SerializeToString()


def main() -> None:
    original, count, seed = onnx.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    refused = ran = stopped = 0
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        data = mutated(rng, original)
        if number % 5 == 4:  # any bytes
            damaged = bytearray(data)
            for _ in range(rng.integers(1, 20)):
                damaged[rng.integers(len(damaged))] = rng.integers(256)
            data = bytes(damaged)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        runtime.register(options)
        try:
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except (*REFUSALS, DecodeError, UnicodeDecodeError):
            refused += 1
            continue
        feeds = {}
        for value in session.get_inputs():
            shape = [size if isinstance(size, int) and 0 < size < 1000 else 1 for size in value.shape]
            dtype = np.uint8 if value.type == "tensor(uint8)" else np.float32
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
        try:
            session.run(None, feeds)
            ran += 1
        except (*REFUSALS, UnicodeDecodeError, ValueError, RuntimeError):
            stopped += 1
    print(f"{refused} refused, {ran} ran, {stopped} stopped with an error")


if __name__ == "__main__":
    main()
