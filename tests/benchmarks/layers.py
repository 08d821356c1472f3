"""One binary layer: its time on bits and on floats, against onnxruntime's fp32 and int8 and against other engines.

Bits to bits goes through the library on packed signs, with one thread without onnxruntime. Float to float is Sign,
Conv and BatchNormalization, compiled, in onnxruntime. The float32 layer is timed both ways too: the Conv alone for
bits, all three ops for floats. Everything that has the same shape, batch and threads takes turns.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import geometric_mean, median

import numpy as np
import onnx
import onnxruntime
from layer_cases import (
    Shape,
    Signs,
    Workload,
    fp32_conv_model,
    int8_conv_model,
    layer_model,
    workloads,
)
from logic_limit import LogicLimit
from peer_process import PAD_VALUES, Peer

import bnncc
from bnncc import runtime
from bnncc.compiled_layers import CompiledLayer, alone, compiled_layers
from bnncc.timing import Turn, interleave, turn

TURN_SECONDS = 1e-3


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables, which the library reads when a layer or a session is made."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def bound_call(model: onnx.ModelProto | Path, threads: int, inputs: dict[str, np.ndarray]) -> Callable[[], object]:
    """Return a call of a model in onnxruntime that reads these arrays and writes to memory of its own each time.

    Else the outputs' memory is taken anew in every call, whose page faults are no part of a layer.
    """
    made = session(model, threads)
    binding = made.io_binding()
    for name, value in inputs.items():
        binding.bind_cpu_input(name, value)
    for output, value in zip(made.get_outputs(), made.run(None, inputs), strict=True):
        binding.bind_ortvalue_output(output.name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
    return lambda: made.run_with_iobinding(binding)


def session(model: onnx.ModelProto | Path, threads: int) -> onnxruntime.InferenceSession:
    """Make a session of a file or a model."""
    return bnncc.InferenceSession(model if isinstance(model, Path) else model.SerializeToString(), threads=threads)


def calls_of_a_turn(seconds: float) -> int:
    """Return how many calls, of so many seconds each, make a turn of about TURN_SECONDS; three at least."""
    return max(3, min(20, round(TURN_SECONDS / seconds)))


def short_turn(call: Callable[[], object]) -> Turn:
    """Return turns of about TURN_SECONDS."""
    call()
    (once,) = turn(call)()
    return turn(call, calls_of_a_turn(once))


@dataclass
class Row:
    """Medians of one layer with one kind of filters and activations, in microseconds a call; speeds by the caller."""

    layer: str
    batch: int
    threads: int
    filters: str
    activations: str
    fraction: float
    """Differing bits along the filter tree relative to all, d/K."""
    kernel: str
    bits_us: float = 0.0
    bits_avx2_us: float | None = None
    """With one thread only, as `float_avx2_us`: turns of several take long."""
    float_us: float = 0.0
    float_avx2_us: float | None = None
    fp32_conv_us: float = 0.0
    fp32_us: float = 0.0
    int8_us: float = 0.0
    peers_us: dict[str, float] = field(default_factory=dict)
    """By engine; its convolution alone, where it tells, under "ENGINE, conv alone"."""
    kernels_us: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Bits to bits and float to float, by a kernel that BNNCC_KERNEL made the library take."""
    planes_per_ns: float | None = None
    """What the bit-plane kernel counted a nanosecond of the whole layer; only for 56x56x64, which fills its lanes."""
    limit_planes_per_ns: float | None = None
    """What the kernel's logic instructions would count on registers."""


class CompiledWorkload:
    """A workload's layer compiled, for bits and for floats."""

    def __init__(self, workload: Workload, shape: Shape, folder: Path) -> None:
        self.workload = workload
        config = bnncc.Config(verify=False)
        name = f"{shape.name}_{workload.filters}_{workload.activations}".replace(" ", "_")
        self.files = {}
        for kind, ends_in_signs in (("bits", True), ("float", False)):
            source = folder / f"{name}_{kind}_source.onnx"
            onnx.save(layer_model(workload.weight, shape.size, ends_in_signs), source)
            self.files[kind] = folder / f"{name}_{kind}.onnx"
            report = bnncc.compile(source, output=self.files[kind], config=config).report
            self.fraction = report.layers[0].tree_fraction
        self.source = source
        self.bits_model = onnx.load(self.files["bits"])

    def bits_layer(self) -> CompiledLayer:
        """Return the layer that gives bits, for the instruction set of the moment."""
        return compiled_layers(self.bits_model)[0]

    def bits_call(self, bits: np.ndarray, threads: int) -> Callable[[], object]:
        """Return a call from packed signs to packed signs; with threads, through onnxruntime."""
        layer = self.bits_layer()
        if threads == 1:
            return layer.library.bind(bits)[0]
        inputs = {layer.source: bits}
        return bound_call(alone(self.bits_model, layer, inputs), threads, inputs)

    def float_call(self, x: Signs, threads: int) -> Callable[[], object]:
        """Return a call from floats to floats."""
        return bound_call(self.files["float"], threads, {"x": x})


def measure_shape(
    shape: Shape,
    batches: Sequence[int],
    threads: Sequence[int],
    kernels: Sequence[str],
    peers: Sequence[Peer],
    limit: LogicLimit | None,
    seconds: float,
    folder: Path,
) -> list[Row]:
    """Time a shape in all ways, each batch and number of threads for about `seconds`.

    `kernels`: values of BNNCC_KERNEL to time beside the library's own choice.
    """
    compiled = [CompiledWorkload(workload, shape, folder) for workload in workloads(shape)]
    rows = []
    for count in threads:
        for batch in batches:
            rows += _measure(shape, compiled, batch, count, kernels, peers, limit, seconds, folder)
    return rows


def _measure(
    shape: Shape,
    compiled: Sequence[CompiledWorkload],
    batch: int,
    threads: int,
    kernels: Sequence[str],
    peers: Sequence[Peer],
    limit: LogicLimit | None,
    seconds: float,
    folder: Path,
) -> list[Row]:
    rows, timed = [], []  # timed: rows, the field of theirs that gets the median, turns
    forced = []  # a row, a kernel, its turns
    noise = np.random.default_rng([2, shape.size]).standard_normal((batch, shape.channels, shape.size, shape.size))
    for item in compiled:
        signs = item.workload.signs[:batch]
        x, bits = (signs * np.abs(noise)).astype(np.float32), runtime.pack_signs(signs)
        kernel = item.bits_layer().library.kernel
        row = Row(shape.name, batch, threads, item.workload.filters, item.workload.activations, item.fraction, kernel)
        rows.append(row)
        for kernel in kernels:
            with environment(BNNCC_KERNEL=kernel):
                for call in (item.bits_call(bits, threads), item.float_call(x, threads)):
                    forced.append((row, kernel, short_turn(call)))
        for suffix, variables in (("us", {}), ("avx2_us", {"BNNCC_ISA": "avx2"}))[: 2 if threads == 1 else 1]:
            with environment(**variables):
                timed.append(([row], f"bits_{suffix}", short_turn(item.bits_call(bits, threads))))
                timed.append(([row], f"float_{suffix}", short_turn(item.float_call(x, threads))))

    weight, signs = compiled[0].workload.weight, compiled[0].workload.signs[:batch]
    others = (
        ("fp32_conv_us", fp32_conv_model(weight, shape.size), signs),
        ("fp32_us", layer_model(weight, shape.size, ends_in_signs=False), signs),
        ("int8_us", int8_conv_model(weight, shape.size), (signs + 128).astype(np.uint8)),
    )
    for name, model, x in others:
        timed.append((rows, name, short_turn(bound_call(model, threads, {"x": x}))))
    peer_turns = [_peer_turn(peer, shape, weight, signs, threads, folder) for peer in peers]
    limit_turns = [short_turn(limit.run)] if limit and threads == 1 else []

    turns = [*(item[2] for item in timed), *peer_turns, *(item[2] for item in forced), *limit_turns]
    medians = [median(series) for series in interleave(turns, min_time=seconds, threads=threads)]
    for (owners, name, _), value in zip(timed, medians, strict=False):
        for row in owners:
            setattr(row, name, value * 1e6)
    for peer, value in zip(peers, medians[len(timed) :], strict=False):
        for row in rows:
            row.peers_us |= {peer.engine: value * 1e6}
            if peer.alone:
                row.peers_us |= {f"{peer.engine}, conv alone": median(peer.alone) * 1e6}
    for (row, kernel, _), value in zip(forced, medians[len(timed) + len(peers) :], strict=False):
        row.kernels_us[kernel] = (*row.kernels_us.get(kernel, ()), value * 1e6)
    if limit_turns and shape.size == 56:
        for row in rows:
            _count_planes(row, shape, limit, medians[-1])
    return rows


def _peer_turn(peer: Peer, shape: Shape, weight: Signs, signs: Signs, threads: int, folder: Path) -> Turn:
    """Set a layer up in a peer, compare what it gives with the library's sums, and return its turns."""
    layer = {"size": shape.size, "channels": shape.channels, "batch": len(signs), "threads": threads}
    y = peer.set_up(layer, {"weight": weight, "x": signs}, folder)
    expected = runtime.conv2d(
        runtime.pack_signs(signs),
        runtime.pack_signs(weight.reshape(len(weight), -1)),
        weight_shape=weight.shape,
        width=shape.size,
        pads=[1, 1, 1, 1],
        pad_value=PAD_VALUES[peer.name],
    )
    peer.exact &= np.array_equal(y, expected)
    (once,) = peer.turn(1)
    calls = calls_of_a_turn(once)
    return lambda: peer.turn(calls)


def _count_planes(row: Row, shape: Shape, limit: LogicLimit, limit_seconds: float) -> None:
    """Say how many planes the bit-plane kernel counted a nanosecond; a map's row takes 64 of a vector's lanes."""
    if row.kernel.startswith("planes"):
        vectors = row.batch * -(-shape.size // (limit.lane_bits // 64))
        planes = vectors * shape.inputs * (1 + shape.channels * row.fraction)  # the window's, and along the tree
        row.planes_per_ns = planes / row.bits_us / 1e3
        row.limit_planes_per_ns = limit.planes_per_ns(limit_seconds)


# ---- Tables ----------------------------------------------------------------------------------------------------------


def print_rows(rows: Sequence[Row]) -> None:
    """Print a table per number of threads and batch, with geometric means over the shapes."""
    for threads, batch in dict.fromkeys((row.threads, row.batch) for row in rows):
        part = [row for row in rows if (row.threads, row.batch) == (threads, batch)]
        print(f"\n{threads} thread{'s' * (threads > 1)}, batch {batch}: microseconds a call (times as fast as fp32)")
        print(
            f"{'layer':>10}  {'filters, activations':22} {'d/K':>5}  {'bits to bits':>15} {'AVX2':>15}  "
            f"{'float to float':>15} {'AVX2':>15}  kernel"
        )
        for row in part:
            print(
                f"{row.layer:>10}  {row.filters + ', ' + row.activations:22} {row.fraction:5.3f}  "
                f"{_us(row.bits_us, row.fp32_conv_us)} {_us(row.bits_avx2_us, row.fp32_conv_us)}  "
                f"{_us(row.float_us, row.fp32_us)} {_us(row.float_avx2_us, row.fp32_us)}  {row.kernel}"
            )
        for kind in dict.fromkeys((row.filters, row.activations) for row in part):
            same = [row for row in part if (row.filters, row.activations) == kind]
            means = [_mean_ratio(same, fp32, ours) for ours, fp32 in RATIOS]
            print(f"{'mean':>10}  {', '.join(kind):22} {'':5}  {means[0]} {means[1]}  {means[2]} {means[3]}")
        print("           others, the same for all filters:")
        for name in {row.layer: row for row in part}.values():
            peers = "".join(f", {engine} {value:.1f}" for engine, value in name.peers_us.items())
            print(
                f"{name.layer:>10}  onnxruntime fp32 Conv {name.fp32_conv_us:.1f}, with Sign and BatchNormalization "
                f"{name.fp32_us:.1f}, int8 {name.int8_us:.1f}{peers}"
            )
        for row in part:
            shown = ", ".join(
                f"{kernel} {bits:.1f} | {floats:.1f}" for kernel, (bits, floats) in row.kernels_us.items()
            )
            if shown:
                print(f"{row.layer:>10}  {row.filters}, {row.activations}, bits | float by kernel: {shown}")
        for row in part:
            if row.planes_per_ns is not None:
                share = row.planes_per_ns / row.limit_planes_per_ns
                what = f"{row.filters}, {row.activations}"
                print(
                    f"{row.layer:>10}  {what}: {row.planes_per_ns:.2f} planes/ns, {share:.0%} "
                    f"of {row.limit_planes_per_ns:.2f}, what the same logic instructions count on registers"
                )


RATIOS = (
    ("bits_us", "fp32_conv_us"),
    ("bits_avx2_us", "fp32_conv_us"),
    ("float_us", "fp32_us"),
    ("float_avx2_us", "fp32_us"),
)


def _us(ours: float | None, fp32: float) -> str:
    return f"{'-':>15}" if ours is None else f"{ours:7.1f} {f'({fp32 / ours:.1f}x)':>7}"


def _ratio(row: Row, fp32: str, ours: str) -> float | None:
    value = getattr(row, ours)
    return None if value is None else getattr(row, fp32) / value


def _mean_ratio(rows: Sequence[Row], fp32: str, ours: str) -> str:
    ratios = [_ratio(row, fp32, ours) for row in rows]
    return f"{'-':>15}" if None in ratios else f"{geometric_mean(ratios):14.1f}x"


def as_json(rows: Sequence[Row]) -> list[dict]:
    """Return the rows for a JSON file, with the ratios."""
    return [
        asdict(row) | {f"{ours.removesuffix('_us')}_ratio": _ratio(row, fp32, ours) for ours, fp32 in RATIOS}
        for row in rows
    ]
