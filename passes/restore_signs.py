"""restore-signs: an ONNX Sign whose input can be exactly 0 by construction is a Sign again.

Sign(0) is 0, not +1. canonicalize-binarizers takes every Sign for a binarizer; now that binary layers are known, those
come back that have a third value: after ReLU, zero padding and other ops that give exact zeros, behind sums of signs,
and behind a binary layer where the float arithmetic up to the Sign gives exactly 0 for a sum that can occur.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from bnncc.passes import binarizers, offset_sums
from bnncc.passes import binary_layers as bl
from bnncc.passes import elementwise as ew
from bnncc.passes import graph as g
from bnncc.passes.base import LAYER_OPS, Context, PassResult
from bnncc.passes.chains import Chain, chain_to, integer_chain

# Give exact zeros for whole ranges of their input.
_MAKES_ZEROS = ("Relu", "ThresholdedRelu", "Shrink", "HardSwish", "HardSigmoid", "Floor", "Ceil", "Round", "Sign",
                "Trunc", "Mod", "Not", "And", "Or", "Xor", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual",
                "OneHot", "NonZero", "TopK", "ArgMax", "ArgMin", "Shape", "Size")  # fmt: skip
# Move or select elements of their first input.
_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "MaxPool", "GlobalMaxPool", "ReduceMax",
          "ReduceMin", "Slice", "Gather", "Split", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Identity",
          "Dropout")  # fmt: skip
# Give 0 where their first input is 0.
_KEEPS_ZEROS = ("Neg", "Abs", "Sqrt", "Tanh", "Erf", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish",
                "Softsign", "Cast", "Resize", "Upsample", "Div", "Clip", "Pad")  # fmt: skip
# Add up, average or select from all their inputs.
_SUMS = ("Add", "Sub", "Sum", "Mean", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "ReduceL1")


class RestoreSigns:
    """Three-valued Signs put back."""

    name = "restore-signs"
    requires = ("canonicalize-weights",)
    guarantees = "a binarizer that came from a Sign has an input that is not exactly 0 by construction"

    def apply(self, graph: gs.Graph, context: Context) -> PassResult:
        result = PassResult()
        # In the order of computation: a Sign that is back makes exact zeros itself.
        for where in [node for node in graph.nodes if node.op == "Where"]:
            signs = where.outputs[0]
            record = context.binarizers.get(signs.name)
            comparison = binarizers.match(signs)
            if record is None or not record.was_sign or comparison is None:
                continue
            chain = integer_chain(comparison)
            reason = exact_zero(comparison.source, context) if chain is None else _zero_of_sums(chain, context)
            if reason:
                result.note(where.name, f"not a binarizer: Sign of a value that can be exactly 0 ({reason})")
                del context.binarizers[signs.name]
                source = [comparison.source]
                g.add_node(graph, "Sign", source, signs, dtype=np.float32, shape=signs.shape, name=where.name)
                result.changed = True
        if result.changed:
            g.tidy(graph)
        return result


def _zero_of_sums(chain: Chain, context: Context) -> str | None:
    """Why a binarizer behind a binary layer meets an exact 0, found by evaluation; None if it does not."""
    layer = g.producer(chain.source)
    weights, bound = bl.weights_of(layer), bl.fan_in(layer)
    function = ew.ChainFunction(chain.elementwise, weights.shape[0], context.opset)
    every_parity = bl.is_padded(layer) and weights.shape[1] % 2 == 1
    for integers, values in function.over_integers(bound):
        reachable = np.ones_like(integers, bool) if every_parity else integers % 2 == bound % 2
        hit = (values == 0) & reachable
        if hit.any():
            channel, position = np.argwhere(hit)[0]
            return f"for the sum {integers[position]} in channel {channel} of '{layer.name}'"
    return None


def exact_zero(tensor: gs.Tensor, context: Context) -> str | None:
    """Why a tensor can be exactly 0 by construction, in words, else None."""
    values = g.constant(tensor)
    if values is not None:
        return "a constant holds zeros" if (np.asarray(values) == 0).any() else None
    node = g.producer(tensor)
    if node is None:
        return None
    if binarizers.match(tensor) is not None:
        return None
    chain = chain_to(tensor)
    if chain is not None:
        return _zero_of_sums(chain, context)
    chain = chain_to(tensor, is_source=lambda source: offset_sums.match(source) is not None)
    if chain is not None:
        return offset_sums.zero_of(offset_sums.match(chain.source), chain.elementwise, context.opset)
    here = f"after {node.op} '{node.name}'"
    if node.op in _MAKES_ZEROS:
        return here
    if node.op == "Clip" and any(g.filled_value(bound) == 0 for bound in node.inputs[1:] if bound.name):
        return f"{here} with the bound 0"
    if node.op in ("Max", "Min", "Where") and any(g.filled_value(other) == 0 for other in node.inputs):
        return f"{here} with 0"
    if node.op == "Cast" and node.inputs[0].dtype is not None and node.inputs[0].dtype.kind in "iub":
        return f"{here} from integers"
    if node.op == "Pad" and bl.pad_value(node) in (None, 0):
        return f"{here} with zeros"
    if node.op in _SUMS and all(
        is_discrete(source) or exact_zero(source, context) for source in node.inputs[: _data_count(node)]
    ):
        return f"{here}, a sum of values that are discrete or can be 0"
    if node.op in LAYER_OPS and g.optional_input(node, 2) is None:
        return exact_zero(node.inputs[0], context)
    if node.op in ("Mul", "Concat", "Max", "Min", "Where"):
        return next((reason for source in _variable(node) if (reason := exact_zero(source, context))), None)
    if node.op in (*_MOVES, *_KEEPS_ZEROS):
        return exact_zero(node.inputs[0], context)
    return None


def is_discrete(tensor: gs.Tensor) -> bool:
    """Whether a tensor takes values on a lattice: signs, sums of them, integers, and their multiples."""
    if g.constant(tensor) is not None or binarizers.match(tensor) is not None:
        return True
    node = g.producer(tensor)
    if node is None:
        return False
    if node.op in ("Sign", "Floor", "Ceil", "Round") or bl.is_binary(node):
        return True
    if node.op == "Cast":
        return node.inputs[0].dtype is not None and node.inputs[0].dtype.kind in "iub"
    if node.op in (*_SUMS, *_MOVES, "Mul", "Div", "Neg", "Pad", "Concat"):
        return all(is_discrete(source) for source in node.inputs[: _data_count(node)])
    return False


def _data_count(node: gs.Node) -> int:
    """How many of a node's inputs are data; the rest say how to go about it."""
    return len(node.inputs) if node.op in ("Add", "Sub", "Sum", "Mean", "Mul", "Div", "Concat") else 1


def _variable(node: gs.Node) -> list[gs.Tensor]:
    return [source for source in node.inputs if source.name and g.constant(source) is None]
