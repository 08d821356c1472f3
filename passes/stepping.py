"""Running a graph step by step over samples, so that nodes further on may still change: each node runs once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime

from bnncc.errors import BadInput
from bnncc.passes import graph as g

_IR_VERSION = 10  # the latest that onnxruntime 1.18 reads

MOST_BYTES = 2 << 30
"""Activations that are to be held at one time; where they are large, fewer samples are taken."""

Values = dict[str, np.ndarray]


class Stepper:
    """Has run the nodes of a sorted graph up to some place, on batches of inputs, and keeps what the others need."""

    def __init__(self, graph: gs.Graph, batches: Sequence[Mapping[str, np.ndarray]], threads: int) -> None:
        """`batches`: inputs by name; `threads` of onnxruntime, 0 for as many as it likes.

        What runs raises BadInput for values that are no tensors, and onnxruntime's own errors.
        """
        self.graph, self.threads = graph, threads
        self.place = 0
        self.most_bytes = 0  # held at one time so far
        self.values: list[Values] = [dict(feeds) for feeds in batches]

    def advance(self, node: gs.Node) -> None:
        """Run all nodes before this one that have not run yet. Constants of what comes may be changed afterwards."""
        place = next(index for index, own in enumerate(self.graph.nodes) if own is node)
        done, left = self.graph.nodes[self.place : place], self.graph.nodes[place:]
        wanted = {tensor.name for later in left for tensor in g.reads(later)}
        wanted |= {tensor.name for tensor in self.graph.outputs}
        made = [tensor.name for own in done for tensor in own.outputs if tensor.name and tensor.name in wanted]
        if made:
            for values, results in zip(self.values, self._run(done, made), strict=True):
                values.update(zip(made, results, strict=True))
        self.most_bytes = max(self.most_bytes, sum(x.nbytes for values in self.values for x in values.values()))
        self.values = [{name: x for name, x in values.items() if name in wanted} for values in self.values]
        self.place = place

    @staticmethod
    def that_fit(
        graph: gs.Graph,
        nodes: Sequence[gs.Node],
        batches: Sequence[Mapping[str, np.ndarray]],
        threads: int,
        with_outputs: bool = False,
    ) -> Sequence[Mapping[str, np.ndarray]]:
        """Return the first of the batches, one at least, as MOST_BYTES hold on the way to the last of the nodes.

        The first batch is run to see. with_outputs: the graph's outputs are held all the while.
        """
        stepper = Stepper(graph, batches[:1], threads)
        for node in nodes:
            stepper.advance(node)
        needed = stepper.most_bytes
        if with_outputs:
            needed += sum(x.nbytes for outputs in stepper.outputs() for x in outputs)
        return batches[: max(1, MOST_BYTES // max(needed, 1))]

    def value(self, tensor: gs.Tensor) -> Iterator[np.ndarray]:
        """Yield a tensor that has been computed, or is an input, for each batch."""
        return (values[tensor.name] for values in self.values)

    def look(self, node: gs.Node) -> Iterator[np.ndarray]:
        """Yield the first output of the next node for each batch, without going past it."""
        return (results[0] for results in self._run([node], [node.outputs[0].name]))

    def outputs(self) -> Iterator[list[np.ndarray]]:
        """Yield the graph's outputs, but for constants, for each batch, without going on."""
        names = [tensor.name for tensor in self.graph.outputs if g.constant(tensor) is None]
        return self._run(self.graph.nodes[self.place :], names)

    def outputs_with(self, layer: gs.Node, weights: np.ndarray) -> Iterator[list[np.ndarray]]:
        """Yield the graph's outputs for each batch without going on, with other weights for a layer to come.

        The graph has them until the last batch.
        """
        own = layer.inputs[1]
        layer.inputs[1] = gs.Constant(g.fresh_name(self.graph, f"{own.name}_other"), weights)
        try:
            yield from self.outputs()
        finally:
            layer.inputs[1] = own

    def _run(self, nodes: Sequence[gs.Node], outputs: list[str]) -> Iterator[list[np.ndarray]]:
        graph = self.graph
        piece = gs.Graph(list(nodes), opset=graph.opset, import_domains=graph.import_domains)
        model = gs.export_onnx(piece, do_type_check=False)
        model.ir_version = min(model.ir_version, _IR_VERSION)
        read = {tensor.name for node in nodes for tensor in g.reads(node)}
        given = [name for name in self.values[0] if name in read]
        made = {tensor.name for node in nodes for tensor in node.outputs}
        wanted = [name for name in outputs if name in made]  # others are inputs of the graph, or known already
        del model.graph.value_info[:]
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(self.values[0][name].dtype), None
            )
            for name in given
        )
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        for values in self.values:
            results = session.run(wanted, {name: values[name] for name in given})
            for name, result in zip(wanted, results, strict=True):
                if not isinstance(result, np.ndarray):
                    raise BadInput(f"'{name}' is no tensor: a network with such values cannot be run step by step")
            found = {**values, **dict(zip(wanted, results, strict=True))}
            yield [found[name] for name in outputs]
