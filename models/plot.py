"""Drawing the logs of training: a panel for each thing that they tell, a line for each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bnncc.errors import BadInput
from bnncc.models.files import replacing
from bnncc.models.logs import read_log

# Title, unit, and the keys of a log's lines with the style of each line; the first key names the panel's subject.
PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Loss (training dashed)", "nats", {"test_loss": "-", "train_loss": "--"}),
    ("Accuracy (training dashed)", "share", {"test_accuracy": "-", "train_accuracy": "--"}),
    ("Flips per bit and epoch (to -1 dashed)", "flips", {"flips_up": "-", "flips_down": "--"}),
    ("Entropy of the bits", "bits", {"entropy": "-"}),
    ("Bit operations of all (engine's tree dashed)", "share", {"mst_operations": "-", "tree_operations": "--"}),
    ("Differing bits along the MST", "bits", {"mst_distance": "-"}),
    ("Learning rate", "", {"lr": "-"}),
)


MARKERS = ".^sDv*"
"""One for each ten runs, whose colours are those of the ten before; a single epoch is a marker alone."""


def plot_runs(runs: Sequence[Path], output: Path) -> None:
    """Draw the logs of runs into a PNG file; panels of what none of them tells are left out.

    Raises BadInput for a log that cannot be read and a file that is no .png.
    """
    if output.suffix != ".png":
        raise BadInput(f"{output}: the plot is a PNG; give it a name that ends in .png")
    figure = figure_of([(name, read_log(run)) for name, run in zip(_names(runs), runs, strict=True)])
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def _names(runs: Sequence[Path]) -> list[str]:
    """Return as many of the last parts of the runs' folders as tell them apart."""
    folders = [(run if run.is_dir() else run.parent).resolve() for run in runs]
    count = 1
    while len({folder.parts[-count:] for folder in folders}) < len(set(folders)):
        count += 1
    return ["/".join(folder.parts[-count:]) for folder in folders]


def figure_of(logs: Sequence[tuple[str, list[dict[str, float]]]]) -> Figure:
    """Return the panels of named logs. Raises BadInput where they tell nothing that has one."""
    panels = [panel for panel in PANELS if any(key in log[0] for _, log in logs for key in panel[2])]
    if not panels:
        raise BadInput(f"{', '.join(name for name, _ in logs)}: there is nothing in the log to draw")
    columns = 2 if len(panels) < 5 else 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows), layout="constrained")
    for place, (title, unit, styles) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        for number, (name, log) in enumerate(logs):
            look = {"color": f"C{number % 10}", "marker": MARKERS[number // 10 % len(MARKERS)], "markersize": 3}
            for key, style in styles.items():
                epochs, values = ([entry[what] for entry in log if key in entry] for what in ("epoch", key))
                if epochs:
                    label = name if style == "-" and place == 0 else None
                    axes.plot(epochs, values, linestyle=style, label=label, **look)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
    lines = figure.axes[0].get_legend_handles_labels()
    figure.legend(*lines, fontsize=8, loc="outside right upper", ncols=-(-len(logs) // (16 * rows)))
    return figure
