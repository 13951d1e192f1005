"""What a service says, as it may stand in a line or a file of ours; and how long it may take to say it."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from textwrap import shorten
from threading import Thread
from typing import TypeVar

Found = TypeVar("Found")


def plain(text: str) -> str:
    """A text of the service without what a terminal would obey, or show in another order, than it stands there."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


def one_line(text: str) -> str:
    return shorten(plain(text), 300, placeholder="...")


def within(call: Callable[[], Found], seconds: float, came: Callable[[], int] = int, least: int = 1) -> Found:
    """What `call` returns or raises, in a thread of its own: no wait in there, be it for a name or for a header that
    comes byte by byte, can outlast this one.

    The thread is left to itself after `seconds` in which `came`, a number of bytes, grew by less than `least`. Raises
    TimeoutError then.
    """
    ended: Future[Found] = Future()

    def run() -> None:
        try:
            ended.set_result(call())
        except BaseException as error:
            ended.set_exception(error)

    before = came()
    Thread(target=run, daemon=True).start()
    while wait([ended], seconds).not_done:
        if came() < before + least:
            raise TimeoutError(f"an answer that does not end was given up after {seconds:g} seconds")
        before = came()
    return ended.result()
