"""run.json: what ran, on what, what came of it, and what it took beside what was planned."""

import importlib.metadata
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from kernel import __version__
from kernel.config import CAPTIONS, Paths, Recipe
from kernel.models.image_text_matching import MATCHING
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import left_out
from kernel.pipeline.preparation import Prepared
from kernel.pipeline.stages import StageDeclaration
from kernel.pipeline.stages.load import kept
from kernel.system.deadline import Deadline, duration
from kernel.system.memory import PeakMemory

REPORTED_VERSIONS = ("torch", "open_clip_torch", "transformers", "sentence-transformers", "numpy", "pandas", "pillow")
# of each worker, before a stage's seconds are told by them: the first also warms caches up
FIRST_BATCHES = 3
# parts of a run's time that are no stage's: all that comes before the first of them, and what loads MiniLM here
START, LOADING = "start", "loading MiniLM"


class Record:
    """Gathers seconds and memory by stage while a run goes on."""

    def __init__(
        self,
        ready: Prepared,
        paths: Paths,
        folder: RunFolder,
        warnings: list[str],
        library_warnings: Counter[str],
        begun: float,
    ) -> None:
        """`begun`: what the clock time.perf_counter said when the run was asked for."""
        self.begun = begun
        self.folder = folder
        self.recipe = ready.recipe
        self.asked = ready.captioners[0]
        self.encoders = ready.encoders
        self.weights = ready.weights
        self.seconds: dict[str, float] = {START: round(time.perf_counter() - begun, 3)}
        self.memory: dict[str, dict[str, int | None]] = {}
        self.paces: dict[str, Pace] = {}
        self.library_warnings = library_warnings
        self.given_up: list[str] = []  # captioners and image encoders
        bank = ready.bank
        self.planned = ready.planned
        self.static: dict[str, Any] = {
            "identity": folder.identity,
            "recipe": asdict(ready.recipe),
            "shards": folder.borders,
            "left_out": left_out(paths.images),
            "images": str(paths.images.absolute()),
            "weights": str(paths.weights.absolute()),
            "bank": {"folder": str(bank.folder.absolute()), "excluded": bank.record["excluded"]} if bank else None,
            "shares_from": ready.shares_from,
            "versions": versions(),
            "docker_image": os.environ.get("KAGGLE_DOCKER_IMAGE"),
            "device": ", ".join(device.name for device in ready.devices),
            "devices": [asdict(device) for device in ready.devices],
            "started": time.time(),
            "dropped_phrases": {own.name: own.dropped for own in ready.words},
            "warnings": warnings,
        }

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with PeakMemory() as memory:
                yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0) + time.perf_counter() - start, 3)
            self.took(stage, memory.host, None)

    def took(self, stage: str, host_bytes: int, device_bytes: int | None) -> None:
        """Keeps the most memory that this process, or any worker, has needed for a stage."""
        known = self.memory.get(stage, {"host": 0, "device": None})
        self.memory[stage] = {
            "host": max(known["host"] or 0, host_bytes),
            "device": max(filter(None, (known["device"], device_bytes)), default=None),
        }

    def planned_seconds(self, *stages: str) -> float:
        return sum(self.planned.get(stage, {}).get("seconds_estimated", 0.0) for stage in stages)

    def kept_seconds(self, pending: Mapping[str, int], left: float) -> float:
        """Of the seconds left what is kept for stages with so many images before them: what is planned for these, an
        equal part where nothing is, and equal parts at most."""
        part = left / (len(pending) + 1)
        planned = [
            size / len(self.folder.images) * (self.planned_seconds(stage) if stage in self.planned else part)
            for stage, size in pending.items()
        ]
        return min(sum(planned), len(pending) * part)

    def first_seconds(self, stage: str) -> float:
        """What a stage took to load its model and make its first batch; 0 where it has made none."""
        pace = self.paces.get(stage)
        return pace.seen[0][0] if pace and pace.seen else 0.0

    def forecast(self, deadline: Deadline) -> str:
        """One line: whether the run is estimated to fit, and what happens where not."""
        seconds = {stage: self.planned_seconds(stage) for stage in self.planned}
        total, left = sum(seconds.values()), deadline.left()
        parts = ", ".join(f"{stage} {duration(spent)}" for stage, spent in seconds.items())
        said = f"planned (an estimate): {parts}; {duration(total)} in all"
        if math.isinf(left):
            return said
        if total <= left:
            return f"{said} of {duration(left)} left"
        return f"{said}, {duration(left)} are left: captions will have fewer beams, or fewer images captions"

    def corrected(self, stage: str) -> str:
        """What a stage's first batches say of its time, beside the plan."""
        planned, found = self.planned_seconds(stage), self.paces[stage].seconds or 0
        return f"{stage}: planned (an estimate) {duration(planned)}, by its first batches {duration(found)}"

    def write(self, problems: list[str]) -> dict[str, Any]:
        """Writes run.json as things stand, and returns its content; `problems` tell why, the shards what."""
        short = shortfall(self.folder, self.recipe, self.asked, self.encoders)
        matching = [MATCHING] if self.recipe.matching_head else []
        models = ("clip", *sorted(short["captioners"]), *matching, "sentences")
        images = len(self.folder.images)
        content = {
            **self.static,
            "models": {name: self.weights.models[name]["source"] for name in models},
            **short,
            "problems": [*short["problems"], *problems],
            "given_up": self.given_up,
            "library_warnings": dict(self.library_warnings),
            "seconds": self.seconds,
            "total_seconds": round(time.perf_counter() - self.begun, 3),
            "images_per_second": {
                stage: images / spent
                for stage, spent in self.seconds.items()
                if spent and stage not in (START, LOADING)
            },
            "memory": self.memory,
            "plan": self.plan(),
        }
        self.folder.write_run(content)
        return content

    def plan(self) -> dict[str, dict[str, Any]]:
        """By stage: seconds as estimated beforehand, by its first batches, and in the end; memory likewise."""
        return {
            stage: {
                **self.planned.get(stage, {}),
                "seconds_by_first_batches": pace.seconds,
                "seconds": self.seconds.get(stage),
                "bytes": self.memory.get(stage, {}).get("device") or self.memory.get(stage, {}).get("host"),
            }
            for stage, pace in self.paces.items()
        }


class Pace:
    """How long a stage will take in all, by its first batches."""

    def __init__(self, images: int, workers: int) -> None:
        self.images, self.batches = images, FIRST_BATCHES * workers
        self.start = time.perf_counter()
        self.seen: list[tuple[float, int]] = []
        self.seconds: float | None = None

    def batch(self, images: int) -> bool:
        """Whether with this batch of so many images the stage's seconds became known."""
        self.seen.append((time.perf_counter() - self.start, images))
        if not self.images or len(self.seen) != self.batches:
            return False
        (begun, _), (now, _) = self.seen[0], self.seen[-1]
        done = sum(number for _, number in self.seen)
        an_image = (now - begun) / (done - self.seen[0][1])
        self.seconds = round(now + (self.images - done) * an_image, 3)
        return True


def shortfall(folder: RunFolder, recipe: Recipe, asked: str, encoders: Mapping[str, str]) -> dict[str, Any]:
    """What a run's images got less than asked, read from its shards: whoever goes on with the run tells the same.

    `asked` is the captioner that the run would best have unless the recipe names several, `encoders` the sha256 of its
    image encoders by name. As run.json has it: `captioners`, who captioned how many; `counts` of rows that are less
    than asked, by reason; {id: reason} of `bad_images` and, as `caption_failures`, of those left without captions
    because a captioner failed; `problems`, a line for each kind of shortfall but bad images, which are listed one by
    one.
    """
    total, bad = len(folder.images), results.read_clip(folder)[1]
    failed: dict[str, str] = {}
    lesser, reduced, unweighed = set[str](), set[str](), set[str]()
    captioners: Counter[str] = Counter()
    captioned: Counter[str] = Counter()  # how many captioners said something of an image
    apart = results.apart(recipe.captioner)
    for one in apart if recipe.needs(CAPTIONS) else ():
        scores = results.read_caption_scores(folder, recipe.caption_weighting, one)
        for shard, content in results.caption_shards(folder, one).items():
            named = zip(folder.shard_ids(shard), content.captioners, strict=True)
            by = {image: name for image, name in named if name is not None}
            captioners.update(by.values())
            captioned.update(by.keys())
            lesser |= {image for image, name in by.items() if name != (one or asked)}
            bad |= content.bad
            failed |= {image: f"{one}: {why}" if one else why for image, why in content.failed.items()}
            reduced |= set(content.reduced)
            own_scores = scores[slice(*folder.borders[shard])] if scores else content.captions
            unweighed |= {image for image, own in zip(folder.shard_ids(shard), own_scores, strict=True)
                          if own is None and image in by}  # fmt: skip
    failed = {image: reason for image, reason in failed.items() if image not in captioned}
    lacking = {image for image, count in captioned.items() if count < len(apart)}
    each = ", ".join(f"{captioners[name]} by {name}" for name in apart)
    others = ", ".join(f"{count} by {name}" for name, count in captioners.items() if name != asked)
    kinds: list[tuple[str, str, Collection[str]]] = [
        (f"no_{own.lack}", f"have no {own.lack}", missing(folder, own, recipe))
        for own in kept()
        if own.writes and own.lack
    ]
    unencoded = [
        folder.unmade_images(shards) | (results.read_all_rows(folder, shards)[1].keys() - bad.keys())
        for shards in map(results.encoded, encoders.values())
    ]
    kinds += (
        ("no_encoder", "lack the answer of an image encoder", set().union(*unencoded)),
        ("caption_failures", "have none because the captioner failed on them", failed),
        ("fallback_captions", f"were captioned by a stand-in for {asked} ({others})", lesser),
        ("lacking_captioners", f"lack the captions of one of several captioners ({each})", lacking),
        ("fewer_captions", "were captioned with less effort than asked", reduced),
        ("unweighed_captions", "have captions that were not weighed, so they count alike", unweighed),
    )
    counts = {"images": total, "bad_images": len(bad), **{name: len(ids) for name, _, ids in kinds}}
    counts["degraded_rows"] = len(set(bad).union(*(ids for _, _, ids in kinds)))
    problems = [f"{len(ids)} of {total} images {words}" for _, words, ids in kinds if ids]
    return {"captioners": dict(captioners), "counts": counts, "bad_images": bad, "caption_failures": failed,
            "problems": problems}  # fmt: skip


def missing(folder: RunFolder, stage: StageDeclaration, recipe: Recipe) -> set[str]:
    """The ids of images that a stage of this recipe has not come to."""
    if not (stage.writes and stage.wanted(recipe)):
        return set()
    return results.unmade_images(folder, stage.writes, recipe.captioner)


def versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in REPORTED_VERSIONS}
    return {"kernel": __version__, "python": platform.python_version(), **found}
