"""Files written whole or not at all, and what names their contents."""

import hashlib
import json
import shutil
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


def write_whole(path: Path, data: bytes) -> None:
    """Writes under a temporary name beside `path`, then renames; leaves nothing behind when it fails."""
    unfinished = unfinished_path(path)
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def cannot_write(folder: Path, error: OSError, needed: int | None = None) -> UserError:
    """`needed`: the bytes that all of it may take, where that is known."""
    free = f"; {shutil.disk_usage(folder).free // 2**20} MiB are free there" if folder.exists() else ""
    if needed is not None:
        free += f", {needed // 2**20 + 1} MiB may be needed in all"
    return UserError(
        f"{folder}: cannot be written ({error.strerror or error}){free}. No half-written submission was left; "
        "free space or give --out another folder, then run again: finished shards are kept"
    )
