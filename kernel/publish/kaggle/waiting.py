"""A wait on the service: looks at it again and again, ends by a deadline or by Ctrl-C, and says how to go on."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any, TypeVar

from kernel.errors import UserError
from kernel.publish.kaggle.client import ServiceTrouble

Found = TypeVar("Found")
FAILURES_IN_A_ROW = 5


def wait_until(
    look: Callable[[], Found | None], *, interval: float, limit: float, overdue: str, interrupted: str
) -> Found:
    """Calls `look` every `interval` seconds until it returns something; after `limit` seconds raises `overdue`.

    Some failures in a row are borne, as a wait can last a night. Ctrl-C raises UserError(interrupted).
    """
    deadline = monotonic() + limit
    failures = 0
    try:
        with ctrl_c_between_looks() as pause:
            while True:
                try:
                    found = look()
                    failures = 0
                    if found is not None:
                        return found
                except ServiceTrouble as trouble:
                    failures += 1
                    if failures == FAILURES_IN_A_ROW:
                        raise
                    print(f"{trouble}; looking again", file=sys.stderr)
                if monotonic() >= deadline:
                    raise UserError(overdue)
                pause(interval)
    except KeyboardInterrupt:
        raise UserError(interrupted) from None


@contextmanager
def ctrl_c_between_looks() -> Iterator[Callable[[float], None]]:
    """Gives a pause (seconds) that raises KeyboardInterrupt at a Ctrl-C, be it before or during the pause.

    Python raises KeyboardInterrupt wherever it happens to be, and the client's clean-up runs in finalizers, which
    swallow it: the wait would then go on as if nobody had asked. So the first Ctrl-C is kept for the pause, and a
    second one ends a look that hangs.
    """
    before = signal.getsignal(signal.SIGINT)
    # ignored in a background shell, or somebody else's to handle; and Ctrl-C interrupts the main thread only
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield sleep
        return
    asked = pausing = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        again, asked = asked, True
        if pausing or again:
            raise KeyboardInterrupt

    def pause(seconds: float) -> None:
        nonlocal pausing
        pausing = True
        if asked:
            raise KeyboardInterrupt
        sleep(seconds)
        pausing = False

    signal.signal(signal.SIGINT, handle)
    try:
        yield pause
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:  # the look that it fell into was the last one
        raise KeyboardInterrupt
