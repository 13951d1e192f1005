"""submission.csv in the competition's exact form: `imgId_eId,val`, one row an image and dimension."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS
from kernel.errors import UserError, first_line, shown
from kernel.system.files import whole_file
from kernel.system.opening import open_file

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ["imgId_eId", "val"]
HEADER = ",".join(COLUMNS)
ENDINGS = [f"_{dimension}" for dimension in range(EMBEDDING_DIMENSIONS)]
VALID_DIMENSIONS = [ending[1:] for ending in ENDINGS]
BLOCK = 256  # images written or read at a time, so that memory does not grow with row names or values


def write_submission(path: Path, ids: list[str], rows: np.ndarray) -> None:
    """Writes (n, 384) rows under a temporary name, reads them back, then renames: what stands is whole and valid.

    `rows` may be one row that np.broadcast_to repeats: no second array of their size is made. Values keep every bit of
    float32. Raises ValueError on a wrong shape or a value that is not finite, UserError for a row of zeros; then an
    older file stands.
    """
    expected = f"expected finite rows of shape {(len(ids), EMBEDDING_DIMENSIONS)}, found {rows.shape}"
    if rows.shape != (len(ids), EMBEDDING_DIMENSIONS):
        raise ValueError(expected)
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        file.write(HEADER.encode())
        make = partial(block_lines, ids, rows)
        for lines in in_threads(make, range(0, len(ids), BLOCK), min(4, os.cpu_count() or 1)):
            if lines is None:
                raise ValueError(expected)
            file.write(lines)
        file.write(b"\n")
        file.flush()
        # the disk works while the file is read back
        with ThreadPoolExecutor(1) as pool:
            synced = pool.submit(os.fsync, file.fileno())
            check_submission(unfinished, ids)
            synced.result()


def in_threads(make: Callable[[int], Any], items: Iterable[int], threads: int) -> Iterator[Any]:
    """What `make` gives of each item, in order; a few are made ahead by threads, as Arrow and NumPy let others run."""
    remaining = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        made = deque(pool.submit(make, item) for item in islice(remaining, threads + 1))
        while made:
            yield made.popleft().result()
            made.extend(pool.submit(make, item) for item in islice(remaining, 1))


def block_lines(ids: list[str], rows: np.ndarray, start: int) -> memoryview | None:
    """The block's lines, None where a value is not finite."""
    with np.errstate(over="ignore"):
        values = rows[start : start + BLOCK].astype(np.float32).ravel()
    return csv_lines(ids[start : start + BLOCK], values) if np.isfinite(values).all() else None


def csv_lines(ids: list[str], values: np.ndarray) -> memoryview:
    """The rows of these images, each with the line break before it; `values` are their (n x 384,) float32.

    Arrow writes the numbers, the shortest that read back as the same float32, many times as fast as pandas' CSV.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    around = [around_dimension(image_id) for image_id in ids]
    starts, ends = ["\n" + start for start, _ in around], [end + "," for _, end in around]
    lines = pc.binary_join_element_wise(texts(starts, ends), pc.cast(pa.array(values), pa.string()), "")
    # the texts of an array lie one behind the other
    _, offsets, data = lines.buffers()
    return memoryview(data)[: np.frombuffer(offsets, dtype=np.int32)[len(lines)]]


def around_dimension(image_id: str) -> tuple[str, str]:
    """What stands before and behind `_7` in a row's name: where a comma or a quote would end it, it is quoted as
    RFC 4180 has it. Example: 'a"b' -> '"a""b' and '"'
    """
    return ('"' + image_id.replace('"', '""'), '"') if "," in image_id or '"' in image_id else (image_id, "")


def texts(starts: list[str], ends: list[str]) -> "pa.StringArray":
    """For each start and end and every dimension the text `{start}_{dimension}{end}`, in this order.

    Put together as Arrow holds them, all texts in one and where each ends: Arrow's own take and join took 0.2 of a
    whole submission's 1.1 seconds more.
    """
    import pyarrow as pa

    endings = {end: ["", *(ending + end for ending in ENDINGS)] for end in set(ends)}
    # what joins them stands before each but the first, which is empty
    images = [start.join(endings[end]).encode() for start, end in zip(starts, ends, strict=True)]
    fixed = np.array([len(start.encode()) + len(end) for start, end in zip(starts, ends, strict=True)])
    lengths = np.add.outer(fixed, np.array([len(ending) for ending in ENDINGS])).ravel()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(b"".join(images)))


def read_submission(path: Path) -> dict[str, np.ndarray]:
    """Id -> (384,) float32 row, in the file's order.

    Raises UserError, in one line, for rows that are missing, repeated, unreadable or not finite.
    """
    seen, rows = Seen(path), np.empty((0, EMBEDDING_DIMENSIONS), dtype=np.float32)
    for position, dimensions, values in seen.blocks():
        rows = with_length(rows, len(seen.index))
        rows[position, dimensions] = values
    return dict(zip(seen.index, rows, strict=False))  # rows may have room for more


def check_submission(path: Path, ids: list[str]) -> None:
    """Raises UserError unless the file holds exactly these images, each with 384 finite values that are not all zero.

    Holds the ids, 49 bytes an image and a few blocks of the file: the values are looked at, not kept.
    """
    seen, has_values = Seen(path), np.empty(0, dtype=bool)
    for position, _, values in seen.blocks():
        has_values = with_length(has_values, len(seen.index))
        has_values[position[values != 0]] = True
    expected = set(ids)
    missing = [image_id for image_id in expected if image_id not in seen.index]
    foreign = [image_id for image_id in seen.index if image_id not in expected]
    for what, images in (("missing", missing), ("not among the images", foreign)):
        if images:
            raise UserError(
                f"{path}: {len(images)} of {len(ids)} images are {what}, the first is {min(images)!r}; "
                "expected exactly the images of the folder"
            )
    flat = [image_id for image_id, has_value in zip(seen.index, has_values, strict=False) if not has_value]
    if flat:
        raise UserError(
            f"{path}: {len(flat)} images have only zeros, the first is {flat[0]!r}; their cosine is undefined"
        )


class Seen:
    """Which images and dimensions a file's rows have named so far: one bit each, 48 bytes an image."""

    def __init__(self, path: Path) -> None:
        self.path = path  # for the errors' words
        self.index: dict[str, int] = {}  # in the file's order
        self.bits = np.empty((0, EMBEDDING_DIMENSIONS // 8), dtype=np.uint8)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each block of rows their places in `index`, their dimensions (0..383) and their float32 values.

        Raises UserError for a name without a dimension, for one that was there before, and at the end unless every
        image has all its dimensions, and there is one.
        """
        for names, values in blocks(self.path):
            before, ids = len(self.index), whole_images(names)
            if ids and not any(image_id in self.index for image_id in ids):
                self.index.update(zip(ids, range(before, before + len(ids)), strict=True))
                self.bits = with_length(self.bits, len(self.index))
                self.bits[before : len(self.index)] = 255
                position = np.arange(before, len(self.index)).repeat(EMBEDDING_DIMENSIONS)
                yield position, np.tile(np.arange(EMBEDDING_DIMENSIONS), len(ids)), values
            else:
                yield *self.add(names), values
        if not self.index:
            raise UserError(f"{self.path}: no rows; expected {EMBEDDING_DIMENSIONS} for each image")
        bits = self.bits[: len(self.index)]
        short = np.flatnonzero((bits != 255).any(axis=1))
        if len(short):
            raise UserError(
                f"{self.path}: image {list(self.index)[short[0]]!r} has {np.bitwise_count(bits[short[0]]).sum()} rows, "
                f"expected {EMBEDDING_DIMENSIONS}; {len(short)} such images"
            )

    def add(self, names: "pa.StringArray") -> tuple[np.ndarray, np.ndarray]:
        """Each row's place in `index` and its dimension (0..383), in whatever order they stand."""
        import pandas as pd

        images, dimensions = split_names(self.path, names.to_numpy(zero_copy_only=False))
        position = np.array([self.index.setdefault(image, len(self.index)) for image in images], dtype=np.intp)
        self.bits = with_length(self.bits, len(self.index))
        byte, bit = dimensions // 8, (1 << dimensions % 8).astype(np.uint8)
        twice_here = pd.Series(position * EMBEDDING_DIMENSIONS + dimensions).duplicated().to_numpy()
        repeated = (self.bits[position, byte] & bit != 0) | twice_here
        if repeated.any():
            first = names[int(repeated.argmax())].as_py()
            raise UserError(f"{self.path}: row {first!r} is repeated; expected each image and dimension once")
        np.bitwise_or.at(self.bits, (position, byte), bit)
        return position, dimensions


def whole_images(names: "pa.StringArray") -> list[str]:
    """The ids of rows that stand as `write_submission` writes them, image after image; empty where they do not.

    One comparison of the whole block instead of taking every name apart: many times as fast.
    """
    ids = [name[: -len(ENDINGS[0])] for name in names[::EMBEDDING_DIMENSIONS].to_pylist()]
    as_written = len(set(ids)) == len(ids) and names.equals(texts(ids, [""] * len(ids)))
    return ids if as_written else []


def with_length(array: np.ndarray, length: int) -> np.ndarray:
    """The array, or one of at least `length` and at least twice as long, filled up with zeros: few copies in all."""
    if length <= len(array):
        return array
    longer = np.zeros((max(length, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


def blocks(path: Path) -> Iterator[tuple["pa.StringArray", np.ndarray]]:
    """The file's row names (an array of texts) and finite values (float32), up to BLOCK images at a time.

    Raises UserError, in one line, for what is no such table or holds a value that is no finite number.
    """
    import pyarrow as pa
    from pyarrow import csv

    as_texts = csv.ConvertOptions(column_types={name: pa.string() for name in COLUMNS})
    # about an eighth of a block's bytes: Arrow reads some 32 of these ahead
    parts = csv.ReadOptions(block_size=BLOCK * EMBEDDING_DIMENSIONS * 4)
    try:
        # opened here, where Python's audit events tell of it: what a run reads can be tested
        with open_file(path) as file, csv.open_csv(file, read_options=parts, convert_options=as_texts) as batches:
            if batches.schema.names != COLUMNS:
                raise UserError(f"{path}: columns {shown(','.join(batches.schema.names))}; expected exactly {HEADER}")
            whole = in_blocks(batches, BLOCK * EMBEDDING_DIMENSIONS)
            ahead = in_threads(lambda _: next(whole, None), count(), threads=1)
            for names, values in takewhile(lambda block: block is not None, ahead):
                yield names, finite_values(path, names, values)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a submission.csv") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder; expected a submission.csv. Give {path / 'submission.csv'}") from error
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path}: not a CSV table ({reason}); expected the columns {HEADER}") from error


def in_blocks(batches: Any, rows: int) -> Iterator[list[Any]]:
    """Both columns of the batches, `rows` rows at a time; the last time what is left."""
    import pyarrow as pa

    waiting = batches.schema.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        while waiting.num_rows >= rows:
            yield [column.combine_chunks() for column in waiting.slice(0, rows).columns]
            waiting = waiting.slice(rows)
    if waiting.num_rows:
        yield [column.combine_chunks() for column in waiting.columns]


def finite_values(path: Path, names: "pa.StringArray", values: "pa.StringArray") -> np.ndarray:
    """The texts as float32."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        numbers = pc.cast(values, pa.float32()).to_numpy()
    except pa.ArrowInvalid:  # pandas, as the scorer, reads more forms of numbers, and tells which it cannot
        as_read = pd.Series(values.to_pylist(), dtype=object)
        with np.errstate(over="ignore"):
            numbers = pd.to_numeric(as_read, errors="coerce").to_numpy(dtype=np.float64).astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(numbers))
    if len(broken):
        name, value = names[int(broken[0])].as_py(), values[int(broken[0])].as_py()
        raise UserError(
            f"{path}: the value of {name!r} is {value!r}, expected a finite number: "
            f"scoring would fail ({len(broken)} such rows in this part of the file)"
        )
    return numbers


def split_names(path: Path, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows' image ids and dimensions (0..383), each of shape (rows,)."""
    import pandas as pd

    parts = pd.Series(names, dtype=object).str.rpartition("_")
    valid = parts[2].isin(VALID_DIMENSIONS).to_numpy()
    if not valid.all():
        first = names[int(valid.argmin())]
        raise UserError(f"{path}: row {first!r} does not end in _0 to _{EMBEDDING_DIMENSIONS - 1}")
    return parts[0].to_numpy(), parts[2].astype(int).to_numpy()
