"""Pictures with prompts into a tar of the WebDataset format, resized once; a tar that a kill cut is gone on with.

A pair is KEY.webp, KEY.txt with the prompt and KEY.json with the name that it had, and its cluster where it has one;
KEY counts the pairs that were to go into this tar. The same pairs make the same bytes.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from kernel.pipeline.decoding import BadImage, decoded_batches
from kernel.publish.hub.pairs.stored import Stored
from kernel.system.terminal.progress import progress_bar

QUALITY = 90  # of WebP: JPEG is slightly worse than lossless, says the competition's 12th place
BYTES_A_PIXEL = 0.45  # of WebP of this quality, at most
BAD, BEYOND = "picture that cannot be decoded", "more than the limit"
BATCH = 32  # pictures decoded ahead
LAST = ".json"  # of the files of a pair


@dataclass(frozen=True)
class Begun:
    """Of a tar: the bytes of its whole pairs, how many there are, and how many were to go in until the last of them."""

    bytes: int = 0
    written: int = 0
    tried: int = 0


def fill_tar(path: Path, pairs: list[tuple[Stored, str]], size: int, most: int, left_out: Counter[str]) -> int:
    """Writes these pairs, or the `most` first that can be decoded, each picture's short side `size` pixels or less.

    Goes on behind what is whole in `path`. Returns how many pairs it holds; `left_out` counts the bad pictures, and the
    pairs beyond `most`.
    """
    begun = begun_tar(path)
    written, tried = begun.written, begun.tried
    path.touch()
    with (
        path.open("r+b") as file,
        progress_bar(total=len(pairs), initial=tried, desc=path.stem, unit="picture") as bar,
    ):
        file.seek(begun.bytes)
        with tarfile.open(fileobj=file, mode="w") as tar:
            batches = decoded_batches((own.picture for own, _ in pairs[tried:]), BATCH)
            for picture in (picture for batch in batches for _, picture in batch):
                if written == most:
                    break
                if not isinstance(picture, BadImage):
                    add_pair(tar, f"{tried:06d}", resized(picture, size), *pairs[tried])
                    written += 1
                tried += 1
                bar.update()
    left_out[BAD], left_out[BEYOND] = tried - written, len(pairs) - tried
    return written


def begun_tar(path: Path) -> Begun:
    """What of a tar that may be cut anywhere is whole."""
    found = Begun()
    for end, tried in whole_pairs(path) if path.is_file() else ():
        found = Begun(end, found.written + 1, tried)
    return found


def whole_pairs(path: Path) -> Iterator[tuple[int, int]]:
    """Of each pair that is whole in a tar the bytes until its end, and how many were to go in until it."""
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if end > size:
                    break
                if member.name.endswith(LAST):
                    yield end, int(member.name.removesuffix(LAST)) + 1
    except tarfile.TarError:
        pass  # where it was cut


def add_pair(tar: tarfile.TarFile, key: str, picture: Image.Image, own: Stored, prompt: str) -> None:
    content = BytesIO()
    picture.save(content, "WEBP", quality=QUALITY)
    told = {"key": own.key} | ({} if own.cluster is None else {"cluster": own.cluster})
    for name, data in (
        (f"{key}.webp", content.getvalue()),
        (f"{key}.txt", prompt.encode()),
        (f"{key}{LAST}", json.dumps(told).encode()),
    ):
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, BytesIO(data))


def resized(picture: Image.Image, size: int) -> Image.Image:
    """Its short side of `size` pixels; a smaller picture as it is. Example: 768 x 1152, 336 -> 336 x 504"""
    short = min(picture.size)
    if short <= size:
        return picture
    width, height = (round(side * size / short) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)
