"""The one way to open what others wrote: a file and nothing else, and no more of it than its kind can be.

What is refused is an OSError with the reason in words, as the system itself refuses a file that may not be read.
"""

import errno
import stat
from io import BufferedReader
from pathlib import Path


def not_a_file(path: Path) -> str | None:
    """What a name stands for that is neither file nor folder: opening a pipe waits for a writer, and of a device
    there is no end. Raises OSError when there is nothing."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def open_file(path: Path) -> BufferedReader:
    """A file's bytes. Raises OSError for what cannot be read, or is no file."""
    if (what := not_a_file(path)) is not None:
        raise OSError(errno.EINVAL, f"{what}, not a file", str(path))
    return path.open("rb")


def read_whole(path: Path, most_bytes: int) -> bytes:
    """All of a file. Raises OSError for what cannot be read, is no file, or holds more than `most_bytes`."""
    with open_file(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, f"more than {most_bytes // 2**20} MiB", str(path))
    return content
