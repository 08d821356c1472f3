"""Reports as text and JSON: units, percentages that never flatter, long names, figures that JSON lacks."""

from __future__ import annotations

import dataclasses
import io
import json

import onnx
import pytest
from rich.console import Console

import bnncc
from bnncc.report import GateReport, to_json
from bnncc.tables import count_text, percent_text, print_report, shorten, size_text


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (4_700_000, "4.7 MB"), (2_500_000_000, "2.50 GB")],
)
def test_sizes(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "-"), (12, "12"), (36_864, "36.9 k"), (115_605_504, "115.6 M"), (2 * 10**12, "2.0 T")]
)
def test_counts(count, text):
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100%"), (0.999999, "99.99%"), (0.914, "91.40%"), (0.0, "0.00%"), (None, "-")]
)
def test_percentages_never_round_up_to_all(share, text):
    assert percent_text(share) == text


def test_shorten_keeps_both_ends():
    assert shorten("short", 10) == "short"
    name = "/blocks/blocks.3/shortcut/shortcut.1/Conv"
    assert len(shorten(name, 20)) == 20
    assert shorten(name, 20).startswith("/block")
    assert shorten(name, 20).endswith("shortcut.1/Conv"[-12:])


def test_infinities_become_strings():
    gate = GateReport("max_abs_diff", float("inf"), float("nan"), False, "")
    made = json.loads(to_json(gate))
    assert (made["limit"], made["value"]) == ("inf", "nan")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_tables_fit_the_terminal(make_cnn, tmp_path, width):
    model = make_cnn()
    for node in model.graph.node:
        node.name = f"/a/very/deep/module/hierarchy/with/long/names/{node.name}/Conv"
    onnx.save(model, tmp_path / "m.onnx")
    report = bnncc.compile(tmp_path / "m.onnx", config=bnncc.Config(min_speedup=0.0, require_binary="all")).report
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=width))
    lines = buffer.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    if width >= 100:
        assert sum("conv1/Conv" in line and "2.3 k" in line for line in lines) == 1


def test_filter_trees_have_a_table(cnn):
    buffer = io.StringIO()
    report = bnncc.inspect(cnn)
    print_report(report, Console(file=buffer, width=100))
    text = buffer.getvalue()
    rows = text[text.index("Filter trees") :].splitlines()
    assert rows[1].split() == ["name", "bit-ops", "bits", "+positions", "depth", "d/K", "depth", "virtual", "counters"]
    layer = report.layers[1]
    assert rows[2].split()[0] == "conv1"
    assert f"{layer.tree_fraction:.3f}" in rows[2].split()
    assert rows[4].startswith("of dense, MST and kernels: bit operations 0.")
    report.trees = None
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=100))
    assert "Filter trees" not in buffer.getvalue()


def test_report_of_dataclasses_round_trips(cnn):
    report = bnncc.inspect(cnn)
    assert json.loads(report.to_json()) == dataclasses.asdict(report)
