"""The processes of one training, as torchrun starts them: several GPUs, several machines, or this process alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from kernel.system.devices import Device


@dataclass(frozen=True)
class Processes:
    """This one's `rank` among `count`, and its device."""

    rank: int
    count: int
    device: Device

    @property
    def first(self) -> bool:
        """The one that writes."""
        return self.rank == 0

    def sum(self, numbers: Any) -> Any:
        """The sum over all processes of a tensor of numbers."""
        if self.count > 1:
            torch.distributed.all_reduce(numbers)
        return numbers

    def wait(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()


@contextmanager
def processes(device: Device) -> Iterator[Processes]:
    """Joins those that torchrun started, each on a GPU of its own; without torchrun it is this one alone."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Processes(0, 1, device)
        return
    if device.is_gpu:
        device = Device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device.name)
    # the first one may make features for hours while the others wait
    torch.distributed.init_process_group("nccl" if device.is_gpu else "gloo", timeout=timedelta(days=1))
    try:
        yield Processes(torch.distributed.get_rank(), count, device)
    finally:
        torch.distributed.destroy_process_group()
