"""The files that `publish weights` gets, and the record of those that it has made, by which a killed run goes on."""

import sys
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from kernel.errors import UserError
from kernel.models.weights_folder import MANIFEST, read_manifest
from kernel.publish.hub.pins import SHARD, Repository
from kernel.system.files import file_sha256, write_json
from kernel.system.records import read_record

WEIGHTS_SUFFIXES = (".safetensors", ".bin")


@dataclass(frozen=True)
class Item:
    """One file to get: of which repository, its name there, its path in the weights folder."""

    repository: Repository
    name: str
    target: str

    @property
    def is_weights(self) -> bool:
        return self.name.endswith(WEIGHTS_SUFFIXES)

    def origin(self) -> list[str]:
        """What the result is made of; another origin is another result."""
        return [self.repository.name, self.repository.revision, self.name, self.repository.files[self.name].hash]


def items_of(repositories: dict[str, Repository], captioners: list[str]) -> list[Item]:
    items = []
    for model, repository in repositories.items():
        parent = f"captioners/{model}" if model in captioners else model
        chosen = repository.catalogue.choices[model]
        for name in repository.files:
            whole = name.endswith(WEIGHTS_SUFFIXES) and not SHARD.fullmatch(name)
            items.append(Item(repository, name, f"{parent}/{chosen.weights[0] if whole else name}"))
    return items


class Made(TypedDict):
    """A file that is made: what of, its sha256 and its bytes."""

    origin: list[str]
    sha256: str
    bytes: int


def whole_files(unfinished: Path) -> Path:
    """Where files lie of which the folder that is made gets but a part."""
    return unfinished / "whole"


def finished_files(unfinished: Path, items: list[Item]) -> dict[str, Made]:
    """What record.json and the disk agree on for these items; every other file under way is removed, and what was put
    aside is back in its place."""
    for whole in [path for path in whole_files(unfinished).rglob("*") if path.is_file()]:
        whole.replace(unfinished / "weights" / whole.relative_to(whole_files(unfinished)))
    folder, path = unfinished / "weights", unfinished / "record.json"
    cure = f"Remove {unfinished} and run again: it is made anew"
    record = read_record(path, dict[str, Made], "what was made so far", cure) if path.is_file() else {}
    origins = {item.target: item.origin() for item in items}
    finished = {
        target: entry
        for target, entry in record.items()
        if entry["origin"] == origins.get(target)
        and (folder / target).is_file()
        and (folder / target).stat().st_size == entry["bytes"]
    }
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in finished:
            path.unlink()
    if finished:
        print(f"{folder}: going on, {len(finished)} of {len(items)} files are made", file=sys.stderr)
    return finished


def note_changed(items: list[Item], folder: Path, record: dict[str, Made]) -> None:
    """Takes down what the small files are now, after a kind has added what the hub's lack."""
    for item in items:
        if not item.is_weights:
            target = folder / item.target
            record[item.target] |= {"sha256": file_sha256(target), "bytes": target.stat().st_size}
    write_json(folder.parent / "record.json", record)


def check_written(folder: Path, record: dict[str, Made]) -> None:
    """The disk must give back what was written to it."""
    for entry in read_manifest(folder / MANIFEST).files:
        written = record.get(entry.path)
        if written is not None and written["sha256"] != entry.sha256:
            (folder / entry.path).unlink()
            raise UserError(
                f"{folder / entry.path}: reads back otherwise than it was written: the disk may be failing, or the "
                "file was changed. It was removed; run again to make it anew"
            )
