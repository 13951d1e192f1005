"""Frozen features of a pair set's pictures by a tower, shard by shard, kept so that they are made once.

In the folder of a tower's features each shard begins as a list of its pictures, NUMBER.json, from which whoever makes
it writes NUMBER.safetensors.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kernel.errors import UserError
from kernel.models.encoders.towers import WEIGHTS
from kernel.models.vectors import check_finite
from kernel.pipeline.images import ImageFile, one_of_each_folder
from kernel.pipeline.stages.batches import BatchSize, encode_files
from kernel.system.devices import Device
from kernel.system.files import drop_unfinished, write_json, write_whole
from kernel.system.records import read_record
from kernel.system.tensor_files import read_header
from kernel.system.terminal.progress import progress_bar
from kernel.system.work import Ends, Engine, Outcome, Share, plain
from kernel.training.pairs import TarMember
from kernel.training.tower.opened import BLIP2, CLIP, Encode, NamedTower

SHARD = 512  # pictures


@dataclass(frozen=True)
class Features:
    """rows (n, d) float32, a zero row for each of the `bad` pictures, {id: reason}."""

    rows: np.ndarray
    bad: dict[str, str]


class Seen(Protocol):
    """A tower for features: a NamedTower, or for this very process an AtHand."""

    def encode_on(self, device: Device) -> Encode: ...


@dataclass(frozen=True)
class AtHand:
    """A tower that is in this process's memory."""

    load: Callable[[], Encode]

    def encode_on(self, device: Device) -> Encode:
        return self.load()


@dataclass(frozen=True)
class Seeing:
    """Work: shards of pictures that are listed in `folder` through a tower, `batch` at a time."""

    folder: Path
    seen: Seen
    batch: int

    def load(self, device: Device) -> "Seer":
        return Seer(self.folder, self.seen.encode_on(device), BatchSize(self.batch))

    def folders(self) -> list[Path]:
        return [self.folder]

    def inputs(self) -> list[Path]:
        """The weights, of a tower of timm its own, and of the pictures, which all lie together, one: one that is not
        seen counts as bad."""
        assert isinstance(self.seen, NamedTower)
        first = min(self.folder.glob("[0-9]*.json"))
        tower = [] if self.seen.name in (CLIP, BLIP2) else [Path(self.seen.name) / WEIGHTS]
        return [self.seen.weights.manifest, *tower, *one_of_each_folder(read_list(self.folder, int(first.stem)))]

    def as_json(self) -> str:
        assert isinstance(self.seen, NamedTower), "another process has no such tower at hand"
        return plain([self.folder, self.batch, self.seen.as_json()])

    @classmethod
    def from_json(cls, text: str) -> "Seeing":
        folder, batch, tower = json.loads(text)
        return cls(Path(folder), NamedTower.from_json(tower), batch)


@dataclass(frozen=True)
class Seer:
    """A Maker of shards of features."""

    folder: Path
    encode: Encode
    size: BatchSize

    def make(self, item: int, share: Share) -> Iterator[int]:
        made = yield from encode_files(read_list(self.folder, item), self.size, self.encode)
        write_shard(shard_path(self.folder, item), made.results, made.bad | made.failed)


def features_of(files: list[ImageFile], folder: Path, seen: Seen, batch: int, label: str, engine: Engine) -> Features:
    """What the tower makes of every picture; it is loaded only where a shard is missing in `folder`.

    A picture that cannot be decoded, or on which the tower fails, is counted. Raises UserError where it fails on all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = {number: files[start : start + SHARD] for number, start in enumerate(range(0, len(files), SHARD))}
    missing = {number: own for number, own in shards.items() if not is_whole(shard_path(folder, number))}
    for number, own in missing.items():
        write_list(folder, number, own)
    left, outcome = sum(map(len, missing.values())), Outcome()
    items = {number: len(own) for number, own in missing.items()}
    bar = progress_bar(total=len(files), initial=len(files) - left, desc=label, unit="picture", disable=not items)
    with bar, closing(engine.work(Seeing(folder, seen, batch), items, Ends(), outcome)) as steps:
        for count in steps:
            bar.update(count)
    if outcome.left:
        raise UserError(
            f"{label}: cannot be made ({outcome.why}); what is made so far is kept in {folder}. Run again there, or "
            "with --device cpu"
        )
    for number in missing:
        list_path(folder, number).unlink()
    drop_unfinished(folder)
    parts = [read_shard(shard_path(folder, number)) for number in shards]
    width = max(part.rows.shape[1] for part in parts)
    rows = [part.rows if part.rows.shape[1] else np.zeros((len(part.rows), width), np.float32) for part in parts]
    found = Features(np.concatenate(rows), {image: why for part in parts for image, why in part.bad.items()})
    check_finite(label, found.rows)
    return found


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


def list_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"


def write_list(folder: Path, number: int, files: list[ImageFile]) -> None:
    listed = [[own.id, str(own.path.absolute()), *place_of(own)] for own in files]
    write_json(list_path(folder, number), listed)


def place_of(file: ImageFile) -> list[Any]:
    """Where within its file a picture stands; nothing where it is all of it."""
    return [file.start, file.bytes, file.kind] if isinstance(file, TarMember) else []


def read_list(folder: Path, number: int) -> list[ImageFile]:
    cure = "Remove it and run again: it is written anew"
    listed = read_record(list_path(folder, number), list[list[Any]], "a list of a shard's pictures", cure)
    return [
        TarMember(image, Path(path), *place) if place else ImageFile(image, Path(path))
        for image, path, *place in listed
    ]


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
