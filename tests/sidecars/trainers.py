"""How trainers read captions, by the rules that they document."""

import json
import os
from pathlib import Path


def sd_scripts_captions(image: Path, extension: str = ".txt") -> list[str]:
    """kohya's sd-scripts (docs: `caption_extension`, `enable_wildcard`): the picture's name without its last suffix,
    read as UTF-8; the first line is the caption, with `enable_wildcard` each line that is not blank is one of several.
    An empty file stops it."""
    with open(os.path.splitext(image)[0] + extension, encoding="utf-8") as file:
        lines = file.readlines()
    assert lines, f"{image}: the caption file is empty"
    assert not lines[0].startswith("\ufeff"), "a byte order mark would be part of the first tag"
    return [line.strip() for line in lines if line.strip()]


def musubi_captions(path: Path) -> dict[str, str]:
    """musubi-tuner's `image_jsonl_file`: every line is an object, whose `image_path` is opened from wherever it was
    started."""
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        with open(row["image_path"], "rb"):
            pass
    return {row["image_path"]: row["caption"] for row in rows}
