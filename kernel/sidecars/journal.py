"""What a command that writes captions is about to do and has done, so that after a kill it does nothing twice.

`.describe.jsonl` lies beside what is written until the command's end. Its first line says what was asked; then follow
the captions that an overwriting command found when it began, what each picture's captions become, written before they
are, and after each writing a line that says so; and how many were made when a command with a scratch folder began. A
kill leaves at most its last line unfinished. In other folders that the command writes into, the first line alone points
to it.
"""

import fcntl
import json
import os
import reprlib
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.sidecars.captions import Change
from kernel.system.files import write_whole
from kernel.system.opening import open_file

NAME = ".describe.jsonl"
FORMAT = 1


class Journal:
    """`found`: captions by absolute path as an overwriting command found them first; `made`: the changes, in order;
    `unwritten`: of these the last, of which nothing says that they are in their files; `begun`: how many were made when
    each command with a scratch folder began."""

    def __init__(self, home: Path, folders: set[Path], asked: dict[str, Any]) -> None:
        """Raises UserError when another command was interrupted in one of the folders, or writes there now."""
        self.home = home
        self.others = [folder for folder in sorted(folders) if os.path.abspath(folder) != os.path.abspath(home)]
        self.found: dict[str, list[str]] = {}
        self.made: dict[str, Change] = {}
        self.unwritten: list[Change] = []
        self.begun: list[int] = []
        for folder in (home, *self.others):
            refuse_others(folder, self.head(folder, asked))
        begun = [] if self.path(home).exists() else [home]
        if begun:
            write_whole(self.path(home), line_of(self.head(home, asked)))
        self.file = FileIO(self.path(home), "r+")
        try:
            lock(self.file, self.path(home))
            self.read()
            self.begin_in_others(asked, begun)
        except BaseException:
            self.file.close()  # and with it the lock, which a notebook would keep with the traceback
            raise

    def begin_in_others(self, asked: dict[str, Any], begun: list[Path]) -> None:
        """`begun` are the folders in which this command began its journal."""
        try:
            for folder in self.others:
                if not self.path(folder).exists():
                    write_whole(self.path(folder), line_of(self.head(folder, asked)))
                    begun.append(folder)
        except OSError as error:
            if self.home in begun:  # nothing is made yet, so nothing is left
                for own in begun[::-1]:
                    self.path(own).unlink(missing_ok=True)
            raise OSError(error.errno, f"{folder}: {error.strerror}") from error

    @staticmethod
    def path(folder: Path) -> Path:
        return folder / NAME

    def head(self, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
        return {"format": FORMAT, "home": os.path.relpath(self.home, folder), "asked": asked}

    def read(self) -> None:
        """What stands behind the first line, without a line that a kill cut off."""
        content = self.file.readall()
        whole = content[: content.rfind(b"\n") + 1]
        self.file.truncate(len(whole))
        self.file.seek(len(whole))
        try:
            for line in whole.split(b"\n")[1:-1]:
                self.take(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(not_a_journal(self.path(self.home))) from error

    def take(self, row: dict[str, Any]) -> None:
        """Raises ValueError, TypeError or KeyError for what no journal holds."""
        if "written" in row:
            self.unwritten = []
            return
        if "begun" in row:
            if row["begun"] not in range(len(self.made) + 1):
                raise ValueError("not so many were made")
            self.begun.append(int(row["begun"]))
            return
        image, before = os.path.abspath(self.home / row["image"]), captions_in(row["before"])
        if "\0" in image:
            raise ValueError("no name of a file")
        if "after" in row:
            self.made[image] = Change(Path(image), before, captions_in(row["after"]))
            self.unwritten.append(self.made[image])
        else:
            self.found[image] = before

    def name(self, image: Path) -> str:
        return os.path.relpath(image, self.home)

    def find(self, image: Path, before: list[str]) -> None:
        """Keeps the captions of a picture that are to be overwritten."""
        self.write({"image": self.name(image), "before": before})

    def make(self, change: Change) -> None:
        self.write({"image": self.name(change.image), "before": change.before, "after": change.after})
        self.made[os.path.abspath(change.image)] = change
        self.unwritten.append(change)

    def begin(self) -> None:
        """Keeps that a command with a scratch folder begins."""
        if len(self.made) not in self.begun:
            self.write({"begun": len(self.made)})
            self.begun.append(len(self.made))

    def written(self) -> None:
        self.write({"written": True})
        self.unwritten = []

    def write(self, row: dict[str, Any]) -> None:
        """A whole line, or none. Raises OSError where the disk refuses it."""
        line, start = line_of(row), self.file.tell()
        try:
            while line:
                line = line[self.file.write(line) :]
        except OSError:
            self.file.truncate(start)
            self.file.seek(start)
            raise

    def remove(self) -> None:
        """The command is at its end. The home's goes last: until then a kill leaves what says that all is done."""
        for folder in self.others:
            self.path(folder).unlink(missing_ok=True)
        self.path(self.home).unlink(missing_ok=True)
        self.file.close()


def captions_in(content: Any) -> list[str]:
    if not isinstance(content, list) or not all(isinstance(caption, str) for caption in content):
        raise TypeError("no captions")
    return content


def line_of(row: dict[str, Any]) -> bytes:
    return f"{json.dumps(row)}\n".encode()


def lock(file: FileIO, path: Path) -> None:
    """Until the process ends. Raises UserError where another one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"{path}: another describe --write is at work here, and two would write each caption twice. Wait for its "
            "end, then run again"
        ) from error
    except OSError:
        pass  # a file system without locks


def refuse_others(folder: Path, head: dict[str, Any]) -> None:
    """Raises UserError where another command than that of `head` was interrupted in `folder`, or is at work."""
    path = Journal.path(folder)
    try:
        with open_file(path) as file:
            found = json.loads(file.readline())
        differing = [name for name, value in head["asked"].items() if found["asked"].get(name) != value]
        home = Path(os.path.normpath(folder / found["home"]))
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(not_a_journal(path)) from error
    if found == head:
        return
    with suppress(OSError), FileIO(Journal.path(home), "r+") as file:
        lock(file, Journal.path(home))  # whose command may be at work, not interrupted
    told = [
        f"{name} was {reprlib.repr(found['asked'].get(name))}, is {reprlib.repr(head['asked'][name])}"
        for name in differing[:3]
    ]
    if found["home"] != head["home"]:
        told.append(f"its journal lies in {home}")
    raise UserError(
        f"{path}: a describe --write with other options was interrupted here ({'; '.join(told)}), and both would write "
        f"the same captions. Run that one again to its end, or remove {path} to give it up, and {NAME} in each other "
        "folder that it wrote into: what is written stays"
    )


def not_a_journal(path: Path) -> str:
    return (
        f"{path}: expected what an interrupted describe --write left, and it is none. Remove it, or put it elsewhere, "
        "then run again: what is written stays"
    )
