"""A run that has answered, read back from its folder: later, from anywhere, and after it was moved."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from kernel.banks.prompt_bank import RECORD, PromptBank
from kernel.errors import UserError
from kernel.models.weights_folder import MANIFEST
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder, read_run
from kernel.pipeline.images import ImageFile, list_images
from kernel.pipeline.submission import read_submission
from kernel.system.files import file_sha256
from kernel.system.records import read_record

GO_ON = "Give the same 'python -m kernel run' command again"


class Counts(TypedDict):
    images: int
    bad_images: int
    degraded_rows: int


class Asked(TypedDict):
    name: str
    captioner: str
    estimates: dict[str, float]
    shard_images: int
    text_batch: int


class Models(TypedDict):
    clip: str
    sentences: str


class Estimates(TypedDict):
    models: Models
    bank: str | None


class Identity(TypedDict):
    estimates: Estimates


class Bank(TypedDict):
    folder: str
    excluded: dict[str, Any] | None


class Answered(TypedDict):
    """Of run.json what is read here, once the run has answered."""

    identity: Identity
    recipe: Asked
    counts: Counts
    images: str
    weights: str
    bank: Bank | None
    device: str
    shares_from: str
    versions: dict[str, str]
    captioners: dict[str, int]
    bad_images: dict[str, str]
    caption_failures: dict[str, str]
    problems: list[str]
    warnings: list[str]
    seconds: dict[str, float]
    images_per_second: dict[str, float]
    plan: dict[str, dict[str, float | None]]
    memory: dict[str, dict[str, int | None]]
    scores: NotRequired[dict[str, float]]


@dataclass(frozen=True)
class Finished:
    """What a run left, in the order of `ids`, which its submission.csv holds: whatever became of its images since.

    `answer` (n, 384), `estimates` by name as (n, 384) rows and (n,) bool where they say something, `captions` and
    `modifiers` empty where the run did not come to them, captions of several captioners behind the name of each, `seen`
    (n,) bool: whether CLIP has seen the image.
    """

    path: Path
    record: dict[str, Any]
    folder: RunFolder
    answer: np.ndarray
    estimates: dict[str, tuple[np.ndarray, np.ndarray]]
    captions: list[list[str]]
    modifiers: list[list[str]]
    nearest: results.Nearest | None
    seen: np.ndarray

    @property
    def ids(self) -> list[str]:
        return [image.id for image in self.folder.images]

    @property
    def captioners(self) -> list[str]:
        """The names of those that made the captions."""
        return list(self.record["captioners"])

    @property
    def models(self) -> dict[str, str]:
        """The sha256 of the models that answered, by name."""
        return self.record["identity"]["estimates"]["models"]

    @cached_property
    def bank(self) -> PromptBank | None:
        """The prompt bank that the run asked; None where it asked none, or that bank is gone or was built anew."""
        if self.record["bank"] is None:
            return None
        for folder in places(self.path, self.record["bank"]["folder"]):
            record = folder / RECORD
            # another bank's rows would be other prompts
            if record.is_file() and file_sha256(record) == self.record["identity"]["estimates"]["bank"]:
                return PromptBank.open(folder, self.models["clip"], self.models["sentences"])
        return None


def finished_run(run: Path) -> Finished:
    """Reads all that the run in folder `run` left; its images, weights and bank may be anywhere, or gone.

    Raises UserError, in one line, where there is no run, where it has not answered yet, and for damaged files.
    """
    record = answered_record(run)
    rows = read_submission(run / "submission.csv")
    if len(rows) != record["counts"]["images"]:
        raise UserError(
            f"{run}: submission.csv holds {len(rows)} images, the run was over {record['counts']['images']}: it is not "
            f"the run's own. {GO_ON} to make it anew"
        )
    try:
        # images are known by their ids alone: where they lie now is not the run's to say
        folder = RunFolder(run, [ImageFile(image_id, Path(image_id)) for image_id in rows],
                           record["recipe"]["shard_images"])  # fmt: skip
        shares = [name for name, share in record["recipe"]["estimates"].items() if share > 0]
        return Finished(
            path=run,
            record=record,
            folder=folder,
            answer=np.stack(list(rows.values())),
            estimates={
                name: results.read_estimate(folder, name)
                for name in shares
                if results.estimate_path(folder, name).is_file()
            },
            captions=results.told_captions(folder, record["recipe"]["captioner"]),
            modifiers=modifiers_of(folder),
            nearest=results.read_nearest(folder),
            seen=np.abs(results.read_clip(folder)[0]).max(axis=1, initial=0) > 0,
        )
    except Exception as error:  # each format's reader has exceptions of its own for a damaged file
        raise UserError(
            f"{run}: what the run left cannot be read ({error!r}): a file is damaged "
            f"or missing. {GO_ON}: what is damaged is made anew"
        ) from error


def answered_record(run: Path) -> dict[str, Any]:
    """run.json of a run that has answered at least once. Raises UserError for a folder that holds none."""
    record = read_run(run)
    if record is None:
        raise UserError(f"{run}: no finished run found; expected a folder that 'python -m kernel run' wrote")
    # when it begins a run writes a record without counts, and a submission that is the same row for every image
    if "counts" not in record or not (run / "submission.csv").is_file():
        raise UserError(
            f"{run}: has no answer yet: the run was ended before its first one, or is still at work. {GO_ON}: it goes "
            "on where it was"
        )
    read_record(run / "run.json", Answered, "the record of a run that has answered", f"{GO_ON}: it is written anew")
    return record


def modifiers_of(folder: RunFolder) -> list[list[str]]:
    """Each image's modifiers; none where the time was over before the run came to them."""
    if not (folder.folder / "clip" / "modifiers.json").is_file():
        return [[] for _ in folder.images]
    modifiers = results.read_modifiers(folder)
    if len(modifiers) != len(folder.images):
        raise ValueError(f"modifiers.json is of {len(modifiers)} images, the run of {len(folder.images)}")
    return modifiers


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
