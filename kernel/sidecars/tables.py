"""Files that hold the captions of many pictures, and are written anew when some of them are made."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from kernel.errors import UserError
from kernel.sidecars.captions import Change
from kernel.system.files import write_whole
from kernel.system.opening import read_whole

MOST_BYTES = 2**30  # a million pictures' rows take some 300 MB
# pictures between two writings of a table, and the least part of its rows: what is written in all stays in proportion
FEWEST, PART = 64, 8


def read_text(path: Path) -> str:
    """The text of a file that others may have written, without a byte order mark; empty where there is none.

    Raises UserError for what cannot be read, or is not UTF-8.
    """
    cure = "Mend it, or put it elsewhere, then run again"
    try:
        return read_whole(path, MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a table of captions. {cure}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}). {cure}") from error


class Table(Protocol):
    """The rows of one file, as they are on disk."""

    def captions(self, image: Path) -> list[str]: ...

    def put(self, image: Path, captions: list[str]) -> None: ...

    def content(self) -> bytes: ...


class Tables:
    """The tables of pictures in one or more folders: `path_of` says which is a picture's, `open_table` reads it.

    A table is read again before it is written, so that nothing of what others have written meanwhile is lost.
    """

    def __init__(self, path_of: Callable[[Path], Path], open_table: Callable[[Path], Table]) -> None:
        self.path_of, self.open_table = path_of, open_table
        self.waits = FEWEST  # pictures until the next writing

    def by_path(self, images: list[Path]) -> dict[Path, list[int]]:
        """The numbers of the images in each table."""
        found: dict[Path, list[int]] = {}
        for number, image in enumerate(images):
            found.setdefault(self.path_of(image), []).append(number)
        return found

    def captions(self, images: list[Path]) -> list[list[str]]:
        found: list[list[str]] = [[] for _ in images]
        for path, numbers in self.by_path(images).items():
            table = self.open_table(path)
            for number in numbers:
                found[number] = table.captions(images[number])
        return found

    def write(self, changes: list[Change]) -> list[Path]:
        """Returns the pictures whose captions somebody else has changed: those stay."""
        left = []
        for path, numbers in self.by_path([change.image for change in changes]).items():
            table = self.open_table(path)
            for image, before, after in (changes[number] for number in numbers):
                if table.captions(image) == before:
                    table.put(image, after)
                else:
                    left.append(image)
            content = table.content()
            write_whole(path, content)
            self.waits = max(FEWEST, content.count(b"\n") // PART)
        return left
