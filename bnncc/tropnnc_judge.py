"""A user's network and samples for TropNNC's tables: a graph to make smaller, and the classes that it gives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from bnncc.config import Config
from bnncc.data import Samples, load_samples, model_inputs, with_input_shapes
from bnncc.errors import BadInput
from bnncc.model_io import load_model
from bnncc.onnxruntime_errors import one_line, runtime_errors
from bnncc.passes import graph as g
from bnncc.passes.base import Context
from bnncc.passes.prepare import default_opset
from bnncc.passes.simplify import Simplify
from bnncc.reference import as_reference
from bnncc.session import OPTIMIZED, InferenceSession, session_options

_BATCH = 250


@dataclass
class Network:
    """A model as the pass that clusters channels meets it, and the reference model that it comes from."""

    path: str
    graph: gs.Graph
    context: Context
    reference: onnx.ModelProto


def load_network(model: str | os.PathLike[str], config: Config) -> Network:
    """Load and simplify a model. Raises BadInput where that cannot be."""
    loaded = load_model(model)
    path = str(loaded.path)
    reference = as_reference(with_input_shapes(loaded.proto, config.input_shapes, path), path)
    graph = gs.import_onnx(reference)
    context = Context(config=config, opset=default_opset(reference))
    Simplify().apply(graph, context)
    return Network(path, graph, context, reference)


class Judge:
    """Runs graphs on samples."""

    def __init__(self, network: Network, data: str | os.PathLike[str], threads: int) -> None:
        """Load an .npz file. Raises BadInput where it does not fit the network."""
        self.samples: Samples = load_samples(data, model_inputs(network.reference, None, network.path))
        self.threads, self.path = threads, network.path

    def accuracy(self, graph: gs.Graph) -> float:
        """Return the share of samples whose class is their label."""
        return self.agreement(graph, self.samples.labels)

    def agreement(self, graph: gs.Graph, classes: np.ndarray) -> float:
        """Return the share of samples that are given these classes [count]."""
        return float((self.classes(graph) == classes).mean())

    def classes(self, graph: gs.Graph) -> np.ndarray:
        """Return the classes that the first output gives all samples, by its largest or its only column."""
        # A single number is the logit of the second of two classes, or its probability.
        producer = g.producer(graph.outputs[0])
        boundary = 0.5 if producer is not None and producer.op == "Sigmoid" else 0.0
        found = []
        for result in self._results(gs.export_onnx(graph, do_type_check=False)):
            if result.ndim != 2 or result.shape[1] < 1:
                raise BadInput(f"{self.path}: its first output, {list(result.shape)}, does not hold classes")
            found.append(result.argmax(axis=1) if result.shape[1] > 1 else result[:, 0] > boundary)
        return np.concatenate(found).astype(np.int64)

    def tensor(self, graph: gs.Graph, name: str, count: int) -> np.ndarray:
        """Return an inner tensor of a graph for the first samples."""
        exposed = gs.export_onnx(graph, do_type_check=False)
        del exposed.graph.output[:]
        exposed.graph.output.append(onnx.ValueInfoProto(name=name))
        parts, done = [], 0
        for result in self._results(exposed):
            parts.append(result)
            done += len(result)
            if done >= count:
                break
        return np.concatenate(parts)[:count].astype(np.float64)

    def _results(self, model: onnx.ModelProto) -> Iterator[np.ndarray]:
        session = InferenceSession(
            model.SerializeToString(), threads=self.threads, sess_options=session_options(OPTIMIZED), library=False
        )
        for feeds, valid in self.samples.batches(_BATCH):
            try:
                result = session.run(None, feeds)[0]
            except runtime_errors() as error:
                raise BadInput(f"{self.path}: onnxruntime cannot run it: {one_line(error)}") from error
            yield result[:valid]
