"""What --binarize costs trained float networks: accuracy on test images, calibrated on training images, and file sizes.

BNNCC_DATA=... python tests/benchmarks/binarize.py [--cifar10 FOLDER] [--only NAME ...] [--json F]

ResNets are Y. Idelbayev's and mnist-conv is Microsoft's, from $BNNCC_DATA/models; FOLDER has CIFAR-10's binary version;
the LeNet and the MLP are trained, where they are not there yet, as for TropNNC's tables. Every row is what
`bnncc compile MODEL -o OUT --binarize METHOD --layers PATTERN [--calibrate --data TRAIN.npz]` writes, run by plain
onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tropnnc.train_networks import trained

import bnncc
from bnncc.models import data as datasets

SAMPLES = 1000  # training images to calibrate with
METHODS = ("dab", "bihalf", "xnor")


@dataclass
class Case:
    """A trained network, its data, and patterns of layers to binarize: none for the default."""

    model: Callable[[], Path]
    dataset: str
    patterns: tuple[tuple[str, ...], ...]
    mean: tuple[float, ...] | None = None  # other pixels than the data set's own; 0 to 1, less the mean, over std
    std: tuple[float, ...] = (1.0,)


@dataclass
class Row:
    """What came of one compilation: accuracies in %, bytes of files and of the layers that were binarized."""

    network: str
    layers: str
    binarized: int
    method: str
    calibrated: bool
    before: float
    after: float
    file_before: int
    file_after: int
    weights_before: int
    weights_after: int


def shared(*parts: str) -> Path:
    """Return a file of the optional data."""
    return Path(os.environ["BNNCC_DATA"]).joinpath("models", *parts)


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # what the ResNets were trained with
CASES = {
    "resnet20": Case(
        lambda: shared("resnet-cifar10-float", "resnet20_cifar10.onnx"),
        "cifar10", ((), ("layer3.*",), ("layer3.2.*",)), **IMAGENET,
    ),
    "resnet56": Case(
        lambda: shared("resnet-cifar10-float", "resnet56_cifar10.onnx"),
        "cifar10", ((), ("layer3.*",), ("layer3.[5-8].*",)), **IMAGENET,
    ),
    "mnist-conv": Case(
        lambda: shared("onnx-float", "mnist-conv.onnx"), "mnist", ((), ("*",)), mean=(0.0,), std=(1 / 255,)
    ),
    "lenet": Case(lambda: trained("deepcnn2d-fashion", 0), "fashion-mnist", ((), ("*",))),
    "mlp": Case(lambda: trained("deepnn-mnist", 0), "mnist", ((), ("*",))),
}  # fmt: skip


def inputs(case: Case, split: str, folder: Path | None, count: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return images as the network takes them, and labels."""
    data = datasets.load(case.dataset, split, folder if case.dataset == "cifar10" else None)
    part = slice(count)
    if case.mean is None:
        return data.inputs(part), data.labels[part]
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (case.mean, case.std))
    return (data.images[part].astype(np.float32) / 255 - mean) / std, data.labels[part]


def accuracy(model: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share, in %, of images whose class is their label."""
    session = ort.InferenceSession(model)
    source = session.get_inputs()[0]
    batch = source.shape[0] if isinstance(source.shape[0], int) else 250
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    found = np.concatenate([session.run(None, {source.name: part})[0].argmax(axis=1) for part in parts])
    return float(100 * (found == labels).mean())


def measure(name: str, case: Case, folder: Path | None) -> list[Row]:
    """Compile a network in all ways, and print a row for each."""
    model = case.model()
    test = inputs(case, "test", folder, None)
    source = ort.InferenceSession(model).get_inputs()[0].name
    before, rows = accuracy(model, *test), []
    with tempfile.TemporaryDirectory() as temporary:
        data, output = Path(temporary) / "train.npz", Path(temporary) / "out.onnx"
        np.savez(data, **{source: inputs(case, "train", folder, SAMPLES)[0]})
        for patterns in case.patterns:
            for method in METHODS:
                for calibrate in (False, True):
                    settings = {"method": method, "layers": list(patterns), "calibrate": calibrate}
                    config = bnncc.Config(binarize=settings, verify=False)
                    report = bnncc.compile(model, output, config, data=data).report
                    chosen = {layer.name for layer in report.binarize.layers}
                    layers = [layer for layer in report.layers if layer.name in chosen]
                    rows.append(
                        Row(
                            name,
                            " ".join(patterns) or "all but first and last",
                            len(chosen),
                            method,
                            calibrate,
                            before,
                            accuracy(output, *test),
                            report.size.before,
                            report.size.after,
                            sum(layer.size_before for layer in layers),
                            sum(layer.size_after for layer in layers),
                        )
                    )
                _print(rows[-2:])
    return rows


def _print(pair: list[Row]) -> None:
    plain, calibrated = pair
    print(
        f"{plain.network:<11} {plain.layers:<23} {plain.binarized:3} {plain.method:<7} {plain.before:6.2f} "
        f"{plain.after:6.2f} {calibrated.after:11.2f}  {plain.file_before / plain.file_after:5.1f}x "
        f"{plain.weights_before / plain.weights_after:5.1f}x",
        flush=True,
    )


def main() -> None:
    """Measure the networks asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", type=Path, metavar="FOLDER", help="[default: $BNNCC_DATA/data/cifar10]")
    parser.add_argument("--only", choices=CASES, nargs="+", default=list(CASES), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="F.json")
    options = parser.parse_args()
    print("network     layers                      method  before  after  calibrated   file weights")
    rows = [row for name in options.only for row in measure(name, CASES[name], options.cifar10)]
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
