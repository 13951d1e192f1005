"""Images through a model, batch by batch, whatever a single one of them or the device's memory does."""

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL.Image import Image

from kernel.errors import kind_and_line
from kernel.pipeline.decoding import BadImage, decoded_batches
from kernel.pipeline.images import ImageFile
from kernel.system.deadline import Effort, OutOfTime
from kernel.system.memory import is_out_of_memory, release_memory
from kernel.system.terminal.progress import STDERR
from kernel.system.work import CannotBeUsed, Share


@dataclass
class BatchSize:
    """Images encoded at a time; halved whenever the device's memory does not hold them."""

    value: int


@dataclass(frozen=True)
class Encoded:
    """Of each file what was made of its image, None where there is nothing; {id: reason} of images that cannot be
    decoded and of those on which the model failed; and the ids of those that the time did not suffice for."""

    results: list[Any]
    bad: dict[str, str]
    failed: dict[str, str]
    unmade: list[str]


def encode_files(
    files: list[ImageFile],
    size: BatchSize,
    encode: Callable[[list[Any]], Iterable[Any]],
    told: Mapping[str, Any] | None = None,
) -> Generator[int, None, Encoded]:
    """What `encode` makes of every file's image, until it raises OutOfTime; yields how many more are done.

    With `told`, by id, `encode` is given pairs: an image, and what is told of it.
    Raises CannotBeUsed when one image alone does not fit into the device's memory, or `encode` fails on all of many.
    """
    results: list[Any] = []
    bad: dict[str, str] = {}
    failed: dict[str, str] = {}
    for decoded in decoded_batches(files, size.value):
        good: list[Any] = [
            image if told is None else (image, told[file.id])
            for file, image in decoded
            if not isinstance(image, BadImage)
        ]
        try:
            found = iter(encoded(good, size, encode))
        except OutOfTime:
            break
        for file, image in decoded:
            result = image if isinstance(image, BadImage) else next(found)
            if isinstance(result, BadImage):
                bad[file.id] = result.reason
            elif isinstance(result, Failed):
                failed[file.id] = result.reason
            results.append(None if isinstance(result, BadImage | Failed) else result)
        yield len(decoded)
    # of a single image that says nothing of the model
    if len(failed) > 1 and len(failed) + len(bad) == len(files):
        raise CannotBeUsed(next(iter(failed.values())))
    unmade = [file.id for file in files[len(results) :]]
    return Encoded([*results, *[None] * len(unmade)], bad, failed, unmade)


def rows_of(
    files: list[ImageFile], size: BatchSize, encode: Callable[[list[Image]], np.ndarray], share: Share, width: int
) -> Generator[int, None, tuple[np.ndarray, dict[str, str], list[str]]]:
    """A row of `width` numbers for every file, a zero row where there is none; {id: reason} of the bad images and of
    those that `encode` failed on, and the ids of those that the time did not suffice for: an image has no cheaper row.
    """
    effort = Effort(1, share.images, share.ends)

    def timed(images: list[Image]) -> np.ndarray:
        with effort.timed(len(images)):
            return encode(images)

    made = yield from encode_files(files, size, timed)
    rows = [np.zeros(width, dtype=np.float32) if row is None else row for row in made.results]
    return np.stack(rows), made.bad | made.failed, made.unmade


def in_one(encoding: Generator[int, None, Encoded]) -> Encoded:
    """What comes of it, for whom the steps do not count."""
    while True:
        try:
            next(encoding)
        except StopIteration as end:
            return end.value


@dataclass(frozen=True)
class Failed:
    """An image on which a model failed, and how."""

    reason: str


def encoded(images: list[Any], size: BatchSize, encode: Callable[[list[Any]], Iterable[Any]]) -> list[Any]:
    """One result an image, a Failed where `encode` raised on that image alone."""
    results: list[Any] = []
    while len(results) < len(images):
        part = images[len(results) : len(results) + size.value]
        try:
            results.extend(encode(part))
            continue
        except (OutOfTime, CannotBeUsed):
            raise
        except Exception as error:  # whatever a model raises on an odd image must not end a run over 16,000
            reason, no_memory = kind_and_line(error), is_out_of_memory(error)
        # out of the except block the error no longer holds the tensors of its frames
        if no_memory and len(part) == 1:
            raise CannotBeUsed(f"one image alone does not fit into memory: {reason}")
        if no_memory:
            size.value = len(part) // 2
            release_memory()
            print(f"out of memory: {size.value} images at a time from here on", file=STDERR)
        elif len(part) == 1:
            results.append(Failed(reason))
        else:
            results.extend(own for image in part for own in encoded([image], size, encode))
    return results
