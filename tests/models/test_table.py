"""Tables of runs: rows are what differs but for the seed; unfinished and doubled runs are refused."""

import json

import pytest

from bnncc.errors import BadInput
from bnncc.models.table import markdown, tabulate


def run(folder, accuracy, epochs=2, done=2, seed=0, **settings):
    folder.mkdir()
    config = {"dataset": "digits", "epochs": epochs, "seed": seed, "options": {"width": 8, **settings}}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [{"epoch": epoch, "test_accuracy": accuracy, "mst_depth": 10 + seed} for epoch in range(1, done + 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_rows_are_what_differs_but_for_the_seed(tmp_path):
    runs = [
        run(tmp_path / "a1", 0.5, seed=1, weights="sign"),
        run(tmp_path / "b1", 0.7, seed=1, weights={"name": "bi-half", "positive": 0.3}),
        run(tmp_path / "a2", 0.6, seed=2, weights="sign"),
    ]
    first, second = tabulate(runs)
    assert first.settings == {"weights": "sign", "weights.positive": None}
    assert second.settings == {"weights": "bi-half", "weights.positive": 0.3}
    assert (first.seeds, second.seeds) == ([1, 2], [1])
    told = first.to_json()
    assert told["mean"] == {"test_accuracy": pytest.approx(0.55), "mst_depth": 11.5}
    assert told["deviation"]["test_accuracy"] == pytest.approx(0.05 * 2**0.5)
    assert second.to_json()["deviation"] == {}
    assert markdown([first, second]).splitlines() == [
        "| weights | weights.positive | seeds | accuracy | depth of the tree |",
        "| --- | --- | --- | --- | --- |",
        "| sign | default | 2 | 55.00 ± 7.07% | 11.5 ± 0.7 |",
        "| bi-half | 0.3 | 1 | 70.00% | 11.0 |",
    ]


def test_refused_runs(tmp_path):
    whole = run(tmp_path / "whole", 0.5)
    with pytest.raises(BadInput, match="half: has done 1 of 2 epochs"):
        tabulate([run(tmp_path / "half", 0.5, done=1)])
    with pytest.raises(BadInput, match=r"again: the same settings and seed as \S*whole"):
        tabulate([whole, run(tmp_path / "again", 0.5)])
    with pytest.raises(BadInput, match=r"none: not the folder of a run: config\.json cannot be read"):
        tabulate([tmp_path / "none"])
    (whole / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json: not the settings of a run"):
        tabulate([whole])
    for content in ("[]", "{}"):
        (whole / "config.json").write_text(content)
        with pytest.raises(BadInput, match=r"config\.json: not the settings of a run: no epochs or no seed in it"):
            tabulate([whole])
    (whole / "config.json").write_text('{"epochs": 1, "seed": 0, "options": 3}')
    with pytest.raises(BadInput, match="not the settings of a run: options is no table"):
        tabulate([whole])
