"""Where the folders that a run's record names lie now: a run may be looked at from elsewhere, or after it was moved."""

from pathlib import Path

from kernel.errors import UserError
from kernel.models.weights_folder import MANIFEST
from kernel.pipeline.images import ImageFile, list_images


def places(run: Path, recorded: str) -> list[Path]:
    """Where a folder that run.json names may lie: there, or beside the run folder by the end of that name, where both
    were moved together.

    Example: of "/home/me/data/images" for /away/RUN: itself, /away/home/me/data/images, ..., /away/images
    """
    beside = run.resolve().parent
    parts = [part for part in Path(recorded).parts if part not in ("/", "..")]
    tails = [beside.joinpath(*parts[start:]) for start in range(len(parts))]
    return list(dict.fromkeys([Path(recorded).absolute(), *tails]))


def looked_in(run: Path, recorded: str) -> str:
    """What `places` are, in words."""
    return f"looked for {Path(recorded).absolute()}, and for the end of that name in {run.resolve().parent}"


def images_of(run: Path, recorded: str, ids: list[str], given: Path | None) -> tuple[list[ImageFile], list[str]]:
    """The images of these ids where they lie now, in the folder `given` or in one of the `places`, and a line for what
    is gone and for what came since.

    An image that is gone keeps its place in the list. Raises UserError when none is found.
    """
    for place in [given] if given else filter(Path.is_dir, places(run, recorded)):
        found = {file.id: file for file in list_images(place)}
        if not found.keys().isdisjoint(ids):
            return [found.get(own, ImageFile(own, place / own)) for own in ids], changes(ids, list(found), place)
    where = f"looked in {given}" if given else looked_in(run, recorded)
    raise UserError(
        f"{run}: none of its {len(ids)} images was found: {where}. Give --images DIR, the folder in which they lie now"
    )


def changes(ids: list[str], present: list[str], place: Path) -> list[str]:
    """What of a run's images is no longer in a folder, and what there is not of the run: a line each, or none."""
    gone, more = sorted(set(ids) - set(present)), sorted(set(present) - set(ids))
    lines = []
    if gone:
        lines.append(
            f"{len(gone)} of the run's {len(ids)} images are no longer in {place} ({some(gone)}): shown without picture"
        )
    if more:
        lines.append(f"{len(more)} images in {place} are not among the run's {len(ids)} ({some(more)}): not shown")
    return lines


def some(ids: list[str]) -> str:
    """Example: some(["a", "b", "c"]) == "'a' and 2 more" """
    return repr(ids[0]) if len(ids) == 1 else f"{ids[0]!r} and {len(ids) - 1} more"


def weights_of(run: Path, recorded: str) -> Path:
    """The weights folder that a run used, where it lies now. Raises UserError when it is not found."""
    for place in places(run, recorded):
        if (place / MANIFEST).is_file():
            return place
    raise UserError(
        f"{run}: no weights folder was found, and true prompts are compared by its MiniLM: {looked_in(run, recorded)}. "
        "Give --weights DIR, or leave the prompts out"
    )
