"""SIGINT and SIGTERM: a command unwinds as from KeyboardInterrupt, and does not hang where something never answers."""

import os
import signal
import threading
import time

GRACE_SECONDS = 4.0
SAID = b"ended: something gave no answer for 4 s; what is finished is kept, the same command goes on\n"


def end_when_interrupted() -> None:
    """From the first of these signals on, this process has GRACE_SECONDS to come to its end; then it is ended.

    A thread waits for them by what the system itself writes down of a signal, so that it does not matter whether the
    main thread ever comes back from what it calls, nor which threads are waited for at the end.
    """
    came, comes = os.pipe()
    os.set_blocking(comes, False)
    signal.set_wakeup_fd(comes, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, interrupted)
    threading.Thread(target=end_after, args=(came,), daemon=True).start()


def interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def end_after(came: int) -> None:
    while os.read(came, 1)[0] not in (signal.SIGINT, signal.SIGTERM):
        pass
    time.sleep(GRACE_SECONDS)
    try:
        os.write(2, SAID)
    finally:
        os._exit(1)
