"""Command line: `python -m bnncc.models train | evaluate | export | sample`.

Results go to stdout as JSON lines; progress to stderr when it is a terminal. Exit status: 0 done, 1 training failed,
2 bad usage or input (one line on stderr). PyTorch is loaded where it is used: `sample`, `evaluate` on an ONNX file and
every `--help` work without it.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from bnncc.errors import BadInput, BnnccError
from bnncc.models import data as datasets
from bnncc.models.evaluate import evaluate, evaluate_onnx
from bnncc.models.files import replacing


def with_torch(module: str) -> Any:
    """Import a module that needs PyTorch. Raises BadInput, saying how to install it, where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "onnxscript"):
            raise
        raise BadInput("needs PyTorch: pip install '.[models]' in the folder of bnncc") from error


class TorchName(click.ParamType):
    """An option that takes one of the names in a module's registry, which is read when the option is."""

    name = "name"

    def __init__(self, module: str, registry: str) -> None:
        self.module, self.registry = module, registry

    def choice(self) -> click.Choice:
        """Return the type that knows the names. Raises BadInput without PyTorch."""
        return click.Choice(sorted(getattr(with_torch(self.module), self.registry)))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.choice().convert(value, param, ctx)

    def get_metavar(self, *arguments: Any, **keywords: Any) -> str | None:
        try:
            return self.choice().get_metavar(*arguments, **keywords)
        except BadInput:
            return None  # help without PyTorch has no names to show


def emit(entry: dict[str, object]) -> None:
    """Print one JSON line on stdout."""
    click.echo(json.dumps(entry))


data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder of the data set's files [default: $BNNCC_DATA/data/NAME]",
)


class DataSetName(click.ParamType):
    """An option that takes a data set's name, with or without classes."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            datasets.source_of(value)
        except BadInput as error:
            self.fail(str(error), param, ctx)
        return value

    def get_metavar(self, *arguments: Any, **keywords: Any) -> str | None:
        return f"[{'|'.join(sorted(datasets.SOURCES))}][:CLASS,CLASS,...]"


dataset_name = DataSetName()
threads_option = click.option("--threads", type=click.IntRange(1), help="CPU threads [default: one per core]")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Train binary neural networks, and small float ones, and export them to ONNX."""


def network_options(network: str, given: dict[str, Any], more: tuple[str, ...], data: datasets.DataSet) -> dict:
    """Return the arguments of a network's class: what was asked for, and what the data set says.

    Raises BadInput for one that it does not have.
    """
    accepted = inspect.signature(with_torch("bnncc.models.networks").NETWORKS[network]).parameters
    options = {name: value for name, value in given.items() if value is not None}
    if (depths := options.get("depths")) is not None:
        try:
            options["depths"] = [int(depth) for depth in depths.split(",")]
        except ValueError:
            raise click.BadParameter(f"{depths!r} is not a list of numbers like 2,2,2", param_hint="--depths") from None
    for text in more:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--option")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    for name in options:
        if name not in accepted:
            raise BadInput(f"network {network}: takes no {name}; it takes {', '.join(accepted)}")
    moderate = {"width": 64, "depths": [2, 2, 2], "weights": "sign", "activations": "sign"}
    if "weights" in accepted:
        options = {name: value for name, value in moderate.items() if name in accepted} | options
    said = {"in_channels": data.images.shape[1], "image_size": data.images.shape[2], "classes": data.classes}
    return {name: value for name, value in said.items() if name in accepted} | options


@main.command("train")
@click.option("--dataset", type=dataset_name, default="fashion-mnist")
@data_dir
@click.option("--network", type=TorchName("bnncc.models.networks", "NETWORKS"), default="vgg_small")
@click.option("--width", type=click.IntRange(1), help="Channels of the first layer [default: 64 if binary].")
@click.option("--depths", help="bireal_resnet: binary convolutions of each stage [default: 2,2,2].")
@click.option("--stem-stride", type=click.IntRange(1), help="bireal_resnet: stride of the first layer [default: 1].")
@click.option(
    "--option",
    "more",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another argument of the network's class, in JSON or a word: widths=[512,256], activation=relu. Repeatable.",
)
@click.option(
    "--weights",
    type=TorchName("bnncc.models.quantizers", "WEIGHT_QUANTIZERS"),
    help="Weight quantizer [default: sign].",
)
@click.option(
    "--activations",
    type=TorchName("bnncc.models.quantizers", "ACTIVATION_QUANTIZERS"),
    help="Activation quantizer [default: sign].",
)
@click.option("--epochs", type=click.IntRange(1), default=10)
@click.option("--batch", type=click.IntRange(2), default=128)
@click.option("--optimizer", type=TorchName("bnncc.models.train", "OPTIMIZERS"), default="adam")
@click.option("--lr", type=float, default=2e-3, help="First learning rate of the cosine.")
@click.option("--weight-decay", type=float, default=0.0)
@click.option("--label-smoothing", type=float, default=0.0)
@click.option("--shift", type=click.IntRange(0), help="Augmentation: largest shift in pixels [default: the data set's]")
@click.option("--flip/--no-flip", default=None, help="Augmentation: mirror images [default: the data set's]")
@click.option("--bf16", is_flag=True, help="bfloat16 convolutions while training (faster where the CPU has them).")
@click.option(
    "--mst-weight", type=float, default=0.0, help="lambda of the distance of filters from centers; 4e-6, say."
)
@click.option("--mst-centers", type=click.IntRange(1), default=1, help="Centers of each layer.")
@click.option("--seed", type=int, default=0)
@threads_option
@click.option("--resume", is_flag=True, help="Continue the run in OUT, if there is one.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for checkpoint and log.")
def train_command(dataset, data_dir, network, more, shift, flip, threads, resume, out, **rest):
    """Train a network; each epoch writes OUT/checkpoint.pt and a line of OUT/log.jsonl."""
    torch, training = with_torch("torch"), with_torch("bnncc.models.train")
    given = {name: rest.pop(name) for name in ("width", "depths", "stem_stride", "weights", "activations")}
    if threads:
        torch.set_num_threads(threads)
    train_set = datasets.load(dataset, "train", data_dir)
    test_set = datasets.load(dataset, "test", data_dir)
    options = network_options(network, given, more, train_set)
    config = training.TrainConfig(
        dataset,
        network,
        options,
        shift=train_set.shift if shift is None else shift,
        flip=train_set.flip if flip is None else flip,
        **rest,
    )
    emit({"config": asdict(config), "threads": torch.get_num_threads()})
    training.train(config, train_set, test_set, out, resume=resume, on_epoch=emit)


@main.command("evaluate")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--dataset", type=dataset_name, help="[default: what a checkpoint was trained on]")
@data_dir
@threads_option
def evaluate_command(model, dataset, data_dir, threads):
    """Accuracy on the test set of MODEL: a checkpoint (.pt), or an ONNX file run by onnxruntime."""
    if model.suffix == ".onnx":
        if not dataset:
            raise click.UsageError("an ONNX file does not say its data set: give --dataset")
        score = evaluate_onnx(model, datasets.load(dataset, "test", data_dir), threads=threads or 0)
    else:
        torch, training = with_torch("torch"), with_torch("bnncc.models.train")
        if threads:
            torch.set_num_threads(threads)
        config, network = training.load_trained(model)
        wanted, given = (datasets.image_shape(name) for name in (config.dataset, dataset or config.dataset))
        if wanted != given:
            raise BadInput(f"{model}: takes images of {list(wanted)}, {dataset} has {list(given)}")
        score = evaluate(network, datasets.load(dataset or config.dataset, "test", data_dir))
    emit(asdict(score))


@main.command("export")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--exporter", type=TorchName("bnncc.models.export", "EXPORTERS"), default="torchscript")
@click.option(
    "--weights",
    type=TorchName("bnncc.models.export", "WEIGHT_FORMS"),
    default="binary",
    help="What is stored of binary layers.",
)
@click.option("--fold-batch-norm", is_flag=True, help="Let the exporter fold batch-norms into convolutions.")
def export_command(checkpoint, output, exporter, weights, fold_batch_norm):
    """Write the network of CHECKPOINT to an ONNX file."""
    config, network = with_torch("bnncc.models.train").load_trained(checkpoint)
    export = with_torch("bnncc.models.export").export
    export(network, output, datasets.image_shape(config.dataset), exporter, weights, fold_batch_norm)
    emit({"output": str(output), "bytes": output.stat().st_size})


@main.command("sample")
@click.option("--dataset", type=dataset_name, default="fashion-mnist")
@data_dir
@click.option("--count", type=click.IntRange(1), default=500, help="Images, from the start of the test set.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="An .npz file.")
def sample_command(dataset, data_dir, count, output):
    """Write test images as the networks take them, with labels, for `bnncc compile --data` and the like."""
    test = datasets.load(dataset, "test", data_dir)
    if count > len(test):
        raise click.BadParameter(f"{dataset} has {len(test)} test images", param_hint="--count")
    with replacing(output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, image=test.inputs(slice(count)), labels=test.labels[:count])
    emit({"output": str(output), "images": count})


def run() -> None:
    """Entry point: errors that a user can cause are one line on stderr."""
    try:
        main()
    except BnnccError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    run()
