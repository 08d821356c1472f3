"""What a user asks of TropNNC: how many channels are left, of which layers, and what stands for a cluster."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bnncc.errors import BadInput
from bnncc.passes.tropnnc.compress import CLUSTERS, THRESHOLDS, Choice
from bnncc.passes.tropnnc.modes import MODES, Merging

TARGETS = ("target_params", "target_flops")
AMOUNTS = ("keep", *THRESHOLDS, *TARGETS)
WORDS = {
    "mode": tuple(MODES),
    "clusters": CLUSTERS,
    "threshold": tuple(THRESHOLDS),
    "fold": ("each", "first"),
    "activations": ("relu", "any"),
}
"""Options that take one of some words."""


@dataclass(frozen=True)
class Settings:
    """Options of a compression.

    amount: one of AMOUNTS, and value its number: as in Choice, or the share of all parameters or operations of the
    network that is to be left at most, in (0, 1]. mode, clusters, seed: as in Choice. threshold: the kind of distance
    that a target is solved for. fold_first: batch-norms are folded into all layers before the first is compressed, and
    not into each as it is. any_activation: layers without ReLU too. radius: of the ball of a layer's inputs (of a
    window's, if a convolution) that error bounds are given for. layers: other amounts, keep or a distance, for layers
    whose names match patterns, the first that does.
    """

    amount: str
    value: float
    mode: Merging = MODES["matched"]
    clusters: str | None = None
    threshold: str = "v3"
    fold_first: bool = False
    any_activation: bool = False
    seed: int = 0
    radius: float = 1.0
    layers: tuple[tuple[str, str, float], ...] = field(default_factory=tuple)

    @property
    def is_target(self) -> bool:
        """Return whether the distance is to be solved for."""
        return self.amount in TARGETS

    def choice(self, node: str, solved: float | None = None) -> Choice:
        """Return the choice for a layer, by its first node's name; `solved`: the constant that reaches the target."""
        amount, value = (self.threshold, solved) if self.is_target else (self.amount, self.value)
        for pattern, other, number in self.layers:
            if fnmatch.fnmatchcase(node, pattern):
                amount, value = other, number
                break
        return Choice(amount, value, self.mode, self.clusters, self.seed)


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Read settings as a config file has them: an amount, words, `seed`, `radius`, and `layers` by pattern.

    Raises BadInput, in one line, for an unknown option, none or several amounts, and a value out of range.
    """
    known = (*AMOUNTS, *WORDS, "seed", "radius", "layers")
    values = {name.replace("-", "_"): value for name, value in values.items()}
    for name in values:
        if name not in known:
            raise BadInput(f"tropnnc: unknown option {name!r}; known: {_shown(*known)}")
    amount, value = _amount(values, AMOUNTS, "tropnnc")
    words = {name: values[name] for name in WORDS if name in values}
    for name, word in words.items():
        if word not in WORDS[name]:
            raise BadInput(f"tropnnc: {name} is {word!r}, not {', '.join(WORDS[name][:-1])} or {WORDS[name][-1]}")
    seed, radius = values.get("seed", 0), values.get("radius", 1.0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise BadInput(f"tropnnc: seed is {seed!r}, not a whole number from 0 to 2**32 - 1")
    if not _is_number(radius) or not 0 < radius < float("inf"):
        raise BadInput(f"tropnnc: radius is {radius!r}, not a number above 0")
    layers = _layers(values)
    mode = MODES[words.get("mode", "matched")]
    amounts = {amount, *(other for _, other, _ in layers)}
    if words.get("clusters") == "kmeans" and amounts != {"keep"}:
        raise BadInput(f"tropnnc: clusters=kmeans goes with keep, not with {_shown(*sorted(amounts - {'keep'}))}")
    if "threshold" in words and amount not in TARGETS:
        raise BadInput("tropnnc: threshold goes with target-params and target-flops")
    return Settings(
        amount,
        value,
        mode,
        words.get("clusters"),
        words.get("threshold", mode.threshold),
        words.get("fold") == "first",
        words.get("activations") == "any",
        seed,
        float(radius),
        layers,
    )


def _layers(values: Mapping[str, Any]) -> tuple[tuple[str, str, float], ...]:
    overrides = values.get("layers", {})
    if not isinstance(overrides, Mapping):
        raise BadInput("tropnnc: layers must be a table such as {'conv1*' = {keep = 0.5}}")
    layers = []
    for pattern, options in overrides.items():
        where = f"tropnnc: layers {pattern!r}"
        if not isinstance(options, Mapping):
            raise BadInput(f"{where}: must be a table such as {{keep = 0.5}}, not {options!r}")
        for name in options:
            if name not in ("keep", *THRESHOLDS):
                raise BadInput(f"{where}: unknown option {name!r}; known: keep, {', '.join(THRESHOLDS)}")
        layers.append((pattern, *_amount(options, ("keep", *THRESHOLDS), where)))
    return tuple(layers)


def _amount(values: Mapping[str, Any], names: tuple[str, ...], where: str) -> tuple[str, float]:
    given = [name for name in names if values.get(name) is not None]
    if len(given) != 1:
        one = f"one of {', '.join(names).replace('_', '-')} is to be given"
        if "layers" in values and not given:
            one += " for all layers (keep=1 leaves those that no pattern names)"
        raise BadInput(f"{where}: {one}, not {' and '.join(given)}" if given else f"{where}: {one}")
    name, value = given[0].replace("_", "-"), values[given[0]]
    if name in THRESHOLDS:
        if not _is_number(value) or not 0 <= value < float("inf"):
            raise BadInput(f"{where}: {name} is {value!r}, not a distance of at least 0")
    elif not _is_number(value) or not 0 < value <= 1:
        raise BadInput(f"{where}: {name} is {value!r}, not a share above 0 and at most 1")
    return given[0], float(value)


def _shown(*names: str) -> str:
    return ", ".join(names).replace("_", "-")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
