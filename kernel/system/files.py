"""Files written whole or not at all, and what names their contents."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernel.errors import UserError


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="replace")


def write_json(path: Path, content: Any) -> None:
    write_whole(path, json_bytes(content))


def unfinished_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, renamed when the block ends; leaves nothing behind when it fails."""
    unfinished = unfinished_path(path)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_bytes(data)


def require_space(folder: Path, needed: int, what: str, cure: str) -> None:
    """Raises UserError when the disk of `folder` has fewer bytes free than the `needed` ones, which `what` tells of."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {free / 1e9:.2f} GB are free, {what}: the disk would be full. "
            f"Free {(needed - free) / 1e9:.2f} GB there, or {cure}"
        )


@contextmanager
def writing(place: Path, cure: str) -> Iterator[None]:
    """Raises UserError where the disk of `place` refuses what the block writes; `cure` ends it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror or error}); {cure}") from error


def cannot_write(folder: Path, error: OSError, needed: int | None = None) -> UserError:
    """`needed`: the bytes that all of it may take, where that is known."""
    free = f"; {shutil.disk_usage(folder).free // 2**20} MiB are free there" if folder.exists() else ""
    if needed is not None:
        free += f", {needed // 2**20 + 1} MiB may be needed in all"
    return UserError(
        f"{folder}: cannot be written ({error.strerror or error}){free}. No half-written submission was left; "
        "free space or give --out another folder, then run again: finished shards are kept"
    )
