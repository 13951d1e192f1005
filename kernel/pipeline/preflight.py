"""What must be so before image 1: versions that fit, a clock that can be true, nobody else in the run folder, a folder
that can be written, and a disk that holds the whole run."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel.errors import UserError
from kernel.system.deadline import NEVER, Deadline, can_be_true
from kernel.system.files import cannot_write, require_space, size

# An image's rows in a run folder, at most: CLIP features of 1,280 float32, seven estimates of 384, captions, and 384
# lines of up to 40 bytes in submission.csv, twice while it is replaced.
IMAGE_BYTES = 5_120 + 7 * 1_536 + 4_096 + 2 * 384 * 40
# A phrase's features, where the weights folder does not bring them.
PHRASE_BYTES = 5_120


def preflight(folder: Path, images: int, phrases: int, deadline: Deadline = NEVER) -> list[str]:
    """Checks the run folder, inside `only_run(folder)`, and returns warnings, one line each.

    `check_versions` is not among them: it must come before the first model is loaded. Raises UserError.
    """
    warning = check_clock(deadline.started)
    check_disk(folder, images, phrases)
    check_writable(folder)
    return [warning] if warning else []


@contextmanager
def only_run(folder: Path, option: str = "--out") -> Iterator[None]:
    """Keeps every other run out of `folder` until the block ends, or the process does.

    The lock is the folder's own (flock), so nothing is left behind by a kill. Raises UserError when it is taken.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder}: another run is writing into it, and two would spoil each other's shards. Wait for its end, "
                f"or give {option} another folder"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def most_bytes(images: int, phrases: int) -> int:
    """What a run folder of so many images, and phrases without shipped features, takes at most."""
    return images * IMAGE_BYTES + phrases * PHRASE_BYTES


def check_disk(folder: Path, images: int, phrases: int) -> None:
    """Raises UserError when the disk of the run folder cannot hold what the run will write at most."""
    need = most_bytes(images, phrases)
    what = f"a run over {images:,} images may write {size(need)}"
    require_space(folder, need, what, "give --out another disk")


def check_writable(folder: Path) -> None:
    """Raises UserError unless a file can be written into the folder and reaches the disk.

    Tried, not read from the folder's permissions: they stop neither root nor tell of a read-only mount. The file has no
    name where the system can make such a one, so that a kill leaves nothing behind.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror or error}), and a run keeps all it makes there. Nothing was "
            "begun; give --out a folder that you may write into, on a disk that is not mounted read-only"
        ) from error


def check_clock(started: float | None) -> str | None:
    """A warning where a run cannot have been started then (seconds since 1970); None where it can, or none is given.

    Stops nothing: `Deadline.after` then counts from the start of this process.
    """
    ago = 0.0 if started is None else time.time() - started
    if can_be_true(ago):
        return None
    where = "in the future" if ago < 0 else "ago"
    return (
        f"--started {started:.0f} is {abs(ago) / 3600:.1f} hours {where} by this machine's clock, expected within the "
        "last 24 hours and the machine's own running time: the clock was set, or the number is wrong. The deadline "
        "counts from the start of this process instead"
    )
