"""Which device and dtype to compute with, proven by a real operation before anything is loaded."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kernel.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """Where models run: half precision on a GPU, float32 on a CPU (whose half arithmetic is emulated)."""

    name: str

    @property
    def dtype(self) -> "torch.dtype":
        import torch

        return torch.float16 if self.name.startswith("cuda") else torch.float32


def find_device(asked: str = "auto") -> Device:
    """`auto` is the first GPU where there is one, else the CPU; other names are torch's (`cpu`, `cuda:1`).

    A GPU must finish one real operation: `torch.cuda.is_available()` is True on a P100 whose kernels the
    installed torch no longer carries, and the first operation there dies.
    """
    import torch

    name = asked
    if asked == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return Device(name)
    if not name.startswith("cuda"):
        raise UserError(f"--device {asked}: unknown device; expected auto, cpu, cuda or cuda:N")
    try:
        (
            torch.ones(8, 8, device=name, dtype=torch.float16) @ torch.ones(8, 8, device=name, dtype=torch.float16)
        ).sum().item()
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(
            f"--device {asked}: a first operation failed ({first_line}). On Kaggle choose the accelerator "
            "'GPU T4 x2' (a P100 is not supported by this torch), elsewhere run with --device cpu"
        ) from error
    return Device(name)
