"""The pictures of a source file shared out: pieces of a tar, which joined in order are the bytes of `fill_tar`.

In the folder of the pieces each begins as a list of its pairs with all that decides its bytes, NUMBER.json, from which
whoever makes it writes NUMBER.tar. A piece beside another list than the one that would be written now is made again:
so no resume can put a picture of another file, choice, size or version beside a prompt.
"""

import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kernel.errors import UserError
from kernel.pipeline.decoding import BadImage, decoded_batches
from kernel.pipeline.images import ImageFile
from kernel.publish.hub.pairs.stored import Stored, ZipMember
from kernel.publish.hub.pairs.tars import BAD, BATCH, BEYOND, QUALITY, add_pair, resized, whole_pairs
from kernel.system.devices import Device
from kernel.system.files import json_bytes, whole_file, write_whole
from kernel.system.records import read_record
from kernel.system.terminal.progress import progress_bar
from kernel.system.versions import code_sha256, deciding_versions
from kernel.system.work import Ends, Engine, Outcome, Share, plain
from kernel.training.features import place_of
from kernel.training.pairs import TarMember

PIECE = 256  # pictures
END_MARK = bytes(2 * tarfile.BLOCKSIZE)


class Piece(TypedDict):
    """NUMBER.json: the source file and its sha256, the pictures' size and quality, by what they are made, the number
    of the first pair, and of each pair the picture's id and place there, its key, its prompt and its cluster."""

    source: list[str]
    size: int
    quality: int
    made_by: dict[str, Any]
    first: int
    pairs: list[tuple[str, list[Any], str, str, int | None]]


@dataclass(frozen=True)
class Resizing:
    """Work: pieces of the pairs of one source file that are listed in `folder`."""

    folder: Path
    source: Path

    def load(self, device: Device) -> "Resizer":
        return Resizer(self.folder)

    def folders(self) -> list[Path]:
        return [self.folder]

    def inputs(self) -> list[Path]:
        return [self.source]

    def as_json(self) -> str:
        return plain(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Resizing":
        return cls(**{name: Path(path) for name, path in json.loads(text).items()})


@dataclass(frozen=True)
class Resizer:
    """A Maker of pieces."""

    folder: Path

    def make(self, item: int, share: Share) -> Iterator[int]:
        cure = "Remove it and run again: it is written anew"
        piece = read_record(list_path(self.folder, item), Piece, "a list of a piece's pairs", cure)
        content = BytesIO()
        pairs = pairs_of(piece)
        batches = decoded_batches((own.picture for own, _ in pairs), BATCH)
        pictures = (picture for batch in batches for _, picture in batch)
        with tarfile.open(fileobj=content, mode="w") as tar:
            for number, (picture, pair) in enumerate(zip(pictures, pairs, strict=True), piece["first"]):
                if not isinstance(picture, BadImage):
                    add_pair(tar, f"{number:06d}", resized(picture, piece["size"]), *pair)
        write_whole(piece_path(self.folder, item), content.getvalue())
        yield len(piece["pairs"])


def fill_by(
    engine: Engine,
    folder: Path,
    path: Path,
    source: tuple[Path, str],
    pairs: list[tuple[Stored, str]],
    size: int,
    most: int,
    left_out: Counter[str],
) -> int:
    """What `fill_tar` does, of the pairs of one `source`, a file with its sha256, by the workers of an engine; pieces
    that are kept in `folder` are taken as they are. Raises UserError where no worker can make one."""
    folder.mkdir(exist_ok=True)
    pieces = [piece_of(source, pairs, first, size) for first in range(0, len(pairs), PIECE)]
    joined, written, tried = 0, 0, 0
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        while joined < len(pieces) and written < most:
            some = range(joined, min(len(pieces), joined + -(-(most - written) // PIECE)))
            make(Resizing(folder, source[0]), some, pieces, engine)
            for number in some:
                whole = list(islice(whole_pairs(piece_path(folder, number)), most - written))
                if whole:
                    end, tried = whole[-1]
                    file.write(piece_path(folder, number).read_bytes()[:end])
                written += len(whole)
            joined = some.stop
        with tarfile.open(fileobj=file, mode="w"):
            pass  # its end mark
    tried = tried if written == most else len(pairs)
    left_out[BAD], left_out[BEYOND] = tried - written, len(pairs) - tried
    return written


def piece_of(source: tuple[Path, str], pairs: list[tuple[Stored, str]], first: int, size: int) -> Piece:
    path, sha256 = source
    return {
        "source": [str(path.absolute()), sha256],
        "size": size,
        "quality": QUALITY,
        "made_by": {"package": code_sha256(), **deciding_versions()},
        "first": first,
        "pairs": [
            (own.picture.id, place_within(own.picture), own.key, prompt, own.cluster)
            for own, prompt in pairs[first : first + PIECE]
        ],
    }


def place_within(picture: ImageFile) -> list[Any]:
    return [picture.name] if isinstance(picture, ZipMember) else place_of(picture)


def pairs_of(piece: Piece) -> list[tuple[Stored, str]]:
    path = Path(piece["source"][0])
    archive = zipfile.ZipFile(path) if path.suffix == ".zip" else None
    found = []
    for image, place, key, prompt, cluster in piece["pairs"]:
        picture = TarMember(image, path, *place) if archive is None else ZipMember(image, path, archive, *place)
        found.append((Stored(picture, key, prompt, cluster), prompt))
    return found


def make(work: Resizing, numbers: range, pieces: list[Piece], engine: Engine) -> None:
    """The pieces of these numbers that are missing, or were of other pairs."""
    items = {}
    for number in numbers:
        listed, path = json_bytes(pieces[number]), piece_path(work.folder, number)
        kept = list_path(work.folder, number)
        if not (kept.is_file() and kept.read_bytes() == listed and is_whole(path)):
            path.unlink(missing_ok=True)
            write_whole(kept, listed)
            items[number] = len(pieces[number]["pairs"])
    outcome, total = Outcome(), sum(len(pieces[number]["pairs"]) for number in numbers)
    bar = progress_bar(total=total, initial=total - sum(items.values()), desc=work.source.stem, unit="picture")
    with bar, closing(engine.work(work, items, Ends(), outcome)) as steps:
        for count in steps:
            bar.update(count)
    if outcome.left:
        raise UserError(
            f"{work.source}: its pictures cannot be resized ({outcome.why}); what is made is kept in {work.folder}. "
            "Run again to go on there, or without --engine"
        )


def is_whole(path: Path) -> bool:
    return path.is_file() and path.read_bytes()[-len(END_MARK) :] == END_MARK


def list_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.json"


def piece_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.tar"
