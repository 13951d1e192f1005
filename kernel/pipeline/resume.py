"""Opens a run folder: it goes on with what the last run left, and makes again what no longer belongs to this one."""

import shutil
from pathlib import Path
from typing import Any

from kernel.errors import UserError
from kernel.pipeline.folder.run_folder import RunFolder, read_run
from kernel.pipeline.images import ImageFile
from kernel.pipeline.stages.load import kept
from kernel.system.files import cannot_write, unfinished_path


def open_run(
    folder: Path, images: list[ImageFile], shard_images: int, identity: dict[str, dict[str, Any]]
) -> tuple[RunFolder, str]:
    """The run folder, ready to go on or to start, and one line about which of the two.

    `identity` holds for each stage what its outputs depend on: a stage of which something changed is made again, the
    others stay. Raises UserError when the folder cannot be written or holds files that no run wrote.
    """
    run = RunFolder(folder, images, shard_images, identity)
    previous = read_run(folder)
    # a run that was killed while it wrote its first record left no more than this
    first = unfinished_path(folder / "run.json")
    if previous is None and folder.is_dir() and any(path != first for path in folder.iterdir()):
        raise UserError(
            f"{folder}: holds files but no run.json, so no run wrote it. Give --out an empty or a new folder"
        )
    changed = {} if previous is None else {stage: changes(previous["identity"], identity, stage) for stage in identity}
    stale = [stage for stage, keys in changed.items() if keys]
    try:
        for stage in stale:
            shutil.rmtree(folder / stage, ignore_errors=True)
        if stale:
            (folder / "submission.csv").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        # before the stages' folders: a run that ends between the two must find its own record again
        if previous is None or stale:
            run.write_run({"identity": identity, "shards": run.borders})
        for own in kept():
            (folder / own.name).mkdir(exist_ok=True)
            if own.writes:
                run.drop_unsound_shards(own.writes)
    except OSError as error:
        raise cannot_write(folder, error) from error
    if stale:
        what = ", ".join(dict.fromkeys(key for keys in changed.values() for key in keys))
        return run, f"{folder}: {what} changed since the last run: {', '.join(stale)} made again"
    return run, f"{folder}: going on with the last run" if previous else f"{folder}: new run"


def changes(before: dict[str, Any], now: dict[str, dict[str, Any]], stage: str) -> list[str]:
    """The names of what differs in a stage's identity, in its order."""
    known = before.get(stage, {})
    return [key for key, value in now[stage].items() if key not in known or known[key] != value]
