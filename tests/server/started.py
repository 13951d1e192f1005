"""`python -m kernel serve` as a process of its own, on a free port."""

import asyncio
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kernel.system.processes import child_environment

Answer = TypeVar("Answer")


def run_alone(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """What it comes to, on a loop of its own in a thread of its own: in this one a browser's may be running."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


@dataclass(frozen=True)
class Started:
    """A server and where it answers; `notes` is the file of its stderr."""

    process: subprocess.Popen
    address: str
    notes: Path


@contextmanager
def started(weights: Path, folder: Path, *options: str, **environment: str) -> Iterator[Started]:
    """Runs in `folder`, in which its temporary files lie too, and in a session of its own, as from a terminal. Ended by
    SIGKILL where the test has not ended it."""
    notes, scratch = folder / "stderr", folder / "tmp"
    scratch.mkdir()
    with notes.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "kernel", "serve", "--port", "0", "--weights", str(weights), "--device", "cpu",
             "--features", str(folder / "features"), *options],
            cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
            env={**child_environment(), "TMPDIR": str(scratch), **environment},
        )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address.startswith("http://"), notes.read_text()
            yield Started(process, address, notes)
        finally:
            process.kill()
