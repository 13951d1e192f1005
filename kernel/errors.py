"""The one exception for what a user can mend, and the words for a name that is none."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

MOST_SHOWN = 500  # characters of a text that others wrote


class UserError(Exception):
    """Says what was found, what was expected, what follows and what to do next, in one line.

    The command line prints it without a traceback and ends with exit code 1.
    """


def shown(text: str) -> str:
    """A text of others as far as it goes on one short line, without what a terminal would obey.

    Example: shown("a\\n\\x1b[2Jb") == "a  [2Jb"
    """
    short = "".join(character if character.isprintable() else " " for character in text[:MOST_SHOWN])
    return short + "..." * (len(text) > MOST_SHOWN)


def listed(names: Iterable[str]) -> str:
    """Names that others gave, in words. Example: listed([]) == "none" """
    return shown(", ".join(names)) or "none"


def first_line(error: BaseException) -> str:
    """An error's own words as far as they go on one line; its kind where it has none."""
    return shown((str(error).strip().splitlines() or [type(error).__name__])[0])


def kind_and_line(error: BaseException) -> str:
    """Example: "RuntimeError: CUDA error"; its kind alone where an error has no words."""
    return type(error).__name__ + (f": {first_line(error)}" if str(error).strip() else "")


def of_this_machine(error: OSError | MemoryError) -> str:
    """What the machine refused, for which nothing nearer to it has better words."""
    if isinstance(error, MemoryError):
        return "the memory that this process may take is full. Give it more, or less to do at once, and run again"
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return f"{place}{error.strerror or first_line(error)}. See to it that this can be read and written, and run again"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Example: did_you_mean("txet", ["prior", "text"]) == " (did you mean 'text'?)"; empty when none is near."""
    close = difflib.get_close_matches(name, list(valid), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def others_beside(folder: Path, marker: str) -> str:
    """Names the folders beside `folder` that hold the file `marker`, and the nearest name; empty when there are none.

    Example: for build/wieghts "; beside it: weights, weights-small (did you mean 'weights'?)"
    """
    try:
        names = sorted(path.parent.name for path in folder.parent.glob(f"*/{marker}"))
    except OSError:  # a folder that may not be listed
        return ""
    return f"; beside it: {', '.join(names)}{did_you_mean(folder.name, names)}" if names else ""
