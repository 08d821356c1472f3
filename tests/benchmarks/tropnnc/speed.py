"""How long TropNNC takes, and how much memory, on a network of VGG-16's size: 138 million random weights.

python tests/benchmarks/tropnnc/speed.py [--tropnnc v2=0.9]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper
from onnx_graphsurgeon.logger import G_LOGGER

from bnncc.passes.tropnnc.compress import Choice, compress, find_layers
from bnncc.passes.tropnnc.cost import count_params

CHANNELS = [64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool"]
FEATURES = [4096, 4096, 1000]


def vgg_16(seed: int = 0) -> onnx.ModelProto:
    """VGG-16 for 224x224 images, weights as He initialisation draws them."""
    rng, nodes, weights = np.random.default_rng(seed), [], []
    tensor, inputs, size = "x", 3, 224

    def constant(name: str, *shape: int) -> str:
        values = rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:], initial=1)))
        weights.append(numpy_helper.from_array(values, name))
        return name

    def layer(op: str, inputs: list[str], **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [f"t{len(nodes)}"], name=f"{op.lower()}{len(nodes)}", **attributes))
        return nodes[-1].output[0]

    for number, channels in enumerate(CHANNELS):
        if channels == "pool":
            tensor, size = layer("MaxPool", [tensor], kernel_shape=[2, 2], strides=[2, 2]), size // 2
            continue
        given = [tensor, constant(f"w{number}", channels, inputs, 3, 3), constant(f"b{number}", channels)]
        tensor, inputs = layer("Relu", [layer("Conv", given, pads=[1, 1, 1, 1])]), channels
    tensor, inputs = layer("Flatten", [tensor]), inputs * size * size
    for number, features in enumerate(FEATURES):
        given = [tensor, constant(f"fw{number}", features, inputs), constant(f"fb{number}", features)]
        tensor, inputs = layer("Gemm", given, transB=1), features
        if number + 1 < len(FEATURES):
            tensor = layer("Relu", [tensor])
    graph = helper.make_graph(
        nodes, "vgg16",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, [1, FEATURES[-1]])],
        weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Compress it and say how long that took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tropnnc", default="v2=1.3", metavar="NAME=VALUE", help="keep, v1, v2 or v3 [v2=1.3]")
    name, value = parser.parse_args().tropnnc.split("=")
    choice = Choice(name, float(value))
    with G_LOGGER.suppress():
        graph = gs.import_onnx(vgg_16())
    before = count_params(graph)
    made = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    changes = compress(graph, find_layers(graph)[0], lambda node: choice, radius=1.0, progress=print)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{seconds:.1f} s; {before:,} to {count_params(graph):,} parameters; peak {peak:.0f} MiB ({made:.0f} before)")
    for change in changes:
        print(f"  {change.node}: {change.before} to {change.after}")


if __name__ == "__main__":
    main()
