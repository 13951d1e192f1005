"""The processes of one training, as torchrun or Ray Train starts them: several GPUs, several machines, or this process
alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from kernel.system.devices import Device

WAIT = timedelta(days=1)  # the first process may make features for hours while the others wait


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

    def alike(self, number: int) -> bool:
        """Whether it is the same on all of them, which all learn."""
        ends = torch.tensor([number, -number], device=self.device.name)
        if self.count > 1:
            torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX)
        return bool(ends.sum() == 0)

    def wait(self) -> None:
        if self.count > 1:
            torch.distributed.barrier()


@contextmanager
def processes(device: Device) -> Iterator[Processes]:
    """This process among those that were started together, each on a GPU of its own; else it is this one alone.

    Whoever started them says by WORLD_SIZE how many they are and by LOCAL_RANK which of its machine's this one is. Ray
    Train has joined them too, and parts them itself; where nobody has, as under torchrun, that is done here.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Processes(0, 1, device)
        return
    if device.is_gpu:
        device = Device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device.name)
    joined = torch.distributed.is_initialized()
    if not joined:
        torch.distributed.init_process_group("nccl" if device.is_gpu else "gloo", timeout=WAIT)
    try:
        yield Processes(torch.distributed.get_rank(), count, device)
    finally:
        if not joined:
            torch.distributed.destroy_process_group()
