"""The benchmarks run, and what they write is of the right form. No figure is judged."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent / "benchmarks"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS), "--seconds", "0", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


# A peer that sums as it should, or one that takes every activation for -1.
PEER = """
import numpy as np
from serving import serve

def set_up(layer, weight, x):
    signs = np.pad(x if {exact} else -np.ones_like(x), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(signs, (3, 3), axis=(2, 3))
    y = np.einsum("nchwij,mcij->nmhw", windows, weight, optimize=True)
    return lambda: None, y, lambda: 0.25

serve("Peer 1.0", set_up)
"""


def test_layers(tmp_path):
    figures = tmp_path / "f.json"
    arguments = ("--only", "layers", "--shape", "56x56x64", "--batch", 1, "--threads", 1)
    done = run(*arguments, "--kernels", "dot", "planes", "--json", figures)
    assert done.returncode == 0, done.stderr
    made = json.loads(figures.read_text())
    assert {row["filters"] for row in made["layers"]} >= {"random", "one center"}
    for row in made["layers"]:
        assert (row["layer"], row["batch"], row["threads"]) == ("56x56x64", 1, 1)
        assert 0 < row["fraction"] < 0.5
        assert row["bits_ratio"] == pytest.approx(row["fp32_conv_us"] / row["bits_us"])
        assert row["float_avx2_ratio"] == pytest.approx(row["fp32_us"] / row["float_avx2_us"])
        assert row["int8_us"] > 0
        assert {kernel: len(times) for kernel, times in row["kernels_us"].items()} == {"dot": 2, "planes": 2}
    assert made["machine"]["device"] in done.stdout
    for text in ("1 thread, batch 1", "bits to bits", "mean  random, coin flips", "onnxruntime fp32 Conv"):
        assert text in done.stdout


def test_savings(tmp_path):
    pytest.importorskip("matplotlib")
    figures, plot = tmp_path / "f.json", tmp_path / "p.png"
    done = run("--only", "savings", "--json", figures, "--plot", plot)
    assert done.returncode == 0, done.stderr
    assert plot.read_bytes().startswith(b"\x89PNG")
    for shape in json.loads(figures.read_text())["savings"]:
        fractions = sorted(point["fraction"] for point in shape["points"])
        assert fractions[0] < 0.03
        assert fractions[-1] == pytest.approx(0.5, abs=0.01)
        assert shape["less_to_dense"] == pytest.approx(
            shape["less_to_more"] * _at_more(shape["points"]) / shape["dense_us"]
        )


def _at_more(points: list[dict]) -> float:
    """The time at a d/K of 0.45: on the line between the two nearest trees without virtual filters."""
    known = sorted((p["fraction"], p["us"]) for p in points if p["tree"] != "with virtual filters")
    (x0, y0), (x1, y1) = next(pair for pair in itertools.pairwise(known) if pair[1][0] >= 0.45)
    return y0 + (y1 - y0) * (0.45 - x0) / (x1 - x0)


@pytest.mark.parametrize("exact", [True, False])
def test_peers(tmp_path, monkeypatch, exact):
    """The protocol, with an engine of our own, in the place of OpenVINO."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import layers
    import numpy as np
    import peer_process
    from layer_cases import Shape, flip_coins

    script = tmp_path / "peer.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(BENCHMARKS / 'peers')!r})\n" + PEER.format(exact=exact))
    rng = np.random.default_rng(0)
    weight, signs = flip_coins(rng, (8, 8, 3, 3)), flip_coins(rng, (2, 8, 5, 5))
    peer = peer_process.Peer("openvino", sys.executable, str(script))
    take = layers._peer_turn(peer, Shape(5, 8), weight, signs, 1, tmp_path)
    assert (peer.engine, peer.exact) == ("Peer 1.0", exact)
    assert len(take()) == 20
    assert set(peer.alone) == {0.25}
    peer.close()


# A peer that runs the network on onnxruntime, or gives other values.
NETWORK_PEER = """
import onnxruntime
from serving import serve

def set_up(network, x):
    session = onnxruntime.InferenceSession(network["model"])
    run = lambda: session.run(None, {{"image": x}})
    return run, {factor} * run()[0]

serve("Peer 1.0", set_up)
"""


@pytest.mark.parametrize("factor", [1, 2])
def test_networks(tmp_path, monkeypatch, capsys, factor):
    """A small one, against an engine in the place of OpenVINO whose output is the same or is not."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import networks
    import peer_process

    def small():
        net = networks.Network(0)
        x = net.binary_conv(net.float_conv("image", 3, 8, 3, pads=[1] * 4), 8, 8)
        return net.model(net.node("Flatten", net.norm(x, 8, 72)), 8 * 36, 4, [3, 6, 6])

    monkeypatch.setitem(networks.NETWORKS, "small", small)
    script = tmp_path / "peer.py"
    paths = f"import sys\nsys.path.insert(0, {str(BENCHMARKS / 'peers')!r})\n"
    script.write_text(paths + NETWORK_PEER.format(factor=factor))
    peer = peer_process.Peer("openvino", sys.executable, str(script))
    row = networks.measure("small", 1, [peer], 0.0)
    peer.close()
    assert (row["binary_layers"], row["flipped_bits"], row["threads"]) == (1, 0, 1)
    assert row["ratio"] == pytest.approx(row["onnxruntime_fp32_median_ms"] / row["median_ms"])
    figures = row["peers"]["Peer 1.0"]
    assert figures["ratio"] == pytest.approx(figures["fp32_median_ms"] / row["median_ms"])
    # onnxruntime optimizes both alike, so that the same network rounds the same.
    assert figures["difference"] == pytest.approx(factor - 1, abs=1e-6)
    printed = capsys.readouterr().out
    assert "Peer 1.0 fp32" in printed
    assert ("NOT THE SAME" in printed) == (factor == 2)


def test_networks_and_a_peer_that_is_not_there(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "networks.py"), "--openvino-python", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert done.stderr.startswith("networks: ")
    assert "No such file" in done.stderr


def test_an_unknown_kernel():
    done = run("--only", "layers", "--shape", "56x56x64", "--kernels", "magic")
    assert done.returncode == 1
    assert 'BNNCC_KERNEL is "magic"' in done.stderr.splitlines()[-1]


def test_a_peer_that_is_not_there(tmp_path):
    for python, cause in ((tmp_path / "none", "No such file"), (sys.executable, "openvino: its process ended")):
        done = run("--only", "layers", "--shape", "56x56x64", "--openvino-python", python)
        assert done.returncode == 1
        assert cause in done.stderr.splitlines()[-1]
        assert done.stderr.splitlines()[-1].startswith("benchmarks: ")
