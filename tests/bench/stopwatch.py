"""Seconds by stage of one contender's process, told apart into loading and work, and seconds of ways in turns."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

LOADING = "loading"
# stages that begin with an image; a constant submission, such as ours is before, belongs to the start
FIRST = ("decode", "clip")


class Stopwatch:
    """`started` is the monotonic clock's reading when the process was started, taken by its parent."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.first_image: float | None = None
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        if name in FIRST and self.first_image is None:
            self.first_image = begun - self.started
        try:
            yield
        finally:
            # what was done before the first image is part of the start
            if self.first_image is not None:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def called(*arguments: Any, **named: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **named)

        return called

    def result(self, images: int, bare: bool) -> dict[str, Any]:
        """Seconds to the first image, seconds an image after it but for loading, and those by stage.

        `bare`: what lies between the stages does not count.
        """
        assert self.first_image is not None
        wall = time.monotonic() - self.started
        loading = self.seconds.pop(LOADING, 0.0)
        working = sum(self.seconds.values()) if bare else wall - self.first_image - loading
        return {
            "images": images,
            "start_seconds": self.first_image,
            "seconds_an_image": working / images,
            "stages": {name: spent / images for name, spent in self.seconds.items()},
            "wall_seconds": wall,
        }


def in_turns(ways: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> dict[str, list[float]]:
    """Seconds an item of each way, one after the other and again; what comes first is done once before.

    What one way left for the disk to write is written before the next one's clock starts.
    """
    next(iter(ways.values()))[0]()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (way, items) in ways.items():
            os.sync()
            begun = time.perf_counter()
            way()
            seconds[name].append((time.perf_counter() - begun) / items)
    return seconds
