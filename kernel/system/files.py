"""Files written whole or not at all, and what names their contents."""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernel.errors import UserError

writer = ""  # of this process's unfinished files, where write_as was told
fence: Path | None = None
LONGEST_NAME = 255  # bytes that a disk takes as one
# a full disk, a quota that is used up, a limit on a file's size
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Read at a time to be hashed. While it is, other threads run; then this one waits for its turn, 5 ms where another one
# imports libraries. With hashlib.file_digest's own 256 kB it would mostly wait.
HASHED_BYTES = 2**24
HASHING_THREADS = 4


def file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        block = memoryview(bytearray(min(HASHED_BYTES, max(1, os.fstat(file.fileno()).st_size))))
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


@contextmanager
def hashing(paths: Iterable[Path]) -> Iterator[Callable[[Path], str]]:
    """Hashes files in a few threads while the block does something else; it is given what waits for one's sha256.

    Whatever is not hashed when the block ends never is.
    """
    # a core is left to the block
    with ThreadPoolExecutor(max(1, min(HASHING_THREADS, (os.cpu_count() or 1) - 1))) as pool:
        # the largest first: else the last thread hashes it alone
        ordered = sorted(set(paths), key=lambda path: path.stat().st_size, reverse=True)
        digests = {path: pool.submit(file_sha256, path) for path in ordered}
        try:
            yield lambda path: digests[path].result()
        finally:
            pool.shutdown(cancel_futures=True)


def json_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="replace")


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json_bytes(content))


def unfinished_path(path: Path) -> Path:
    name = f".{path.name}{writer}.tmp"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()}{writer}.tmp"
    return path.with_name(name)


def write_as(name: str) -> None:
    """From now on this process's unfinished files carry a name of its own: on a disk that several machines share, one
    that was given up for lost may still be writing what another makes."""
    global writer
    writer = f".{name}"


def write_while(there: Path) -> None:
    """From now on this process writes whole files only as long as this one is there."""
    global fence
    fence = there


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, renamed when the block ends; leaves nothing behind when it fails."""
    unfinished = unfinished_path(path)
    try:
        yield unfinished
        if fence is not None and not fence.exists():
            raise OSError(errno.ECANCELED, "the command for which it was made has ended")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_bytes(data)


def drop_unfinished(folder: Path) -> None:
    """Removes what workers that were killed had begun to write into `folder`: no other ever finishes their files."""
    for unfinished in folder.glob(".*.tmp"):
        unfinished.unlink(missing_ok=True)


def require_space(folder: Path, needed: int, what: str, cure: str) -> None:
    """Raises UserError when the disk of `folder` has fewer bytes free than the `needed` ones, which `what` tells of."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {size(free)} are free, {what}: the disk would be full. "
            f"Free {size(needed - free)} there, or {cure}"
        )


def size(count: int) -> str:
    """Example: size(13_100_000_000) == "13.10 GB", size(12_001) == "0.02 MB": never less than it is."""
    unit, name = (1e9, "GB") if count >= 1e8 else (1e6, "MB")
    return f"{math.ceil(count / unit * 100) / 100:.2f} {name}"


@contextmanager
def writing(place: Path, cure: str) -> Iterator[None]:
    """Raises UserError where the disk of `place` refuses what the block writes; `cure` ends it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); {cure}") from error


def cannot_write(folder: Path, error: OSError, needed: int | None = None) -> UserError:
    """`needed`: the bytes that all of it may take, where that is known."""
    what, cure = "", "give --out a folder that may be written into"
    if error.errno in NO_ROOM and folder.exists():
        what, cure = f"; {shutil.disk_usage(folder).free // 2**20} MiB are free there", f"free space or {cure}"
        if needed is not None:
            what += f", {needed // 2**20 + 1} MiB may be needed in all"
    return UserError(
        f"{folder}: cannot be written ({error.strerror or error}){what}. No half-written submission was left; {cure}, "
        "then run again: finished shards are kept"
    )


def device_of(path: Path) -> int:
    """The disk that a path lies on."""
    return os.stat(path).st_dev
