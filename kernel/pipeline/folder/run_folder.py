"""The run folder: shards written whole or not at all, and what they belong to.

A shard is written under a temporary name and renamed, so a killed run leaves only whole shards, and the
next one goes on with what is missing. Beside each lies its seal, a sha256 over the settings and inputs of its stage,
its name and its contents: a shard that was cut or altered, or comes from elsewhere, is made again.
What shards hold is told by results.py.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kernel.pipeline.images import ImageFile
from kernel.system.files import drop_unfinished, json_bytes, write_json, write_whole
from kernel.system.opening import read_whole
from kernel.system.records import read_record

FORMAT = 4  # of shards: those of another are made again
MOST_BYTES = 2**30  # of JSON that a stage left: a kilobyte for each of a million images


@dataclass(frozen=True)
class Shards:
    """The files of a stage, one a shard, in the folder of its name; `unmade` tells of a shard that is there the ids of
    images for which the time did not suffice. Those `of_captions` each of several captioners has for itself."""

    stage: str
    suffix: str
    unmade: Callable[["RunFolder", "Shards", int], list[str]] = lambda folder, shards, shard: []
    of_captions: bool = False

    def by(self, captioner: str) -> "Shards":
        """Those of one of several captioners; these themselves where they are of no captions, or one's alone ("")."""
        return replace(self, suffix=f".{captioner}{self.suffix}") if captioner and self.of_captions else self


class Run(TypedDict):
    """What run.json holds from the start, and by what a run goes on; the rest is `record`'s to write."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    identity: dict[str, dict[str, Any]]


@dataclass
class RunFolder:
    """One run's outputs. `images` are shared out into shards of `shard_images` consecutive ids."""

    folder: Path
    images: list[ImageFile]
    shard_images: int
    identity: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        starts, count = range(0, len(self.images), self.shard_images), len(self.images)
        self.borders = [(start, min(start + self.shard_images, count)) for start in starts]

    def shard_files(self, shard: int) -> list[ImageFile]:
        return self.images[slice(*self.borders[shard])]

    def shard_ids(self, shard: int) -> list[str]:
        return [file.id for file in self.shard_files(shard)]

    def shard_path(self, shards: Shards, shard: int) -> Path:
        return self.folder / shards.stage / f"{shard:05d}{shards.suffix}"

    def made(self, shards: Shards) -> list[int]:
        """The shards that are there."""
        return [shard for shard in range(len(self.borders)) if self.shard_path(shards, shard).is_file()]

    def sizes(self, shards: Iterable[int] | None = None) -> dict[int, int]:
        """Of each shard, or of these, how many images it holds."""
        asked = range(len(self.borders)) if shards is None else shards
        return {shard: len(self.shard_files(shard)) for shard in asked}

    def unmade_images(self, shards: Shards) -> set[str]:
        """The ids of images that a stage has not come to: of missing shards, and of parts of shards."""
        made = self.made(shards)
        return {
            image_id
            for shard in range(len(self.borders))
            for image_id in (shards.unmade(self, shards, shard) if shard in made else self.shard_ids(shard))
        }

    def write_shard(self, shards: Shards, shard: int, data: bytes, whole: bool = True) -> None:
        """The seal first: ended between the two, the shard is missing or does not fit its seal, so it is made again.
        Both are replaced and never taken away: a machine that was given up for lost may still write the same shard.

        A part of a shard, for which the time did not suffice, gets none: this run answers with it, the next makes it
        again.
        """
        path = self.shard_path(shards, shard)
        if whole:
            write_whole(seal_path(path), self.seal(shards.stage, path.name, data))
        else:
            seal_path(path).unlink(missing_ok=True)
        write_whole(path, data)

    def write_json(self, shards: Shards, shard: int, content: Any, whole: bool = True) -> None:
        self.write_shard(shards, shard, json_bytes(content), whole)

    def read_json(self, shards: Shards, shard: int) -> Any:
        return json.loads(read_whole(self.shard_path(shards, shard), MOST_BYTES))

    def has_shard(self, shards: Shards, shard: int) -> bool:
        """Whether the shard is there, whole, and of this very stage and run."""
        path = self.shard_path(shards, shard)
        there = path.is_file() and seal_path(path).is_file()
        return there and seal_path(path).read_bytes() == self.seal(shards.stage, path.name, path.read_bytes())

    def whole(self, shards: Shards) -> list[int]:
        """The shards that are there but for what was cut off or altered or comes from elsewhere."""
        return [shard for shard in self.made(shards) if self.has_shard(shards, shard)]

    def drop_unsound_shards(self, shards: Shards) -> None:
        """Removes what is not whole, so that every shard that is there can be read."""
        for shard in {*self.made(shards)}.difference(self.whole(shards)):
            self.shard_path(shards, shard).unlink()

    def drop_unfinished(self) -> None:
        """Of every stage."""
        for folder in self.folder.glob("*/"):
            drop_unfinished(folder)

    def seal(self, stage: str, name: str, data: bytes) -> bytes:
        settings = json.dumps(self.identity.get(stage), sort_keys=True)
        return hashlib.sha256(f"{settings}\n{name}\n".encode() + data).hexdigest().encode()

    def write_run(self, content: dict[str, Any]) -> None:
        write_json(self.folder / "run.json", content)


def read_run(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder; None when there is none. Raises UserError when it is no run's."""
    path = folder / "run.json"
    if not path.exists():
        return None
    return dict(read_record(path, Run, "a run's record", "Give --out an empty or a new folder"))


def seal_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
