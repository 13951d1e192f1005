"""Lists a folder's images and decodes them to RGB. A bad image is a value, never a crash."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kernel.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
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


def list_images(folder: Path) -> list[ImageFile]:
    """Every image directly in `folder`, sorted by id.

    Raises UserError when the folder is missing or holds no image, when two files share an id, or when an id
    cannot stand in a submission.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of images ({', '.join(sorted(SUFFIXES))})")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise UserError(
                f"{folder}: {found[path.stem].name} and {path.name} have the same id {path.stem!r}, "
                "and a submission holds each id once. Rename or remove one of them"
            )
        if not is_submittable(path.stem):
            raise UserError(
                f"{folder}: the name {path.name!r} cannot stand in a submission, "
                "which is UTF-8 text with one row a line. Rename the file"
            )
        found[path.stem] = path
    if not found:
        inside = [p.name for p in sorted(folder.iterdir()) if p.is_dir()]
        hint = f" Its subfolders are not searched ({', '.join(inside[:3])}): name one of them" if inside else ""
        raise UserError(f"{folder}: no images found; expected files ending in {', '.join(sorted(SUFFIXES))}.{hint}")
    return [ImageFile(image_id, found[image_id]) for image_id in sorted(found)]


def is_submittable(image_id: str) -> bool:
    """Example: is_submittable("cat 1") but neither "cat\\n1" nor a name that was not valid UTF-8 on disk."""
    return not any(character in "\r\n" or "\ud800" <= character <= "\udfff" for character in image_id)


def decode(path: Path) -> Image.Image | BadImage:
    """The first frame as upright 8-bit RGB, transparency over white; a BadImage with the reason if not possible."""
    try:
        with Image.open(path) as opened:
            # Pillow only warns up to twice its limit; a filter that raises would not hold, as threads share filters
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and opened.width * opened.height > limit:
                return BadImage(f"{opened.width} x {opened.height} pixels, over Pillow's limit of {limit}")
            opened.seek(0)
            upright = ImageOps.exif_transpose(opened)
            return middle_of_strip(to_rgb(upright))
    except Exception as error:  # a decoder's own bug on broken bytes must not end a run over 16,000 images
        return BadImage(f"{type(error).__name__}: {error}".replace("\n", " "))


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
