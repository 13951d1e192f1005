"""metadata.jsonl in the pictures' folder, as Hugging Face's imagefolder and musubi read it: a picture's row a line."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.sidecars.asked import KEYS
from kernel.sidecars.tables import read_text

NAME = "metadata.jsonl"


def jsonl_bytes(rows: Iterable[tuple[str, str]], keys: tuple[str, str] = KEYS) -> bytes:
    """(name, caption) as lines. Example: [("a.png", "a fox")] -> b'{"file_name": "a.png", "text": "a fox"}\\n'"""
    return b"".join(f"{row_text(dict(zip(keys, row, strict=True)))}\n".encode() for row in rows)


def row_text(row: dict[str, Any]) -> str:
    """Letters as they are, but where UTF-8 has none for them: a lone half of a pair stays JSON's own escape."""
    text = json.dumps(row, ensure_ascii=False)
    return text if text.isascii() or text == text.encode(errors="replace").decode() else json.dumps(row)


class JsonLines:
    """The rows of one file. What names no picture, and other keys of what does, stays as it is.

    `file_name` is relative to the folder, as imagefolder reads it; another key, such as musubi's `image_path`, gets the
    whole path, which is opened from wherever the trainer was started.
    """

    def __init__(self, path: Path, keys: tuple[str, str] = KEYS) -> None:
        """Raises UserError for what cannot be read, or names pictures by another key."""
        self.path, (self.name_key, self.text_key) = path, keys
        self.lines = lines_of(read_text(path))
        self.rows: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        others = set()
        for number, line in enumerate(self.lines):
            row = parsed(line)
            if isinstance(row, dict) and isinstance(row.get(self.name_key), str):
                self.rows.setdefault(self.place(row[self.name_key]), []).append((number, row))
            elif isinstance(row, dict):
                others |= set(row)
        if others and not self.rows:
            raise UserError(
                f"{path}: no row has the key {self.name_key!r}; they have {', '.join(sorted(others)[:5])}. Give the "
                "keys that name picture and caption with --keys, or put the file elsewhere"
            )

    def place(self, name: str) -> str:
        return os.path.abspath(self.path.parent / name)

    def captions(self, image: Path) -> list[str]:
        """Raises UserError where a caption is no text."""
        found = []
        for number, row in self.rows.get(os.path.abspath(image), []):
            text = row.get(self.text_key)
            if text is not None and not isinstance(text, str):
                raise UserError(
                    f"{self.path}: line {number + 1}: {self.text_key!r} is {json.dumps(text)[:40]}, expected a text. "
                    "Mend it, then run again"
                )
            found.append(text or "")
        return found

    def put(self, image: Path, captions: list[str]) -> None:
        """Each row of the picture gets its caption, or all of them the one; a picture without gets a row."""
        place = os.path.abspath(image)
        if place not in self.rows:
            row = {self.name_key: image.name if self.name_key == KEYS[0] else place}
            self.rows[place] = [(len(self.lines), row)]
            self.lines.append("")
        rows = self.rows[place]
        for (number, row), caption in zip(rows, captions * len(rows), strict=False):
            row[self.text_key] = caption
            self.lines[number] = row_text(row)

    def content(self) -> bytes:
        return "".join(f"{line}\n" for line in self.lines).encode()


def lines_of(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
