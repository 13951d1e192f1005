"""The line from images to submission.csv, stage by stage: every image through CLIP, then every image through the
captioner, and so on, with one model resident on a device at a time."""

import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from kernel.config import BANK, CAPTIONS, ESTIMATES, Paths, Recipe
from kernel.deadline import NEVER, Deadline, Watchdog
from kernel.devices import Device
from kernel.errors import UserError
from kernel.job import Job
from kernel.preflight import check_versions, most_bytes, only_run, preflight
from kernel.preparation import Prepared, prepare
from kernel.record import Pace, Record
from kernel.stages import WORDS, Item
from kernel.stages.answer import AnswerStage, fused_rows
from kernel.store import cannot_write, open_run
from kernel.submission import write_submission
from kernel.word_banks import features_file, rank, read_features
from kernel.workers import Ends, Outcome, work


def run(
    recipe: Recipe,
    paths: Paths,
    device_name: str = "auto",
    limit: int | None = None,
    deadline: Deadline = NEVER,
) -> dict[str, Any]:
    """Runs the recipe over every image of `paths.images` and returns what it writes to run.json.

    A valid submission stands from the start on, and is replaced by a better one after each stage that gives one: the
    constant, then what needs no captions, then all. Raises UserError before the first image for anything about weights,
    recipe, device or output folder; after it only when nothing can be written any more, or CLIP cannot be used at all.
    When the deadline passes while something hangs, the process ends with exit code 1 and the last submission stands.
    """
    with Watchdog(deadline):
        return watched_run(recipe, paths, device_name, limit, deadline)


def watched_run(
    recipe: Recipe, paths: Paths, device_name: str, limit: int | None, deadline: Deadline
) -> dict[str, Any]:
    warnings = check_versions()
    ready = prepare(recipe, paths, device_name, limit)
    with only_run(paths.run):
        phrases = sum(len(own.phrases) for own in ready.words)
        warnings += preflight(paths.run, len(ready.images), phrases, deadline)
        warnings += ready.warnings
        folder, said = open_run(paths.run, ready.images, ready.recipe.shard_images, ready.identity())
        record = Record(ready, paths, folder, warnings)
        told = [f"warning: {warning}" for warning in warnings]
        print(said, record.forecast(deadline), *told, sep="\n", file=sys.stderr)
        job = Job(ready.recipe, ready.weights, folder, paths.bank, ready.fallback.tolist())
        try:
            return Line(ready, job, record, deadline).run()
        except OSError as error:  # of what was read before, images or weights, this would say the wrong thing
            raise cannot_write(paths.run, error, most_bytes(len(ready.images), phrases)) from error


class Line:
    """The stages of one run, in order of what they gain a second."""

    def __init__(self, ready: Prepared, job: Job, record: Record, deadline: Deadline) -> None:
        self.ready, self.job, self.record, self.deadline = ready, job, record, deadline
        self.recipe, self.folder = job.recipe, job.folder
        self.submission = job.folder.folder / "submission.csv"
        self.ids = [image.id for image in ready.images]
        self.problems: list[str] = []

    def run(self) -> dict[str, Any]:
        if not self.submission.is_file():
            self.write(np.broadcast_to(self.ready.fallback, (len(self.ids), len(self.ready.fallback))))
        self.clip()
        if not self.folder.made("clip"):
            return self.record.write(self.problems)
        self.modifiers()
        own = self.recipe.shared
        weighed = self.recipe.caption_weighting == "clip"
        if self.recipe.needs(CAPTIONS) and (self.pending("captions") or (weighed and self.pending("cosines"))):
            start = time.perf_counter()
            self.answer(own, ["the run ended before captions were made"], "estimates before captions")
            # the last answer does this again, with `captions_per_image` texts an image instead of one
            ends = self.ends((self.recipe.captions_per_image + 1) * (time.perf_counter() - start))
            self.captions(ends)
            if weighed:
                self.cosines(ends)
            # what the bank says does not change with captions
            own = [name for name in own if BANK not in ESTIMATES[name].needs]
        return self.answer(own, self.problems)

    def clip(self) -> None:
        """Features of images, and of the words that the weights folder brings none for."""
        ready, sha256 = self.ready, self.ready.weights.sha256("clip")
        unknown = [own for own in ready.words if features_file(own, sha256, self.job.features_folders) is None]
        shards = self.pending("clip")
        # an estimate must not take CLIP its time: what is planned for the answer counts up to a third of what is left
        planned = sum(self.record.planned_seconds(stage) for stage in ("estimates", "submission"))
        after = min(planned, max(self.deadline.left(), 0) / 3)
        outcome = self.work("clip", "clip", [*([WORDS] if unknown else []), *shards], self.ends(after))
        if outcome.out_of_time:
            self.problems.append("the time was over before CLIP had seen every image")
        elif outcome.left and not self.folder.made("clip"):
            raise UserError(
                f"CLIP cannot be used on {self.record.static['device']} ({'; '.join(outcome.reasons)}): "
                f"{self.folder.images_of(shards)} images have no features, and the last submission.csv stands. Run "
                "again to go on there, or with --device cpu"
            )
        elif outcome.left:
            self.problems.append(f"CLIP was given up ({'; '.join(outcome.reasons)})")

    def modifiers(self) -> None:
        """The best phrases of every word list for each image that has features."""
        features, _ = self.folder.read_clip()
        seen = np.flatnonzero(np.abs(features).max(axis=1) > 0)
        modifiers: list[list[str]] = [[] for _ in self.ids]
        numbers = [number for number in self.recipe.modifiers.values() if number]
        with self.record.timed("modifiers"):
            for words, number in zip(self.ready.words, numbers, strict=True):
                path = features_file(words, self.ready.weights.sha256("clip"), self.job.features_folders)
                if path is None:
                    continue  # they were not encoded, which is among the problems
                indices, _ = rank(features[seen], read_features(words, path).features, number)
                for image, row in zip(seen.tolist(), indices.tolist(), strict=True):
                    modifiers[image].extend(words.phrases[index] for index in row)
        self.folder.write_modifiers(modifiers)

    def captions(self, ends: Ends) -> None:
        """Captions by the first captioner that can be used; nothing here may end a run."""
        for name in self.ready.captioners:
            outcome = self.work("captions", f"captions {name}", self.pending("captions"), ends)
            if outcome.out_of_time:
                self.problems.append("the time was over before every image had captions")
            if outcome.out_of_time or not outcome.left:
                return
            self.problems.append(f"captioner {name} was given up ({'; '.join(outcome.reasons)})")
        self.problems.append("no captioner is left, so images without captions go without")

    def cosines(self, ends: Ends) -> None:
        captioned = set(self.folder.made("captions")) & set(self.folder.made("clip"))
        outcome = self.work("caption cosines", "cosines", sorted(captioned & set(self.pending("cosines"))), ends)
        if outcome.left:
            why = "; ".join(outcome.reasons) or "the time was over"
            self.problems.append(f"not every caption was weighed, the others count alike ({why})")

    def answer(self, names: list[str], problems: list[str], title: str = "estimates") -> dict[str, Any]:
        """The submission of all that the folder holds by now, these estimates made anew, and the record beside it."""
        here = partial(AnswerStage, self.job, Device("cpu"), self.ready.encoder, self.ready.bank)
        outcome = self.work("estimates", "answer", names, Ends(), here, title)
        if outcome.left and any(device.is_gpu for device in self.ready.devices):
            print(f"estimates go on without a GPU ({'; '.join(outcome.reasons)})", file=sys.stderr)
            outcome = work(self.job, [Device("cpu")], "answer", outcome.left, Ends(), lambda images: None, here)
        if outcome.left:
            raise UserError(
                f"{self.folder.folder}: estimates {', '.join(map(str, outcome.left))} cannot be made "
                f"({'; '.join(outcome.reasons)}); the last submission.csv stands. Run again to go on there"
            )
        with self.record.timed("estimates"):
            rows = fused_rows(self.folder, self.recipe, self.ready.fallback)
        self.write(rows)
        return self.record.write(problems)

    def write(self, rows: np.ndarray) -> None:
        with self.record.timed("submission"):
            write_submission(self.submission, self.ids, rows)

    def work(
        self, label: str, stage: str, items: Sequence[Item], ends: Ends, here: Any = None, title: str = ""
    ) -> Outcome:
        """The items on the devices, with a progress bar over all images; none for a stage that is made already."""
        from tqdm.auto import tqdm

        images = self.folder.images_of(item for item in items if isinstance(item, int))
        pace = self.record.paces.setdefault(label, Pace(images, len(self.ready.devices)))
        total, done = (len(self.ids), len(self.ids) - images) if images else (len(self.ids) * len(items), 0)
        bar = tqdm(total=total, initial=done, desc=title or label, unit="image", file=sys.stderr, disable=not items)

        def progress(number: int) -> None:
            bar.update(number)
            if pace.batch(number):
                bar.write(self.record.corrected(label), file=sys.stderr)

        with self.record.timed(label), bar:
            outcome = work(self.job, self.ready.devices, stage, items, ends, progress, here)
        self.record.took(label, outcome.host_bytes, outcome.device_bytes)
        return outcome

    def pending(self, stage: str) -> list[int]:
        made = set(self.folder.made(stage))
        return [shard for shard in range(len(self.folder.borders)) if shard not in made]

    def ends(self, reserve: float) -> Ends:
        """Nothing is begun for which `reserve` seconds would not be left, and nothing is waited for into its last
        three quarters."""
        return Ends(self.deadline.earlier(reserve), self.deadline.earlier(0.75 * reserve))
