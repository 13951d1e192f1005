"""`describe`: files, folders and patterns to one record an image, by the stages and workers of a run."""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from kernel.banks.word_banks import Phrases
from kernel.config import LOCAL, Recipe, captioner_names
from kernel.errors import UserError
from kernel.interrogator.korean import KOREAN_CLIP, captioners_for, clip_name, korean_of, notes
from kernel.interrogator.request import Request
from kernel.interrogator.terms import chosen_banks
from kernel.models.captioners.loading import inspect_captioner, kind_of
from kernel.models.weights_folder import Weights, open_weights
from kernel.pipeline.decoding import BadImage, decode
from kernel.pipeline.folder import results
from kernel.pipeline.folder.results import CaptionShard
from kernel.pipeline.folder.run_folder import RunFolder, Shards
from kernel.pipeline.folder.scratch import folder_of, require_scratch, scratch_folder
from kernel.pipeline.images import ImageFile, image_paths, images_below, images_sha256, left_out_note
from kernel.pipeline.job import Job
from kernel.pipeline.stages.load import StageWork
from kernel.pipeline.workers.engines import engine_named
from kernel.pipeline.workers.ray import NO_MACHINE
from kernel.system.devices import Device
from kernel.system.files import write_whole, writing
from kernel.system.terminal.library_warnings import counted_warnings
from kernel.system.terminal.progress import STDERR, progress_bar
from kernel.system.versions import check_versions, code_sha256, deciding_versions
from kernel.system.work import Ends, Engine, Outcome

# clip-interrogator 0.6.0: one greedy caption of at most 32 tokens after the start token
CAPTIONS: dict[str, Any] = {"num_beams": 1, "captions_per_image": 1, "max_length": 33, "min_length": 0}
# images of a shard: of a chain's all go through the text tower together, round by round
SHARD = {"classic": 64, "fast": 64, "best": 16, "negative": 16}


@dataclass(frozen=True)
class Means:
    """With what pictures are described: a captioner of the weights folder, or several joined by commas, and the devices
    of this machine, or by the engine ray the workers of the cluster at `address`. What is made lies in a folder of the
    `scratch` until all is, so that a killed command goes on; a cluster's workers must see it."""

    captioner: str = "auto"
    device: str = "auto"
    engine: str = LOCAL
    address: str | None = None
    scratch: Path | None = None


DEFAULT_MEANS = Means()


def describe(
    images: Iterable[str | Path],
    request: Request,
    weights_folder: Path,
    means: Means = DEFAULT_MEANS,
    tell: Callable[[dict[str, Any]], None] = lambda record: None,
    recursive: bool = False,
) -> list[dict[str, Any]]:
    """One record an image, in the order given; `tell` gets each as soon as it and those before it are made.

    `images`: files, patterns and folders, of which `recursive` takes the subfolders too.

    Records hold `image`, `mode`, `prompt`, `similarity`, `parts`, `caption` but in mode negative, and in mode best
    `candidates`; or `image`, `mode` and `error` of what cannot be described. Of several captioners each one's caption
    makes a prompt, the one that CLIP finds nearest to the image is taken, and `captions` holds all by their captioners.
    Raises UserError before the first image for anything about weights, banks or devices, and when a model cannot be
    used at all.
    """
    return describe_files(meant(images, recursive), request, weights_folder, means, tell)


def meant(images: Iterable[str | Path], recursive: bool = False) -> list[Path]:
    """Every file once. Raises UserError for a pattern that none fits, and for a folder without images."""
    return list(dict.fromkeys(path for pattern in images for path in found(str(pattern), recursive)))


def describe_files(
    paths: list[Path],
    request: Request,
    weights_folder: Path,
    means: Means,
    tell: Callable[[dict[str, Any]], None],
    begun: Sequence[list[Path]] = (),
) -> list[dict[str, Any]]:
    """As `describe`. `begun` are the pictures that killed commands began with: where the scratch folder holds what one
    of them made, its pictures are described to their end, else the `paths` alone."""
    for warning in check_versions():
        print(f"warning: {warning}", file=STDERR)
    if not any(path.is_file() for path in paths):
        return without_models(paths, request.mode, tell)
    files = numbered(paths)
    weights = open_weights(weights_folder)
    recipe = recipe_of(request.mode, means.captioner)
    captioners = captioners_for(request, recipe, weights)
    for note in notes(request, weights, captioners):
        print(note, file=STDERR)
    banks = chosen_banks(request, weights)
    require_scratch(means.engine, means.scratch)
    asked = captioners[: len(captioner_names(recipe.captioner))]
    for name in asked:
        inspect_captioner(weights, name)
    workers_of = engine_named(means.engine, means.device, means.address)
    with workers_of as workers, counted_warnings() as counted, ExitStack() as kept:
        models = {name: weights.sha256(name) for name in (clip_name(request, weights), *captioners)}
        identity = partial(
            identity_of, request=request, recipe=recipe, models=models, banks=banks, devices=workers.devices
        )
        if means.scratch:
            earlier = map(numbered, begun)
            files = next((own for own in earlier if folder_of(means.scratch, identity(own)).is_dir()), files)
        place = kept.enter_context(scratch_folder(means.scratch, partial(identity, files)))
        job = job_in(place, files, request, recipe, weights)
        for by in results.apart(recipe.captioner):
            results.drop_described_of_others(job.folder, {name: models[name] for name in asked}, by)
        line = Line(job, request, workers, tell)
        if line.job.of_unknown(banks).words:  # told now, not after hours of captions
            require_writable(Path(request.features))
        if captioners:
            line.captions(captioners)
        line.descriptions(banks)
    for text, count in (counted + line.library_warnings).items():
        print(f"a library warned {count} times: {text}", file=STDERR)
    return line.records


def numbered(paths: list[Path]) -> list[ImageFile]:
    return [ImageFile(str(number), path) for number, path in enumerate(paths)]


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
    """What workers are given: a run folder of these two stages alone, with the request and the user's words in it."""
    own = {}
    for number, (name, path) in enumerate(request.own.items()):
        own[name] = str(scratch.absolute() / f"words-{number}.txt")
        write_whole(Path(own[name]), Path(path).read_bytes())
    replace(request, own=own).write(scratch)
    folder, features = RunFolder(scratch, files, recipe.shard_images), Path(request.features)
    captioned = [results.CAPTIONS.by(by) for by in results.apart(recipe.captioner)]
    for shards in (*captioned, results.DESCRIPTIONS):
        (scratch / shards.stage).mkdir(exist_ok=True)
        folder.drop_unsound_shards(shards)
    clip = clip_name(request, weights)
    return Job(recipe, weights, folder, None, [], features=features, clip=clip, language=request.spoken)


def identity_of(
    files: list[ImageFile],
    request: Request,
    recipe: Recipe,
    models: dict[str, str],
    banks: list[Phrases],
    devices: list[Device],
) -> dict[str, Any]:
    """What decides the records of all images."""
    return {
        "images": [images_sha256(files), [str(file.path.absolute()) for file in files]],
        "request": {**asdict(request), "features": None, "own": None},
        "banks": [[own.name, own.phrases] for own in banks],
        "korean": korean_of(request) if request.language == "ko" and KOREAN_CLIP not in models else None,
        "recipe": asdict(recipe),
        "models": models,
        "devices": sorted({device.title for device in devices}),
        "versions": [code_sha256(), deciding_versions()],
    }


class Line:
    """The stages: every image through the captioner, then every image through CLIP and its terms."""

    def __init__(self, job: Job, request: Request, engine: Engine, tell: Callable[[dict[str, Any]], None]) -> None:
        self.job, self.request, self.engine, self.tell = job, request, engine, tell
        self.records: list[dict[str, Any]] = []
        self.told = 0  # shards
        self.library_warnings: Counter[str] = Counter()

    def captions(self, captioners: list[str]) -> None:
        """By each of several captioners, or by the first that can be used; images on which every one fails say so in
        their records."""
        for by in results.apart(self.job.recipe.captioner):
            self.captions_by(by, [by] if by else captioners)

    def captions_by(self, by: str, captioners: list[str]) -> None:
        left = self.missing(results.CAPTIONS.by(by))
        reasons: list[str] = []
        for name in captioners:
            sizes = self.job.folder.sizes(left)
            outcome = self.work(f"captions {name}", f"captions {by}".rstrip(), sizes, self.job_of(name))
            if not outcome.left:
                return
            if NO_MACHINE in outcome.reasons:  # no fault of the captioner
                raise UserError(
                    f"{self.engine.title}: {outcome.why}. What is made is kept in {self.job.folder.folder}: start Ray "
                    "on a machine, then run again"
                )
            left, reasons = outcome.left, [*reasons, f"{name}: {outcome.why}"]
            print(f"captioner {name} was given up ({outcome.why})", file=STDERR)
        for shard in left:
            ids = self.job.folder.shard_ids(shard)
            failed = dict.fromkeys(ids, f"no captioner could be used ({'; '.join(reasons)})")
            nothing = CaptionShard([[] for _ in ids], [None for _ in ids], failed=failed)
            results.write_captions(self.job.folder, shard, nothing, by)

    def job_of(self, captioner: str) -> Job:
        """The job, with as many tokens a caption as this captioner's take."""
        kind, recipe = kind_of(self.job.weights.models[captioner]["class"], captioner), self.job.recipe
        return replace(self.job, recipe=replace(recipe, max_length=max(recipe.max_length, kind.longest_sentence)))

    def descriptions(self, banks: list[Phrases]) -> None:
        """Raises UserError when CLIP cannot be used."""
        job = self.job.of_unknown(banks)
        if job.words:
            phrases = sum(len(words.phrases) for words in job.words)
            names = ", ".join(words.name for words in job.words)
            print(f"encoding {phrases:,} phrases of {names}; kept in {job.features} for the next time", file=STDERR)
            self.check(self.work("words", "phrases", job.missing_parts(), job))
            job.join_words()
        missing = self.missing(results.DESCRIPTIONS)
        self.check(self.work("descriptions", self.request.mode, self.job.folder.sizes(missing)))
        self.flush()
        if self.told < len(self.job.folder.borders):
            raise UserError(
                f"{self.job.folder.folder}: what the workers made is not seen here yet, {len(self.records)} of "
                f"{len(self.job.folder.images)} images are told. Mount the shared disk with lookupcache=positive, then "
                "run again: what is made is kept"
            )

    def missing(self, shards: Shards) -> list[int]:
        made = set(self.job.folder.made(shards))
        return [shard for shard in range(len(self.job.folder.borders)) if shard not in made]

    def check(self, outcome: Outcome) -> None:
        if outcome.left:
            self.flush()
            raise UserError(
                f"CLIP cannot be used on {self.engine.title} ({outcome.why}); {len(self.records)} of "
                f"{len(self.job.folder.images)} images are described. Run again with --device cpu, or on a GPU "
                "with more memory"
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
        with bar, closing(self.engine.work(own, items, Ends(), outcome)) as steps:
            for number in steps:
                bar.update(number)
                with bar.external_write_mode(file=sys.stdout):
                    self.flush()
        self.library_warnings += outcome.library_warnings
        if outcome.reasons and not outcome.left:
            print(f"{outcome.why}: what was in hand there was made by others", file=STDERR)
        return outcome


def found(pattern: str, recursive: bool = False) -> list[Path]:
    """A folder's images, the files that a pattern means, or the path itself, whether it is there or not."""
    path = Path(pattern)
    if path.is_dir() and recursive:
        return images_below(path)
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
