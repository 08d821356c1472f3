"""Command line: `python -m bnncc.models train | recipes | plot | table | evaluate | export | sample`.

Results go to stdout as JSON lines; progress to stderr when it is a terminal. Exit status: 0 done, 1 training failed,
2 bad usage or input (one line on stderr). PyTorch is loaded where it is used: `sample`, `evaluate` on an ONNX file and
every `--help` work without it.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np

from bnncc.errors import BadInput, BnnccError
from bnncc.models import data as datasets
from bnncc.models import launcher
from bnncc.models.arguments import known_arguments
from bnncc.models.evaluate import evaluate, evaluate_onnx
from bnncc.models.files import replacing
from bnncc.models.recipes import load_recipe, recipe_names, recipe_path, summary
from bnncc.models.table import markdown, tabulate


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


def named_values(texts: tuple[str, ...], hint: str) -> dict[str, Any]:
    """Read NAME=VALUE, each value as JSON or, where it is none, as a word."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=hint)
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def numbers(text: str, hint: str) -> list[int]:
    """Read whole numbers between commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers like 2,2,2", param_hint=hint) from None


def network_options(network: str, given: dict[str, Any], data: datasets.DataSet) -> dict[str, Any]:
    """Return the arguments of a network: what was asked for, and what the data set says of images and classes.

    Raises BadInput for an unknown network, and for an argument that contradicts the data set.
    """
    accepted = known_arguments(with_torch("bnncc.models.networks").network_class(network))
    said = {"in_channels": data.images.shape[1], "image_size": data.images.shape[2], "classes": data.classes}
    for name, value in said.items():
        one_logit = name == "classes" and value == 2 and given.get(name) == 1
        if given.get(name, value) != value and not one_logit:
            raise BadInput(f"network {network}: {name} is {given[name]!r}, and {value} in {data.name}")
    return {name: value for name, value in said.items() if name in accepted} | given


NETWORK_ARGUMENTS = ("width", "depths", "stem_stride", "weights", "activations")


@main.command("train")
@click.option("--recipe", metavar="NAME|FILE.toml", help="Begin with the settings of a recipe (see `recipes`).")
@click.option("--dataset", type=dataset_name, help="[default: fashion-mnist]")
@data_dir
@click.option("--network", type=TorchName("bnncc.models.networks", "NETWORKS"), help="[default: vgg_small]")
@click.option("--width", type=click.IntRange(1), help="Channels of the first layer.")
@click.option("--depths", help="Residual networks: binary convolutions of each stage, as 2,2,2.")
@click.option("--stem-stride", type=click.IntRange(1), help="Residual networks: stride of the first layer.")
@click.option(
    "--option",
    "more",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another argument of the network, in JSON or a word: widths=[512,256], activation=relu. Repeatable.",
)
@click.option(
    "--weights",
    type=TorchName("bnncc.models.quantizers", "WEIGHT_QUANTIZERS"),
    help="Weight quantizer [default: sign].",
)
@click.option(
    "--weights-option",
    multiple=True,
    metavar="NAME=VALUE",
    help="An argument of the weight quantizer: positive=0.3, scaled=true. Repeatable.",
)
@click.option(
    "--activations",
    type=TorchName("bnncc.models.quantizers", "ACTIVATION_QUANTIZERS"),
    help="Activation quantizer [default: the network's, sign for most].",
)
@click.option("--epochs", type=click.IntRange(1), help="[default: 10]")
@click.option("--batch", type=click.IntRange(2), help="Images of a step, in each process [default: 128].")
@click.option("--optimizer", type=TorchName("bnncc.models.train", "OPTIMIZERS"), help="[default: adam]")
@click.option("--lr", type=float, help="First learning rate [default: 0.002].")
@click.option("--schedule", type=TorchName("bnncc.models.schedules", "SCHEDULES"), help="[default: cosine]")
@click.option("--milestones", metavar="EPOCHS", help="steps: after which epochs the rate falls, as 30,60,90.")
@click.option("--gamma", type=float, help="steps: by what factor [default: 0.1].")
@click.option("--min-lr", type=float, help="Least learning rate [default: 0].")
@click.option("--weight-decay", type=float, help="[default: 0]")
@click.option("--label-smoothing", type=float, help="[default: 0]")
@click.option("--shift", type=click.IntRange(0), help="Augmentation: largest shift in pixels [default: the data set's]")
@click.option("--flip/--no-flip", default=None, help="Augmentation: mirror images [default: the data set's]")
@click.option(
    "--bf16/--no-bf16", default=None, help="bfloat16 convolutions while training (faster where the CPU has them)."
)
@click.option(
    "--mst-weight", type=float, help="lambda of the distances that make trees cheaper; 1e-6, say [default: 0, none]."
)
@click.option(
    "--mst-loss",
    type=TorchName("bnncc.models.mst_training", "LOSSES"),
    help="With --mst-weight: what is drawn to what [default: centers].",
)
@click.option("--mst-centers", type=click.IntRange(1), help="With --mst-weight: centers of each layer [default: 1].")
@click.option(
    "--mst-refresh",
    type=click.IntRange(1),
    help="With --mst-weight: steps until centers or trees are found anew [default: 50].",
)
@click.option(
    "--mst-schedule",
    type=TorchName("bnncc.models.schedules", "MST_SCHEDULES"),
    help="With --mst-weight: how lambda changes over the run, --mst-weight being its mean [default: constant].",
)
@click.option("--seed", type=int, help="[default: 0]")
@threads_option
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), default="cpu", help="Where to train.")
@click.option("--resume", is_flag=True, help="Continue the run in OUT, if there is one.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder for checkpoint and log.")
def train_command(recipe, data_dir, more, weights_option, threads, device, resume, out, **rest):
    """Train a network; each epoch writes OUT/checkpoint.pt and a line of OUT/log.jsonl.

    Under torch's launcher (`torchrun --nproc-per-node 2 -m bnncc.models train ...`) each process takes a part.
    """
    torch, training = with_torch("torch"), with_torch("bnncc.models.train")
    names = [field.name for field in fields(training.TrainConfig)]
    settings = {} if recipe is None else load_recipe(recipe, names)
    given = {name: value for name, value in rest.items() if value is not None}
    options = settings.pop("options", {}) | {name: given.pop(name) for name in NETWORK_ARGUMENTS if name in given}
    if isinstance(options.get("depths"), str):
        options["depths"] = numbers(options["depths"], "--depths")
    options |= named_values(more, "--option")
    if weights_option:
        spec = options.get("weights", "sign")
        spec = spec if isinstance(spec, dict) else {"name": spec}
        arguments = named_values(weights_option, "--weights-option")
        if "name" in arguments:
            raise click.BadParameter("the quantizer's name is given by --weights", param_hint="--weights-option")
        options["weights"] = spec | arguments
    if "milestones" in given:
        given["milestones"] = numbers(given["milestones"], "--milestones")
    settings |= given
    if not settings.get("mst_weight") and {"mst_loss", "mst_centers", "mst_refresh", "mst_schedule"} & given.keys():
        raise click.UsageError(
            "--mst-loss, --mst-centers, --mst-refresh and --mst-schedule go with --mst-weight, which is 0"
        )
    if "mst_centers" in given and settings.get("mst_loss", "centers") != "centers":
        raise click.UsageError("--mst-centers goes with --mst-loss centers")
    if {"milestones", "gamma"} & given.keys() and settings.get("schedule") != "steps":
        raise click.UsageError("--milestones and --gamma go with --schedule steps")
    dataset = settings.setdefault("dataset", "fashion-mnist")
    if threads:
        torch.set_num_threads(threads)
    train_set, test_set = (datasets.load(dataset, split, data_dir) for split in ("train", "test"))
    options = network_options(settings.setdefault("network", "vgg_small"), options, train_set)
    settings = {"shift": train_set.shift, "flip": train_set.flip} | settings
    config = training.TrainConfig(options=options, **settings)
    training.network_of(config)  # what it refuses is said before the configuration is
    if launcher.rank() == 0:
        emit({"config": asdict(config), "threads": torch.get_num_threads()})
    training.train(
        config,
        train_set,
        test_set,
        out,
        resume=resume,
        on_epoch=emit,
        device=with_torch("bnncc.models.distributed").local_device(device),
    )


@main.command("recipes")
def recipes_command():
    """List the recipes that come with the package."""
    for name in recipe_names():
        emit({"recipe": name, "summary": summary(name), "file": str(recipe_path(name))})


@main.command("plot")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A .png file.")
def plot_command(runs, output):
    """Draw the logs of RUNS (folders of `train`): loss, accuracy, flips and entropy of bits, bit operations."""
    try:
        plot = importlib.import_module("bnncc.models.plot")
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise BadInput("plot needs matplotlib: pip install matplotlib") from error
    plot.plot_runs(runs, output)
    emit({"output": str(output)})


@main.command("table")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table instead of JSON lines.")
def table_command(runs, as_markdown):
    """Sum up RUNS (folders of `train`) at their last epoch: those that differ in their seed are a row.

    Each figure is the mean and, after ±, the sample deviation: accuracy on the test set and in training; entropy of the
    weights' bits; bits along the minimum spanning trees and bit operations along them, of those of all filters alone;
    those along the engine's tree, with virtual filters and no price of an edge; the deepest tree's depth.
    """
    rows = tabulate(runs)
    if as_markdown:
        click.echo(markdown(rows))
        return
    for row in rows:
        emit(row.to_json())


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
        wanted, given = (datasets.class_count(name) for name in (config.dataset, dataset or config.dataset))
        if wanted != given:
            raise BadInput(f"{model}: knows {wanted} classes, {dataset} has {given}")
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
@click.option("--split", type=click.Choice(["test", "train"]), default="test", help="Of which set.")
@click.option("--count", type=click.IntRange(1), default=500, help="Images, from the start of the set.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="An .npz file.")
def sample_command(dataset, data_dir, split, count, output):
    """Write images as the networks take them, with labels, for `bnncc compile --data` and the like."""
    images = datasets.load(dataset, split, data_dir)
    if count > len(images):
        raise click.BadParameter(f"{dataset} has {len(images)} {split} images", param_hint="--count")
    with replacing(output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, image=images.inputs(slice(count)), labels=images.labels[:count])
    emit({"output": str(output), "images": count})


def run() -> None:
    """Entry point: errors that a user can cause are one line on stderr, from each process that has one."""
    try:
        main(prog_name="python -m bnncc.models", standalone_mode=False)
    except click.UsageError as error:
        _fail(f"{error.format_message()} (see {error.ctx.command_path} --help)" if error.ctx else str(error), 2)
    except click.Abort:
        _fail("interrupted", 128 + signal.SIGINT)
    except BnnccError as error:
        _fail(str(error), error.exit_status)


def _fail(text: str, status: int) -> NoReturn:
    try:
        own = launcher.rank()
    except BadInput:
        own = 0  # what the launcher says is no number: that is the error, or another came first
    where = f"process {own}: " if own else ""
    click.echo(f"error: {where}{' '.join(text.split())}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    run()
