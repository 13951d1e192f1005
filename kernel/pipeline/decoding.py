"""Image files to upright RGB in bounded memory. A bad image is a value, never a crash."""

import math
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from kernel.pipeline.images import ImageFile, formats
from kernel.system.opening import not_a_file

# Beyond this ratio of sides only the middle is kept: resizing the short side up to a model's size would
# make the long side millions of pixels (20,000 x 1 at 224 px: 4.5 million x 224).
LARGEST_ASPECT = 16
# A picture of more pixels is made smaller while it is decoded: the largest model reads 384 x 384, and 64 pictures of
# this size, those of two batches, take 800 MB.
MOST_PIXELS = 2048 * 2048
STRIP_PIXELS = 2**22  # converted at a time of a large picture: some modes take eight bytes a number meanwhile
WHITES = (1.0, 255.0, 65535.0)
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# held while a large picture is whole in memory: 89 million pixels, the most that Pillow opens, are 360 MB
LARGE = threading.Lock()


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be used, and why."""

    reason: str


def decode_file(file: ImageFile) -> Image.Image | BadImage:
    """As `decode`, of a file that may not be there any more."""
    try:
        return decode(file.source())
    except OSError as error:
        return bad(error)


def decode(source: Path | BytesIO) -> Image.Image | BadImage:
    """The first frame as upright 8-bit RGB, transparency over white, of at most MOST_PIXELS; a BadImage with the reason
    if that is not possible. Raises MemoryError, which says nothing of the image."""
    try:
        if isinstance(source, Path) and (what := not_a_file(source)) is not None:
            return BadImage(f"{what}, not a file")
        with Image.open(source, formats=sorted(set(formats().values()))) as opened:
            # Pillow only warns up to twice its limit; a filter that raises would not hold, as threads share filters
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and opened.width * opened.height > limit:
                return BadImage(f"{opened.width} x {opened.height} pixels, over Pillow's limit of {limit}")
            opened.seek(0)
            with LARGE if reduction(opened.size) > 1 else nullcontext():
                rgb = to_reduced_rgb(opened)
                turn = ORIENTATIONS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
                opened.close()
            return rgb if turn is None else rgb.transpose(turn)
    except MemoryError:
        raise
    except Exception as error:  # a decoder's own bug on broken bytes must not end a run over 16,000 images
        return bad(error)


def bad(error: Exception) -> BadImage:
    words = getattr(error, "strerror", None) or error  # without the path, which stands before the reason
    return BadImage(f"{type(error).__name__}: {words}".replace("\n", " "))


def reduction(size: tuple[int, int]) -> int:
    """By how much a picture's sides are divided so that at most MOST_PIXELS are left of its middle."""
    left, top, right, bottom = middle(size)
    return math.ceil(math.sqrt((right - left) * (bottom - top) / MOST_PIXELS))


def middle(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box of a picture without what lies beyond LARGEST_ASPECT at the ends of its longer side."""
    width, height = size
    longest = LARGEST_ASPECT * min(width, height)
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return left, top, left + min(width, longest), top + min(height, longest)


def to_reduced_rgb(opened: Image.Image) -> Image.Image:
    """The middle of an opened picture as RGB, each pixel the mean of a square of `reduction` pixels a side."""
    factor, box, white = reduction(opened.size), middle(opened.size), white_of(opened)
    if factor == 1:
        return to_rgb(opened if box == (0, 0, *opened.size) else opened.crop(box), white)
    left, top, right, bottom = box
    if opened.format == "JPEG":  # the decoder itself leaves out what nobody will see: by 2, 4 or 8
        opened.draft(opened.mode, ((right - left) // factor, (bottom - top) // factor))
        factor = reduction(opened.size)
        left, top, right, bottom = middle(opened.size)
    rows = max(1, STRIP_PIXELS // (factor * (right - left))) * factor
    whole = Image.new("RGB", (math.ceil((right - left) / factor), math.ceil((bottom - top) / factor)))
    for start in range(top, bottom, rows):
        strip = to_rgb(opened.crop((left, start, right, min(start + rows, bottom))), white)
        whole.paste(strip.reduce(factor), (0, (start - top) // factor))
    return whole


def white_of(image: Image.Image) -> float:
    """The number that stands for white in pixels of more than eight bits; of floats, which do not tell, the smallest of
    the usual ones that no pixel exceeds."""
    if image.mode != "F":
        return WHITES[-1]
    largest = float(np.asarray(image).max())
    return next((white for white in WHITES if largest <= white), WHITES[-1])


def to_rgb(image: Image.Image, white: float) -> Image.Image:
    """`white`: of the whole picture, of which `image` may be a part. Raises ValueError for pixels that are no
    numbers."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return many_bits_to_rgb(image, white)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def many_bits_to_rgb(image: Image.Image, white: float) -> Image.Image:
    """Scales 0..white to 0..255; Pillow's own conversion would clip everything above 255 to white."""
    levels = np.asarray(image).astype(np.float64)
    if not np.isfinite(levels).all():
        raise ValueError("pixels that are no numbers")
    return Image.fromarray(np.round(levels.clip(0, white) * (255 / white)).astype(np.uint8)).convert("RGB")


def decoded_batches(
    files: Iterable[ImageFile], batch: int, threads: int = 2
) -> Iterator[list[tuple[ImageFile, Image.Image | BadImage]]]:
    """Decoded images in order, `batch` at a time; one batch is decoded ahead, never more.

    An image for which there was no memory is tried again when nothing else is being decoded; then raises MemoryError.
    """
    remaining = iter(files)
    with ThreadPoolExecutor(threads) as pool:

        def start() -> list:
            return [(file, pool.submit(decode_file, file)) for file in islice(remaining, batch)]

        def result(file: ImageFile, decoded: Future) -> Image.Image | BadImage:
            try:
                return decoded.result()
            except MemoryError:
                wait(future for _, future in [*current, *ahead])
                return decode_file(file)

        current = start()
        while current:
            ahead = start()
            yield [(file, result(file, future)) for file, future in current]
            current = ahead
