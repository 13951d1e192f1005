"""What an earlier command left in build/kaggle/ of what it did on the service: read, or set aside when damaged."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.system.records import read_record


def left_record(path: Path, kind: Any) -> Any:
    """What an earlier command left at `path`, as a `kind`; None where none did. Raises UserError for anything else."""
    advice = "Look on the site for what it told of, as a run may go on there, then remove the file"
    return read_record(path, kind, "what an earlier command left", advice) if path.exists() else None


def left_or_set_aside(path: Path, kind: Any, may: Callable[[], None] = lambda: None) -> tuple[Any, bool]:
    """As `left_record`; and whether something was there that cannot be read, which is told and kept under another name.

    Whoever asks then has to find out from the service what was done; `may` raises where that cannot be known yet.
    """
    try:
        return left_record(path, kind), False
    except UserError as error:
        may()
        aside = path.replace(path.with_name(f"{path.name}.damaged"))
        print(f"{error}. It is kept as {aside}, and the service is asked what there is", file=sys.stderr)
        return None, True
