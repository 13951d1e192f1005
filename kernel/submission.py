"""submission.csv in the competition's exact form: `imgId_eId,val`, one row an image and dimension."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS
from kernel.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["imgId_eId", "val"]
ENDINGS = [f"_{dimension}" for dimension in range(EMBEDDING_DIMENSIONS)]
VALID_DIMENSIONS = [ending[1:] for ending in ENDINGS]
BLOCK = 256  # images written or read at a time, so that memory does not grow with row names or values


def write_submission(path: Path, ids: list[str], rows: np.ndarray) -> None:
    """Writes (n, 384) rows under a temporary name, then renames: the file is whole or not there.

    `rows` may be one row that np.broadcast_to repeats: no second array of their size is made. Values keep every bit of
    float32. Raises ValueError on a wrong shape or a value that is not finite.
    """
    import pandas as pd

    expected = f"expected finite rows of shape {(len(ids), EMBEDDING_DIMENSIONS)}, found {rows.shape}"
    if rows.shape != (len(ids), EMBEDDING_DIMENSIONS):
        raise ValueError(expected)
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            for start in range(0, len(ids), BLOCK):
                with np.errstate(over="ignore"):
                    values = rows[start : start + BLOCK].astype(np.float32).ravel()
                if not np.isfinite(values).all():
                    raise ValueError(expected)
                table = pd.DataFrame({COLUMNS[0]: row_names(ids[start : start + BLOCK]), COLUMNS[1]: values})
                table.to_csv(file, index=False, header=start == 0, lineterminator="\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def row_names(ids: list[str]) -> list[str]:
    """Example: row_names(["a", "b"]) -> ["a_0", "a_1", ..., "a_383", "b_0", ..., "b_383"]"""
    return [image_id + ending for image_id in ids for ending in ENDINGS]


def read_submission(path: Path) -> dict[str, np.ndarray]:
    """Id -> (384,) float32 row, in the file's order.

    Raises UserError, in one line, for rows that are missing, repeated, unreadable or not finite.
    """
    seen = Seen(path)
    rows = np.empty((0, EMBEDDING_DIMENSIONS), dtype=np.float32)
    for names, values in blocks(path):
        position, dimensions = seen.add(names)
        rows = with_length(rows, len(seen.index))
        rows[position, dimensions] = values
    seen.check_whole()
    return dict(zip(seen.index, rows, strict=False))  # rows may have room for more


def check_submission(path: Path, ids: list[str]) -> None:
    """Raises UserError unless the file holds exactly these images, each with 384 finite values that are not all zero.

    Holds the ids, 49 bytes an image and one block of the file: the values are looked at, not kept.
    """
    seen = Seen(path)
    has_values = np.empty(0, dtype=bool)
    for names, values in blocks(path):
        position, _ = seen.add(names)
        has_values = with_length(has_values, len(seen.index))
        has_values[position[values != 0]] = True
    seen.check_whole()
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

    def add(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each row's place in `index` and its dimension (0..383), both of the shape of `names`.

        Raises UserError for a name without a dimension and for one that was there before.
        """
        before = len(self.index)
        ids = whole_images(names)
        if ids and not any(image_id in self.index for image_id in ids):
            self.index.update(zip(ids, range(before, before + len(ids)), strict=True))
            self.bits = with_length(self.bits, len(self.index))
            self.bits[before : len(self.index)] = 255
            dimensions = np.tile(np.arange(EMBEDDING_DIMENSIONS), len(ids))
            return np.repeat(np.arange(before, len(self.index)), EMBEDDING_DIMENSIONS), dimensions
        return self.add_in_any_order(names)

    def add_in_any_order(self, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import pandas as pd

        images, dimensions = split_names(self.path, names)
        position = np.array([self.index.setdefault(image, len(self.index)) for image in images], dtype=np.intp)
        self.bits = with_length(self.bits, len(self.index))
        byte, bit = dimensions // 8, (1 << dimensions % 8).astype(np.uint8)
        repeated = (self.bits[position, byte] & bit != 0) | pd.Series(
            position * EMBEDDING_DIMENSIONS + dimensions
        ).duplicated().to_numpy()
        if repeated.any():
            first = names[int(repeated.argmax())]
            raise UserError(f"{self.path}: row {first!r} is repeated; expected each image and dimension once")
        np.bitwise_or.at(self.bits, (position, byte), bit)
        return position, dimensions

    def check_whole(self) -> None:
        """Raises UserError unless every image has all its dimensions, and there is one."""
        if not self.index:
            raise UserError(f"{self.path}: no rows; expected {EMBEDDING_DIMENSIONS} for each image")
        bits = self.bits[: len(self.index)]
        short = np.flatnonzero((bits != 255).any(axis=1))
        if len(short):
            raise UserError(
                f"{self.path}: image {list(self.index)[short[0]]!r} has {np.bitwise_count(bits[short[0]]).sum()} rows, "
                f"expected {EMBEDDING_DIMENSIONS}; {len(short)} such images"
            )


def whole_images(names: np.ndarray) -> list[str]:
    """The ids of rows that stand as `write_submission` writes them, image after image; empty where they do not.

    One comparison of the whole block instead of taking every name apart: several times as fast.
    """
    ids = [str(name)[: -len(ENDINGS[0])] for name in names[::EMBEDDING_DIMENSIONS]]
    as_written = names.tolist() == row_names(ids) and len(set(ids)) == len(ids)
    return ids if as_written else []


def with_length(array: np.ndarray, length: int) -> np.ndarray:
    """The array, or one of at least `length` and at least twice as long, filled up with zeros: few copies in all."""
    if length <= len(array):
        return array
    longer = np.zeros((max(length, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


def blocks(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The file's row names (str) and finite values (float32), both of shape (rows,), up to BLOCK images at a time.

    Raises UserError, in one line, for what is no such table or holds a value that is no finite number.
    """
    import pandas as pd

    try:
        # plain Python strings, which pandas makes, compares and turns into numbers faster than its own type for text
        with pd.read_csv(
            path, dtype=object, keep_default_na=False, encoding="utf-8", chunksize=BLOCK * EMBEDDING_DIMENSIONS
        ) as chunks:
            for table in chunks:
                if list(table.columns) != COLUMNS:
                    found = ",".join(map(str, table.columns))
                    raise UserError(f"{path}: columns {found}; expected exactly {','.join(COLUMNS)}")
                if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first of too many values as labels
                    raise UserError(f"{path}: rows hold more than two values; expected exactly {','.join(COLUMNS)}")
                if not table.empty:
                    yield table[COLUMNS[0]].to_numpy(), finite_values(path, table)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a submission.csv") from error
    except (ValueError, OSError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: not a CSV table ({line}); expected the columns {','.join(COLUMNS)}") from error


def finite_values(path: Path, table: "pd.DataFrame") -> np.ndarray:
    import pandas as pd

    with np.errstate(over="ignore"):
        values = pd.to_numeric(table["val"], errors="coerce").to_numpy(dtype=np.float64).astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        row = table.iloc[broken[0]]
        raise UserError(
            f"{path}: the value of {row['imgId_eId']!r} is {row['val']!r}, expected a finite number: "
            f"scoring would fail ({len(broken)} such rows in this part of the file)"
        )
    return values


def split_names(path: Path, names: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows' image ids and dimensions (0..383), each of shape (rows,)."""
    import pandas as pd

    parts = pd.Series(names, dtype=object).str.rpartition("_")
    valid = parts[2].isin(VALID_DIMENSIONS).to_numpy()
    if not valid.all():
        first = names[int(valid.argmin())]
        raise UserError(f"{path}: row {first!r} does not end in _0 to _{EMBEDDING_DIMENSIONS - 1}")
    return parts[0].to_numpy(), parts[2].astype(int).to_numpy()
