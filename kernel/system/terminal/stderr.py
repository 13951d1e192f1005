"""Standard error as a place for progress and notes: where it cannot take them, nothing else fails for that."""

import sys
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
