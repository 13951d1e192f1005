"""Files written whole or not at all, and what names their contents."""

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernel.errors import UserError

writer = ""  # of this process's unfinished files, where write_as was told
fence: Path | None = None
LONGEST_NAME = 255  # bytes that a disk takes as one
# a full disk, a quota that is used up, a limit on a file's size
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
