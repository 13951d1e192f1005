"""Prompts out of files, one at a time: read, cleaned, each text once.

Nothing here holds a file: memory is one line, or one batch of a table, and a digest of every different prompt.
"""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernel.banks.cleaning import MAX_DECOMPOSED, has_letter
from kernel.banks.text_lines import LONGEST, text_lines
from kernel.errors import UserError, first_line, listed
from kernel.system.opening import open_file

COLUMNS = ("prompt", "Prompt", "text", "caption")
DIALECTS = {".csv": csv.excel, ".tsv": csv.excel_tab}
SUFFIXES = (".txt", *DIALECTS, ".jsonl", ".parquet")
BATCH_ROWS = 4096


def read_prompts_from(paths: list[Path], column: str | None = None) -> Iterator[str]:
    """The prompts of .txt (a prompt a line), .csv, .tsv, .jsonl and .parquet files, in order, as they stand there.

    Of a table it is the column `column`, else the first of `prompt`, `Prompt`, `text`, `caption` that is there, else
    the only one that holds text. The first row of .csv and .tsv names the columns. A null is an empty prompt.
    A .parquet file takes the memory of one row group's column, the others that of a line.

    Raises UserError at once when a file cannot be opened or has no such column; and at its place when a row cannot be
    read, which `count_prompts` finds beforehand.
    """
    found = [(path, find_column(path, column)) for path in paths]
    return (prompt for path, own_column in found for prompt in read_file(path, own_column))


def count_prompts(paths: list[Path], column: str | None = None) -> int:
    """How many prompts `read_prompts_from` will give. Reads every file to its end, so no bad row is left unfound."""
    return sum(1 for _ in read_prompts_from(paths, column))


def find_column(path: Path, column: str | None) -> str:
    """The column that holds a file's prompts; "" for .txt, which has none. Raises UserError naming what is there."""
    if path.is_dir():
        raise UserError(f"{path}: a folder; expected a file of prompts. Name the files in it")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: cannot read {path.suffix or 'a file without a suffix'}; expected prompts in a file that ends in "
            f"{', '.join(SUFFIXES)}. Unpack or convert it"
        )
    with readable(path):
        columns = columns_of(path)
    if path.suffix.lower() == ".txt":
        return ""
    if not columns and path.suffix.lower() != ".parquet":
        raise UserError(f"{path}: empty, or its first row is; expected rows of prompts. Fetch it again or leave it out")
    names = COLUMNS if column is None else (column,)
    named = [name for name in names if name in columns]
    texts = [name for name, is_text in columns.items() if is_text and column is None]
    if not named and len(texts) != 1:
        raise UserError(
            f"{path}: its columns of text are {listed(columns)}; expected {' or '.join(names)}: "
            "which one holds the prompts is unknown. Name it with --column"
        )
    return named[0] if named else texts[0]


def columns_of(path: Path) -> dict[str, bool]:
    """A table's columns that can hold prompts, and whether each holds words in the first row."""
    kind = path.suffix.lower()
    record: dict[str, Any] = {}
    if kind == ".parquet":
        open_file(path).close()  # before Arrow opens it, which would wait for what comes through a pipe
        return dict.fromkeys(parquet_text_columns(path), True)
    if kind in DIALECTS:
        rows = table_rows(path)
        header = next(rows, [])
        record = dict(zip(header, next(rows, [""] * len(header)), strict=True))
    elif kind == ".jsonl":
        _, record = next(json_records(path), (0, {}))
    else:
        next(text_lines(path), None)
    return {name: isinstance(value, str) and has_letter(value) for name, value in record.items()}


def read_file(path: Path, column: str) -> Iterator[str]:
    kind = path.suffix.lower()
    with readable(path):
        if kind == ".txt":
            yield from (line.rstrip("\r\n") if len(line) <= LONGEST else cut(line) for _, line in text_lines(path))
        elif kind in DIALECTS:
            rows = table_rows(path)
            place = next(rows).index(column)
            yield from (row[place] for row in rows)
        elif kind == ".jsonl":
            yield from json_prompts(path, column)
        else:
            yield from (value or "" for (value,) in parquet_rows(path, [column]))


def cut(line: str) -> str:
    """The beginning of a line, all that a model would read of it, and more behind it than any prompt may have."""
    return line[:MAX_DECOMPOSED] + "…" * (MAX_DECOMPOSED + 1)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what reading raises into one line that names the file. The readers raise ValueError with the line."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a file of prompts") from error
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"{path}: cannot be read ({reason}). Give a file that can be, or fetch it again") from error
    except ValueError as error:
        raise UserError(f"{path}: {first_line(error)}") from error


def table_rows(path: Path) -> Iterator[list[str]]:
    """The values of each row of .csv and .tsv, the header first; every row as long as the header."""
    first = held = 0  # line and characters of the row that is being read: an open quote would take the whole file

    def lines() -> Iterator[str]:
        nonlocal first, held
        for number, line in text_lines(path):
            first = first if held else number
            held += len(line)
            if held > LONGEST:
                raise ValueError(
                    f"line {first}: a row of more than {LONGEST:,} characters. Close every double quote, or take it out"
                )
            yield line

    csv.field_size_limit(LONGEST)
    reader = csv.reader(lines(), DIALECTS[path.suffix.lower()], strict=True)
    width = None
    try:
        for row in reader:
            held = 0
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                raise ValueError(
                    f"line {reader.line_num}: {len(row)} values under {width} columns. "
                    "Put values that hold separators, quotes or line breaks in double quotes"
                )
            yield row
    except csv.Error as error:
        raise ValueError(
            f"line {reader.line_num}: not a row of a table ({error}). Close every double quote, and double those inside"
        ) from error


def json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        if len(line) > LONGEST:
            raise ValueError(f"line {number}: more than {LONGEST:,} characters. Take it out")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number}: not JSON ({error}). Expected one object a line") from error
        if not isinstance(record, dict):
            raise ValueError(f"line {number}: JSON but no object. Expected one object a line")
        yield number, record


def json_prompts(path: Path, column: str) -> Iterator[str]:
    for number, record in json_records(path):
        if column not in record:
            raise ValueError(f"line {number}: no {column} among {listed(record)}. Give every line one")
        value = record[column]
        if not isinstance(value, str | None):
            raise ValueError(f"line {number}: {column} is no text but {value!r:.40}. Name another column with --column")
        yield value or ""


@contextmanager
def arrow() -> Iterator[None]:
    """Turns what Arrow has for a damaged file, exceptions of a dozen kinds, into ValueError."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read ({first_line(error)}). Fetch it again") from error


def parquet_text_columns(path: Path) -> list[str]:
    import pyarrow.parquet
    from pyarrow import types

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    with arrow(), pyarrow.parquet.ParquetFile(path) as file:
        return [field.name for field in file.schema_arrow if is_text(field.type)]


def parquet_rows(path: Path, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """The values of these columns, row by row; None for a null. Of columns of the same name the first is taken."""
    import pyarrow.parquet

    # buffering ahead would hold the columns of every row group until the end
    with arrow(), pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            found = [batch.column(batch.schema.names.index(name)) for name in columns]
            yield from zip(*(column.to_pylist() for column in found), strict=True)
