"""Training a network on a data set: the loop, its configuration, and resuming bit for bit.

A run is fixed by its `TrainConfig`, the number of threads and that of processes: each epoch ends with a checkpoint
that holds the weights, the optimiser's state and the random states (torch's own of each process, and the generator of
shuffling and augmentation), so a run that was stopped and resumed gives the same bits as one that was not. (On a CPU;
a GPU's sums and dropout are its own.)
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from bnncc.errors import BadInput, BnnccError
from bnncc.models import checkpoint
from bnncc.models.arguments import check_arguments
from bnncc.models.augment import augment, draw
from bnncc.models.bit_statistics import BitWatch
from bnncc.models.data import DataSet
from bnncc.models.distributed import Processes, processes, spread
from bnncc.models.evaluate import evaluate
from bnncc.models.layers import constrain_weights
from bnncc.models.logs import CONFIG_NAME, LOG_NAME
from bnncc.models.mst_training import LOSSES, distance_loss
from bnncc.models.networks import build_network
from bnncc.models.schedules import MST_SCHEDULES, SCHEDULES, distance_weight, learning_rate
from bnncc.models.tree_cost import TreeCost, output_positions, tree_cost

CHECKPOINT_NAME = "checkpoint.pt"
LOOK_EVERY = 50
"""Steps between looks at the losses, for which a GPU has to be waited for."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that fixes a run, apart from where it runs: device, threads, processes, the data's folder.

    `options` are the network's constructor arguments. `batch` is that of each process. `lr` is the first learning rate,
    `schedule` "cosine" (to `min_lr`) or "steps" (times `gamma` after each of the epochs `milestones`, `min_lr` at
    least). `bf16` computes convolutions in bfloat16 (autocast) during training only; weights, batch-norm statistics and
    every evaluation stay float32. `shift` and `flip` set the augmentation. `mst_weight` is the lambda of the distances
    of `bnncc.models.mst_training` that `mst_loss` names, "centers" or "tree", 0 for none, and its mean over the run
    where `mst_schedule` lets it change; `mst_centers` and `mst_refresh` are their other arguments.
    """

    dataset: str = "fashion-mnist"
    network: str = "vgg_small"
    options: dict[str, object] = field(default_factory=dict)
    epochs: int = 10
    batch: int = 128
    optimizer: str = "adam"
    lr: float = 2e-3
    schedule: str = "cosine"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    min_lr: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    shift: int = 0
    flip: bool = False
    bf16: bool = False
    mst_weight: float = 0.0
    mst_loss: str = "centers"
    mst_centers: int = 1
    mst_refresh: int = 50
    mst_schedule: str = "constant"
    seed: int = 0

    def __post_init__(self) -> None:
        check_arguments(TrainConfig, {field.name: getattr(self, field.name) for field in fields(self)}, "training")
        if not isinstance(self.options, dict):
            raise BadInput(f"training: options is {self.options!r}, not a table")
        object.__setattr__(self, "milestones", tuple(self.milestones))  # lists, where they come from a file
        if not 0 <= self.seed < 2**63:
            raise BadInput(f"seed {self.seed} is not from 0 to 2**63 - 1")
        if self.epochs < 1 or self.batch < 2:
            raise BadInput(f"epochs {self.epochs} and batch {self.batch}: at least 1 and 2 are needed")
        if self.optimizer not in OPTIMIZERS:
            raise BadInput(f"unknown optimizer {self.optimizer!r}; there are: {', '.join(sorted(OPTIMIZERS))}")
        if not 0 < self.lr < math.inf:
            raise BadInput(f"learning rate {self.lr} is not positive and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise BadInput(f"weight decay {self.weight_decay} is not 0, or positive and finite")
        if self.schedule not in SCHEDULES:
            raise BadInput(f"unknown schedule {self.schedule!r}; there are: {', '.join(SCHEDULES)}")
        if not 0 < self.gamma <= 1 or not 0 <= self.min_lr <= self.lr:
            raise BadInput(f"gamma {self.gamma} is in (0, 1], and min_lr {self.min_lr} at most the learning rate")
        if self.schedule == "steps" and any(not 0 < epoch < self.epochs for epoch in self.milestones):
            raise BadInput(f"milestones {list(self.milestones)} are not epochs between 0 and {self.epochs}")
        if not 0 <= self.label_smoothing < 1:
            raise BadInput(f"label smoothing {self.label_smoothing} is not in [0, 1)")
        if self.shift < 0:
            raise BadInput(f"shift {self.shift} is negative")
        if self.mst_loss not in LOSSES:
            raise BadInput(f"mst: unknown loss {self.mst_loss!r}; there are: {', '.join(LOSSES)}")
        if self.mst_schedule not in MST_SCHEDULES:
            raise BadInput(f"mst: unknown schedule {self.mst_schedule!r}; there are: {', '.join(MST_SCHEDULES)}")
        if not 0 <= self.mst_weight < math.inf:
            raise BadInput(f"mst: weight {self.mst_weight} is not 0, or positive and finite")
        if self.mst_centers < 1 or self.mst_refresh < 1:
            raise BadInput(f"mst: centers {self.mst_centers} and refresh {self.mst_refresh}: at least 1 of each")


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
    config = _config_of(state, path)
    try:
        model = network_of(config)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    _load_weights(model, state, path)
    return config, model.eval()


def _config_of(state: dict, path: str | Path) -> TrainConfig:
    """Read a checkpoint's settings; those that it does not name, being older than they are, have their defaults."""
    try:
        return TrainConfig(**state["config"])
    except (TypeError, BadInput) as error:
        raise BadInput(f"{path}: not a checkpoint of this version: {error}") from error


def _load_weights(model: nn.Module, state: dict, path: str | Path) -> None:
    try:
        model.load_state_dict(state["model"])
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{path}: its weights are not those of {state['config']['network']}: {reason}") from error


def train(
    config: TrainConfig,
    data: DataSet,
    test: DataSet,
    out: str | Path,
    resume: bool = False,
    on_epoch: Callable[[dict[str, object]], None] | None = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Train a network and return it in eval mode, with the last epoch's weights.

    The folder `out` receives `config.json`, `checkpoint.pt` and `log.jsonl` (one JSON object per epoch; `on_epoch` is
    called with it too, after the checkpoint is written). With `resume`, an existing checkpoint there is continued; its
    configuration must be the one given. Without it, an existing checkpoint is an error rather than overwritten. The
    test set is scored after each epoch for the log; nothing is chosen by it.

    Where torch's launcher has started several processes, each takes its part of the data (`bnncc.models.distributed`),
    and the first one writes and calls `on_epoch`.

    Raises `BadInput` for what does not fit together and `BnnccError` when the loss stops being finite.
    """
    device = torch.device(device)
    with processes(device) as among:
        whole = config.batch * among.count
        if len(data) < whole:
            raise BadInput(f"{data.name}: {len(data)} training images are fewer than the batch of {whole}")
        return _Run(config, Path(out), resume, device, among).train(data, test, on_epoch)


def _tree_entry(cost: TreeCost) -> dict[str, float]:
    """What the log tells of trees, bits and operations as shares of those of all filters; nothing without filters."""
    if not cost.dense:
        return {}
    shares = {
        "mst_bits": (cost.mst, cost.dense),
        "tree_bits": (cost.steiner, cost.dense),
        "mst_operations": (cost.mst_operations, cost.dense_operations),
        "tree_operations": (cost.steiner_operations, cost.dense_operations),
    }
    known = {name: round(part / whole, 6) for name, (part, whole) in shares.items() if part is not None}
    return {"mst_distance": cost.distance, "mst_depth": cost.depth, **known}


class _Run:
    """The state of a run between epochs, and its files."""

    def __init__(self, config: TrainConfig, out: Path, resume: bool, device: torch.device, among: Processes) -> None:
        self.config, self.out, self.device, self.among = config, out, device, among
        torch.manual_seed(config.seed)
        self.model = network_of(config).to(device, memory_format=torch.channels_last)  # a quarter less time per step
        constrain_weights(self.model)
        self.distances = None
        if config.mst_weight:
            try:
                self.distances = distance_loss(
                    config.mst_loss, self.model, config.mst_weight, config.mst_centers, config.mst_refresh
                )
            except ValueError as error:  # no filters to be drawn together, or too few
                raise BadInput(f"mst: {error}") from error
        self.parallel = spread(self.model, among)
        self.optimizer = OPTIMIZERS[config.optimizer](
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        if among.rank:
            torch.manual_seed(config.seed + among.rank)  # dropout drops others in each process
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
        epochs = self.among.gather(self.epoch)  # and nothing is written before all have looked
        if len(set(epochs)) > 1:
            raise BadInput(f"{out}: processes find different checkpoints there, of epochs {epochs}; share the folder")
        self.watch = BitWatch(self.model)
        if among.is_first:
            for left in out.glob(f".{CHECKPOINT_NAME}.*"):  # of a run that was killed while it wrote
                left.unlink()
            # Lines after the checkpoint's epoch, or of an unfinished run without one, are not part of this run.
            try:
                (out / LOG_NAME).write_text("".join(json.dumps(entry) + "\n" for entry in self.history))
                settings = asdict(config) | {"processes": among.count}
                (out / CONFIG_NAME).write_text(json.dumps(settings, indent=2) + "\n")
            except OSError as error:
                raise BadInput(f"{error.filename}: cannot be written: {error.strerror}") from error

    def _restore(self, state: dict) -> None:
        configs = _config_of(state, self.out / CHECKPOINT_NAME), self.config
        saved, wanted = (json.loads(json.dumps(asdict(config))) for config in configs)
        differing = [
            f"{key} {saved[key]!r}, not {wanted[key]!r}" for key in sorted(wanted) if saved[key] != wanted[key]
        ]
        if differing:
            raise BadInput(f"{self.out / CHECKPOINT_NAME}: was made with other settings: {'; '.join(differing)}")
        if len(state["torch_rng"]) != self.among.count:
            raise BadInput(
                f"{self.out / CHECKPOINT_NAME}: was made by {len(state['torch_rng'])} processes, not {self.among.count}"
            )
        _load_weights(self.model, state, self.out / CHECKPOINT_NAME)
        try:
            self.optimizer.load_state_dict(state["optimizer"])
            if self.distances is not None:
                self.distances.load_state_dict(state["distances"])
            self.generator.set_state(state["generator"])
            torch.set_rng_state(state["torch_rng"][self.among.rank])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # what torch makes of other contents
            raise BadInput(
                f"{self.out / CHECKPOINT_NAME}: a damaged checkpoint: {' '.join(str(error).split())}"
            ) from error
        self.history, self.epoch = state["history"], state["epoch"]

    def train(self, data: DataSet, test: DataSet, on_epoch: Callable[[dict[str, object]], None] | None) -> nn.Module:
        """Train for the epochs that are left and return the network in eval mode."""
        positions = output_positions(self.model, data.images.shape[1:])
        for epoch in range(self.epoch, self.config.epochs):
            started = time.perf_counter()
            loss, distance, accuracy, rate = self.train_epoch(data, epoch)
            bits = self.watch.finish_epoch()
            entry: dict[str, object] = {}
            if self.among.is_first:
                score = evaluate(self.model, test)
                entry = {
                    "epoch": epoch + 1,
                    "lr": rate,
                    "train_loss": round(loss, 6),
                    "train_accuracy": round(accuracy, 6),
                    "test_loss": round(score.loss, 6),
                    "test_accuracy": round(score.accuracy, 6),
                }
                if bits is not None:
                    entry |= {name: round(value, 6) for name, value in asdict(bits).items()}
                if self.config.mst_weight:
                    entry["distance_loss"] = round(distance, 6)
                # The engine's trees take seconds: where nothing draws filters together, only at the end.
                engine = self.distances is not None or epoch + 1 == self.config.epochs
                entry |= _tree_entry(tree_cost(self.model, positions, engine))
                entry["seconds"] = round(time.perf_counter() - started, 3)
            self.finish_epoch(epoch + 1, entry)
            if on_epoch and self.among.is_first:
                on_epoch(entry)
        self.watch.close()
        return self.model.eval()

    def train_epoch(self, data: DataSet, epoch: int) -> tuple[float, float, float, float]:
        """One pass over the data in random order, the incomplete last batch left out.

        Returns the means of the task's loss and of the distances', accuracy, and the last learning rate. Each process
        takes its part of every step's images; what is drawn at random is drawn for all of them.
        """
        config, among = self.config, self.among
        self.model.train()
        order = torch.randperm(len(data), generator=self.generator).numpy()
        whole, own = config.batch * among.count, among.part(config.batch)
        steps = len(data) // whole
        sums, rate = torch.zeros(3, dtype=torch.float64, device=self.device), config.lr
        console = Console(stderr=True)
        with Progress(
            console=console, transient=True, disable=not (console.is_terminal and among.is_first)
        ) as progress:
            task = progress.add_task(f"epoch {epoch + 1}/{config.epochs}", total=steps)
            for step in range(steps):
                index = order[step * whole : (step + 1) * whole][own]
                draws = draw(whole, config.shift, config.flip, self.generator).part(own)
                images = augment(torch.from_numpy(data.inputs(index)), draws)
                images = images.to(self.device).contiguous(memory_format=torch.channels_last)
                labels = torch.from_numpy(data.labels[index]).to(self.device)
                rate = self._follow_schedules((epoch * steps + step) / (config.epochs * steps))
                sums += self._step(images, labels)
                if (step + 1) % LOOK_EVERY == 0 or step + 1 == steps:
                    loss, distance, right = among.total(sums.clone()).tolist()
                    if not math.isfinite(loss):
                        raise BnnccError(f"the loss became {loss} in epoch {epoch + 1}: lower the learning rate")
                    if not math.isfinite(distance):
                        raise BnnccError(f"the distance loss became {distance} in epoch {epoch + 1}: lower mst_weight")
                progress.advance(task)
        count = steps * among.count
        return loss / count, distance / count, right / count / config.batch, rate

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One optimiser step. Returns float64 [3], on the device: losses before it, images named rightly.

        The losses are the task's, label smoothing included, and that of distances.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bf16):
            logits = self.parallel(images)
        if logits.shape[1] == 1:  # of the second class; the first one's is 0
            logits = F.pad(logits, (1, 0))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
        distance = loss.new_zeros(()) if self.distances is None else self.distances()
        self.optimizer.zero_grad()
        (loss + distance).backward()
        self.optimizer.step()
        constrain_weights(self.model)
        right = (logits.detach().argmax(1) == labels).sum()
        return torch.stack([value.detach().double() for value in (loss, distance, right)])

    def _follow_schedules(self, progress: float) -> float:
        """Set the learning rate, which is returned, and the weight of the distances."""
        config = self.config
        milestones = [epoch / config.epochs for epoch in config.milestones]
        rate = learning_rate(config.schedule, config.lr, progress, milestones, config.gamma, config.min_lr)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.distances is not None:
            self.distances.weight = distance_weight(config.mst_schedule, config.mst_weight, progress)
        return rate

    def finish_epoch(self, epoch: int, entry: dict[str, object]) -> None:
        """Write the checkpoint, then the log line."""
        states = self.among.gather(torch.get_rng_state())
        if not self.among.is_first:
            return
        self.history.append(entry)
        checkpoint.save(
            self.out / CHECKPOINT_NAME,
            {
                "config": asdict(self.config),
                "epoch": epoch,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "distances": {} if self.distances is None else self.distances.state_dict(),
                "generator": self.generator.get_state(),
                "torch_rng": states,
                "history": self.history,
            },
        )
        try:
            with (self.out / LOG_NAME).open("a") as log:
                log.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise BadInput(f"{self.out / LOG_NAME}: cannot be written: {error.strerror}") from error
