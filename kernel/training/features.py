"""Frozen features of a pair set's pictures by a tower, shard by shard, kept so that they are made once."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image

from kernel.errors import UserError
from kernel.models.vectors import check_finite
from kernel.pipeline.images import ImageFile
from kernel.pipeline.stages.batches import BatchSize, CannotBeUsed, encode_files
from kernel.system.files import write_whole
from kernel.system.tensor_files import read_header
from kernel.system.terminal.progress import progress_bar

SHARD = 512  # pictures
Encode = Callable[[list[Image]], np.ndarray]


@dataclass(frozen=True)
class Features:
    """rows (n, d) float32, a zero row for each of the `bad` pictures, {id: reason}."""

    rows: np.ndarray
    bad: dict[str, str]


def features_of(files: list[ImageFile], folder: Path, load: Callable[[], Encode], batch: int, label: str) -> Features:
    """What the tower that `load` gives makes of every picture; it is loaded only where a shard is missing in `folder`.

    A picture that cannot be decoded, or on which the tower fails, is counted. Raises UserError where it fails on all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(files), SHARD)
    paths = [folder / f"{start // SHARD:05d}.safetensors" for start in starts]
    missing = [start for start, path in zip(starts, paths, strict=True) if not is_whole(path)]
    if missing:
        encode, size = load(), BatchSize(batch)
        left = sum(len(files[start : start + SHARD]) for start in missing)
        with progress_bar(total=len(files), initial=len(files) - left, desc=label, unit="picture") as bar:
            for start in missing:
                making = encode_files(files[start : start + SHARD], size, encode)
                while True:
                    try:
                        bar.update(next(making))
                    except StopIteration as made:
                        write_shard(paths[start // SHARD], made.value.results, made.value.bad | made.value.failed)
                        break
                    except CannotBeUsed as error:
                        raise UserError(
                            f"{label}: cannot be made ({error}); what is made so far is kept in {folder}. Run again "
                            "there, or with --device cpu"
                        ) from error
    parts = [read_shard(path) for path in paths]
    width = max(part.rows.shape[1] for part in parts)
    rows = [part.rows if part.rows.shape[1] else np.zeros((len(part.rows), width), np.float32) for part in parts]
    found = Features(np.concatenate(rows), {image: why for part in parts for image, why in part.bad.items()})
    check_finite(label, found.rows)
    return found


def write_shard(path: Path, results: list[np.ndarray | None], bad: dict[str, str]) -> None:
    from safetensors.numpy import save

    width = max((len(row) for row in results if row is not None), default=0)
    rows = [np.zeros(width, np.float32) if row is None else row for row in results]
    write_whole(path, save({"features": np.stack(rows)}, metadata={"bad": json.dumps(bad)}))


def is_whole(path: Path) -> bool:
    try:
        return path.is_file() and bool(read_header(path))
    except ValueError:
        return False


def read_shard(path: Path) -> Features:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return Features(file.get_tensor("features"), json.loads(file.metadata()["bad"]))
