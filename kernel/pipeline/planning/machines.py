"""Several machines: how many with which GPUs, what they move over the network, and what they cost."""

import re
from dataclasses import dataclass

from kernel.pipeline.planning.gpus import Gpu, gpu_named
from kernel.pipeline.planning.stage_costs import ASSUMED as OF_A_RUN
from kernel.pipeline.planning.stage_costs import assumed

SYNTAX = "before it N machines of it as NxGPU, such as 8xL4"


@dataclass(frozen=True)
class Assumed:
    """What lies between the machines."""

    network_bytes_a_second: float = assumed(1.25e9, "bytes a second over the network of one machine (10 Gbit/s)")
    store_bytes_a_second: float = assumed(1e9, "bytes a second from or to the disk that all machines share")


ASSUMED = Assumed()


@dataclass(frozen=True)
class Machines:
    """`count` equal machines, each with the devices of `gpu`; one alone has the shared disk for its own."""

    count: int
    gpu: Gpu

    @property
    def devices(self) -> int:
        return self.count * self.gpu.count

    @property
    def label(self) -> str:
        return f"{self.count} machines of {self.gpu.label}" if self.count > 1 else f"1 machine of {self.gpu.label}"

    def moving_seconds(self, size: float, machines: int | None = None) -> float:
        """Of `size` bytes from or to the shared disk, by all machines together or by so many of them."""
        if self.count == 1:
            return size / ASSUMED.store_bytes_a_second
        network = (machines or self.count) * ASSUMED.network_bytes_a_second
        return size / min(ASSUMED.store_bytes_a_second, network)

    def over_network(self, size: float) -> float:
        """What of `size` bytes from or to the shared disk crosses the network."""
        return size if self.count > 1 else 0

    def exchanged_bytes(self, size: float) -> float:
        """What crosses each machine's network, in and as much out, while every device's `size` bytes are summed up
        round a ring: 2 (n - 1) / n times as much, of n devices. Example: 100 bytes of 2 machines of one device: 100"""
        return 2 * (self.devices - 1) / self.devices * size if self.count > 1 else 0

    def cost(self, seconds: float, price: float | None) -> float | None:
        """At a `price` of one machine for an hour; all are held to the end."""
        return None if price is None else seconds / 3600 * self.count * price

    @property
    def worker_libraries(self) -> float:
        """GB of the host that the libraries of one device's worker take."""
        return OF_A_RUN.cpu_libraries_gb if self.gpu.is_cpu else OF_A_RUN.gpu_libraries_gb


def machines_named(text: str) -> Machines:
    """`8xL4`, `4xT4x2` (4 machines of two), `2xA100`, `3x24GB:100TFLOPS:300GB/s`; without a number one machine.

    Raises UserError as gpu_named does.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})x(.+)", text, flags=re.IGNORECASE)
    count, gpu = (int(match[1]), match[2]) if match else (1, text)
    return Machines(count, gpu_named(gpu, f"--machines {text}", f"; {SYNTAX}"))
