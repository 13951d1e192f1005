"""`describe`: files, folders and patterns to one record an image, by the stages and workers of a run."""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from kernel.banks.word_banks import Phrases
from kernel.config import Recipe
from kernel.errors import UserError
from kernel.interrogator.korean import captioners_for, clip_name, notes
from kernel.interrogator.request import Request
from kernel.interrogator.terms import chosen_banks
from kernel.models.captioners.loading import inspect_captioner
from kernel.models.weights_folder import Weights, open_weights
from kernel.pipeline.decoding import BadImage, decode
from kernel.pipeline.folder import results
from kernel.pipeline.folder.results import CaptionShard
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import ImageFile, image_paths, left_out_note
from kernel.pipeline.job import Job
from kernel.pipeline.stages.load import StageWork
from kernel.pipeline.workers.engines import engine_on
from kernel.system.devices import Device, find_devices
from kernel.system.files import writing
from kernel.system.terminal.library_warnings import counted_warnings
from kernel.system.terminal.progress import STDERR, progress_bar
from kernel.system.versions import check_versions
from kernel.system.work import Ends, Outcome

# clip-interrogator 0.6.0: one greedy caption of at most 32 tokens after the start token
CAPTIONS: dict[str, Any] = {"num_beams": 1, "captions_per_image": 1, "max_length": 33, "min_length": 0}
# images of a shard: of a chain's all go through the text tower together, round by round
SHARD = {"classic": 64, "fast": 64, "best": 16, "negative": 16}


def describe(
    images: Iterable[str | Path],
    request: Request,
    weights_folder: Path,
    captioner: str = "auto",
    device: str = "auto",
    tell: Callable[[dict[str, Any]], None] = lambda record: None,
) -> list[dict[str, Any]]:
    """One record an image, in the order given; `tell` gets each as soon as it and those before it are made.

    Records hold `image`, `mode`, `prompt`, `similarity`, `parts`, `caption` but in mode negative, and in mode best
    `candidates`; or `image`, `mode` and `error` of what cannot be described. Raises UserError before the first image
    for anything about weights, banks or devices, and when a model cannot be used at all.
    """
    for warning in check_versions():
        print(f"warning: {warning}", file=STDERR)
    paths = list(dict.fromkeys(path for pattern in images for path in found(str(pattern))))
    if not any(path.is_file() for path in paths):
        return without_models(paths, request.mode, tell)
    files = [ImageFile(str(number), path) for number, path in enumerate(paths)]
    weights = open_weights(weights_folder)
    recipe = recipe_of(request.mode, captioner)
    captioners = captioners_for(request, recipe, weights)
    for note in notes(request, weights, captioners):
        print(note, file=STDERR)
    banks = chosen_banks(request, weights)
    devices = find_devices(device)
    if captioners:
        inspect_captioner(weights, captioners[0])
    with tempfile.TemporaryDirectory(prefix="image-to-prompts-") as scratch, counted_warnings() as counted:
        line = Line(job_in(Path(scratch), files, request, recipe, weights), request, devices, tell)
        if line.job.of_unknown(banks).words:  # told now, not after hours of captions
            require_writable(Path(request.features))
        if captioners:
            line.captions(captioners)
        line.descriptions(banks)
    for text, count in (counted + line.library_warnings).items():
        print(f"a library warned {count} times: {text}", file=STDERR)
    return line.records


def without_models(paths: list[Path], mode: str, tell: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """The records of paths of which none is a file: each with its reason."""
    records = []
    for path in paths:
        found = decode(path)
        assert isinstance(found, BadImage)
        records.append({"image": str(path), "mode": mode, "error": found.reason})
        tell(records[-1])
    return records


def require_writable(features: Path) -> None:
    with writing(features, "give --features a folder that you may write into, then run again"):
        features.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=features).close()


def recipe_of(mode: str, captioner: str) -> Recipe:
    """What the stages of a run are told: one greedy caption, no modifiers."""
    return Recipe(name="describe", captioner=captioner, modifiers={}, shard_images=SHARD[mode], **CAPTIONS)


def job_in(scratch: Path, files: list[ImageFile], request: Request, recipe: Recipe, weights: Weights) -> Job:
    """What workers are given: a run folder of these two stages alone, with the request in it."""
    request.write(scratch)
    for shards in (results.CAPTIONS, results.DESCRIPTIONS):
        (scratch / shards.stage).mkdir()
    folder, features = RunFolder(scratch, files, recipe.shard_images), Path(request.features)
    return Job(recipe, weights, folder, None, [], features=features, clip=clip_name(request, weights))


class Line:
    """The stages: every image through the captioner, then every image through CLIP and its terms."""

    def __init__(
        self, job: Job, request: Request, devices: list[Device], tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self.job, self.request, self.devices, self.tell = job, request, devices, tell
        self.records: list[dict[str, Any]] = []
        self.told = 0  # shards
        self.library_warnings: Counter[str] = Counter()

    def captions(self, captioners: list[str]) -> None:
        """By the first captioner that can be used; images on which every one fails say so in their records."""
        left = list(range(len(self.job.folder.borders)))
        reasons: list[str] = []
        for name in captioners:
            outcome = self.work(f"captions {name}", "captions", self.job.folder.sizes(left))
            if not outcome.left:
                return
            left, reasons = outcome.left, [*reasons, f"{name}: {outcome.why}"]
            print(f"captioner {name} was given up ({outcome.why})", file=STDERR)
        for shard in left:
            ids = self.job.folder.shard_ids(shard)
            failed = dict.fromkeys(ids, f"no captioner could be used ({'; '.join(reasons)})")
            nothing = CaptionShard([[] for _ in ids], [None for _ in ids], failed=failed)
            results.write_captions(self.job.folder, shard, nothing)

    def descriptions(self, banks: list[Phrases]) -> None:
        """Raises UserError when CLIP cannot be used."""
        job = self.job.of_unknown(banks)
        if job.words:
            phrases = sum(len(words.phrases) for words in job.words)
            names = ", ".join(words.name for words in job.words)
            print(f"encoding {phrases:,} phrases of {names}; kept in {job.features} for the next time", file=STDERR)
            self.check(self.work("words", "phrases", job.missing_parts(), job))
            job.join_words()
        self.check(self.work("descriptions", self.request.mode, self.job.folder.sizes()))
        self.flush()

    def check(self, outcome: Outcome) -> None:
        if outcome.left:
            self.flush()
            raise UserError(
                f"CLIP cannot be used on {', '.join(device.name for device in self.devices)} "
                f"({outcome.why}); {len(self.records)} of {len(self.job.folder.images)} images are "
                "described. Run again with --device cpu, or on a GPU with more memory"
            )

    def flush(self) -> None:
        """Tells the records of shards that are made, up to the first that is not."""
        folder = self.job.folder
        while self.told < len(folder.borders) and folder.shard_path(results.DESCRIPTIONS, self.told).is_file():
            content = folder.read_json(results.DESCRIPTIONS, self.told)
            for file in folder.shard_files(self.told):
                record = {"image": str(file.path), "mode": self.request.mode, **content[file.id]}
                self.records.append(record)
                self.tell(record)
            self.told += 1

    def work(self, stage: str, title: str, items: dict[int, int], job: Job | None = None) -> Outcome:
        """The items on the devices, with a progress bar; records are told as soon as they are there."""
        unit = "phrase" if stage == "words" else "image"
        bar = progress_bar(total=sum(items.values()), desc=title, unit=unit, disable=not items)
        outcome, own = Outcome(), StageWork(job or self.job, stage)
        with bar, closing(engine_on(self.devices).work(own, items, Ends(), outcome)) as steps:
            for number in steps:
                bar.update(number)
                with bar.external_write_mode(file=sys.stdout):
                    self.flush()
        self.library_warnings += outcome.library_warnings
        return outcome


def found(pattern: str) -> list[Path]:
    """A folder's images, the files that a pattern means, or the path itself, whether it is there or not."""
    path = Path(pattern)
    if path.is_dir():
        inside = image_paths(path)
        for note in left_out_note(path):
            print(note, file=STDERR)
        return inside
    if has_magic(pattern) and not path.exists():
        matching = [Path(name) for name in sorted(glob(pattern, recursive=True))]
        if not matching:
            raise UserError(f"{pattern}: no file fits this pattern; expected images, such as 'pictures/*.png'")
        return [own for own in matching if own.is_file()]
    return [path]
