"""Where a command keeps what it makes until all of it is there: a folder of this machine that goes with the command, or
one in a folder that the user names, which stays when the command is killed and serves the same command again."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kernel.config import LOCAL
from kernel.errors import UserError
from kernel.pipeline.preflight import only_run
from kernel.system.files import writing


def require_scratch(engine: str, scratch: Path | None) -> None:
    """Raises UserError where other machines would have to write into this one's own folder."""
    if engine != LOCAL and scratch is None:
        raise UserError(
            f"--engine {engine}: expected --scratch DIR too, a folder on the disk that all machines share: there they "
            "leave what they make, and the same command goes on when it was killed"
        )


def folder_of(scratch: Path, identity: Any) -> Path:
    """Named by a sha256 of all that decides what is made."""
    told = json.dumps(identity, sort_keys=True).encode(errors="surrogateescape")
    return scratch / f"describe-{hashlib.sha256(told).hexdigest()[:16]}"


@contextmanager
def scratch_folder(scratch: Path | None, identity: Callable[[], Any]) -> Iterator[Path]:
    """A folder for as long as the block runs. In `scratch` it is named by a sha256 of the `identity`, all that decides
    what is made, so that nothing of another command, device or version is taken for this one's; it stays where the
    block fails. Raises UserError where it cannot be written, or the same command is at work there."""
    if scratch is None:
        with tempfile.TemporaryDirectory(prefix="image-to-prompts-") as own:
            yield Path(own)
        return
    folder = folder_of(scratch, identity())
    with writing(folder, "give --scratch a folder that you may write into, then run again"):
        folder.mkdir(parents=True, exist_ok=True)
    with only_run(folder, "--scratch"):
        yield folder
        shutil.rmtree(folder)
