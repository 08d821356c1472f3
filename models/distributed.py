"""Training in several processes, one for each part of a batch, started by torch's own launcher (`torchrun`).

Gradients are averaged by DistributedDataParallel and batch-norms see the whole batch, so n processes with a batch of B
each do what one does with a batch of n B, up to the rounding of sums and to what dropout drops.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn  # before a group is there: its functions' defaults keep the one they find
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bnncc.errors import BadInput
from bnncc.models import launcher


@dataclass(frozen=True)
class Processes:
    """The number of this process and how many there are; rank 0 writes the files and speaks."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Return whether this is the process that writes."""
        return self.rank == 0

    def part(self, size: int) -> slice:
        """Return which of the `size * count` images of a step are this process's."""
        return slice(self.rank * size, (self.rank + 1) * size)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: object) -> list:
        """Return what each process has, in the order of their numbers."""
        if self.count == 1:
            return [value]
        values: list[object] = [None] * self.count
        dist.all_gather_object(values, value)
        return values


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes that the launcher has started; there is one where it has not.

    What was made of `spread` is to be dropped within.
    """
    count = launcher.process_count()
    if count == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what NCCL gathers and waits with
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except ValueError as error:  # WORLD_SIZE without the rest
        raise BadInput(f"several processes, but not started by torchrun: {error}") from error
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        # gloo's threads end when nothing holds the group any more, and must before the interpreter does: one that then
        # lets go of a tensor aborts the process. What is in cycles with DistributedDataParallel still holds it.
        gc.collect()
        dist.destroy_process_group()


def local_device(name: str) -> torch.device:
    """Return the device of that name; of several GPUs each process has its own. "auto": a GPU where there is one.

    Raises BadInput where there is none, or more processes than GPUs.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if launcher.local_rank() >= count:
        raise BadInput(f"device cuda: process {launcher.local_rank()} of this machine has none; torch sees {count}")
    return torch.device("cuda", launcher.local_rank())


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes; each one's gradient is the sum of all."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


class _WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch-norm over the batches of all processes together, on any device; torch's own is for GPUs only."""

    @classmethod
    def of(cls, norm: nn.modules.batchnorm._BatchNorm) -> _WholeBatchNorm:
        """Make one with the parameters and statistics of another. Raises BadInput for one that lacks either."""
        if not (norm.affine and norm.track_running_stats) or norm.momentum is None:
            raise BadInput("several processes: batch-norms need weight, bias and running statistics with a momentum")
        whole = cls(norm.num_features, norm.eps, norm.momentum)
        whole.weight, whole.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(whole, name, buffer)
        return whole

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any that has channels: 1-D and 2-D ones alike."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dims = [0, *range(2, x.dim())]
        shape = [1, -1] + [1] * (x.dim() - 2)
        exact = x.float()
        count = exact.new_full((1,), exact.numel() / exact.shape[1])
        sums = _Sum.apply(torch.cat([exact.sum(dims), count]))
        whole = sums[-1]
        centered = exact - (sums[:-1] / whole).reshape(shape)
        variance = _Sum.apply(centered.square().sum(dims)) / whole
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(sums[:-1] / whole, self.momentum)
            self.running_var.lerp_(variance * (whole / (whole - 1)), self.momentum)
        normalised = centered * (variance + self.eps).rsqrt().reshape(shape)
        return (normalised * self.weight.reshape(shape) + self.bias.reshape(shape)).to(x.dtype)


def spread(model: nn.Module, among: Processes) -> nn.Module:
    """Return what to call in training for the network: itself in one process, else a wrapper, its batch-norms changed.

    The network's state_dict keeps its keys.
    """
    if among.count == 1:
        return model
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, _WholeBatchNorm.of(child))
    device = next(model.parameters()).device
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
