"""Pair sets: pictures with the prompts that made them, as a folder or as tars, listed once and read in any order.

A folder holds `images/` and `prompts.csv` (`imgId,prompt`). Tars are those of the WebDataset format, as img2dataset and
`jamarju/sd-4.4M` write them: of each key a picture beside `KEY.txt` with its prompt, or `KEY.json` with a `caption`,
and maybe a `cluster`. A tar is listed by its headers alone, and a picture then read from where it stands in it, so that
training may go through a set in any order, and go on anywhere.
"""

import hashlib
import json
import tarfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import TypedDict

from kernel.errors import UserError, first_line
from kernel.evaluation.evaluate import read_prompts
from kernel.pipeline.images import ImageFile, expected, formats, list_images
from kernel.system.opening import open_file
from kernel.system.records import read_record

PROMPTS, IMAGES = "prompts.csv", "images"
ORIGIN = "pairs.json"  # where a set is from: `publish pairs` writes it
NOT_STATED = "not stated"
WITHOUT_PROMPT = "picture without a prompt"
MOST_TEXT_BYTES = 2**16  # of a prompt, or of what stands beside it
ADVICE = f"Give a folder with {IMAGES}/ and {PROMPTS} (imgId,prompt), or with tars of pictures and their .txt or .json"


@dataclass(frozen=True)
class TarMember(ImageFile):
    """A picture within a tar: its bytes' place there, their number, and the end of its name."""

    start: int
    bytes: int
    kind: str

    def source(self) -> BytesIO:
        with open_file(self.path) as file:
            file.seek(self.start)
            return BytesIO(file.read(self.bytes))


@dataclass(frozen=True)
class PairSet:
    """`pictures`, `prompts` and, where the set has them, its own `clusters` of near prompts, in the order of the ids;
    `left_out` counts what was no pair, by reason."""

    folder: Path
    pictures: list[ImageFile]
    prompts: list[str]
    clusters: list[int] | None
    left_out: dict[str, int]

    @cached_property
    def sha256(self) -> str:
        """Names the set by its ids and prompts."""
        digest = hashlib.sha256()
        for picture, prompt in zip(self.pictures, self.prompts, strict=True):
            digest.update(f"{picture.id}\0{prompt}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    @property
    def licence(self) -> str:
        """As the set's pairs.json names it. Raises UserError where there is one that does not."""
        path = self.folder / ORIGIN
        if not path.is_file():
            return NOT_STATED
        cure = "Remove it, and no licence is stated"
        return read_record(path, Origin, "what 'publish pairs' says of a set", cure)["licence"]


class Origin(TypedDict):
    """pairs.json, as far as it is read here."""

    licence: str


def open_pairs(folder: Path) -> PairSet:
    """Raises UserError where there is no pair set, or no pair in it."""
    tars = sorted(folder.glob("*.tar"))
    if tars:
        return from_tars(folder, tars)
    if not (folder / PROMPTS).is_file() or not (folder / IMAGES).is_dir():
        raise UserError(f"{folder}: no pair set, as there is no {PROMPTS} with {IMAGES}/ and no tar. {ADVICE}")
    prompts = read_prompts(folder / PROMPTS)
    images = list_images(folder / IMAGES)
    ids = {image.id for image in images}
    left_out = Counter({WITHOUT_PROMPT: len(ids - set(prompts)), "prompt without a picture": len(set(prompts) - ids)})
    found: list[tuple[ImageFile, str, int | None]] = [
        (image, prompts[image.id], None) for image in images if image.id in prompts
    ]
    return pair_set(folder, found, left_out)


def pair_set(folder: Path, found: list[tuple[ImageFile, str, int | None]], left_out: Counter[str]) -> PairSet:
    good = sorted((own for own in found if own[1].strip()), key=lambda own: own[0].id)
    left_out[WITHOUT_PROMPT] += len(found) - len(good)
    if not good:
        raise UserError(f"{folder}: no picture has a prompt. {ADVICE}")
    pictures, prompts, clusters = zip(*good, strict=True)
    known = None if None in clusters else list(clusters)
    return PairSet(
        folder, list(pictures), list(prompts), known, {why: count for why, count in left_out.items() if count}
    )


def from_tars(folder: Path, tars: list[Path]) -> PairSet:
    left_out: Counter[str] = Counter()
    return pair_set(folder, [pair for path in tars for pair in pairs_in(path, left_out)], left_out)


def pairs_in(path: Path, left_out: Counter[str]) -> list[tuple[ImageFile, str, int | None]]:
    """A tar's pictures in their order there, each with its prompt, empty where there is none, and its cluster.

    Raises UserError where it is no whole tar.
    """
    found: list[tuple[ImageFile, str, int | None]] = []
    for key, members in keys_of(path).items():
        pictures = [(kind, own) for kind, own in members.items() if f".{kind}" in formats()]
        if len(pictures) != 1:
            left_out[f"no picture, or several, of one name (expected {expected()})"] += 1
            continue
        ((kind, picture),) = pictures
        beside = Beside.of(path, members)
        stored = TarMember(f"{path.stem}/{key}", path, picture.offset_data, picture.size, kind)
        found.append((stored, beside.prompt, beside.cluster))
    return found


def keys_of(path: Path) -> dict[str, dict[str, tarfile.TarInfo]]:
    """The files of a tar by key and suffix: a name ends at its first dot.

    Example: 0001.webp, 0001.txt, 0001.embs.npy -> {"0001": {"webp": ..., "txt": ..., "embs.npy": ...}}
    """
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        with open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg():
                    name = PurePosixPath(member.name)
                    key, _, suffix = name.name.partition(".")
                    found.setdefault(name.with_name(key).as_posix(), {})[suffix.lower()] = member
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # where a header is cut, tarfile just ends
                raise tarfile.ReadError("it ends before its end mark")
    except (OSError, tarfile.TarError, ValueError) as error:
        raise UserError(
            f"{path}: not a whole tar ({first_line(error)}). Fetch or write it again, or move it away"
        ) from error
    return found


@dataclass(frozen=True)
class Beside:
    """What stands beside a picture in its tar: its prompt, empty where there is none, and its cluster."""

    prompt: str
    cluster: int | None

    @classmethod
    def of(cls, path: Path, members: dict[str, tarfile.TarInfo]) -> "Beside":
        told = read_json(text_of(path, members.get("json")))
        caption, cluster = told.get("caption"), told.get("cluster")
        prompt = text_of(path, members.get("txt")) or (caption if isinstance(caption, str) else "")
        return cls(prompt.strip(), cluster if type(cluster) is int else None)


def text_of(path: Path, member: tarfile.TarInfo | None) -> str:
    """Empty where there is none, or more than a prompt can be."""
    if member is None or member.size > MOST_TEXT_BYTES:
        return ""
    return TarMember("", path, member.offset_data, member.size, "").source().read().decode(errors="replace")


def read_json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
