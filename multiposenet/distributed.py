"""Several processes that train one model: started by ``torchrun``, on one machine or many.

Everything here also works in a process that is alone, where it does nothing, so that no caller asks how many there
are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from multiposenet.devices import open_device

TIMEOUT = timedelta(hours=2)
"""How long processes wait for one another; the first one may be scoring a large validation set meanwhile."""


@contextmanager
def process_group(device: str | None = None) -> Iterator[torch.device]:
    """Joins the processes that ``torchrun`` started; the device of this one.

    Args:
        device: where to compute; default: this process's own GPU if there are any, else the CPU.

    Raises:
        ValueError: no such device.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    chosen = open_device(device or (f"cuda:{local}" if torch.cuda.is_available() else "cpu"))
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield chosen
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes that train together; 1 when alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes the files."""
    return rank() == 0


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of every process's tensor, without gradient; the tensor itself when alone."""
    if world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def count_over_processes(count: Tensor) -> Tensor:
    """What a loss is divided by: the mean count of all processes, so that averaged gradients are those of one process
    with all the pictures; at least a share of 1.
    """
    return mean_over_processes(count.float()).clamp(min=1 / world_size())


def share_with_all(value: Any) -> list[Any]:
    """Every process's object, in the order of their numbers, for all."""
    if world_size() == 1:
        return [value]
    everybody = [None] * world_size()
    dist.all_gather_object(everybody, value)
    return everybody


def share_from_first(value: Any) -> Any:
    """The first process's object, for all."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_lists(own: Sequence) -> list:
    """The lists of all processes, one after the other."""
    if world_size() == 1:
        return list(own)
    lists: list[Any] = [None] * world_size()
    dist.all_gather_object(lists, list(own))
    return [item for part in lists for item in part]


def share_buffers(model: nn.Module) -> None:
    """Gives every process the first one's buffers, such as the running statistics of batch normalisation."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def wait_for_all() -> None:
    """Returns when every process has come here."""
    if world_size() > 1:
        dist.barrier()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of every process's tensor. Each has a part in the loss of all, so gradients are summed as well.

    ``torch.distributed.nn.functional`` has the same, but is on its way out.
    """
    return _Sum.apply(value)


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the pictures of all processes; PyTorch's own ``SyncBatchNorm`` refuses CPUs."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, C, H, W] -> the same, normalised by the statistics of every process's pictures."""
        if not self.training or world_size() == 1:
            return super().forward(inputs)
        values = inputs.float()
        local = values.numel() / values.shape[1]
        # Counts differ where a process has fewer pictures; they travel with the sums.
        sums = sum_over_processes(torch.cat([values.sum((0, 2, 3)), values.new_tensor([local])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean[:, None, None]
        variance = sum_over_processes(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(inputs.dtype)


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Makes every batch normalisation of a model work over all processes, in place; nothing when alone.

    Parameters keep their names, so that weights files are the same with and without.
    """
    if world_size() == 1:
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, nn.BatchNorm2d):
                continue
            if device.type == "cuda":
                synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
            else:
                synced = SyncedBatchNorm2d(layer.num_features, layer.eps, layer.momentum)
                synced.load_state_dict(layer.state_dict())
                synced.train(layer.training)
                for parameter, old in zip(synced.parameters(), layer.parameters(), strict=True):
                    parameter.requires_grad_(old.requires_grad)
            setattr(parent, name, synced)
