"""Pictures of a run, small enough that those of 16,000 images fit into one page."""

import io
from collections.abc import Iterator

from PIL import Image

from kernel.pipeline.decoding import BadImage, decoded_batches
from kernel.pipeline.images import ImageFile

# longest side and JPEG quality, from the largest: the first of which all pictures together fit into the budget is taken
SIZES = ((160, 85), (160, 70), (128, 70), (112, 60), (96, 55), (80, 50), (64, 45))
TRIED = 24


def thumbnails(files: list[ImageFile], budget: int | None) -> Iterator[bytes | None]:
    """Each image as a small JPEG, so small that all take at most `budget` bytes; None where it cannot be decoded."""
    side, quality = SIZES[0] if budget is None else fitting_size(files, budget)
    for batch in decoded_batches(files, 32):
        for _, image in batch:
            yield None if isinstance(image, BadImage) else small_jpeg(image, side, quality)


def fitting_size(files: list[ImageFile], budget: int) -> tuple[int, int]:
    """By some of the images, evenly from all; the smallest size when none fits."""
    some = files[:: max(1, len(files) // TRIED)][:TRIED]
    images = [image for batch in decoded_batches(some, TRIED) for _, image in batch if not isinstance(image, BadImage)]
    for side, quality in SIZES:
        total = sum(len(small_jpeg(image, side, quality)) for image in images)
        if total * len(files) <= budget * len(images):
            return side, quality
    return SIZES[-1]


def small_jpeg(image: Image.Image, side: int, quality: int) -> bytes:
    small = image.copy()
    small.thumbnail((side, side))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=quality, optimize=True)
    return data.getvalue()
