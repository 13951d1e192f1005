"""The time that a run may take, also as people write it: what is left, how much effort fits, an end to what hangs."""

import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kernel.errors import UserError


def seconds_of(text: str) -> float:
    """Example: "8h30m" -> 30600. Raises UserError for anything but hours, minutes, seconds in this order, above 0."""
    match = re.fullmatch(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?", text)
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if not seconds:
        raise UserError(f"{text!r} is no time above 0; expected hours, minutes, seconds, such as 9h, 8h30m or 90s")
    return float(seconds)


def duration(seconds: float) -> str:
    """Example: 1530 -> "0h26m", 45 -> "45s"."""
    if seconds < 120:
        return f"{seconds:.0f}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h{minutes:02d}m"


PROCESS_START = time.monotonic()
LOOK_SECONDS = 1.0
# No session of Kaggle's lasts longer than 12 hours, so a start more than a day ago is a wrong clock or a wrong number.
LONGEST_AGO = 86_400.0


class OutOfTime(Exception):
    """What was asked does not fit into the time that is left."""


@dataclass(frozen=True)
class Deadline:
    """A point on the clock that nobody sets; None: never. `started` is the wall clock's time it was counted from,
    where one was given, for words about it."""

    ends: float | None = None
    started: float | None = None

    @classmethod
    def after(cls, seconds: float | None, started: float | None = None) -> "Deadline":
        """`seconds` from `started` (seconds since 1970), or from this process's start where that is earlier, or where
        `started` cannot be true: never more time than from this process's start.

        The wall clock is read once: set back or forward later, it changes nothing.
        """
        if seconds is None:
            return NEVER
        own = time.monotonic() - PROCESS_START
        ago = 0.0 if started is None else time.time() - started
        spent = max(own, ago) if can_be_true(ago) else own
        return cls(time.monotonic() + seconds - spent, started)

    def left(self) -> float:
        """Seconds, below 0 when it has passed; infinite without a deadline."""
        return float("inf") if self.ends is None else self.ends - time.monotonic()

    def earlier(self, seconds: float) -> "Deadline":
        return Deadline(None if self.ends is None else self.ends - seconds, self.started)


NEVER = Deadline()


def can_be_true(ago: float) -> bool:
    """Whether a run can have been started so many seconds ago: not in the future, nor before the machine; not nan."""
    return 0 <= ago <= min(LONGEST_AGO, machine_seconds())


def machine_seconds() -> float:
    """Seconds since this machine started, by a clock that nobody sets; infinite where there is none (macOS)."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return float("inf") if clock is None else time.clock_gettime(clock)


class Effort:
    """How many beams (or sampled captions) the next batch may have, so that every image gets its turn in time.

    Assumes that a caption's time grows with their number and measures anew with every batch.
    """

    def __init__(self, most: int, images: int, ends: Deadline = NEVER) -> None:
        self.most, self.images, self.ends = most, images, ends
        self.image_seconds: float | None = None  # with the most effort

    def next(self, batch: int) -> int:
        """Raises OutOfTime when `batch` images do not fit even with an effort of 1."""
        left = self.ends.left()
        if self.image_seconds is None:
            if left <= 0:
                raise OutOfTime
            return self.most
        least = self.image_seconds / self.most
        if least * batch > left:
            raise OutOfTime
        return max(1, int(min(self.most, left / (least * max(self.images, batch)))))

    @contextmanager
    def timed(self, batch: int) -> Iterator[int]:
        """The effort that `batch` images may have, and the time that they then take. Raises OutOfTime as `next`."""
        effort = self.next(batch)
        start = time.perf_counter()
        yield effort
        self.took(batch, effort, time.perf_counter() - start)

    def took(self, batch: int, effort: int, seconds: float) -> None:
        self.images -= batch
        self.image_seconds = seconds / batch * self.most / effort


class Watchdog:
    """Ends the process at the deadline, whatever it hangs in, with exit code 1; what stands on the disk stands."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self) -> None:
        if self.deadline is not NEVER:
            self.thread.start()

    def __exit__(self, *error: object) -> None:
        self.done.set()

    def watch(self) -> None:
        while not self.done.wait(min(max(self.deadline.left(), 0), LOOK_SECONDS)):
            if self.deadline.left() <= 0:
                end()


def end() -> None:
    try:
        print(
            "the time is over: ended as it is; the last submission.csv stands, if there is one yet",
            file=sys.stderr,
            flush=True,
        )
    finally:
        os._exit(1)
