"""submission.csv in the competition's exact form: `imgId_eId,val`, one row an image and dimension."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kernel.config import EMBEDDING_DIMENSIONS
from kernel.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["imgId_eId", "val"]
VALID_DIMENSIONS = [str(dimension) for dimension in range(EMBEDDING_DIMENSIONS)]
BLOCK = 256  # images written or read at a time, so that memory does not grow with row names


def write_submission(path: Path, ids: list[str], rows: np.ndarray) -> None:
    """Writes (n, 384) rows under a temporary name, then renames: the file is whole or not there.

    Values keep every bit of float32. Raises ValueError on a wrong shape or a value that is not finite.
    """
    import pandas as pd

    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    if rows.shape != (len(ids), EMBEDDING_DIMENSIONS) or not np.isfinite(rows).all():
        raise ValueError(f"expected finite rows of shape {(len(ids), EMBEDDING_DIMENSIONS)}, found {rows.shape}")
    endings = [f"_{dimension}" for dimension in range(EMBEDDING_DIMENSIONS)]
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            for start in range(0, len(ids), BLOCK):
                names = [image_id + ending for image_id in ids[start : start + BLOCK] for ending in endings]
                values = rows[start : start + BLOCK].ravel()
                table = pd.DataFrame({COLUMNS[0]: names, COLUMNS[1]: values})
                table.to_csv(file, index=False, header=start == 0, lineterminator="\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_submission(path: Path) -> dict[str, np.ndarray]:
    """Id -> (384,) float32 row, in the file's order.

    Raises UserError, in one line, for rows that are missing, repeated, unreadable or not finite.
    """
    import pandas as pd

    index: dict[str, int] = {}
    rows = np.empty((0, EMBEDDING_DIMENSIONS), dtype=np.float32)
    filled = np.empty((0, EMBEDDING_DIMENSIONS), dtype=bool)
    try:
        with pd.read_csv(
            path, dtype=str, keep_default_na=False, encoding="utf-8", chunksize=BLOCK * EMBEDDING_DIMENSIONS
        ) as chunks:
            for table in chunks:
                if list(table.columns) != COLUMNS:
                    found = ",".join(map(str, table.columns))
                    raise UserError(f"{path}: columns {found}; expected exactly {','.join(COLUMNS)}")
                if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first of too many values as labels
                    raise UserError(f"{path}: rows hold more than two values; expected exactly {','.join(COLUMNS)}")
                if table.empty:
                    continue
                images, dimensions, values = parsed_rows(path, table)
                position = np.array([index.setdefault(image, len(index)) for image in images], dtype=np.intp)
                new = len(index) - len(rows)
                rows = np.concatenate([rows, np.zeros((new, EMBEDDING_DIMENSIONS), dtype=np.float32)])
                filled = np.concatenate([filled, np.zeros((new, EMBEDDING_DIMENSIONS), dtype=bool)])
                cells = position * EMBEDDING_DIMENSIONS + dimensions
                repeated = filled[position, dimensions] | pd.Series(cells).duplicated().to_numpy()
                if repeated.any():
                    first = table["imgId_eId"].iloc[int(repeated.argmax())]
                    raise UserError(f"{path}: row {first!r} is repeated; expected each image and dimension once")
                rows[position, dimensions] = values
                filled[position, dimensions] = True
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a submission.csv") from error
    except (ValueError, OSError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: not a CSV table ({line}); expected the columns {','.join(COLUMNS)}") from error
    ids = list(index)
    if not ids:
        raise UserError(f"{path}: no rows; expected {EMBEDDING_DIMENSIONS} for each image")
    short = np.flatnonzero(~filled.all(axis=1))
    if len(short):
        raise UserError(
            f"{path}: image {ids[short[0]]!r} has {filled[short[0]].sum()} rows, expected {EMBEDDING_DIMENSIONS}; "
            f"{len(short)} such images"
        )
    return dict(zip(ids, rows, strict=True))


def parsed_rows(path: Path, table: "pd.DataFrame") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows' image ids, dimensions (0..383) and finite values, each of shape (rows,)."""
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
    parts = table["imgId_eId"].str.rpartition("_")
    valid = parts[2].isin(VALID_DIMENSIONS).to_numpy()
    if not valid.all():
        first = table["imgId_eId"].iloc[int(valid.argmin())]
        raise UserError(f"{path}: row {first!r} does not end in _0 to _{EMBEDDING_DIMENSIONS - 1}")
    return parts[0].to_numpy(), parts[2].astype(int).to_numpy(), values


def check_submission(path: Path, ids: list[str]) -> None:
    """Raises UserError unless the file holds exactly these images, each with 384 finite values."""
    found = read_submission(path)
    for what, names in (("missing", set(ids) - set(found)), ("not among the images", set(found) - set(ids))):
        if names:
            raise UserError(
                f"{path}: {len(names)} of {len(ids)} images are {what}, the first is {min(names)!r}; "
                "expected exactly the images of the folder"
            )
    flat = [name for name, row in found.items() if not row.any()]
    if flat:
        raise UserError(
            f"{path}: {len(flat)} images have only zeros, the first is {flat[0]!r}; their cosine is undefined"
        )
