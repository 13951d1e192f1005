"""Records as `describe` makes them, without a model."""

from pathlib import Path
from typing import Any

from kernel.sidecars.asked import Sidecars
from kernel.sidecars.writer import Writer


def record_of(image: Path, caption: str = "a fox", terms: tuple[str, ...] = ("fog", "ink")) -> dict[str, Any]:
    parts = [{"term": term, "bank": "flavors", "similarity": 0.5} for term in terms]
    return {
        "image": str(image),
        "mode": "fast",
        "prompt": ", ".join([caption, *terms]),
        "caption": caption,
        "parts": parts,
    }


def pictures(folder: Path, names: str = "abc") -> list[Path]:
    """Files by the suffix of pictures; nothing here opens them."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [folder / f"{name}.png" for name in names]
    for path in found:
        path.touch()
    return found


def writer_on(folder: Path, images: list[Path], kind: str = "txt", **settings: Any) -> Writer:
    return Writer(Sidecars(kind, **settings), [str(folder)], images, {"mode": "fast"})


def killed(writer: Writer) -> None:
    """What is left of a process: its files, without its lock."""
    writer.journal.file.close()
