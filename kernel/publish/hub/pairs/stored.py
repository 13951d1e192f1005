"""What a source's file holds: pictures where they stand in a tar or a zip, with what is said of each."""

import math
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from kernel.errors import UserError, first_line
from kernel.pipeline.images import ImageFile, formats
from kernel.training.pairs import WITHOUT_PROMPT, pairs_in, read_json

MOST_PICTURE_BYTES = 2**28  # of what is unpacked for one picture
MOST_TOLD_BYTES = 2**26  # of a zip's JSON: DiffusionDB's are of 1,000 prompts
SCORES = ("image_nsfw", "prompt_nsfw")


@dataclass(frozen=True)
class Stored:
    """A picture, the name that it has there, its prompt, its cluster and its NSFW score, where there are any."""

    picture: ImageFile
    key: str
    prompt: str
    cluster: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class ZipMember(ImageFile):
    """A picture within an opened zip."""

    archive: zipfile.ZipFile = field(repr=False)
    name: str

    def source(self) -> BytesIO:
        return BytesIO(unpacked(self.archive, self.name, MOST_PICTURE_BYTES))


def stored_in(path: Path, left_out: Counter[str]) -> list[Stored]:
    """The pairs of a .tar or a .zip, in their order there; `left_out` counts by reason what is none.

    Raises UserError where the file is not whole.
    """
    if path.suffix == ".zip":
        return zipped(path, left_out)
    return [
        Stored(picture, picture.id.partition("/")[2], prompt, cluster)
        for picture, prompt, cluster in pairs_in(path, left_out)
    ]


def zipped(path: Path, left_out: Counter[str]) -> list[Stored]:
    """DiffusionDB's: pictures, and a JSON {name: {"p": prompt, ...}} of them."""
    try:
        archive = zipfile.ZipFile(path)
        names = [name for name in archive.namelist() if PurePosixPath(name).suffix.lower() in formats()]
        jsons = [name for name in archive.namelist() if name.endswith(".json")]
        told = read_json(unpacked(archive, jsons[0], MOST_TOLD_BYTES).decode(errors="replace")) if jsons else {}
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: not a whole zip ({first_line(error)})") from error
    found = []
    for name in names:
        beside = told.get(name)
        prompt = beside.get("p") if isinstance(beside, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            left_out[WITHOUT_PROMPT] += 1
            continue
        found.append(Stored(ZipMember(name, path, archive, name), name, prompt))
    return found


def unpacked(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """Raises OSError for what cannot be unpacked, or is larger than `most` bytes."""
    try:
        with archive.open(name) as file:
            content = file.read(most + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise OSError(f"cannot be unpacked: {first_line(error)}") from error
    if len(content) > most:
        raise OSError(f"more than {most // 2**20} MiB")
    return content


def scored(stored: list[Stored], table: Path) -> list[Stored]:
    """With the scores of `table`."""
    scores = scores_of(table, [own.key for own in stored])
    return [replace(own, score=scores.get(own.key)) for own in stored]


def scores_of(table: Path, names: list[str]) -> dict[str, float]:
    """The larger of a picture's two scores, those that have both; 2.0 is that of a blurred picture.

    Raises UserError where the table lacks its columns.
    """
    import pyarrow
    import pyarrow.parquet

    columns = ["image_name", *SCORES]
    try:
        found = pyarrow.parquet.read_table(table, columns=columns, filters=[("image_name", "in", names or [""])])
        rows: list[dict[str, Any]] = found.to_pylist()
        scored = [(row["image_name"], [float(row[name]) for name in SCORES if row[name] is not None]) for row in rows]
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{table}: its columns {', '.join(columns)} cannot be read ({first_line(error)}), and without scores no "
            "picture is taken. Take an older revision of the source"
        ) from error
    return {name: max(own) for name, own in scored if len(own) == len(SCORES) and not any(map(math.isnan, own))}
