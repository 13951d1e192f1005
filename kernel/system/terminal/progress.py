"""Standard error as a place for progress and notes: where it cannot take them, nothing else fails for that.

Bars are drawn over themselves on a terminal and in a notebook, elsewhere they are a few whole lines.
"""

import sys
import time
from contextlib import suppress
from typing import Any


class Stderr:
    """Writes to what `sys.stderr` is at that moment.

    A terminal that was closed, a full disk behind a redirection or a character that its encoding lacks must neither
    end a run of hours nor be taken for a failure of the run's own model or disk.
    """

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # a closed file, and UnicodeEncodeError, are ValueErrors
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


STDERR = Stderr()

EVERY = 60.0  # seconds between two lines of one bar: a run of nine hours stays readable in a log


def progress_bar(items: Any = None, **options: Any) -> Any:
    """tqdm's bar over `items` or a `total`; its other options are tqdm's."""
    from tqdm.auto import tqdm

    return tqdm(items, file=STDERR if STDERR.isatty() else Lines(STDERR), **options)


class Lines:
    """What a bar draws over itself, as lines: the last of every minute, and how it ended."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.drawn, self.shown = stream, "", time.monotonic()

    def write(self, text: str) -> None:
        self.drawn = text.strip() or self.drawn
        if self.drawn and (text.endswith("\n") or time.monotonic() - self.shown >= EVERY):
            print(self.drawn, file=self.stream, flush=True)
            self.drawn, self.shown = "", time.monotonic()

    def flush(self) -> None:
        """Nothing: every line is flushed as it is shown."""
