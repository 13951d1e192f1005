"""`publish pairs`: pictures with prompts from the hub as a pair set that `python -m kernel train` reads.

One source file at a time is downloaded, read, and deleted: its pictures go, resized, into a tar of the set. Beside the
result OUT lies .OUT.tmp while the work is under way, so that a killed run goes on: the set as far as it is made, what
the hub told (source.json), and of each source file that is done its counts, its prompts and their rows (parts/).
"""

import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from kernel.banks.near_duplicates import NearDuplicates, checked_threshold
from kernel.config import NEAR_PROMPTS, PairSettings, Recipe
from kernel.errors import UserError
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import Weights, open_weights
from kernel.publish.hub.download import bytes_to_come, fetch, local_path
from kernel.publish.hub.pairs.choice import Chosen
from kernel.publish.hub.pairs.pieces import fill_by
from kernel.publish.hub.pairs.sources import (
    CATALOGUE,
    Listed,
    PairRepository,
    PairSource,
    ask,
    asked_for,
    repository_of,
    source_named,
    stem,
)
from kernel.publish.hub.pairs.stored import scored, stored_in
from kernel.publish.hub.pairs.tars import BYTES_A_PIXEL, fill_tar
from kernel.publish.hub.pins import PinnedFile
from kernel.system.devices import find_device
from kernel.system.files import require_space, unfinished_path, write_json, write_whole, writing
from kernel.system.records import read_record
from kernel.system.work import Engine
from kernel.training.pairs import ORIGIN, open_pairs
from kernel.training.split import split_pairs

FORMAT = 1
NOT_WHOLE = "file that is not whole"
SOURCE = "source.json"


class Told(TypedDict):
    """source.json: what was asked for, and what the hub told of it, of `files` those whose sizes are known."""

    asked: dict[str, Any]
    repository: str
    revision: str
    licence: str
    files: dict[str, PinnedFile]
    parts: list[str]


class Part(TypedDict):
    """A source file that is done: its size and hash, how many pictures were read, left out by reason and written;
    the prompts that came with it, in the order of their rows, and those that came again."""

    file: PinnedFile
    read: int
    left_out: dict[str, int]
    written: int
    prompts: list[str]
    again: list[str]


class SetRecord(TypedDict):
    """pairs.json, but for what is told of the pairs."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    asked: dict[str, Any]


@dataclass(frozen=True)
class Making:
    """A set under way; `folder` is .OUT.tmp."""

    folder: Path
    weights: Weights
    device: str
    engine: Engine | None = None

    @property
    def set(self) -> Path:
        return self.folder / "set"

    @property
    def source(self) -> Path:
        return self.folder / SOURCE

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    @property
    def pieces(self) -> Path:
        return self.folder / "pieces"

    def part(self, name: str) -> Path:
        return self.parts / f"{stem(name)}.json"

    def rows(self, name: str) -> np.ndarray:
        from safetensors.numpy import load_file

        return load_file(self.part(name).with_suffix(".safetensors"))["rows"]

    @cached_property
    def encoder(self) -> SentenceEncoder:
        return SentenceEncoder.load(self.weights, find_device(self.device))

    def encode(self, prompts: list[str]) -> np.ndarray:
        return self.encoder.encode(prompts, Recipe().text_batch)


def publish_pairs(
    settings: PairSettings,
    out: Path,
    weights_folder: Path,
    scratch: Path,
    pins: Path,
    device: str = "auto",
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Makes `out` the pair set that `settings` ask for, or finds that it is, and returns its record, pairs.json.

    Pictures are resized here, or by the workers of an `engine`, which must see `out` and `scratch`. A killed run goes
    on: within a download by the byte, within a source file by the picture, or by the workers' pieces. Raises UserError
    for anything about source, pins, hub, disk or weights, and where too few pairs are left to hold some out.
    """
    source = source_named(settings.source)
    checked_threshold(settings.near)
    weights = open_weights(weights_folder, parts=("sentences",))
    asked = {
        "format": FORMAT, "source": source.name, "size": settings.size, "limit": settings.limit, "near": settings.near,
        "sentences": weights.sha256("sentences"),
    }  # fmt: skip
    making = Making(unfinished_path(out), weights, device, engine)
    if (record := finished(out, asked)) is not None:
        print(f"{out}: this very set, whole; nothing to do", file=sys.stderr)
        shutil.rmtree(making.folder, ignore_errors=True)
        return record
    cure = "Free space there, or give --out or --scratch another disk, then run again: what is made is kept"
    with writing(out, cure):
        for needed in (making.set, making.parts, scratch):
            needed.mkdir(parents=True, exist_ok=True)
        listed = known(source, asked, making, pins)
        print(f"{source.name}: {listed.repository}, licence {listed.licence}", file=sys.stderr)
        parts = done_parts(source, settings, listed, making, scratch)
        content = sealed(source, listed, asked, parts, making)
        making.set.replace(out)
        shutil.rmtree(making.folder)
    return content


def finished(out: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What `out` says of itself where it is whole. Raises UserError when it holds something else."""
    if (out / ORIGIN).is_file():
        cure = "Give --out a new folder"
        record = read_record(out / ORIGIN, SetRecord, "what 'publish pairs' says of a set", cure)
        refuse_others(out, record["asked"], asked)
        return dict(record)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: holds files, and 'publish pairs' did not write them. Give --out a new folder")
    return None


def refuse_others(place: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """What took hours is not thrown away for an option."""
    others = [f"{name} {found.get(name)}, not {value}" for name, value in asked.items() if found.get(name) != value]
    if others:
        raise UserError(
            f"{place}: holds pairs that were asked for otherwise ({'; '.join(others)}). Give the same options to go on "
            "with them, or --out a new folder"
        )


def known(source: PairSource, asked: dict[str, Any], making: Making, pins: Path) -> Listed:
    """What the hub told when the set was begun, or tells now."""
    if making.source.is_file():
        cure = f"Remove {making.folder} and run again: the set is made anew"
        told = read_record(making.source, Told, "what the hub told of a source", cure)
        refuse_others(making.folder, told["asked"], asked)
        fresh = repository_of(source, pins, making.source)
        repository = PairRepository(
            source.name, told["repository"], told["revision"], told["files"], CATALOGUE, making.source, fresh.pinned_in
        )
        return Listed(repository, told["parts"], told["licence"])
    listed = ask(source, repository_of(source, pins, making.source))
    record = listed.repository.record()
    write_json(making.source, {"asked": asked, "licence": listed.licence, "parts": listed.parts, **record})
    return listed


def done_parts(
    source: PairSource, settings: PairSettings, listed: Listed, making: Making, scratch: Path
) -> dict[str, Part]:
    """Every source file that is needed, done, by name."""
    chosen, table = Chosen(NearDuplicates(settings.near)), None
    parts: dict[str, Part] = {}
    written = 0
    for name in listed.parts:
        if written == settings.limit:
            break
        path, cure = making.part(name), "Remove it and run again: its source file is got anew"
        if path.is_file():
            parts[name] = read_record(path, Part, "what was made of a source file", cure)
            chosen.add(parts[name]["prompts"], making.rows(name), parts[name]["again"])
            local_path(listed.repository, name, scratch).unlink(missing_ok=True)
        else:
            repository = asked_for(listed.repository, name)
            check_disks(
                repository, name, source.table, scratch, making.folder, bytes_to_make(source, settings, written)
            )
            if source.table and table is None:
                table = fetch(repository, source.table, scratch)
            stored_at = fetch(repository, name, scratch)
            most = sys.maxsize if settings.limit is None else settings.limit - written
            parts[name] = made_part(making, repository, name, stored_at, table, settings.size, most, chosen)
            write_json(path, {**parts[name], "file": parts[name]["file"].record()})
            shutil.rmtree(making.pieces, ignore_errors=True)
            stored_at.unlink()
        written += parts[name]["written"]
    if source.table:
        local_path(listed.repository, source.table, scratch).unlink(missing_ok=True)
    return parts


def bytes_to_make(source: PairSource, settings: PairSettings, written: int) -> int:
    """About what is still to be written; 0 where nobody knows how many pictures there are."""
    pictures = min((own for own in (settings.limit, source.pictures) if own), default=written)
    return int(max(0, pictures - written) * settings.size**2 * BYTES_A_PIXEL)


def check_disks(
    repository: PairRepository, name: str, table: str | None, scratch: Path, folder: Path, result: int
) -> None:
    """Refuses a source file that cannot fit, and a set that cannot. Both can be on one disk."""
    download = bytes_to_come(repository, name, scratch) + (bytes_to_come(repository, table, scratch) if table else 0)
    needs = {scratch: download, folder: result}
    if os.stat(scratch).st_dev == os.stat(folder).st_dev:
        needs = {folder: download + result}
    for where, need in needs.items():
        what = f"{need / 1e9:.2f} GB are needed for one source file at a time and for the pictures still to come"
        require_space(where, need, what, "give --scratch or --out another disk, or a --limit")


def made_part(
    making: Making,
    repository: PairRepository,
    name: str,
    path: Path,
    table: Path | None,
    size: int,
    most: int,
    chosen: Chosen,
) -> Part:
    """Makes a tar of the set of one source file, `path`: `most` pictures of `size` pixels; what is counted of it."""
    from safetensors.numpy import save

    left_out: Counter[str] = Counter()
    try:
        stored = stored_in(path, left_out)
    except UserError as error:  # as the hub has it, so another download would not help
        print(f"{error}; it is left out", file=sys.stderr)
        stored, left_out[NOT_WHOLE] = [], 1
    read = len(stored) + sum(left_out.values())
    if table:
        stored = scored(stored, table)
    choice = chosen.choose(stored, table is not None, making.encode, left_out)
    tar = making.part(name).with_suffix(".tar")
    if making.engine is None:
        written = fill_tar(tar, choice.kept, size, most, left_out)
    else:
        source = path, repository.files[name].hash
        written = fill_by(making.engine, making.pieces, tar, source, choice.kept, size, most, left_out)
    write_whole(making.part(name).with_suffix(".safetensors"), save({"rows": choice.rows.astype(np.float16)}))
    if written:
        tar.replace(making.set / tar.name)
    else:
        tar.unlink()
    return {
        "file": repository.files[name],
        "read": read,
        "left_out": dict(+left_out),
        "written": written,
        "prompts": choice.prompts,
        "again": choice.again,
    }


def sealed(
    source: PairSource, listed: Listed, asked: dict[str, Any], parts: dict[str, Part], making: Making
) -> dict[str, Any]:
    """Writes the split into the set, and pairs.json, which it returns. Raises UserError where no pair was taken."""
    left_out: Counter[str] = Counter()
    for part in parts.values():
        left_out.update(part["left_out"])
    read = sum(part["read"] for part in parts.values())
    if not any(part["written"] for part in parts.values()):
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise UserError(
            f"{listed.repository}: none of {read:,} pictures is taken ({why or 'its files are empty'}), so there is no "
            f"set. Take another source; what was begun lies in {making.folder}"
        )
    pairs = open_pairs(making.set)
    rows: dict[str, np.ndarray] = {}
    for name, part in parts.items() if pairs.clusters is None else ():
        rows |= zip(part["prompts"], making.rows(name), strict=True)
    split_pairs(pairs, np.array([rows[prompt] for prompt in pairs.prompts if rows]), NEAR_PROMPTS).write(making.set)
    content = {
        "asked": asked,
        "source": source.name,
        "about": source.about,
        "repository": listed.repository.name,
        "revision": listed.repository.revision,
        "licence": listed.licence,
        "pictures": len(pairs.pictures),
        "prompts": len(set(pairs.prompts)),
        "read": read,
        "left_out": dict(left_out),
        "files": {name: part["file"].record() for name, part in parts.items()},
    }
    write_json(making.set / ORIGIN, content)
    return content
