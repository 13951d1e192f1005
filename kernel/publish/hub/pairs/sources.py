"""The public sets of pictures with the prompts that made them: what each is, under which licence, which files it has.

Repositories and revisions stand in the section `pairs` of pins.json. Licences are those that the repository's own page
states. Sizes and hashes of the single files are the hub's, at that revision; a set that is made of them keeps them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

from kernel.errors import UserError, did_you_mean
from kernel.publish.answers import one_line
from kernel.publish.hub.client import asking, fitting
from kernel.publish.hub.download import asked_files, listed_files, listing_of
from kernel.publish.hub.pins import Catalogue, FileChoice, Pin, Repository, read_pins
from kernel.system.files import json_bytes
from kernel.training.pairs import NOT_STATED

OWN = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
LICENCE = "license:"  # how the hub's tags begin that name one
AGAIN = "Nothing was written: run again"


@dataclass(frozen=True)
class PairSource:
    """One source: tars of the WebDataset format, those of the hub's listing, or else the zips named by `parts`.

    `licence`: "" where the hub's listing is to tell. `table`: a file with the NSFW scores of every picture.
    `pictures`: about how many there are; 0 where nobody knows.
    """

    name: str
    licence: str
    about: str
    parts: tuple[str, ...] = ()
    table: str | None = None
    pictures: int = 0


SOURCES = {
    source.name: source
    for source in (
        PairSource(
            "sd-4.4M",
            "openrail",
            "4.4 million pictures of Stable Diffusion 2.0, made for the competition by its 12th place: of the prompts "
            "of Magic Prompt, DiffusionDB and Open Prompts, and of the captions of COCO, CC and LAION; with clusters",
            pictures=4_400_000,
        ),
        PairSource(
            "diffusiondb",
            "CC0-1.0",
            "DiffusionDB 2M: 2 million pictures of Stable Diffusion 1 as its users asked for them, 1.5 million prompts",
            tuple(f"images/part-{number:06d}.zip" for number in range(1, 2001)),
            "metadata.parquet",
            pictures=2_000_000,
        ),
    )
}
CATALOGUE = Catalogue(
    "pairs", "dataset", "python -m kernel publish pairs", {name: FileChoice((), weights=()) for name in SOURCES}
)


@dataclass(frozen=True)
class PairRepository(Repository):
    """`pins` is the record of the set under way, which keeps what the hub told; `pinned_in` the pins file, if any."""

    pinned_in: Path | None = None

    @property
    def other_revision(self) -> str:
        of = f', after setting "revision" of {self.key} in {self.pinned_in}' if self.pinned_in else ""
        return f"A set is made of one revision: give --out a new folder{of}"


@dataclass(frozen=True)
class Listed:
    """A source as the hub tells it: the files in the order in which they are taken; `repository` has the sizes and
    hashes of those that are known beforehand."""

    repository: PairRepository
    parts: list[str]
    licence: str


def source_named(name: str) -> PairSource:
    """Raises UserError for what is neither in the table nor a repository's name."""
    if name in SOURCES:
        return SOURCES[name]
    if not OWN.fullmatch(name):
        raise UserError(
            f"unknown source {name!r}{did_you_mean(name, SOURCES)}. Valid: {', '.join(SOURCES)}, or OWNER/NAME of a "
            "dataset repository with tars of pictures and their .txt or .json"
        )
    return PairSource(name, "", "a repository of its own")


def repository_of(source: PairSource, pins: Path, record: Path) -> PairRepository:
    """Nothing of it asked yet; of one that is not in the pins the newest revision."""
    if source.name not in SOURCES:
        return PairRepository(source.name, source.name, "", {}, CATALOGUE, record)
    pinned = read_pins(pins, CATALOGUE)[source.name]
    return PairRepository(source.name, pinned.name, pinned.revision, {}, CATALOGUE, record, pins)


def ask(source: PairSource, repository: PairRepository) -> Listed:
    """Raises UserError for whatever the hub says that is no answer, and where there is nothing to take."""
    with asking(repository, AGAIN):
        if source.parts:
            assert source.table is not None
            return Listed(asked_for(repository, source.table), list(source.parts), source.licence)
        listing = listing_of(repository)
        revision, files = listed_files(listing)
        tars = {name: file for name, file in files.items() if name.endswith(".tar")}
        if not tars:
            raise UserError(f"{repository}: its {len(files)} files are no tars; expected pictures with prompts in tars")
        check_names(repository, tars)
        told = [tag for tag in listing.get("tags") or [] if isinstance(tag, str) and tag.startswith(LICENCE)]
        licence = source.licence or (one_line(told[0].removeprefix(LICENCE)) if told else NOT_STATED)
        return Listed(with_files(repository, revision, tars), mixed(tars), licence)


def asked_for(repository: PairRepository, name: str) -> PairRepository:
    """With size and hash of one file more, as far as the hub was not asked for it yet."""
    if name in repository.files:
        return repository
    with asking(repository, AGAIN):
        return with_files(repository, *asked_files(repository, [name]))


def with_files(repository: PairRepository, revision: str, files: dict[str, Any]) -> PairRepository:
    """Raises ValueError for what is no revision, size or hash."""
    pin = fitting(Pin, json_bytes({"repository": repository.name, "revision": revision, "files": files}))
    if repository.revision not in ("", revision):
        raise ValueError(f"it tells of revision {revision}")
    return replace(repository, revision=revision, files=repository.files | pin.files)


def check_names(repository: PairRepository, names: Iterable[str]) -> None:
    """Raises ValueError for a name that leads out of a folder or holds control codes, UserError for two that a set
    would call the same."""
    known: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not name.isprintable():
            raise ValueError(f"it lists {name!r}, which can be no file of it")
        if (other := known.setdefault(stem(name), name)) != name:
            raise UserError(
                f"{repository}: {other} and {name} would be the same file of a set. Rename one of them there"
            )


def stem(name: str) -> str:
    """Of a tar of the set. Example: "images/part-000001.zip" -> "images--part-000001" """
    return PurePosixPath(name).with_suffix("").as_posix().replace("/", "--")


def mixed(names: Iterable[str]) -> list[str]:
    """One of each kind in turn, as a part of the set should hold every kind: names that differ only in a number.

    Example: ["a/1.tar", "a/2.tar", "b/1.tar"] -> ["a/1.tar", "b/1.tar", "a/2.tar"]
    """
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        kinds.setdefault(re.sub(r"\d+", "", name), []).append(name)
    return [name for turn in zip_longest(*kinds.values()) for name in turn if name is not None]
