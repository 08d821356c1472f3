"""Tables of finished runs: those that differ in nothing but their seed are a row, with mean and deviation."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnncc.errors import BadInput
from bnncc.models.arguments import is_whole
from bnncc.models.logs import CONFIG_NAME, read_log

MEASURES = {
    "test_accuracy": "accuracy",
    "train_accuracy": "in training",
    "entropy": "entropy of bits",
    "mst_bits": "bits of all",
    "mst_operations": "bit operations of all",
    "tree_operations": "along the engine's tree",
    "mst_depth": "depth of the tree",
}
"""What the last line of a log tells, and its heading."""


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed: what sets them apart from other rows, and each measure's value in each run."""

    settings: dict[str, object]
    seeds: list[int]
    epochs: int
    measures: dict[str, list[float]]

    def to_json(self) -> dict[str, object]:
        """Return means and sample deviations, for JSON; no deviation of a single run."""
        means = {name: statistics.mean(values) for name, values in self.measures.items()}
        deviations = {name: statistics.stdev(values) for name, values in self.measures.items() if len(values) > 1}
        return {
            "settings": self.settings,
            "seeds": self.seeds,
            "epochs": self.epochs,
            "mean": means,
            "deviation": deviations,
        }


def tabulate(runs: Sequence[Path]) -> list[Row]:
    """Return the rows of runs, in the order in which they are first met.

    Raises BadInput for a folder that is no run, for one that has not reached its last epoch, and for two alike.
    """
    found: dict[str, list[tuple[dict, dict, Path]]] = {}
    for run in runs:
        config, last = _config(run), read_log(run)[-1]
        if last["epoch"] != config["epochs"]:
            raise BadInput(f"{run}: has done {last['epoch']} of {config['epochs']} epochs")
        key = json.dumps({name: value for name, value in config.items() if name != "seed"}, sort_keys=True)
        group = found.setdefault(key, [])
        twin = next((path for other, _, path in group if other["seed"] == config["seed"]), None)
        if twin is not None:
            raise BadInput(f"{run}: the same settings and seed as {twin}")
        group.append((config, last, run))
    settings = [_flat(group[0][0]) for group in found.values()]
    varying = [
        name
        for name in dict.fromkeys(name for values in settings for name in values)
        if len({json.dumps(values.get(name)) for values in settings}) > 1 and name != "seed"
    ]
    return [
        Row(
            {name: values.get(name) for name in varying},
            [config["seed"] for config, _, _ in group],
            group[0][0]["epochs"],
            {
                name: [last[name] for _, last, _ in group]
                for name in MEASURES
                if all(name in last for _, last, _ in group)
            },
        )
        for values, group in zip(settings, found.values(), strict=True)
    ]


def _config(run: Path) -> dict:
    path = run / CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{run}: not the folder of a run: {path.name} cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not the settings of a run: {error}") from error
    if not isinstance(config, dict) or not all(is_whole(config.get(name)) for name in ("epochs", "seed")):
        raise BadInput(f"{path}: not the settings of a run: no epochs or no seed in it")
    if not isinstance(config.get("options", {}), dict):
        raise BadInput(f"{path}: not the settings of a run: options is no table")
    return config


def _flat(config: dict) -> dict[str, object]:
    """Return the settings with those of tables as "weights.name" and the like, a quantizer's name alone as that."""
    flat: dict[str, object] = {}
    for name, value in config.items():
        if name == "options":
            flat |= _flat(value)
        elif isinstance(value, dict):
            flat |= {name if inner == "name" else f"{name}.{inner}": item for inner, item in value.items()}
        else:
            flat[name] = value
    return flat


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table: shares in per cent, mean and deviation."""
    names = [name for name in MEASURES if any(name in row.measures for row in rows)]
    settings = list(rows[0].settings) if rows else []
    heads = [*(name.replace("_", " ") for name in settings), "seeds", *(MEASURES[name] for name in names)]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for row in rows:
        given = ["default" if row.settings[name] is None else str(row.settings[name]) for name in settings]
        values = [_shown(name, row.measures[name]) if name in row.measures else "" for name in names]
        lines.append("| " + " | ".join([*given, str(len(row.seeds)), *values]) + " |")
    return "\n".join(lines)


def _shown(name: str, values: list[float]) -> str:
    digits, factor, unit = {"mst_depth": (1, 1, ""), "entropy": (3, 1, "")}.get(name, (2, 100, "%"))
    spread = f" ± {factor * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{factor * statistics.mean(values):.{digits}f}{spread}{unit}"
