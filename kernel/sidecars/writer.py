"""Descriptions into the captions of their pictures: which are to be made, each written once, none of others lost."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from glob import has_magic
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.sidecars import csv, jsonl
from kernel.sidecars.asked import Sidecars
from kernel.sidecars.captions import Change, new_captions, terms_of
from kernel.sidecars.journal import Journal
from kernel.sidecars.tables import Tables
from kernel.sidecars.txt import TextFiles, require_utf_8
from kernel.system.files import writing

CURE = "free space or see to it that you may write there, then run the same command again: it goes on"


class Writer:
    """`left` are the pictures to describe; `tell` takes their records, and passes over those of others; `finish` or
    `stop` ends. Counts: captions `written`, those `kept` as pictures had them, pictures that `failed`; and which were
    `changed` by somebody else meanwhile, so that they stay."""

    def __init__(
        self,
        asked: Sidecars,
        given: list[str],
        pictures: list[Path],
        command: dict[str, Any],
        count_tokens: Callable[[str], int] | None = None,
    ) -> None:
        """`given`: files, folders and patterns of the user, `pictures` what is meant by them, `command` all else that
        the captions depend on, as plain data.

        Raises UserError, before anything is written, for captions that cannot be read or would be lost, and where
        another command was interrupted.
        """
        self.asked, self.count_tokens = asked, count_tokens
        pictures = list({os.path.abspath(path): path for path in reversed(pictures)}.values())[::-1]
        self.files = files_of(asked)
        require_names(asked, pictures)
        self.home = asked.csv_path.parent if asked.kind == "csv" else home_among(given)
        folders = set() if asked.kind == "csv" else {path.parent for path in pictures if path.parent.is_dir()}
        self.kept = self.failed = 0
        self.changed: list[Path] = []
        self.too_long: list[Path] = []
        self.before = dict(zip(pictures, self.files.captions(pictures), strict=True))
        if asked.existing in ("append", "prepend") and asked.kind == "txt":
            for image, captions in self.before.items():
                require_utf_8(image, captions)
        names = [os.path.relpath(name, self.home) for name in given]
        settings = {**vars(asked), "out": asked.out and os.path.basename(asked.out)}
        with writing(self.home, CURE):
            self.journal = Journal(self.home, folders, plain({"images": names, **settings, **command}))
            try:
                self.left = self.go_on()
            except BaseException:
                self.journal.file.close()  # as in `stop`
                raise

    def go_on(self) -> list[Path]:
        """Writes what an interrupted command had made and not written; returns the pictures that are to be described.

        What it had made and is there otherwise was written, and perhaps corrected since: it stays.
        """
        self.files.write(self.journal.unwritten)
        self.journal.written()
        left = []
        for image, captions in self.before.items():
            if os.path.abspath(image) in self.journal.made:
                continue
            if self.asked.existing == "skip" and any(map(str.strip, captions)):
                self.kept += 1
            elif self.asked.existing == "overwrite" and captions != self.found(image, captions):
                self.changed.append(image)
            else:
                left.append(image)
        return left

    def found(self, image: Path, now: list[str]) -> list[str]:
        """The picture's captions when the command first began, which may have been before a kill."""
        place = os.path.abspath(image)
        if place not in self.journal.found:
            self.journal.find(image, now)
            return now
        return self.journal.found[place]

    def begun(self) -> list[list[Path]]:
        """The pictures that were to be described when each command with a scratch folder began, which is named by them:
        in order, this one's last."""
        with writing(self.home, CURE):
            self.journal.begin()
        left, made = set(self.left), list(self.journal.made)
        since = [set(made[count:]) for count in self.journal.begun]
        return [[image for image in self.before if image in left or os.path.abspath(image) in own] for own in since]

    @property
    def written(self) -> int:
        return len(self.journal.made) - len(set(self.journal.made) & set(map(os.path.abspath, self.changed)))

    def tell(self, record: dict[str, Any]) -> None:
        """Takes a record of `describe`; its caption is in its file at once, or with those of the next pictures. One of
        which no caption can be made gets an `error`."""
        image = Path(record["image"])
        if os.path.abspath(image) in self.journal.made:
            return
        terms = [] if "error" in record else terms_of(record, self.asked.form)
        if not any(terms):
            self.failed += 1
            record.setdefault("error", f"no term was chosen, of which --form {self.asked.form} makes a caption")
            return
        after = new_captions(self.before[image], terms, self.asked, self.count_tokens)
        if self.count_tokens and any(self.count_tokens(text) > (self.asked.max_tokens or 0) for text in after):
            self.too_long.append(image)
        with writing(self.home, CURE):
            self.journal.make(Change(image, self.before[image], after))
        if len(self.journal.unwritten) >= self.files.waits:
            self.flush()

    def flush(self) -> None:
        with writing(self.home, CURE):
            self.changed += self.files.write(self.journal.unwritten)
            self.journal.written()

    def stop(self) -> None:
        """Before the end, wherever it came. What was made is written, and the same command goes on; of one that had
        made nothing, as its options were wrong, nothing is left; but what an earlier, killed one of it had found is, as
        what was corrected since is told by that."""
        if self.journal.made:
            with suppress(OSError, UserError):  # why the command ends is told; the next one writes these
                self.files.write(self.journal.unwritten)  # without a word of that, as another line may be half made
        elif not self.journal.found:
            self.journal.remove()
        self.journal.file.close()  # in a notebook the process, and so its lock, outlives the command

    def finish(self) -> str:
        """Ends the command; returns what it did, in a line."""
        self.flush()
        self.journal.remove()
        told = [f"{self.written:,} captions written", f"{self.kept:,} kept as they were"]
        told += [f"{self.failed:,} images without one"] * bool(self.failed)
        return ", ".join(told)


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(content))


def files_of(asked: Sidecars) -> TextFiles | Tables:
    if asked.kind == "txt":
        return TextFiles()
    if asked.kind == "csv":
        return Tables(lambda image: asked.csv_path, csv.CsvTable)
    return Tables(lambda image: image.parent / jsonl.NAME, lambda path: jsonl.JsonLines(path, asked.keys))


def require_names(asked: Sidecars, pictures: list[Path]) -> None:
    """Raises UserError for a picture that no table can name."""
    for image in pictures if asked.kind != "txt" else ():
        if any("\ud800" <= character <= "\udfff" for character in os.path.abspath(image)):
            raise UserError(
                f"{str(image)!r}: the name is not UTF-8, and a {asked.kind} file is. Rename it, or give --write txt"
            )


def home_among(given: list[str]) -> Path:
    """That of the first which is there. Raises UserError where none is."""
    found = next((home for home in map(home_of, given) if home.is_dir()), None)
    if found is None:
        raise UserError(f"{home_of(given[0])}: no such folder; expected one with pictures. Correct it, then run again")
    return found


def home_of(given: str) -> Path:
    """The folder that a file lies in, or a pattern begins with; a folder itself."""
    path = Path(given)
    if path.is_dir():
        return path
    if path.exists() or not has_magic(given):
        return path.parent
    while has_magic(str(path)):
        path = path.parent
    return path
