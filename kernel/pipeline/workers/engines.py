"""Which Engine shares work out: by the devices of this machine, or by a cluster's address."""

from collections.abc import Iterator
from contextlib import contextmanager

from kernel.config import RAY
from kernel.errors import UserError
from kernel.pipeline.workers.here import Here
from kernel.pipeline.workers.processes import Processes
from kernel.system.devices import Device, find_devices
from kernel.system.work import Engine

CLUSTER_DEVICES = ("auto", "cpu")


def engine_on(devices: list[Device]) -> Engine:
    """This process where a CPU is all there is, else one process a device."""
    return Here(devices[0]) if len(devices) == 1 and not devices[0].is_gpu else Processes(devices)


@contextmanager
def engine_named(name: str, device: str = "auto", address: str | None = None) -> Iterator[Engine]:
    """One of ENGINES, as long as the block runs; of a cluster see ray_connection.joined.

    Raises UserError for a device that cannot be used, and where no cluster answers within half a minute.
    """
    if name == RAY and device not in CLUSTER_DEVICES:
        raise UserError(
            f"--device {device}: of a cluster expected auto, every GPU or one worker on each machine without any, or "
            "cpu, one worker on each machine. Which GPUs a machine gives is said where Ray is started there"
        )
    if name == RAY:
        from kernel.pipeline.workers.ray import RayCluster
        from kernel.pipeline.workers.ray_connection import joined

        with joined(address) as found:
            yield RayCluster(found, device)
    else:
        yield engine_on(find_devices(device))
