"""What must be so before image 1: nobody else writes into the run folder, and the disk holds the whole run."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel.errors import UserError
from kernel.store import cannot_write

# An image's rows in a run folder, at most: CLIP features of 1,280 float32, seven estimates of 384, captions, and 384
# lines of up to 40 bytes in submission.csv, twice while it is replaced.
IMAGE_BYTES = 5_120 + 7 * 1_536 + 4_096 + 2 * 384 * 40
# A phrase's features, where the weights folder does not bring them.
PHRASE_BYTES = 5_120


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
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
                "or give --out another folder"
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def check_disk(folder: Path, images: int, phrases: int) -> None:
    """Raises UserError when the disk of the run folder cannot hold what the run will write at most."""
    need = images * IMAGE_BYTES + phrases * PHRASE_BYTES
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"{folder}: {free / 1e9:.2f} GB are free, a run over {images:,} images may write {need / 1e9:.2f} GB: it "
            f"would end on a full disk. Free {(need - free) / 1e9:.2f} GB or give --out another disk"
        )
