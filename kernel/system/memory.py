"""Peak memory of a block of code: what a stage really took, beside what was planned for it."""

import ctypes
import gc
import mmap
import os
import re
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
MAPS = Path("/proc/self/maps")
ANONYMOUS = re.compile(rb"^RssAnon:\s+(\d+) kB", re.MULTILINE)
INTERVAL_SECONDS = 0.02


def anonymous_bytes() -> int:
    """Bytes of this process's anonymous memory that are resident now: what nothing but swap can take from it.

    Pages of mapped files, such as weights that are run as they lie on the disk, do not count: the system drops them
    when it needs room and reads them again. Where /proc does not tell (macOS), the most bytes resident since the
    process began, files and all, from getrusage.
    """
    try:
        match = ANONYMOUS.search(STATUS.read_bytes())
    except OSError:
        match = None
    if match:
        return int(match[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def return_freed_memory() -> None:
    """Gives the system back what was freed: glibc keeps it, 1.6 GB of a freed ViT-g-14, beside the model that follows.

    Blocks of up to 32 MB lie in its heap, of which it returns by itself only what is free at the end. Elsewhere than on
    glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back_mapped(address: int, size: int) -> None:
    """Gives the system back the pages of bytes that will not be read again, where they are a weights file's that was
    mapped; were they read, they would be read from the file once more. Elsewhere than on Linux nothing happens."""
    first, end = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE, (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < end and any(start <= first and end <= stop for start, stop in mapped_weights()):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)


def mapped_weights() -> list[tuple[int, int]]:
    """First and last address but one of every weights file that is mapped into this process."""
    try:
        lines = MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    own = [line.split(maxsplit=1)[0].split("-") for line in lines if line.endswith(".safetensors")]
    return [(int(start, 16), int(stop, 16)) for start, stop in own]


def release_memory() -> None:
    """Gives back what nobody refers to any more: whoever held a model drops it first."""
    import torch

    gc.collect()
    return_freed_memory()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a computation found no room, in the host's memory or a GPU's."""
    import torch

    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(own in str(error) for own in words)


@contextmanager
def collecting_later() -> Iterator[None]:
    """Nobody looks for garbage within: importing libraries makes half a million objects that stay, and the collections
    that this starts are 0.8 of the 4.4 seconds that a run's libraries take."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def long_lived() -> Iterator[None]:
    """What is there already is left out of the collections of garbage within: the libraries alone are half a million
    objects, 0.3 s for each stage that gives its model back."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def leave_to_the_end() -> None:
    """What came since is left out too, to the end of `long_lived`; garbage, which may hold a model, is none of it."""
    gc.collect()
    gc.freeze()


class PeakMemory:
    """Samples this process's anonymous memory while a block runs, fifty times a second, and a GPU's allocations.

    Example:
        with PeakMemory("cuda:0") as memory:
            encode()
        memory.before, memory.host, memory.device

    `before` and `host` are bytes at entry and at the peak, as anonymous_bytes() tells them: what comes and goes within
    20 ms is missed, and on macOS the peak is the process's. `device` is the most that torch allocated on a GPU during
    the block, None on the CPU. Blocks may be nested; on a GPU the inner one begins torch's count anew, so that the
    outer one then tells the peak since.
    """

    def __init__(self, device_name: str = "cpu") -> None:
        self.device_name = device_name
        self.before = self.host = 0
        self.device: int | None = None

    def __enter__(self) -> "PeakMemory":
        if self.device_name != "cpu":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device_name)
        self.before = self.host = anonymous_bytes()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.sample, name=f"memory of {os.getpid()}", daemon=True)
        self.thread.start()
        return self

    def sample(self) -> None:
        while not self.ended.wait(INTERVAL_SECONDS):
            self.host = max(self.host, anonymous_bytes())

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()
        self.host = max(self.host, anonymous_bytes())
        if self.device_name != "cpu":
            import torch

            self.device = torch.cuda.max_memory_allocated(self.device_name)
