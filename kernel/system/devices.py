"""Which devices and dtype to compute with, proven by a real operation before anything is loaded."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kernel.errors import UserError, first_line
from kernel.system.processes import child_environment

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """Where models run: half precision on a GPU, float32 on a CPU (whose half arithmetic is emulated).

    `title` is what the driver calls it, or its name where nobody asked the driver, `memory` its bytes; a CPU's are the
    host's, where these are known; `machine` is the one of a cluster that has it.
    """

    name: str
    title: str = ""
    memory: int | None = None
    machine: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name)

    @property
    def dtype(self) -> "torch.dtype":
        import torch

        return torch.float16 if self.is_gpu else torch.float32

    @property
    def is_gpu(self) -> bool:
        return self.name.startswith("cuda")


def find_device(asked: str = "auto") -> Device:
    """One device, for this very process. `auto` is the first GPU where there is one, else the CPU."""
    import torch

    name = asked
    if asked == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    check_name(name)
    if name == "cpu":
        return Device(name)
    try:
        operate(name)
    except (RuntimeError, AssertionError) as error:
        raise cannot_operate(asked, first_line(error)) from error
    return Device(name)


def find_devices(asked: str = "auto") -> list[Device]:
    """The devices of a run, each for a worker of its own. `auto` is every GPU, else the CPU; `cuda:0,cuda:1` are these.

    GPUs are tried in a process of their own: the one that calls must never hold a part of their memory.
    """
    import torch

    count = torch.cuda.device_count()  # asks the driver's management library, and opens no device
    names = [f"cuda:{index}" for index in range(count)] or ["cpu"] if asked == "auto" else asked.split(",")
    names = ["cuda:0" if name == "cuda" else name for name in names]
    for name in names:
        check_name(name)
    gpus = [name for name in names if name != "cpu"]
    if len(set(gpus)) < len(gpus):
        raise UserError(f"--device {asked}: names a GPU twice; two workers would share its memory. Name each once")
    found = iter(tried(asked, gpus) if gpus else [])
    return [Device(name, memory=host_memory()) if name == "cpu" else next(found) for name in names]


def check_name(name: str) -> None:
    kind, _, index = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (index.isdecimal() or name == "cuda")):
        raise UserError(f"--device {name}: unknown device; expected auto, cpu, cuda or cuda:N, or several with commas")


def host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def operate(name: str) -> None:
    """One operation in the dtype of the models there. `torch.cuda.is_available()` is True on a P100 whose kernels the
    installed torch no longer carries, and the first operation there dies."""
    import torch

    ones = torch.ones(8, 8, device=name, dtype=Device(name).dtype)
    (ones @ ones).sum().item()


def tried(asked: str, names: list[str]) -> list[Device]:
    """Raises UserError when one of these GPUs cannot be used."""
    done = subprocess.run(
        [sys.executable, "-m", "kernel.system.devices", *names], capture_output=True, text=True, env=child_environment()
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        raise cannot_operate(asked, said[-1] if said else f"exit code {done.returncode}")
    return [Device(name, title, memory) for name, (title, memory) in zip(names, json.loads(lines[-1]), strict=True)]


def cannot_operate(asked: str, said: str) -> UserError:
    return UserError(
        f"--device {asked}: a first operation failed ({said}). On Kaggle choose the accelerator 'GPU T4 x2' (a "
        "P100 is not supported by this torch), elsewhere run with --device cpu"
    )


def worker_environment(device: Device, workers: int) -> tuple[dict[str, str], Device]:
    """The environment of one of `workers` processes, and the device as it is called there.

    It sees no other GPU, so no library can put a context there.
    """
    environment = child_environment() | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    if not device.is_gpu:
        return environment, device
    index = int(device.name.partition(":")[2])
    visible = [own for own in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if own]
    environment["CUDA_VISIBLE_DEVICES"] = visible[index] if visible else str(index)
    return environment, replace(device, name="cuda:0")


def looked_at(name: str) -> tuple[str, int]:
    """Title and bytes of a device of this very process, proven. Raises what torch raises where it cannot be used."""
    import torch

    if name == "cpu":
        return name, host_memory()
    operate(name)
    properties = torch.cuda.get_device_properties(name)
    return properties.name, properties.total_memory


def main(names: list[str]) -> int:
    """Tries each device and prints their titles and bytes as JSON."""
    print(json.dumps([looked_at(name) for name in names]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
