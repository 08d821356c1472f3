"""What bnncc found and did, as dataclasses with the keys of the JSON reports."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from bnncc.errors import BadInput

_T = TypeVar("_T")


@dataclasses.dataclass
class NoteReport:
    """What a pass has to say about a node: why it left it alone, or what it did."""

    node: str
    text: str


@dataclasses.dataclass
class PassReport:
    """One pass over the graph."""

    name: str
    changed: bool
    notes: list[NoteReport]
    seconds: float


@dataclasses.dataclass
class LayerReport:
    """One convolution or linear layer with constant weights, in the order of the original graph."""

    name: str
    op: str
    status: str
    """"binary": +-1 weights and activations; "weight-binary": +-1 weights, float activations; "float"."""
    candidate: bool
    """Whether it could be binary: its weights are, or its input is a binarized activation."""
    reason: str
    """Why it is not binary; empty where it is."""
    kernel: str | None
    """The library's kernel for a single sample on this machine; None where there is none."""
    kernel_reason: str
    """Why that one: the times that each would take, estimated or measured."""
    input_shape: list[int | None] | None
    """[C, H, W] of a binary convolution's input, None for a dynamic height."""
    weight_count: int
    weight_bits: int
    """Bits per weight: 1 or 32."""
    bit_ops_dense: int
    bit_ops_mst: int | None
    """By the counting of MST-compression, over output positions: K for the root, d for every edge; None without."""
    mst_bits: int | None
    """The same without the positions: the paper's count of parameters."""
    mst_depth: int | None
    mst_size_bits: int | None
    """Bits of parameters when it must also be said where they are."""
    bit_ops_tree: int | None
    """Bits added along the kernel's tree, over output positions."""
    tree_bits: int | None
    tree_fraction: float | None
    """`tree_bits` relative to all bits of the filters: d / K."""
    tree_depth: int | None
    tree_counters: int | None
    """Sets of counters that are alive at once."""
    tree_virtual: int | None
    """Virtual filters."""
    size_before: int
    """Bytes of the weights and the constants that go with them."""
    size_after: int
    compiled_node: str | None


@dataclasses.dataclass
class TreeTotals:
    """What filter trees save, over the layers that have one, weighed by bit operations and by parameters (bits)."""

    layers: int
    operations_dense: int
    operations_mst: int
    operations_tree: int
    bits_dense: int
    bits_mst: int
    bits_mst_with_positions: int
    bits_tree: int
    depth_mst: int
    """Of the deepest tree."""


@dataclasses.dataclass
class SizeReport:
    """Bytes of the files, external data included."""

    before: int
    after: int | None


@dataclasses.dataclass
class AccuracyReport:
    """Share of the labelled samples that each model names rightly."""

    reference: float
    compiled: float


@dataclasses.dataclass
class OptimizerReport:
    """What onnxruntime's own graph optimizations flip in the reference on the same samples: a measure for near-ties."""

    near_ties: int
    near_tie_samples: int
    downstream: int
    flipped_bits: int


@dataclasses.dataclass
class VerifyReport:
    """How far two models agree. See `bnncc.verification` for what counts as what."""

    samples: int
    random_samples: int
    data_samples: int
    bits_compared: int | None
    """None where only outputs could be compared."""
    flipped_bits: int | None
    near_ties: int | None
    near_tie_samples: int | None
    downstream: int | None
    onnxruntime: OptimizerReport | None
    """Only where there are near-ties."""
    max_abs_diff: float
    """Over the outputs that are no consequence of near-ties."""
    max_abs_diff_all: float
    """Over the outputs of all samples."""
    max_rel_diff: float
    """`max_abs_diff` against the largest magnitude of the output tensor."""
    argmax_agreement: float | None
    """None where no output holds classes."""
    accuracy: AccuracyReport | None
    through: str
    """"library" or "functions": what ran the compiled model."""
    flipped_by_tensor: dict[str, int]
    failures: list[str]
    """What is wrong, in words; empty where the models agree."""
    notes: list[str]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures


@dataclasses.dataclass
class ClusteredLayer:
    """A hidden layer whose channels were clustered: the layer before the ReLU."""

    name: str
    channels_before: int
    channels_after: int
    bounds: dict[str, float]
    """Of the L1 norm of the change of the next layer's outputs, for inputs of a norm up to the radius, by name: see
    `bnncc.passes.tropnnc.certificates`. Empty where nothing was merged, or the activation is not ReLU."""
    output_bound: float | None
    """Of the L1 norm of the next layer's outputs themselves, without its bias; None as bounds are empty."""

    @property
    def relative_bound(self) -> float | None:
        """The least of the bounds as a share of output_bound."""
        return min(self.bounds.values()) / self.output_bound if self.bounds and self.output_bound else None


@dataclasses.dataclass
class ClusteringReport:
    """What TropNNC did to a network, and how far from the original that is."""

    settings: dict[str, Any]
    constant: float | None
    """Of the distance that was solved for a target."""
    radius: float
    layers: list[ClusteredLayer]
    params_before: int
    params_after: int
    flops_before: int | None
    """Operations on one sample, two per multiplication and addition; None where sizes are dynamic."""
    flops_after: int | None
    change: VerifyReport | None = None
    """`Report.change`, which other lossy steps have a part in where there are any."""


@dataclasses.dataclass
class LayerSensitivity:
    """What the network changes where only one layer's weights are binarized, on the first samples of the data."""

    samples: int
    argmax_agreement: float | None
    """Share of the samples whose class stays; None where no output holds classes."""
    accuracy_before: float | None
    """None without labels."""
    accuracy_after: float | None
    relative_change: float | None
    """Of the outputs of floats: L2 norm of the change against theirs, over all samples; None where that cannot be told,
    as of classes alone."""


@dataclasses.dataclass
class BinarizedLayerReport:
    """A float layer whose weights have two values per filter now."""

    name: str
    weights: int
    error: float
    """||W - W~|| / ||W||, before calibration."""
    sensitivity: LayerSensitivity | None
    """None without data."""


@dataclasses.dataclass
class CalibratedReport:
    """A node with statistics from the data: a BatchNormalization, or a binarized layer that none follows."""

    name: str
    op: str
    channels: int
    """Each with a mean and a deviation."""


@dataclasses.dataclass
class BinarizationReport:
    """What was binarized without training. What it costs: `Report.change`."""

    method: str
    layers: list[BinarizedLayerReport]
    calibrated: list[CalibratedReport]
    calibration_samples: int
    """The first of the data: `change` is measured on them too."""


@dataclasses.dataclass
class OpTime:
    """One node of the graph that onnxruntime runs after its optimizations, and the median of its times."""

    name: str
    op: str
    kernel: str | None
    """Those that a binary layer may use, each where it is fastest."""
    kind: str
    """"binary"; "conversion": between floats and packed signs, or between onnxruntime's layouts; "float"."""
    median_us: float
    share: float
    """Of the time of all ops."""


@dataclasses.dataclass
class KindTime:
    """The ops of one kind."""

    ops: int
    median_us: float
    """Sum of the ops' medians."""
    share: float


@dataclasses.dataclass
class ProfileReport:
    """Times of each op, by onnxruntime's profiler; calls take longer with it."""

    ops: list[OpTime]
    """In the order in which they run."""
    kinds: dict[str, KindTime]
    ops_us: float
    """Sum of the ops' medians."""
    call_us: float
    """Median of the whole call."""
    calls: int


@dataclasses.dataclass
class LayerTime:
    """A binary layer alone, and onnxruntime's float32 Conv or MatMul of the same weights on the same +-1 values."""

    name: str
    op: str
    kernel: str
    """Those that it may use, each where it is fastest."""
    input: list[int]
    """Shape of the values that the fp32 layer reads."""
    weight: list[int]
    gives: str
    """"bits", "float" or "float + bits"."""
    median_us: float
    gmac_per_s: float
    """Multiplications of +-1 by +-1 that the layer stands for, in 10^9 a second."""
    fp32_median_us: float
    ratio: float
    """fp32 over the binary layer."""


@dataclasses.dataclass
class BenchReport:
    """Times of one call, in milliseconds; `ratio` above 1 means that the model is faster than `against`."""

    model: str
    against: str | None
    median_ms: float
    against_median_ms: float | None
    ratio: float | None
    """Ratio of the medians, `against` over model."""
    pairwise_ratio: float | None
    """Median of the ratios of neighbouring calls."""
    min_ms: float
    against_min_ms: float | None
    repeats: int
    in_a_row: int
    """Calls of a model before the other's turn, after one that is not counted; 1: single calls alternate."""
    threads: int
    batch: int
    data: str
    """What was run on."""
    device: str
    cpus: int
    """CPUs that the process may use; on virtual machines two of them are often the two threads of one core."""
    isa: str
    onnxruntime: str
    profile: ProfileReport | None = None
    against_profile: ProfileReport | None = None
    layers: list[LayerTime] | None = None


@dataclasses.dataclass
class GateReport:
    """One gate that was asked for."""

    name: str
    limit: float | str
    value: float | int | None
    passed: bool
    text: str
    """The outcome in words."""


@dataclasses.dataclass
class Report:
    """Report of a compilation or an inspection."""

    bnncc: str
    model: str
    output: str | None
    source_sha256: str
    config: dict[str, Any]
    layers: list[LayerReport]
    passes: list[PassReport]
    size: SizeReport
    compiled: bool
    """Whether `model` is itself a compiled file (inspection)."""
    ops: dict[str, int] = dataclasses.field(default_factory=dict)
    """Nodes of domain bnncc by type in the compiled model."""
    trees: TreeTotals | None = None
    """None where no layer has a filter tree."""
    tropnnc: ClusteringReport | None = None
    """None where no channels were clustered."""
    binarize: BinarizationReport | None = None
    """None where no float weights were binarized."""
    change: VerifyReport | None = None
    """What the lossy steps (`tropnnc`, `binarize`) left against the original: a measure, not a check. None without
    them; with them `verify` compares the compiled model with what they left."""
    verify: VerifyReport | None = None
    bench: BenchReport | None = None
    gates: list[GateReport] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> str:
        """Serialize all of it, indented."""
        return to_json(self)


def to_json(report: Any) -> str:
    """Serialize a report dataclass; infinities and NaN, which JSON lacks, become strings."""
    return json.dumps(_finite(dataclasses.asdict(report)), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def layer_reports(records: Iterable[Any]) -> list[LayerReport]:
    """Take over the layer records of the passes."""
    names = [field.name for field in dataclasses.fields(LayerReport)]
    return [LayerReport(**{name: getattr(record, name) for name in names}) for record in records]


def clustering_report(compression: Any, settings: dict[str, Any]) -> ClusteringReport | None:
    """Take over what TropNNC did; None for nothing."""
    if compression is None:
        return None
    return ClusteringReport(
        settings=settings,
        constant=compression.constant,
        radius=compression.settings.radius,
        layers=[
            ClusteredLayer(item.node, item.before, item.after, item.bounds, item.output_bound)
            for item in compression.changes
        ],
        params_before=compression.params_before,
        params_after=compression.params_after,
        flops_before=compression.flops_before,
        flops_after=compression.flops_after,
    )


def binarization_report(
    binarization: Any, sensitivities: Mapping[str, LayerSensitivity] | None = None
) -> BinarizationReport | None:
    """Take over what became of float weights; None for nothing."""
    if binarization is None:
        return None
    sensitivities = sensitivities or {}
    return BinarizationReport(
        method=binarization.settings.method,
        layers=[
            BinarizedLayerReport(item.node, item.weights, item.error, sensitivities.get(item.node))
            for item in binarization.layers
        ],
        calibrated=[CalibratedReport(item.node, item.op, item.channels) for item in binarization.calibrated],
        calibration_samples=binarization.samples,
    )


def lossy_steps(tropnnc: object, binarize: object) -> str:
    """Name the lossy steps that there are, in words: "fewer channels (TropNNC)"."""
    words = {"fewer channels (TropNNC)": tropnnc, "binarized weights (--binarize)": binarize}
    return " and ".join(text for text, is_there in words.items() if is_there)


def tree_totals(layers: Iterable[LayerReport]) -> TreeTotals | None:
    """Sum up the filter trees of the layers that have one; operations where they are known."""
    trees = [layer for layer in layers if layer.tree_bits is not None]
    counted = [layer for layer in trees if layer.bit_ops_mst is not None]
    if not trees:
        return None
    return TreeTotals(
        layers=len(trees),
        operations_dense=sum(layer.bit_ops_dense for layer in counted),
        operations_mst=sum(layer.bit_ops_mst for layer in counted),
        operations_tree=sum(layer.bit_ops_tree for layer in counted),
        bits_dense=sum(layer.weight_count for layer in trees),
        bits_mst=sum(layer.mst_bits for layer in trees),
        bits_mst_with_positions=sum(layer.mst_size_bits for layer in trees),
        bits_tree=sum(layer.tree_bits for layer in trees),
        depth_mst=max(layer.mst_depth for layer in trees),
    )


def pass_reports(records: Iterable[Any]) -> list[PassReport]:
    """Take over the pass records of the passes."""
    return [
        PassReport(item.name, item.changed, [NoteReport(note.node, note.text) for note in item.notes], item.seconds)
        for item in records
    ]


def from_dict(kind: type[_T], values: Any, where: str) -> _T:
    """Build a flat report dataclass from parsed JSON; unknown keys are passed over, a missing one is BadInput."""
    if not isinstance(values, Mapping):
        raise BadInput(f"{where}: not an object")
    arguments = {}
    for name, hint in get_type_hints(kind).items():
        if name not in values:
            raise BadInput(f"{where}: no key {name!r}")
        if not isinstance(values[name], _json_types(hint)):
            raise BadInput(f"{where}: {name} is {values[name]!r}")
        arguments[name] = values[name]
    return kind(**arguments)


def _json_types(hint: Any) -> tuple[type, ...]:
    """Return the types that a parsed JSON value of this annotation may have."""
    types = tuple(get_origin(item) or item for item in (get_args(hint) if isinstance(hint, UnionType) else (hint,)))
    return (*types, int) if float in types else types
