"""Lists a folder's images and decodes them to RGB. A bad image is a value, never a crash."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, features

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
# Beyond this ratio of sides only the middle is kept: resizing the short side up to a model's size would
# make the long side millions of pixels (20,000 x 1 at 224 px: 4.5 million x 224).
LARGEST_ASPECT = 16


@dataclass(frozen=True)
class ImageFile:
    """One image of a run: its id (the name without the last suffix) and where it lies."""

    id: str
    path: Path


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be used, and why."""

    reason: str


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

    Raises UserError when there is none, naming the subfolders, which are not searched.
    """
    inside = sorted(folder.iterdir())
    found = [path for path in inside if path.suffix.lower() in formats() and not path.name.startswith(".")]
    if not found:
        folders = ", ".join([path.name for path in inside if path.is_dir()][:3])
        hint = f" Its subfolders are not searched ({folders}): name one of them" if folders else ""
        raise UserError(f"{folder}: no images found; expected {expected()}.{hint}")
    return found


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


def utf_8(name: str) -> str:
    """A file's name by its bytes on disk, read as UTF-8 in any locale: Python reads them as the locale's."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def is_submittable(image_id: str) -> bool:
    """Example: is_submittable("cat 1") but neither "cat\\n1" nor a name that was not valid UTF-8 on disk."""
    return not any(character in "\r\n" or "\ud800" <= character <= "\udfff" for character in image_id)


def decode(path: Path) -> Image.Image | BadImage:
    """The first frame as upright 8-bit RGB, transparency over white; a BadImage with the reason if not possible."""
    try:
        if (what := not_a_file(path)) is not None:
            return BadImage(f"{what}, not a file")
        with Image.open(path, formats=sorted(set(formats().values()))) as opened:
            # Pillow only warns up to twice its limit; a filter that raises would not hold, as threads share filters
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and opened.width * opened.height > limit:
                return BadImage(f"{opened.width} x {opened.height} pixels, over Pillow's limit of {limit}")
            opened.seek(0)
            upright = ImageOps.exif_transpose(opened)
            return middle_of_strip(to_rgb(upright))
    except Exception as error:  # a decoder's own bug on broken bytes must not end a run over 16,000 images
        words = getattr(error, "strerror", None) or error  # without the path, which stands before the reason
        return BadImage(f"{type(error).__name__}: {words}".replace("\n", " "))


def not_a_file(path: Path) -> str | None:
    """What a name stands for that is neither file nor folder: opening a pipe waits for a writer, and of a device
    there is no end. Raises OSError when there is nothing."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return sixteen_bit_to_rgb(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    """Scales 0..65535 to 0..255; Pillow's own conversion would clip everything above 255 to white."""
    levels = np.asarray(image).astype(np.float64).clip(0, 65535)
    return Image.fromarray(np.round(levels / 257).astype(np.uint8)).convert("RGB")


def middle_of_strip(image: Image.Image) -> Image.Image:
    width, height = image.size
    longest = LARGEST_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def decoded_batches(
    files: Iterable[ImageFile], batch: int, threads: int = 2
) -> Iterator[list[tuple[ImageFile, Image.Image | BadImage]]]:
    """Decoded images in order, `batch` at a time; one batch is decoded ahead, never more."""
    remaining = iter(files)
    with ThreadPoolExecutor(threads) as pool:

        def start() -> list:
            return [(file, pool.submit(decode, file.path)) for file in islice(remaining, batch)]

        current = start()
        while current:
            ahead = start()
            yield [(file, future.result()) for file, future in current]
            current = ahead


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
