"""The networks of the paper's section 7.1, 7.2 and 7.4, trained on MNIST and Fashion-MNIST and exported to ONNX.

BNNCC_DATA=... python tests/benchmarks/tropnnc/train_networks.py [--folder build/tropnnc] [--seeds 5]

What is there already is left as it is; a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bnncc.models import data as datasets

FOLDER = Path("build/tropnnc")
SEEDS = 5
EPOCHS = 5
NETWORKS: dict[str, tuple[str, str, dict[str, object]]] = {
    "cnn-3-5": ("mnist:3,5", "hidden_layer_cnn", {"classes": 1}),
    "cnn-4-9": ("mnist:4,9", "hidden_layer_cnn", {"classes": 1}),
    "cnn-mnist": ("mnist", "hidden_layer_cnn", {}),
    "cnn-fashion": ("fashion-mnist", "hidden_layer_cnn", {}),
    "deepnn-mnist": ("mnist", "mlp", {}),
    "deepnn-fashion": ("fashion-mnist", "mlp", {}),
    "deepcnn2d-mnist": ("mnist", "lenet", {"activation": "relu"}),
    "deepcnn2d-fashion": ("fashion-mnist", "lenet", {"activation": "relu"}),
    "lenet-mnist": ("mnist", "lenet", {"activation": "tanh"}),
    "lenet-fashion": ("fashion-mnist", "lenet", {"activation": "tanh"}),
}
"""Data set, network and its options, by the names that the tables and figures use."""


def trained(name: str, seed: int, folder: Path = FOLDER) -> Path:
    """Return the ONNX file of a network trained with a seed: five epochs of Adam, without augmentation."""
    target = folder / f"{name}-{seed}.onnx"
    if target.exists():
        return target
    from bnncc.models.export import export  # PyTorch is needed for training only
    from bnncc.models.train import TrainConfig, train

    dataset, network, options = NETWORKS[name]
    config = TrainConfig(dataset, network, options, epochs=EPOCHS, lr=1e-3, seed=seed)
    splits = (datasets.load(dataset, split) for split in ("train", "test"))
    model = train(
        config, *splits, folder / "runs" / f"{name}-{seed}", resume=True,
        on_epoch=lambda entry: print(f"{name}, seed {seed}: {entry}", flush=True),
    )  # fmt: skip
    return export(model, target, datasets.image_shape(dataset))


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    for name in NETWORKS:
        for seed in range(options.seeds):
            trained(name, seed, options.folder)


if __name__ == "__main__":
    main()
