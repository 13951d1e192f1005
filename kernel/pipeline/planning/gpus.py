"""GPUs by name: memory, published peak speeds, and what of the peak is assumed to be reached."""

import re
from dataclasses import dataclass, replace

from kernel.errors import UserError, did_you_mean

GB, TFLOPS = 10**9, 10**12

# Assumed shares of the published peaks; nobody has measured them with these models. 0.30 lies in the middle of the
# 21-36 ms that are estimated for an image of ViT-g-14 (534 GFLOPs) on a T4: 0.23-0.39 of its peak.
HALF_EFFICIENCY, SINGLE_EFFICIENCY, BANDWIDTH_EFFICIENCY = 0.30, 0.50, 0.70
# a GPU given on the command line without its float32 speed: the T4's proportion, 8.1 of 65 TFLOPS
SINGLE_SHARE = 1 / 8
SYNTAX = "MEMORYGB:SPEEDTFLOPS:BANDWIDTHGB/s, with :xN for N of them, such as 24GB:100TFLOPS:300GB/s:x2"


@dataclass(frozen=True)
class Gpu:
    """`count` equal devices. Speeds are published peaks in operations and bytes a second; `memory` is in bytes."""

    name: str
    memory: int
    half_peak: float
    single_peak: float
    bandwidth: float
    source: str
    count: int = 1

    @property
    def is_cpu(self) -> bool:
        return self.name == "cpu"

    @property
    def label(self) -> str:
        return f"{self.name} x {self.count}" if self.count > 1 else self.name

    @property
    def half_speed(self) -> float:
        """Operations a second in half precision, as assumed."""
        return self.half_peak * HALF_EFFICIENCY

    @property
    def single_speed(self) -> float:
        """Operations a second in float32, as assumed."""
        return self.single_peak * SINGLE_EFFICIENCY

    @property
    def read_speed(self) -> float:
        """Bytes of its own memory a second, as assumed."""
        return self.bandwidth * BANDWIDTH_EFFICIENCY


# Speeds of dense matrices, without sparsity. Memory is what the driver reports, ECC and its own share taken off.
KNOWN = {
    gpu.name: gpu
    for gpu in (
        Gpu("T4", 15_835_660_288, 65 * TFLOPS, 8.1 * TFLOPS, 320 * GB, "NVIDIA T4 datasheet; memory by deviceQuery"),
        Gpu("L4", 23_600_000_000, 121 * TFLOPS, 30.3 * TFLOPS, 300 * GB, "NVIDIA L4 datasheet; memory about 22 GiB"),
        Gpu(
            "A100", 42_300_000_000, 312 * TFLOPS, 19.5 * TFLOPS, 1555 * GB, "NVIDIA A100 40 GB datasheet; memory 39 GiB"
        ),
        Gpu("H100", 84_900_000_000, 989 * TFLOPS, 67 * TFLOPS, 3350 * GB, "NVIDIA H100 SXM datasheet; memory 79 GiB"),
        # 4 virtual cores are 2 real ones: 2 x 2.0 GHz x 32 operations (two AVX2 units of 8 multiply-adds)
        Gpu("cpu", 30 * GB, 0.128 * TFLOPS, 0.128 * TFLOPS, 20 * GB, "assumed: a Kaggle host's 4 cores, 30 GB"),
    )
}
NO_P100 = (
    "P100: Kaggle's torch carries no kernels for it (sm_60): torch.cuda.is_available() is True and the first operation "
    "dies, so nothing fits. Choose the accelerator 'GPU T4 x2' (--gpu T4x2)"
)


def gpu_named(text: str, given: str | None = None, or_else: str = "") -> Gpu:
    """`T4`, `T4x2`, `L4x4`, `A100`, `H100`, `cpu`, or by memory and speed, `24GB:100TFLOPS:300GB/s:x2`.

    Raises UserError for the P100 and for what is neither a name nor numbers above 0: as what was `given`, `--gpu` by
    default, and with what stands for a GPU there beside these, `or_else`.
    """
    given = given or f"--gpu {text}"
    if ":" in text:
        return gpu_by_numbers(text, given, or_else)
    match = re.fullmatch(r"(.+?)(?:x([0-9]+))?", text, flags=re.IGNORECASE)
    name, count = (match[1], int(match[2] or 1)) if match else (text, 1)
    by_folded = {known.lower(): gpu for known, gpu in KNOWN.items()}
    if name.lower() == "p100":
        raise UserError(NO_P100)
    gpu = by_folded.get(name.lower())
    if gpu is None or count < 1 or (gpu.is_cpu and count > 1):
        raise UserError(
            f"{given}: unknown{did_you_mean(name, KNOWN)}; expected one of {', '.join(KNOWN)}, a GPU's name "
            f"with xN for N of them (T4x2), or {SYNTAX}{or_else}"
        )
    return replace(gpu, count=count)


def gpu_by_numbers(text: str, given: str, or_else: str) -> Gpu:
    number = r"([0-9]+(?:\.[0-9]+)?)"
    match = re.fullmatch(rf"{number}GB:{number}TFLOPS:{number}GB/s(?::x([0-9]+))?", text, flags=re.IGNORECASE)
    if not match or min(float(match[1]), float(match[2]), float(match[3]), int(match[4] or 1)) <= 0:
        raise UserError(f"{given}: cannot be read; expected numbers above 0 as {SYNTAX}{or_else}")
    memory, speed, bandwidth = float(match[1]) * GB, float(match[2]) * TFLOPS, float(match[3]) * GB
    name = text.rpartition(":x")[0] if match[4] else text
    return Gpu(name, int(memory), speed, speed * SINGLE_SHARE, bandwidth, "given", int(match[4] or 1))
