"""Drawing logs: a picture of what they tell, and files that are none."""

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from matplotlib.image import imread

from bnncc.errors import BadInput
from bnncc.models import plot
from bnncc.models.logs import read_log
from bnncc.models.plot import figure_of, plot_runs


def log(folder, **keys):
    folder.mkdir()
    entries = [{"epoch": epoch, **{key: value / epoch for key, value in keys.items()}} for epoch in (1, 2, 3)]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def test_panels_are_what_the_logs_tell(tmp_path):
    float_run = log(tmp_path / "float", test_loss=1.0, train_loss=2.0, test_accuracy=0.3)
    binary_run = log(tmp_path / "binary", test_loss=1.0, flips_up=0.1, flips_down=0.2, entropy=1.0, mst_operations=0.4)
    figure = figure_of([("float", read_log(float_run)), ("binary", read_log(binary_run))])
    drawn = {
        axes.get_title().split(" (")[0]: [
            (line.get_color(), line.get_linestyle(), [round(y * x, 9) for x, y in zip(*line.get_data(), strict=True)])
            for line in axes.get_lines()
        ]
        for axes in figure.axes
    }
    assert drawn == {
        "Loss": [("C0", "-", [1.0] * 3), ("C0", "--", [2.0] * 3), ("C1", "-", [1.0] * 3)],
        "Accuracy": [("C0", "-", [0.3] * 3)],
        "Flips per bit and epoch": [("C1", "-", [0.1] * 3), ("C1", "--", [0.2] * 3)],
        "Entropy of the bits": [("C1", "-", [1.0] * 3)],
        "Bit operations of all": [("C1", "-", [0.4] * 3)],
    }
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["float", "binary"]


def test_pictures_are_written_whole(tmp_path):
    run = log(tmp_path / "run", test_loss=1.0, test_accuracy=0.3)
    plot_runs([run], tmp_path / "a.png")
    plot_runs([run / "log.jsonl"], tmp_path / "b.png")
    first, second = (imread(tmp_path / name) for name in ("a.png", "b.png"))
    assert first.std() > 0.05  # something is drawn
    assert (first == second).all()  # of a file, the folder's name
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a.png", "b.png"]


def test_runs_are_told_apart(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "figure_of", lambda logs: drawn.append([name for name, _ in logs]) or figure_of(logs))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    runs = [log(tmp_path / folder / name, test_loss=1.0) for folder, name in (("a", "1"), ("b", "1"), ("b", "2"))]
    plot_runs(runs[1:], tmp_path / "p.png")
    plot_runs(runs, tmp_path / "p.png")
    plot_runs([runs[0], runs[0] / "log.jsonl"], tmp_path / "p.png")  # one run twice
    monkeypatch.chdir(runs[1])
    plot_runs([Path()], tmp_path / "p.png")
    plot_runs([Path("log.jsonl")], tmp_path / "p.png")
    assert drawn == [["1", "2"], ["a/1", "b/1", "b/2"], ["1", "1"], ["1"], ["1"]]


def test_refused_logs_and_names(tmp_path):
    with pytest.raises(BadInput, match=r"none: cannot be read: No such file"):
        plot_runs([tmp_path / "none"], tmp_path / "p.png")
    (tmp_path / "log.jsonl").write_text("no json\n")
    with pytest.raises(BadInput, match=r"log\.jsonl: not a log of training: Expecting value"):
        plot_runs([tmp_path], tmp_path / "p.png")
    (tmp_path / "log.jsonl").write_text('{"loss": 3}\n')
    with pytest.raises(BadInput, match="not a log of training, or one without an epoch"):
        plot_runs([tmp_path], tmp_path / "p.png")
    (tmp_path / "log.jsonl").write_text('{"epoch": 1, "test_loss": "low"}\n')
    with pytest.raises(BadInput, match="not a log of training: test_loss is 'low', not a number"):
        plot_runs([tmp_path], tmp_path / "p.png")
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(BadInput, match="there is nothing in the log to draw"):
        plot_runs([tmp_path], tmp_path / "p.png")
    with pytest.raises(BadInput, match=r"p\.pdf: the plot is a PNG"):
        plot_runs([log(tmp_path / "run", test_loss=1)], tmp_path / "p.pdf")
    assert not list(tmp_path.glob("p.*"))
