"""The line from images to submission.csv, stage by stage: every image through CLIP, then every image through the
captioner, and so on, with one model resident on a device at a time."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from kernel.banks.word_banks import features_file, rank, read_features
from kernel.banks.word_parts import join_parts, parts_of
from kernel.config import BANK, CAPTIONS, ESTIMATES, Paths, Recipe
from kernel.errors import UserError
from kernel.pipeline.job import Job
from kernel.pipeline.preflight import most_bytes, only_run, preflight
from kernel.pipeline.preparation import Prepared, prepare
from kernel.pipeline.record import Pace, Record
from kernel.pipeline.run_folder import open_run
from kernel.pipeline.stages import Stage
from kernel.pipeline.stages.answer import AnswerStage, fused_rows
from kernel.pipeline.submission import write_submission
from kernel.pipeline.workers.dispatch import Ends, Outcome, work
from kernel.system.deadline import NEVER, Deadline, Watchdog
from kernel.system.devices import Device
from kernel.system.files import cannot_write
from kernel.system.library_warnings import counted_warnings
from kernel.system.progress import progress_bar
from kernel.system.stderr import STDERR
from kernel.system.versions import check_versions


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
        warnings = check_versions()  # before anything of these libraries is imported
        with counted_warnings() as library_warnings:
            return watched_run(recipe, paths, device_name, limit, deadline, warnings, library_warnings)


def watched_run(
    recipe: Recipe,
    paths: Paths,
    device_name: str,
    limit: int | None,
    deadline: Deadline,
    warnings: list[str],
    library_warnings: Counter[str],
) -> dict[str, Any]:
    ready = prepare(recipe, paths, device_name, limit)
    with only_run(paths.run):
        phrases = sum(len(own.phrases) for own in ready.words)
        warnings += preflight(paths.run, len(ready.images), phrases, deadline)
        warnings += ready.warnings
        folder, said = open_run(paths.run, ready.images, ready.recipe.shard_images, ready.identity())
        folder.drop_captions_of_others({name: ready.weights.sha256(name) for name in ready.captioners})
        record = Record(ready, paths, folder, warnings, library_warnings)
        told = [f"warning: {warning}" for warning in warnings]
        print(said, record.forecast(deadline), *told, sep="\n", file=STDERR)
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
        self.given_up: list[str] = []  # captioners

    def run(self) -> dict[str, Any]:
        if not self.submission.is_file():
            self.write(np.broadcast_to(self.ready.fallback, (len(self.ids), len(self.ready.fallback))))
        self.words()
        self.clip()
        if not self.folder.made("clip"):
            return self.record.write(self.problems)
        self.modifiers()
        of_bank = [name for name in self.recipe.shared if BANK in ESTIMATES[name].needs]
        of_texts = [name for name in self.recipe.shared if name not in of_bank]
        # what the bank says does not change with captions, so it is made once, and no time is kept for it later
        self.estimates(of_bank, "estimates of the bank")
        if self.recipe.needs(CAPTIONS) and self.captions_are_wanted():
            start = time.perf_counter()
            self.answer(of_texts, ["the run ended before its captions were done"], "estimates before captions")
            # the last answer does this again, with `captions_per_image` texts an image instead of one
            reserve = (self.recipe.captions_per_image + 1) * (time.perf_counter() - start)
            self.captions(self.ends(reserve))
            self.better_captions(reserve)
        return self.answer(of_texts, self.problems)

    def words(self) -> None:
        """Features of the words that no folder holds any of: before images, which without words say nothing."""
        sha256, folders = self.ready.weights.sha256("clip"), self.job.features_folders
        unknown = tuple(own for own in self.ready.words if features_file(own, sha256, folders) is None)
        if not unknown:
            return
        parts = parts_of(unknown, sha256, folders[-1])
        sizes = {item: len(part.phrases) for item, part in enumerate(parts)}
        missing = {item: size for item, size in sizes.items() if not parts[item].path.is_file()}
        # images must not be left without time: what is planned for what follows counts up to two thirds of what is left
        planned = sum(self.record.planned_seconds(stage) for stage in ("clip", "estimates", "submission"))
        ends = self.ends(min(planned, 2 / 3 * max(self.deadline.left(), 0)))
        job = replace(self.job, words=unknown)
        outcome = self.work("words", "words", missing, ends, total=sum(sizes.values()), unit="phrase", job=job)
        left = [words.name for words in unknown if not join_parts(words, sha256, folders[-1])]
        if left:
            why = "; ".join(outcome.reasons) or "the time was over"
            self.problems.append(f"no modifiers were taken from {', '.join(left)}, which CLIP did not encode ({why})")

    def clip(self) -> None:
        """Features of images."""
        # an estimate must not take CLIP its time: what is planned for the answer counts up to a third of what is left
        planned = sum(self.record.planned_seconds(stage) for stage in ("estimates", "submission"))
        after = min(planned, max(self.deadline.left(), 0) / 3)
        shards = self.pending("clip")
        outcome = self.work("clip", "clip", shards, self.ends(after))
        if outcome.out_of_time:
            self.problems.append("the time was over before CLIP had seen every image")
        elif outcome.left and not self.folder.made("clip"):
            raise UserError(
                f"CLIP cannot be used on {self.record.static['device']} ({'; '.join(outcome.reasons)}): "
                f"{sum(shards.values())} images have no features, and the last submission.csv stands. Run "
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

    def captions_are_wanted(self) -> bool:
        weighed = self.recipe.caption_weighting == "clip"
        better = any(self.lesser(name) for name in self.ready.captioners)
        return bool(self.pending("captions") or (weighed and self.pending("cosines")) or better)

    def captions(self, ends: Ends) -> None:
        """Captions by the first captioner that can be used, then their weights; nothing here may end a run."""
        for name in self.ready.captioners:
            outcome = self.work("captions", f"captions {name}", self.pending("captions"), ends)
            if outcome.out_of_time:
                self.problems.append("the time was over before every image had captions")
            if outcome.out_of_time or not outcome.left:
                break
            self.give_up(name, outcome)
        else:
            self.problems.append("no captioner is left, so images without captions go without")
        self.cosines(ends)

    def better_captions(self, reserve: float) -> None:
        """Captions that a stand-in made, anew by a better captioner, each tried once a run; where it fails, they stand.

        Comes after all that is missing, and leaves time to weigh them.
        """
        if self.folder.unmade_images("captions"):
            return
        seconds = self.record.planned_seconds("caption cosines")
        for name in self.ready.captioners:
            shards = {} if name in self.given_up else self.folder.sizes(self.lesser(name))
            if not shards:
                continue
            outcome = self.work("better captions", f"captions {name}", shards, self.ends(reserve + seconds))
            if outcome.out_of_time:
                self.problems.append(f"the time was over before {name} had captioned what a stand-in had")
            elif outcome.left:
                self.give_up(name, outcome)
            if len(outcome.left) < len(shards):
                self.cosines(self.ends(reserve))
            if outcome.out_of_time:
                return

    def lesser(self, better: str) -> list[int]:
        """The shards with images that a captioner captioned which only stands in for this one."""
        lesser = self.ready.captioners[self.ready.captioners.index(better) + 1 :]
        return [
            shard
            for shard, content in (self.folder.caption_shards() if lesser else {}).items()
            if content.could_be_better([file.id for file in self.folder.shard_files(shard)], lesser)
        ]

    def give_up(self, captioner: str, outcome: Outcome) -> None:
        self.given_up.append(captioner)
        self.problems.append(f"captioner {captioner} was given up ({'; '.join(outcome.reasons)})")

    def cosines(self, ends: Ends) -> None:
        if self.recipe.caption_weighting != "clip":
            return
        captioned = set(self.folder.made("captions")) & set(self.folder.made("clip"))
        shards = {shard: size for shard, size in self.pending("cosines").items() if shard in captioned}
        outcome = self.work("caption cosines", "cosines", shards, ends)
        if outcome.left:
            why = "; ".join(outcome.reasons) or "the time was over"
            self.problems.append(f"not every caption was weighed, the others count alike ({why})")

    def answer(self, names: list[str], problems: list[str], title: str = "estimates") -> dict[str, Any]:
        """The submission of all that the folder holds by now, these estimates made anew, and the record beside it."""
        self.estimates(names, title)
        with self.record.timed("estimates"):
            rows = fused_rows(self.folder, self.recipe, self.ready.fallback)
        self.write(rows)
        return self.record.write(problems)

    def estimates(self, names: list[str], title: str) -> None:
        here = partial(AnswerStage, self.job, Device("cpu"), self.ready.encoder, self.ready.bank)
        every = self.recipe.shared
        items = {every.index(name): len(self.ids) for name in names}
        outcome = self.work("estimates", "answer", items, Ends(), here, title, sum(items.values()))
        if outcome.left and any(device.is_gpu for device in self.ready.devices):
            print(f"estimates go on without a GPU ({'; '.join(outcome.reasons)})", file=STDERR)
            again = work(
                self.job, [Device("cpu")], "answer", {item: items[item] for item in outcome.left}, Ends(), here
            )
            for _ in again:
                pass
            outcome = again.outcome
        if outcome.left:
            raise UserError(
                f"{self.folder.folder}: estimates {', '.join(every[item] for item in outcome.left)} cannot be made "
                f"({'; '.join(outcome.reasons)}); the last submission.csv stands. Run again to go on there"
            )

    def write(self, rows: np.ndarray) -> None:
        with self.record.timed("submission"):
            write_submission(self.submission, self.ids, rows)

    def work(
        self,
        label: str,
        stage: str,
        items: dict[int, int],
        ends: Ends,
        here: Callable[[], Stage] | None = None,
        title: str = "",
        total: int | None = None,
        unit: str = "image",
        job: Job | None = None,
    ) -> Outcome:
        """The items, {number: its images}, on the devices, with a progress bar over all; none where all are made."""
        pending, total = sum(items.values()), len(self.ids) if total is None else total
        # an estimate is made at once, so its first batches say nothing of its time
        pace = self.record.paces.setdefault(label, Pace(0 if here else pending, len(self.ready.devices)))
        bar = progress_bar(total=total, initial=total - pending, desc=title or label, unit=unit, disable=not items)
        with self.record.timed(label), bar:
            with closing(work(job or self.job, self.ready.devices, stage, items, ends, here)) as working:
                for number in working:
                    bar.update(number)
                    if pace.batch(number):
                        bar.write(self.record.corrected(label), file=STDERR)
        outcome = working.outcome
        self.record.library_warnings.update(outcome.library_warnings)
        self.record.took(label, outcome.host_bytes, outcome.device_bytes)
        return outcome

    def pending(self, stage: str) -> dict[int, int]:
        """The shards that are not made, and their images."""
        made = set(self.folder.made(stage))
        return self.folder.sizes(shard for shard in range(len(self.folder.borders)) if shard not in made)

    def ends(self, reserve: float) -> Ends:
        """Nothing is begun for which `reserve` seconds would not be left, and nothing is waited for into its last
        three quarters."""
        return Ends(self.deadline.earlier(reserve), self.deadline.earlier(0.75 * reserve))
