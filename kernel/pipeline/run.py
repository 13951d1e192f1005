"""The line from images to submission.csv, stage by stage: every image through CLIP, then every image through the
captioner, and so on, with one model resident on a device at a time."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import numpy as np

from kernel.banks.word_banks import best_phrases
from kernel.config import CAPTIONS, ESTIMATES, LOCAL, MODIFIERS, Paths, Recipe
from kernel.errors import UserError
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import Shards
from kernel.pipeline.job import Job
from kernel.pipeline.preflight import most_bytes, only_run, preflight
from kernel.pipeline.preparation import Prepared, drop_of_others, open_run, prepare
from kernel.pipeline.record import LOADING, Pace, Record
from kernel.pipeline.stages import StageDeclaration, captions, clip, encoders, estimates, words
from kernel.pipeline.stages.load import StageWork, kept
from kernel.pipeline.submission import write_submission
from kernel.pipeline.workers.engines import engine_named
from kernel.pipeline.workers.here import Here
from kernel.system.deadline import NEVER, Deadline, Watchdog
from kernel.system.devices import Device
from kernel.system.files import cannot_write
from kernel.system.memory import collecting_later, leave_to_the_end, long_lived
from kernel.system.terminal.library_warnings import counted_warnings
from kernel.system.terminal.progress import STDERR, progress_bar
from kernel.system.versions import check_versions
from kernel.system.work import Ends, Engine, Maker, Outcome


def run(
    recipe: Recipe,
    paths: Paths,
    device_name: str = "auto",
    limit: int | None = None,
    deadline: Deadline = NEVER,
    engine: str = LOCAL,
    address: str | None = None,
) -> dict[str, Any]:
    """Runs the recipe over every image of `paths.images` and returns what it writes to run.json.

    A valid submission stands from the start on, and is replaced by a better one after each stage that gives one: the
    constant, then what needs no captions, then all. Raises UserError before the first image for anything about weights,
    recipe, device or output folder; after it only when nothing can be written any more, or CLIP or MiniLM cannot be
    used at all.
    When the deadline passes while something hangs, the process ends with exit code 1 and the last submission stands.
    By the `engine` ray the workers are those of the cluster at `address`.
    """
    begun = time.perf_counter()
    with Watchdog(deadline), ExitStack() as start:
        start.enter_context(collecting_later())
        warnings = check_versions()  # before anything of these libraries is imported
        with counted_warnings() as library_warnings, engine_named(engine, device_name, address) as workers:
            ready = prepare(recipe, paths, workers, limit)
            start.close()
            with only_run(paths.run):
                warnings += [*preflight(paths.run, len(ready.images), ready.phrases, deadline), *ready.warnings]
                folder, said = open_run(paths.run, ready.images, ready.recipe.shard_images, ready.identity())
                drop_of_others(folder, ready)
                record = Record(ready, paths, folder, warnings, library_warnings, begun)
                print(said, record.forecast(deadline), *(f"warning: {own}" for own in warnings), sep="\n", file=STDERR)
                job = Job(ready.recipe, ready.weights, folder, paths.bank, ready.fallback.tolist())
                try:
                    with long_lived():
                        return Line(ready, job, record, deadline, workers).run()
                except OSError as error:  # of what was read before, images or weights, this would say the wrong thing
                    raise cannot_write(paths.run, error, most_bytes(len(ready.images), ready.phrases)) from error


class Line:
    """The stages of one run, in order of what they gain a second."""

    def __init__(self, ready: Prepared, job: Job, record: Record, deadline: Deadline, engine: Engine) -> None:
        self.ready, self.job, self.record, self.deadline, self.engine = ready, job, record, deadline, engine
        self.recipe, self.folder = job.recipe, job.folder
        self.submission = job.folder.folder / "submission.csv"
        self.ids = [image.id for image in ready.images]
        self.apart = results.apart(job.recipe.captioner)
        self.problems: list[str] = []

    def run(self) -> dict[str, Any]:
        if not (self.submission.is_file() and self.folder.made(results.CLIP)):
            self.write(np.broadcast_to(self.ready.fallback, (len(self.ids), len(self.ready.fallback))))
        # nobody knows how long it takes, so no image may take it its time; and who has workers waits for them anyway
        if self.deadline is not NEVER or not isinstance(self.engine, Here):
            self.sentences()
        self.words()
        for stage in self.plain(of_captions=False):
            self.of_images(stage)
        if not self.folder.made(results.CLIP):
            return self.record.write(self.problems)
        self.modifiers()
        self.encoders()
        self.sentences()
        of_texts = [name for name in self.recipe.shared if {CAPTIONS, MODIFIERS}.intersection(ESTIMATES[name].needs)]
        of_images = [name for name in self.recipe.shared if name not in of_texts]
        # what is said of images alone does not change with captions, so it is made once, and no time is kept for it
        self.estimates(of_images, "estimates of images")
        behind = (captions.STAGE, *self.plain(of_captions=True))
        missing = any(self.pending(stage.writes, by) for stage in behind for by in self.apart)
        if self.recipe.needs(CAPTIONS) and (missing or any(map(self.lesser, self.ready.captioners))):
            start = time.perf_counter()
            self.answer(of_texts, ["the run ended before its captions were done"], "estimates before captions")
            # the last answer does this again, with `captions_per_image` texts an image instead of one, and those
            # twice where they are compared with one another first
            again = 2 if self.recipe.caption_weighting == "consensus" else 1
            texts = again * self.recipe.captions_per_image * len(self.apart)
            reserve = (texts + 1) * (time.perf_counter() - start)
            if len(self.apart) > 1:
                self.captions_apart(reserve)
            else:
                self.captions(reserve)
                self.better_captions(reserve)
        return self.answer(of_texts, self.problems)

    def words(self) -> None:
        """Features of the words that no folder holds any of: before images, which without words say nothing."""
        job = self.job.of_unknown(self.ready.words)
        if not job.words:
            return
        # images must not be left without time: what is planned for what follows counts up to two thirds of what is left
        ends = self.ends_before(2 / 3, "clip", "estimates", "submission")
        phrases = sum(len(own.phrases) for own in job.words)
        outcome = self.work(words.STAGE, job.missing_parts(), ends, total=phrases, job=job)
        if left := job.join_words():
            why = outcome.why or "the time was over"
            self.problems.append(f"no modifiers were taken from {', '.join(left)}, which CLIP did not encode ({why})")

    def sentences(self) -> None:
        """Loads MiniLM, before the clock of any estimate starts: this process makes those that no worker can."""
        with self.record.timed(LOADING):
            self.ready.encoder()
        leave_to_the_end()  # its libraries too

    def encoders(self) -> None:
        """Every image by each image encoder; one that cannot be used is left out, and the others answer."""
        for name, sha256 in self.ready.encoders.items():
            ends = self.ends_before(1 / 3, "estimates", "submission")
            seen = self.folder.made(results.CLIP)  # what some of them read
            pending = {shard: size for shard, size in self.pending(results.encoded(sha256)).items() if shard in seen}
            outcome = self.work(encoders.STAGE, pending, ends, by=name, label=f"encoder {name}")
            if outcome.out_of_time:
                self.problems.append(f"the time was over before encoder {name} had seen every image")
            elif outcome.left:
                self.give_up("encoder", name, outcome)

    def plain(self, of_captions: bool) -> list[StageDeclaration]:
        """The stages of this recipe that make shards in but one way, of captions or else of images alone."""
        own = [stage for stage in kept() if stage.writes and not stage.by and stage.wanted(self.recipe)]
        return [stage for stage in own if (results.CAPTIONS in stage.reads) == of_captions]

    def of_images(self, stage: StageDeclaration) -> None:
        # an estimate must not take CLIP its time: what is planned for the answer counts up to a third of what is left
        outcome = self.shards(stage, self.ends_before(1 / 3, "estimates", "submission"))
        if stage is clip.STAGE and outcome.left and not (outcome.out_of_time or self.folder.made(results.CLIP)):
            raise UserError(
                f"CLIP cannot be used on {self.record.static['device']} ({outcome.why}): "
                f"{len(self.ids)} images have no features, and the last submission.csv stands. Run "
                "again to go on there, or with --device cpu"
            )

    def shards(self, stage: StageDeclaration, ends: Ends) -> Outcome:
        """A stage's shards that are missing, of those of which all that it reads is there."""
        pending: dict[int, int] = {}
        for by in self.apart:
            reads = [own.by(by) for own in stage.reads]
            ready = set(range(len(self.folder.borders))).intersection(*map(self.folder.made, reads))
            pending |= {shard: size for shard, size in self.pending(stage.writes, by).items() if shard in ready}
        outcome = self.work(stage, dict(sorted(pending.items())), ends)
        if outcome.left:
            why = "the time was over" if outcome.out_of_time else f"{stage.label} was given up ({outcome.why})"
            self.problems.append(f"{why} before {stage.aim}")
        return outcome

    def modifiers(self) -> None:
        """The best phrases of every word list that was encoded, for each image that has features."""
        lists = list(zip(self.ready.words, filter(None, self.recipe.modifiers.values()), strict=True))
        features, _ = results.read_clip(self.folder)
        with self.record.timed("modifiers"):
            best = best_phrases(features, lists, self.ready.weights.sha256("clip"), self.job.features_folders)
        results.write_modifiers(self.folder, best)

    def captions(self, reserve: float) -> None:
        """Captions by the first captioner that can be used, then what is made of them; nothing here may end a run."""
        ends = self.ends_before_scores(reserve)
        for name in self.ready.captioners:
            outcome = self.work(captions.STAGE, self.pending(results.CAPTIONS), ends, by=name)
            if outcome.out_of_time:
                self.problems.append(f"the time was over before {captions.STAGE.aim}")
            if outcome.out_of_time or not outcome.left:
                break
            self.give_up("captioner", name, outcome)
        else:
            self.problems.append("no captioner is left, so images without captions go without")
        self.of_captions(self.ends(reserve))

    def captions_apart(self, reserve: float) -> None:
        """Captions by each of several captioners, every image through one and then through the next; one that cannot be
        used is left out, and the others answer. None takes those behind it their time; what these do not need of it
        goes back to those whose own did not suffice."""
        late = []
        for place, name in enumerate(self.apart):
            pending = {own: sum(self.pending(results.CAPTIONS, own).values()) for own in self.apart[place + 1 :]}
            behind = {f"{captions.STAGE.label} {own}": size for own, size in pending.items() if size}
            if self.late_by(name, self.ends_before_scores(reserve, behind)):
                late.append(name)
        for name in late.copy() if self.apart[-1] not in late else ():  # else nothing is left
            loads = self.record.first_seconds(f"{captions.STAGE.label} {name}")
            if loads < self.deadline.left() - reserve and not self.late_by(name, self.ends_before_scores(reserve)):
                late.remove(name)
        self.problems += [f"the time was over before {name} had captioned every image" for name in late]
        if set(self.apart) <= set(self.record.given_up):
            self.problems.append("no captioner is left, so images without captions go without")
        self.of_captions(self.ends(reserve))

    def late_by(self, name: str, ends: Ends) -> bool:
        """Captions by one of several captioners; whether the time was over before it had captioned every image."""
        label, whole = f"{captions.STAGE.label} {name}", self.folder.whole(results.CAPTIONS.by(name))
        pending = {shard: size for shard, size in self.folder.sizes().items() if shard not in whole}
        outcome = self.work(captions.STAGE, pending, ends, by=name, label=label)
        if outcome.left and not outcome.out_of_time:
            self.give_up("captioner", name, outcome)
        return outcome.out_of_time

    def better_captions(self, reserve: float) -> None:
        """Captions that a stand-in made, anew by a better captioner, each tried once a run; where it fails, they stand.

        Comes after all that is missing, and leaves time to weigh them.
        """
        if self.folder.unmade_images(results.CAPTIONS):
            return
        for name in self.ready.captioners:
            shards = {} if name in self.record.given_up else self.folder.sizes(self.lesser(name))
            if not shards:
                continue
            ends = self.ends_before_scores(reserve)
            outcome = self.work(captions.STAGE, shards, ends, by=name, label="better captions")
            if outcome.out_of_time:
                self.problems.append(f"the time was over before {name} had captioned what a stand-in had")
            elif outcome.left:
                self.give_up("captioner", name, outcome)
            if len(outcome.left) < len(shards):
                self.of_captions(self.ends(reserve))
            if outcome.out_of_time:
                return

    def lesser(self, better: str) -> list[int]:
        """The shards with images that a captioner captioned which only stands in for this one; of several none does."""
        lesser = self.ready.captioners[self.ready.captioners.index(better) + 1 :] if self.apart == [""] else []
        return [
            shard
            for shard, content in (results.caption_shards(self.folder) if lesser else {}).items()
            if content.could_be_better(self.folder.shard_ids(shard), lesser)
        ]

    def give_up(self, kind: str, name: str, outcome: Outcome) -> None:
        self.record.given_up.append(name)
        self.problems.append(f"{kind} {name} was given up ({outcome.why})")

    def of_captions(self, ends: Ends) -> None:
        for stage in self.plain(of_captions=True):
            self.shards(stage, ends)

    def answer(self, names: list[str], problems: list[str], title: str = "estimates") -> dict[str, Any]:
        """The submission of all that the folder holds by now, these estimates made anew, and the record beside it."""
        self.estimates(names, title)
        with self.record.timed("estimates"):
            rows = estimates.fused_rows(self.folder, self.recipe, self.ready.fallback)
        self.write(rows)
        self.folder.drop_unfinished()
        return self.record.write(problems)

    def estimates(self, names: list[str], title: str) -> None:
        loaded = partial(estimates.EstimatesStage.at_hand, self.job, self.ready.encoder, self.ready.bank)
        every = self.recipe.shared
        items = {every.index(name): len(self.ids) for name in names}
        outcome = self.work(estimates.STAGE, items, Ends(), loaded=loaded, title=title, total=sum(items.values()))
        if outcome.left and not isinstance(self.engine, Here):
            print(f"estimates go on in this process, on the CPU ({outcome.why})", file=STDERR)
            left, outcome = {item: items[item] for item in outcome.left}, Outcome()
            for _ in Here(Device("cpu")).work(StageWork(self.job, estimates.STAGE.name, loaded), left, Ends(), outcome):
                pass
        if outcome.left:
            raise UserError(
                f"{self.folder.folder}: estimates {', '.join(every[item] for item in outcome.left)} cannot be made "
                f"({outcome.why}); the last submission.csv stands. Run again to go on there"
            )

    def write(self, rows: np.ndarray) -> None:
        with self.record.timed("submission"):
            write_submission(self.submission, self.ids, rows)

    def work(
        self, stage: StageDeclaration, items: dict[int, int], ends: Ends, by: str = "", label: str = "",
        title: str = "", total: int | None = None, loaded: Callable[[], Maker] | None = None, job: Job | None = None,
    ) -> Outcome:  # fmt: skip
        """The items, {number: its images}, on the devices, with a progress bar over all; none where all are made."""
        if items and ends.begins.left() <= 0:  # a model that loads now would make nothing, and take the answer its time
            return Outcome(left=[*items], out_of_time=True)
        label, name = label or stage.label, f"{stage.name} {by}".rstrip()
        pending, total = sum(items.values()), len(self.ids) if total is None else total
        # an estimate is made at once, so its first batches say nothing of its time
        pace = self.record.paces.setdefault(label, Pace(0 if loaded else pending, len(self.ready.devices)))
        title = title or label
        bar = progress_bar(total=total, initial=total - pending, desc=title, unit=stage.unit, disable=not items)
        outcome = Outcome()
        work = StageWork(job or self.job, name, loaded)
        working = closing(self.engine.work(work, items, ends, outcome))
        with self.record.timed(label), bar, working as steps:
            for number in steps:
                bar.update(number)
                if pace.batch(number):
                    bar.write(self.record.corrected(label), file=STDERR)
        if outcome.reasons and not outcome.left:
            print(f"{outcome.why}: what was in hand there was made by others", file=STDERR)
        self.record.library_warnings.update(outcome.library_warnings)
        self.record.took(label, outcome.host_bytes, outcome.device_bytes)
        return outcome

    def pending(self, shards: Shards | None, by: str = "") -> dict[int, int]:
        """Of a stage's shards those that are not made, of several captioners by this one, and their images."""
        made = set(self.folder.made(shards.by(by))) if shards else set()
        return {shard: size for shard, size in self.folder.sizes().items() if shard not in made}

    def ends(self, reserve: float) -> Ends:
        """Nothing is begun for which `reserve` seconds would not be left, and nothing is waited for into its last
        three quarters."""
        return Ends(self.deadline.earlier(reserve), self.deadline.earlier(0.75 * reserve))

    def ends_before(self, most: float, *labels: str) -> Ends:
        """Leaves what is planned for these, and at most this share of what is left."""
        return self.ends(min(self.record.planned_seconds(*labels), most * max(self.deadline.left(), 0)))

    def ends_before_scores(self, reserve: float, behind: Mapping[str, int] | None = None) -> Ends:
        """Leaves `reserve` seconds, what is planned for weighing captions, and what is kept for captioners behind this
        one with so many images before them: as captioners fill the time that they have, none would be left for it."""
        scores = [stage.label for stage in self.plain(of_captions=True)]
        left = max(self.deadline.left() - reserve, 0)
        scoring = min(self.record.planned_seconds(*scores), len(scores) / (len(scores) + 1) * left) if scores else 0
        return self.ends(reserve + scoring + self.record.kept_seconds(behind or {}, left - scoring))
