"""One CSV of all pictures, `filename,prompt`, a row each."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

from kernel.errors import UserError, shown
from kernel.sidecars.tables import read_text

NAME = "batch.csv"
COLUMNS = ("filename", "prompt")


def csv_bytes(rows: Iterable[Iterable[str]], header: Iterable[str] = COLUMNS) -> bytes:
    """Example: [("a.png", "a fox, fog")] -> b'filename,prompt\\na.png,"a fox, fog"\\n'"""
    text = io.StringIO(newline="")
    plain, quoted = (csv.writer(text, lineterminator="\n", quoting=how) for how in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in (list(own) for own in (header, *rows)):
        # which the plain one leaves bare before Python 3.13
        (quoted if any("\r" in cell for cell in row) else plain).writerow(row)
    return text.getvalue().encode()


class CsvTable:
    """The rows of one file; other columns, and rows of other pictures, stay as they are. A row that is there twice,
    as clip-interrogator-ext writes each, counts once."""

    def __init__(self, path: Path) -> None:
        """Raises UserError for what cannot be read, or lacks a column."""
        self.path = path
        try:
            found = [row for row in csv.reader(io.StringIO(read_text(path), newline=""), strict=True) if row]
        except csv.Error as error:
            raise UserError(f"{path}: not a CSV ({error}). Mend it, or give --out another file") from error
        self.header, *rows = dict.fromkeys(map(tuple, found or [list(COLUMNS)]))
        if missing := [name for name in COLUMNS if name not in self.header]:
            raise UserError(
                f"{path}: no column {' and no '.join(missing)}; its first line is {shown(','.join(self.header))}. "
                f"Expected {','.join(COLUMNS)}: give --out another file"
            )
        self.name, self.text = (self.header.index(name) for name in COLUMNS)
        self.table = [[*row, *[""] * (len(self.header) - len(row))] for row in rows]
        self.rows: dict[str, list[int]] = {}
        for number, row in enumerate(self.table):
            self.rows.setdefault(os.path.abspath(path.parent / row[self.name]), []).append(number)

    def captions(self, image: Path) -> list[str]:
        return [self.table[number][self.text] for number in self.rows.get(os.path.abspath(image), [])]

    def put(self, image: Path, captions: list[str]) -> None:
        """Each row of the picture gets its caption, or all of them the one; a picture without gets a row."""
        place = os.path.abspath(image)
        if place not in self.rows:
            self.rows[place] = [len(self.table)]
            self.table.append([""] * len(self.header))
            self.table[-1][self.name] = Path(os.path.relpath(image, self.path.parent)).as_posix()
        rows = self.rows[place]
        for number, caption in zip(rows, captions * len(rows), strict=False):
            self.table[number][self.text] = caption

    def content(self) -> bytes:
        return csv_bytes(self.table, self.header)
