"""Whether a machine of a cluster is as the command's own: sees its folders and its files, has the same versions, and
computes on a device of a kind that the work began on. Where it is not, it says so before it makes anything.

Into each folder the command lays an empty file of its own for as long as it works, and whoever makes items looks for
it. Without it in the folder of the outputs nothing is written any more: a machine that was given up for lost, whose
command has ended since, cannot spoil what another one is making there.
"""

import hashlib
import os
import socket
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kernel.system.files import NO_ROOM
from kernel.system.versions import code_sha256, deciding_versions
from kernel.system.work import Work

MARK = ".workers-"
BEGINNING = 2**16  # bytes of a file that are compared, beside its size


@dataclass(frozen=True)
class Sight:
    """What the command sees: the `marks` in its work's folders, that of the outputs first, what its input files begin
    with, its versions, and the titles of devices that may work, whichever where there are none."""

    folder: str
    marks: list[str]
    inputs: dict[str, str]
    code: str
    versions: dict[str, str | None]
    titles: list[str]

    def differs(self, title: str) -> str | None:
        """In one line how this machine, whose device has this title, differs, with what to do; None where it does not.
        From here on relative paths mean what they mean to the command, where its own folder is seen."""
        host = socket.gethostname()
        if code_sha256() != self.code:
            return f"{host} has another version of this package. Install the same one everywhere"
        for name, version in deciding_versions().items():
            if version != self.versions.get(name):
                return (
                    f"{host} has {name} {version}, the command {self.versions.get(name)}. Install the same everywhere"
                )
        if self.titles and title not in self.titles:
            began = ", ".join(self.titles)
            return f"{host} computes on {title}, the work began on {began}: what it makes would differ in digits"
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        for mark in map(Path, self.marks):
            if not mark.exists():
                return (
                    f"{host} does not see {mark.parent} as the command does. Give a folder on a disk that all machines "
                    "see under this path"
                )
            if why := refusal(mark.parent):
                return f"{host} sees {mark.parent} and cannot write there ({why}). Let it be written on all machines"
        for path, begins in self.inputs.items():
            if beginning(Path(path)) != begins:
                return (
                    f"{host} does not see {path} as the command does. Give files on a disk that all machines see under "
                    "this path"
                )
        return None


@contextmanager
def seen_by_command(work: Work, titles: Iterable[str]) -> Iterator[Sight]:
    """What a work's workers must find, for as long as the block runs. Raises OSError where a folder cannot be written;
    ends the writing of whoever works in the folder of its outputs for a command before."""
    folders = [folder.absolute() for folder in work.folders()]
    for left in folders[0].glob(f"{MARK}*"):
        left.unlink(missing_ok=True)
    marks = [folder / f"{MARK}{uuid.uuid4().hex}" for folder in dict.fromkeys(folders)]
    found = {str(path.absolute()): beginning(path) for path in work.inputs()}
    inputs = {path: begins for path, begins in found.items() if begins}
    try:
        for mark in marks:
            mark.touch()
        yield Sight(os.getcwd(), [*map(str, marks)], inputs, code_sha256(), deciding_versions(), sorted(set(titles)))
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


def refusal(folder: Path) -> str | None:
    """Why no file can be written into it, tried; None where one can, and of a full disk, which whoever writes tells."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return None if error.errno in NO_ROOM else error.strerror
    return None


def beginning(path: Path) -> str:
    """Names a file by its size and first bytes; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return f"{size} {hashlib.sha256(file.read(BEGINNING)).hexdigest()}"
    except OSError:
        return ""
