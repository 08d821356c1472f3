"""What a graph pass is, and what passes tell each other and the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_graphsurgeon as gs

LAYER_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Unsuitable(Exception):
    """Why a pass leaves something as it is, in words."""


@dataclass(frozen=True)
class Note:
    """Why a candidate was left alone, or what is worth knowing about one that was not: one sentence about one node."""

    node: str
    text: str


@dataclass
class PassResult:
    """Whether a pass changed the graph, and its notes.

    lossy: it changed what the network computes, as the user asked. What it left is what compiled models are held to,
    bit for bit; how far that is from the original is measured and reported by itself.
    """

    changed: bool = False
    notes: list[Note] = field(default_factory=list)
    lossy: bool = False

    def note(self, node: str, text: str) -> None:
        self.notes.append(Note(node, text))


@dataclass
class LayerRecord:
    """One Conv, ConvTranspose, Gemm or MatMul with constant weights of the original model, and what became of it.

    status is "binary" (signs times signs, lowered to a custom op), "weight-binary" (binary weights, float
    activations: stays float) or "float". `candidate` says that the layer looked binary (a binarizer before it or binary
    weights), so that a float outcome is worth the user's attention. `exact_sums`: the original's own float sums are
    exact, whatever their order, so that no bit behind them may differ. Sizes are bytes of weights and per-channel
    parameters; bit operations are one XNOR and one count per weight and output position, as one operation. What is said
    of trees is None without one: mst_* and bit_ops_mst of the paper's (`filter_tree.paper_tree`), summed over groups,
    mst_size_bits with the positions of the differing bits; tree_* and bit_ops_tree of the kernel's.
    """

    name: str
    op: str
    weight_count: int
    size_before: int
    status: str = "float"
    reason: str = ""
    candidate: bool = False
    kernel: str | None = None
    kernel_reason: str = ""
    input_shape: list[int | None] | None = None
    weight_bits: int = 32
    exact_sums: bool = False
    bit_ops_dense: int = 0
    bit_ops_mst: int | None = None
    mst_bits: int | None = None
    mst_depth: int | None = None
    mst_size_bits: int | None = None
    bit_ops_tree: int | None = None
    tree_bits: int | None = None
    tree_fraction: float | None = None
    tree_depth: int | None = None
    tree_counters: int | None = None
    tree_virtual: int | None = None
    size_after: int = 0
    compiled_node: str | None = None


@dataclass(frozen=True)
class Binarizer:
    """A binarizer of the reference model: `signs` is +1 where `source` compares true with `threshold`, else -1.

    threshold: float32 [1] or [C]; direction: int8 [1] or [C], +1 for source >= threshold, -1 for source <= threshold;
    nan_bit: the bit that NaN becomes; was_sign: it was an ONNX Sign, which maps exact zeros to 0.
    """

    signs: str
    source: str
    threshold: np.ndarray
    direction: np.ndarray
    nan_bit: int = 0
    was_sign: bool = False


@dataclass(frozen=True)
class SignTensor:
    """Where the bits of a reference binarizer are found in the compiled model.

    original, pre_activation: the +-1 tensor in the reference model and the float tensor it was taken from; threshold:
    float32 [1] or [C]; packed: the uint8 tensor of the compiled model; width: the length of its last axis in signs;
    exact: the original compares exact sums, so that no bit may differ; else it compares rounded floats, which can be
    near-ties.
    """

    original: str
    pre_activation: str
    threshold: np.ndarray
    packed: str
    width: int
    exact: bool = True


@dataclass
class Context:
    """What the passes of one compilation share.

    layers: by node name, in graph order. binarizers: by the name of their +-1 tensor, as canonicalize found them.
    sign_tensors: filled by lowering; passes after it keep the names of packed tensors. compression: what TropNNC did
    (passes/cluster_channels.py). binarization: what became of float weights (passes/binarize_weights.py,
    passes/calibrate.py). samples: the user's inputs, a batch each, by name; None without data. progress: to be told, in
    a line, of what takes long.
    """

    config: Any
    opset: int
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    binarizers: dict[str, Binarizer] = field(default_factory=dict)
    sign_tensors: list[SignTensor] = field(default_factory=list)
    compression: Any = None
    binarization: Any = None
    samples: Sequence[Mapping[str, np.ndarray]] | None = None
    progress: Callable[[str], None] | None = None


class Pass(Protocol):
    """A rewrite of the whole graph with one subject.

    Every pass is idempotent, leaves graph inputs and outputs (names, order, types) as they were, never edits an
    initializer in place (another node may read it), and leaves a graph of standard ops that computes the same function,
    unless it says that it is lossy; only from lowering on there are ops of the domain `bnncc`.
    """

    name: str
    requires: tuple[str, ...]  # names of passes that must have run before; the pipeline checks it
    guarantees: str  # what holds of the graph afterwards, in words

    def apply(self, graph: gs.Graph, context: Context) -> PassResult: ...
