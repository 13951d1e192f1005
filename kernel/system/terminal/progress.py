"""Progress bars on stderr: drawn over themselves on a terminal and in a notebook, elsewhere as a few whole lines."""

import time
from typing import Any

from kernel.system.terminal.stderr import STDERR

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
