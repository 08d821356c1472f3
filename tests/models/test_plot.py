"""Drawing logs: a picture of what they tell, and files that are none."""

import json

import pytest

pytest.importorskip("matplotlib")

from matplotlib.image import imread

from bnncc.errors import BadInput
from bnncc.models.plot import plot_runs


def log(folder, **keys):
    folder.mkdir()
    entries = [{"epoch": epoch, **{key: value / epoch for key, value in keys.items()}} for epoch in (1, 2, 3)]
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def test_panels_are_what_the_logs_tell(tmp_path):
    float_run = log(tmp_path / "float", test_loss=1.0, train_loss=2.0, test_accuracy=0.3)
    binary_run = log(tmp_path / "binary", test_loss=1.0, flips_up=0.1, flips_down=0.2, entropy=1.0, mst_operations=0.4)
    plot_runs([float_run], tmp_path / "two.png")
    plot_runs([float_run, binary_run / "log.jsonl"], tmp_path / "five.png")
    two, five = (imread(tmp_path / name) for name in ("two.png", "five.png"))
    assert two.shape[1] > two.shape[0]  # two panels in a row, against two rows of three
    assert five.shape[0] > two.shape[0]
    assert two.std() > 0.05  # something is drawn
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["five.png", "two.png"]


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
