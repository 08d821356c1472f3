"""Bit operations saved against time saved: the bit-plane kernel on filters that differ more and more.

Filters flip a share of a center's bits; the shares are chosen so that the differing bits along their trees, d/K, span
0.02 to 0.5. The dot kernel, which takes all bits, is timed on the same layers in turns with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from layer_cases import Shape, around_center, flip_coins
from layers import environment, short_turn
from logic_limit import LogicLimit

from bnncc import runtime
from bnncc.passes.filter_tree import NO_PARENT, FilterTree, TreeOptions, engine_tree
from bnncc.timing import interleave

SHAPES = (Shape(56, 64), Shape(28, 128))
SPANNING = TreeOptions(complement=False, steiner=False)
FLIPS = {
    "spanning tree": (0.01, 0.026, 0.053, 0.082, 0.113, 0.146, 0.184, 0.226, 0.276, 0.33, 0.5),
    "with virtual filters": (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5),
}
NO_TREE = "every filter from zeros"
LESS, MORE = 0.2, 0.45  # values of d/K whose times are compared


@dataclass(frozen=True)
class Point:
    """Median microseconds of a layer from packed signs to packed signs, one thread, batch 1."""

    layer: str
    tree: str
    flips: float
    fraction: float
    us: float


@dataclass(frozen=True)
class Savings:
    """All points of a shape; `dense_us`, the dot kernel's time; `limit_us`, by d/K 0 and 0.5: logic alone."""

    layer: str
    points: list[Point]
    dense_us: float
    limit_us: tuple[float, float] | None

    def at(self, fraction: float) -> float:
        """Return the microseconds at a d/K between points of spanning trees, on a line from one to the next."""
        points = sorted((p.fraction, p.us) for p in self.points if p.tree != "with virtual filters")
        return float(np.interp(fraction, *zip(*points, strict=True)))

    @property
    def less_to_more(self) -> float:
        """The time at LESS relative to that at MORE."""
        return self.at(LESS) / self.at(MORE)

    @property
    def less_to_dense(self) -> float:
        """The time at LESS relative to the dot kernel's."""
        return self.at(LESS) / self.dense_us


def measure(limit: LogicLimit | None, seconds: float) -> list[Savings]:
    """Time the layers of every shape for about `seconds`."""
    return [_measure(shape, limit, seconds) for shape in SHAPES]


def _measure(shape: Shape, limit: LogicLimit | None, seconds: float) -> Savings:
    rng = np.random.default_rng([3, shape.size])
    bits = runtime.pack_signs(flip_coins(rng, (1, shape.channels, shape.size, shape.size)))
    threshold = rng.integers(-20, 21, shape.channels).astype(np.int32)

    def layer(filters: np.ndarray, tree: FilterTree | None) -> runtime.Conv2d:
        hint = tree and runtime.ConvTree([len(tree.parents)], tree.parents, tree.flipped[: tree.filter_count])
        with environment(BNNCC_KERNEL="planes" if tree else "dot"):
            return runtime.Conv2d(
                filters, weight_shape=(shape.channels, shape.channels, 3, 3), width=shape.size, pads=[1, 1, 1, 1],
                threshold=threshold, tree=hint,
            )  # fmt: skip

    made, turns = [], []
    for name, flips in ((name, share) for name, shares in FLIPS.items() for share in shares):
        filters = runtime.pack_signs(around_center(rng, shape.channels, shape.inputs, flips))
        tree = engine_tree(filters, shape.inputs, SPANNING if name == "spanning tree" else None)
        made.append((name, flips, tree.planes / (shape.channels * shape.inputs)))
        turns.append(short_turn(layer(filters, tree).bind(bits)[0]))
    # The last filters are random: without a tree, each takes half of all bits.
    star = FilterTree(
        shape.channels, shape.inputs, True, np.full(shape.channels, NO_PARENT, np.int32),
        np.zeros(shape.channels, bool), filters, np.arange(shape.channels, dtype=np.int32),
        np.zeros(shape.channels, np.int32),
    )  # fmt: skip
    made.append((NO_TREE, 0.5, star.planes / (shape.channels * shape.inputs)))
    turns.append(short_turn(layer(filters, star).bind(bits)[0]))
    turns.append(short_turn(layer(filters, None).bind(bits)[0]))
    turns += [short_turn(limit.run)] if limit else []
    medians = [median(series) for series in interleave(turns, min_time=seconds)]
    points = [Point(shape.name, *item, value * 1e6) for item, value in zip(made, medians, strict=False)]
    limit_us = None
    if limit:
        lanes = {56: 64, 28: 32}[shape.size]  # of a row of the map
        window = -(-shape.size // (limit.lane_bits // lanes)) * shape.inputs / limit.planes_per_ns(medians[-1]) / 1e3
        limit_us = (window, window * (1 + 0.5 * shape.channels))
    return Savings(shape.name, points, medians[len(made)] * 1e6, limit_us)


def print_savings(savings: Sequence[Savings]) -> None:
    """Print the points, and the ratios."""
    for item in savings:
        print(f"\n{item.layer}, bits to bits: microseconds by d/K; the dot kernel takes {item.dense_us:.1f}")
        for tree in dict.fromkeys(point.tree for point in item.points):
            shown = ", ".join(f"{p.fraction:.3f}: {p.us:.1f}" for p in item.points if p.tree == tree)
            print(f"  {tree}: {shown}")
        print(
            f"  t({LESS}) / t({MORE}) = {item.less_to_more:.2f}; t({LESS}) / t(dot kernel) = {item.less_to_dense:.2f}",
            flush=True,
        )


def as_json(savings: Sequence[Savings]) -> list[dict]:
    """Return the points and ratios for a JSON file."""
    return [asdict(item) | {"less_to_more": item.less_to_more, "less_to_dense": item.less_to_dense} for item in savings]


def plot(savings: Sequence[Savings], machine: str, file: Path) -> None:
    """Draw the times over d/K. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(f"One 3x3 layer, bits to bits, one thread, {machine}", fontsize=10)
    marks = {"spanning tree": "o", "with virtual filters": "s", NO_TREE: "D"}
    for axes, item in zip(figure.subplots(1, len(savings)), savings, strict=True):
        for tree, mark in marks.items():
            points = sorted((p.fraction, p.us) for p in item.points if p.tree == tree)
            axes.plot(
                *zip(*points, strict=True), mark, linestyle="-" if len(points) > 1 else "", markersize=4, label=tree
            )
        axes.axhline(item.dense_us, color="black", linestyle="--", linewidth=1, label="dot kernel: all bits")
        if item.limit_us:
            axes.plot([0, 0.5], item.limit_us, color="gray", linestyle=":", label="its logic instructions on registers")
        axes.set(title=item.layer, xlabel="differing bits along the tree, d/K", ylabel="microseconds")
        axes.set_xlim(0, 0.52)
        axes.set_ylim(0)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(file, dpi=120)
