"""Training a network on a data set: the loop, its configuration, and resuming bit for bit.

A run is fixed by its `TrainConfig` and the number of threads: each epoch ends with a checkpoint that holds the weights,
the optimiser's state and both random states (torch's own, and the generator of shuffling and augmentation), so a run
that was stopped and resumed gives the same bits as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from bnncc.errors import BadInput, BnnccError
from bnncc.models import checkpoint
from bnncc.models.augment import augment
from bnncc.models.data import DataSet
from bnncc.models.evaluate import evaluate
from bnncc.models.layers import constrain_weights
from bnncc.models.mst_training import CenterLoss, tree_cost
from bnncc.models.networks import build_network

CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "log.jsonl"


@dataclass(frozen=True)
class TrainConfig:
    """Everything that fixes a run, apart from the data's location and the number of threads.

    `options` are the network's constructor arguments. `lr` is the first learning rate of a cosine that ends at 0.
    `bf16` computes convolutions in bfloat16 (autocast) during training only; weights, batch-norm statistics and every
    evaluation stay float32. `shift` and `flip` set the augmentation. `mst_weight` is the lambda of
    `bnncc.models.mst_training.CenterLoss`, 0 for none; `mst_centers` and `mst_refresh` are its other arguments.
    """

    dataset: str
    network: str
    options: dict[str, object] = field(default_factory=dict)
    epochs: int = 10
    batch: int = 128
    optimizer: str = "adam"
    lr: float = 2e-3
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    shift: int = 0
    flip: bool = False
    bf16: bool = False
    mst_weight: float = 0.0
    mst_centers: int = 1
    mst_refresh: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise BadInput(f"epochs {self.epochs} and batch {self.batch}: at least 1 and 2 are needed")
        if self.optimizer not in OPTIMIZERS:
            raise BadInput(f"unknown optimizer {self.optimizer!r}; there are: {', '.join(sorted(OPTIMIZERS))}")
        if not 0 < self.lr < math.inf or not 0 <= self.weight_decay < math.inf:
            raise BadInput(f"learning rate {self.lr} and weight decay {self.weight_decay} are positive and finite")
        if not 0 <= self.label_smoothing < 1:
            raise BadInput(f"label smoothing {self.label_smoothing} is not in [0, 1)")
        if self.shift < 0:
            raise BadInput(f"shift {self.shift} is negative")
        if not 0 <= self.mst_weight < math.inf or self.mst_centers < 1 or self.mst_refresh < 1:
            raise BadInput(
                f"mst: weight {self.mst_weight}, centers {self.mst_centers} and refresh {self.mst_refresh} are not "
                "numbers of at least 0, 1 and 1"
            )


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": lambda parameters, **kwargs: torch.optim.SGD(parameters, momentum=0.9, **kwargs),
}


def network_of(config: TrainConfig) -> nn.Module:
    """Build the untrained network of a configuration."""
    return build_network(config.network, **config.options)


def load_trained(path: str | Path) -> tuple[TrainConfig, nn.Module]:
    """Read the configuration and the network, in eval mode, of a checkpoint."""
    state = checkpoint.load(path)
    config = TrainConfig(**state["config"])
    model = network_of(config)
    model.load_state_dict(state["model"])
    return config, model.eval()


def train(
    config: TrainConfig,
    data: DataSet,
    test: DataSet,
    out: str | Path,
    resume: bool = False,
    on_epoch: Callable[[dict[str, object]], None] | None = None,
) -> nn.Module:
    """Train a network and return it in eval mode, with the last epoch's weights.

    The folder `out` receives `checkpoint.pt` and `log.jsonl` (one JSON object per epoch; `on_epoch` is called with it
    too, after the checkpoint is written). With `resume`, an existing checkpoint there is continued; its configuration
    must be the one given. Without it, an existing checkpoint is an error rather than overwritten. The test set is
    scored after each epoch for the log; nothing is chosen by it. Raises `BadInput` for what does not fit together and
    `BnnccError` when the loss stops being finite.
    """
    if len(data) < config.batch:
        raise BadInput(f"{data.name}: {len(data)} training images are fewer than the batch of {config.batch}")
    run = _Run(config, Path(out), resume)
    for epoch in range(run.epoch, config.epochs):
        started = time.perf_counter()
        loss, accuracy = run.train_epoch(data, epoch)
        score = evaluate(run.model, test)
        entry: dict[str, object] = {
            "epoch": epoch + 1,
            "train_loss": round(loss, 6),
            "train_accuracy": round(accuracy, 6),
            "test_loss": round(score.loss, 6),
            "test_accuracy": round(score.accuracy, 6),
            "seconds": round(time.perf_counter() - started, 3),
        }
        if config.mst_weight:
            cost = tree_cost(run.model)
            entry |= {
                "mst_bits": cost.mst / cost.dense,
                "tree_bits": cost.steiner / cost.dense,
                "mst_depth": cost.depth,
            }
        run.finish_epoch(epoch + 1, entry)
        if on_epoch:
            on_epoch(entry)
    return run.model.eval()


class _Run:
    """The state of a run between epochs, and its files."""

    def __init__(self, config: TrainConfig, out: Path, resume: bool) -> None:
        self.config, self.out = config, out
        torch.manual_seed(config.seed)
        self.model = network_of(config).to(memory_format=torch.channels_last)  # a quarter less time per step
        self.optimizer = OPTIMIZERS[config.optimizer](
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.centers = None
        if config.mst_weight:
            try:
                self.centers = CenterLoss(self.model, config.mst_weight, config.mst_centers, config.mst_refresh)
            except ValueError as error:  # weights of three values
                raise BadInput(f"mst: {error}") from error
        self.generator = torch.Generator().manual_seed(config.seed)
        self.history: list[dict[str, object]] = []
        self.epoch = 0
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{out}: cannot be used as a folder: {error.strerror}") from error
        if (out / CHECKPOINT_NAME).exists():
            if not resume:
                raise BadInput(f"{out / CHECKPOINT_NAME}: exists already; resume it or choose another folder")
            self._restore(checkpoint.load(out / CHECKPOINT_NAME))
        # Lines after the checkpoint's epoch, or of an unfinished run without one, are not part of this run.
        (out / LOG_NAME).write_text("".join(json.dumps(entry) + "\n" for entry in self.history))

    def _restore(self, state: dict) -> None:
        saved, wanted = state["config"], json.loads(json.dumps(asdict(self.config)))
        differing = sorted(key for key in wanted if json.loads(json.dumps(saved.get(key))) != wanted[key])
        if differing:
            raise BadInput(f"{self.out / CHECKPOINT_NAME}: was made with another {', '.join(differing)}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.centers is not None:
            self.centers.load_state_dict(state["centers"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])
        self.history, self.epoch = state["history"], state["epoch"]

    def train_epoch(self, data: DataSet, epoch: int) -> tuple[float, float]:
        """One pass over the data in random order, the incomplete last batch left out: mean loss and accuracy."""
        config = self.config
        self.model.train()
        order = torch.randperm(len(data), generator=self.generator).numpy()
        steps = len(data) // config.batch
        loss_sum, correct = 0.0, 0
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(f"epoch {epoch + 1}/{config.epochs}", total=steps)
            for step in range(steps):
                index = order[step * config.batch : (step + 1) * config.batch]
                images = torch.from_numpy(data.inputs(index))
                images = augment(images, config.shift, config.flip, self.generator)
                labels = torch.from_numpy(data.labels[index])
                self._set_lr((epoch * steps + step) / (config.epochs * steps))
                loss, logits = self._step(images.contiguous(memory_format=torch.channels_last), labels)
                loss_sum += loss
                correct += int((logits.argmax(1) == labels).sum())
                if not math.isfinite(loss):
                    raise BnnccError(f"the loss became {loss} in epoch {epoch + 1}: lower the learning rate")
                progress.advance(task)
        return loss_sum / steps, correct / (steps * config.batch)

    def _step(self, images: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """One optimiser step; the loss before it and the logits."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            logits = self.model(images)
        if logits.shape[1] == 1:  # of the second class; the first one's is 0
            logits = F.pad(logits, (1, 0))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
        if self.centers is not None:
            loss = loss + self.centers()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        constrain_weights(self.model)
        return loss.item(), logits.detach()

    def _set_lr(self, progress: float) -> None:
        """Cosine from the configured rate at progress 0 to 0 at 1."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * 0.5 * (1 + math.cos(math.pi * progress))

    def finish_epoch(self, epoch: int, entry: dict[str, object]) -> None:
        """Write the checkpoint, then the log line."""
        self.history.append(entry)
        checkpoint.save(
            self.out / CHECKPOINT_NAME,
            {
                "config": asdict(self.config),
                "epoch": epoch,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "centers": {} if self.centers is None else self.centers.state_dict(),
                "generator": self.generator.get_state(),
                "torch_rng": torch.get_rng_state(),
                "history": self.history,
            },
        )
        with (self.out / LOG_NAME).open("a") as log:
            log.write(json.dumps(entry) + "\n")
