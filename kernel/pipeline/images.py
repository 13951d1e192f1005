"""The images of a folder: which files they are, their ids, and the name of all of them together."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image, features

from kernel.errors import UserError

# What is listed, and Pillow's name of its decoder. Only decoders that know their files by the first bytes and work
# within the process: never EPS, which Pillow hands to Ghostscript, whatever the file is called.
FORMATS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
    ".bmp": "BMP", ".dib": "DIB", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".jp2": "JPEG2000",
    ".j2k": "JPEG2000", ".jpf": "JPEG2000", ".jpx": "JPEG2000", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM",
    ".pnm": "PPM", ".qoi": "QOI", ".heic": "HEIF", ".heif": "HEIF",
}  # fmt: skip
# decoders that Pillow may have been built without
OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}


@dataclass(frozen=True)
class ImageFile:
    """One image of a run: its id (the name without the last suffix) and where it lies."""

    id: str
    path: Path

    def source(self) -> Path | BytesIO:
        """What a decoder opens. Raises OSError where it cannot be read."""
        return self.path


@cache
def formats() -> dict[str, str]:
    """FORMATS by suffix, of the decoders that are there; HEIF comes with the package pillow-heif."""
    Image.init()
    try:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    except ImportError:
        pass
    missing = {name for name, feature in OPTIONAL.items() if not features.check(feature)}
    return {suffix: name for suffix, name in FORMATS.items() if name in Image.OPEN and name not in missing}


def expected() -> str:
    """What stands in messages for an image."""
    return f"files ending in {', '.join(sorted(formats()))}"


def image_paths(folder: Path) -> list[Path]:
    """What lies directly in `folder` and is an image by its suffix, sorted by name; hidden files are none.

    Raises UserError when the folder cannot be listed, or when there is none, naming the subfolders, which are not
    searched.
    """
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be listed ({error.strerror}); expected a folder of images. Give one that may be read"
        ) from error
    found = [path for path in inside if is_image(path)]
    if not found:
        folders = ", ".join([path.name for path in inside if path.is_dir()][:3])
        hint = f" Its subfolders are not searched ({folders}): name one of them" if folders else ""
        raise UserError(f"{folder}: no images found; expected {expected()}.{hint}")
    return found


def images_below(folder: Path) -> list[Path]:
    """The images of `folder` and of every folder in it, folder by folder; hidden folders and links are not entered.

    Raises UserError when there is none.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [path for path in (Path(place, name) for name in sorted(names)) if is_image(path)]
    if not found:
        raise UserError(f"{folder}: no images found, nor in its subfolders; expected {expected()}")
    return found


def is_image(path: Path) -> bool:
    """By its suffix; hidden files are none."""
    return path.suffix.lower() in formats() and not path.name.startswith(".")


def left_out(folder: Path) -> dict[str, int]:
    """How many files directly in `folder` are no images by their suffix, by suffix, the most first; hidden ones aside.

    Example: {".heic": 350, ".csv": 1}
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    suffixes = Counter(Path(name).suffix.lower() for name in names)
    return {suffix: count for suffix, count in suffixes.most_common() if suffix not in formats()}


def left_out_note(folder: Path) -> list[str]:
    """The line on `left_out`; none when every file is an image by its suffix."""
    found = left_out(folder)
    if not found:
        return []
    shown = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in list(found.items())[:5])
    return [f"{folder}: {sum(found.values()):,} left out, by the suffix no image: {shown}; expected {expected()}"]


def list_images(folder: Path) -> list[ImageFile]:
    """Every image directly in `folder`, sorted by id.

    Raises UserError when the folder is missing or holds no image, when two files share an id, or when an id
    cannot stand in a submission.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of images ({expected()})")
    found: dict[str, Path] = {}
    for path in image_paths(folder):
        image_id = utf_8(path.stem)
        if image_id in found:
            raise UserError(
                f"{folder}: {found[image_id].name} and {path.name} have the same id {image_id!r}, "
                "and a submission holds each id once. Rename or remove one of them"
            )
        if not is_submittable(image_id):
            raise UserError(
                f"{folder}: the name {path.name!r} cannot stand in a submission, "
                "which is UTF-8 text with one row a line. Rename the file"
            )
        found[image_id] = path
    return [ImageFile(image_id, found[image_id]) for image_id in sorted(found)]


def one_of_each_folder(images: Iterable[ImageFile]) -> list[Path]:
    """Of those that can be read the first in each folder: whoever sees that one sees the others."""
    found: dict[Path, Path] = {}
    for image in images:
        if image.path.parent not in found and os.access(image.path, os.R_OK):
            found[image.path.parent] = image.path
    return list(found.values())


def utf_8(name: str) -> str:
    """A file's name by its bytes on disk, read as UTF-8 in any locale: Python reads them as the locale's."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def is_submittable(image_id: str) -> bool:
    """Example: is_submittable("cat 1") but neither "cat\\n1" nor a name that was not valid UTF-8 on disk."""
    return not any(character in "\r\n" or "\ud800" <= character <= "\udfff" for character in image_id)


def images_sha256(images: list[ImageFile]) -> str:
    """Names the images by id, size and time of change; contents are not read twice."""
    digest = hashlib.sha256()
    for image in images:
        try:
            found = image.path.stat()
            told = f"{found.st_size}\0{found.st_mtime_ns}"
        except OSError as error:
            told = str(error.errno)
        digest.update(f"{image.path.name}\0{told}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
