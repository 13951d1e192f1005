"""`describe` with models that stay loaded from one request to the next, in a process of their own."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kernel.banks.nearest import nearest
from kernel.banks.prompt_bank import RECORD, PromptBank
from kernel.errors import UserError, kind_and_line
from kernel.interrogator.request import Request
from kernel.interrogator.terms import chosen_banks
from kernel.models.captioners.loading import captioners_named
from kernel.models.clip import ClipEncoder
from kernel.models.weights_folder import BANK_FOLDER, open_weights
from kernel.pipeline.describe import Line, job_in, recipe_of, require_writable
from kernel.pipeline.images import ImageFile
from kernel.pipeline.job import Job
from kernel.pipeline.stages.captions import CaptionsStage
from kernel.pipeline.stages.descriptions import DescriptionsStage
from kernel.pipeline.stages.load import StageWork
from kernel.pipeline.stages.words import WordsStage
from kernel.pipeline.workers.here import Here
from kernel.system.devices import Device
from kernel.system.memory import is_out_of_memory, release_memory
from kernel.system.work import CannotBeUsed, Ends, Maker, Outcome, Share

Told = Callable[[str, int, int], None]  # what is being made, how much of it is done, of how much


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


class Resident:
    """The models on one device: CLIP, the captioner asked for last, and the terms of the banks chosen last.

    Where the memory does not hold both models, or with `one_at_a_time`, one makes room for the other.
    """

    def __init__(self, weights: Path, device: Device, features: Path, one_at_a_time: bool = False) -> None:
        """Raises UserError when the weights are not as their manifest says, before any model is loaded."""
        self.weights, self.device, self.features = open_weights(weights), device, features
        self.one_at_a_time = one_at_a_time
        self.clip: ClipEncoder | None = None
        self.captioners: dict[str, CaptionsStage] = {}
        self.described: dict[tuple[Any, ...], DescriptionsStage] = {}
        self.bank: PromptBank | None = None
        self.given_up: dict[str, str] = {}  # stages of captioners that could not be loaded, even alone, and why

    def describe(
        self,
        images: Mapping[str, str],
        asked: Mapping[str, Any],
        scratch: Path,
        tell: Told,
        cancelled: Callable[[], bool],
    ) -> list[dict[str, Any]]:
        """The records of `describe`, {file: the name that the record has}; with `neighbours` in `asked` each holds the
        `nearest` prompts of the weights folder's prompt bank with their cosines.

        Raises UserError for what is asked and cannot be, Cancelled between two steps.
        """
        request = Request(asked["mode"], asked["top"], tuple(asked["without"]), features=str(self.features))
        recipe = recipe_of(request.mode, asked["captioner"])
        captioners = captioners_named(recipe, self.weights) if request.needs_captions else []
        banks = chosen_banks(request, self.weights)
        files = [ImageFile(str(number), Path(path)) for number, path in enumerate(images)]
        with TemporaryDirectory(dir=scratch) as folder:
            job = job_in(Path(folder), files, request, recipe, self.weights)
            line = ResidentLine(self, job, request, asked["neighbours"], tell, cancelled)
            if job.of_unknown(banks).words:
                require_writable(self.features)
            if captioners:
                line.captions(captioners)
            line.descriptions(banks)
        for number, (record, (path, name)) in enumerate(zip(line.records, images.items(), strict=True)):
            record["image"] = name
            record |= {"error": record["error"].replace(path, name)} if "error" in record else {}
            record |= {"nearest": line.nearest[str(number)]} if str(number) in line.nearest else {}
        return line.records

    def make_room(self) -> None:
        """From now on one model at a time; those that are there may have come to small batches meanwhile."""
        self.one_at_a_time, self.clip = True, None
        self.described.clear()
        self.captioners.clear()
        release_memory()

    def maker(self, stage: str, job: Job, request: Request) -> Maker:
        """The stage over this job, its model loaded unless it is there; where memory is full, alone.

        A captioner that cannot be loaded is not read again for each request, which would cost the next one its place.
        """
        if stage in self.given_up:
            raise CannotBeUsed(f"given up until the server is started again: {self.given_up[stage]}")
        if self.one_at_a_time:
            self.drop_others(stage)
        try:
            return self.loaded(stage, job, request)
        except Exception as error:
            if not is_out_of_memory(error):
                self.give_up(stage, error)
                raise
            self.one_at_a_time = True
        self.drop_others(stage)
        try:
            return self.loaded(stage, job, request)
        except Exception as error:
            self.give_up(stage, error)
            raise

    def give_up(self, stage: str, error: Exception) -> None:
        if stage.startswith("captions"):
            self.given_up[stage] = kind_and_line(error)

    def loaded(self, stage: str, job: Job, request: Request) -> Maker:
        kind, _, captioner = stage.partition(" ")
        if kind == "captions":
            if captioner not in self.captioners:
                self.captioners.clear()
                release_memory()
                self.captioners[captioner] = CaptionsStage(job, self.device, captioner)
            self.captioners[captioner].job = job
            return self.captioners[captioner]
        if self.clip is None:
            self.clip = ClipEncoder.load(self.weights, self.device)
        if kind == "words":
            return WordsStage(job, self.device, self.clip)
        chosen = request.mode == "negative", request.without
        if chosen not in self.described:
            self.described.clear()
            self.described[chosen] = DescriptionsStage(job, self.device, self.clip)
        described = self.described[chosen]
        described.job, described.request = job, request
        return described

    def drop_others(self, stage: str) -> None:
        if stage.startswith("captions"):
            self.clip = None
            self.described.clear()
        else:
            self.captioners.clear()
        release_memory()

    def nearest(self, rows: Mapping[str, Any], count: int) -> dict[str, list[dict[str, Any]]]:
        """Of each image's features (d,) so many prompts of the weights folder's bank, the nearest first."""
        import numpy as np

        if self.bank is None:
            folder = self.weights.folder / BANK_FOLDER
            if not (folder / RECORD).is_file():
                raise UserError(
                    f"nearest prompts were asked for, and {folder} is no prompt bank: nothing was described. Ask for "
                    "0 of them, or put a bank there with 'python -m kernel publish weights --bank BANK'"
                )
            self.bank = PromptBank.open(folder, self.weights.sha256("clip"), self.weights.sha256("sentences"))
        if not rows:
            return {}
        features = np.stack(list(rows.values()))
        indices, cosines = nearest(features, self.bank.features, min(count, len(self.bank.features)), self.device)
        prompts = iter(self.bank.prompts(indices.ravel().tolist()))
        return {
            image: [{"prompt": next(prompts), "similarity": cosine} for cosine in own.tolist()]
            for image, own in zip(rows, cosines, strict=True)
        }


class ResidentLine(Line):
    """One request's: the same stages, on the models that are there, each step told and followed by a look whether
    anybody waits."""

    def __init__(
        self, models: Resident, job: Job, request: Request, neighbours: int, say: Told, cancelled: Callable[[], bool]
    ) -> None:
        super().__init__(job, request, Here(models.device), lambda record: None)
        self.models, self.neighbours, self.say, self.cancelled = models, neighbours, say, cancelled
        self.nearest: dict[str, list[dict[str, Any]]] = models.nearest({}, neighbours) if neighbours else {}

    def work(self, stage: str, title: str, items: dict[int, int], job: Job | None = None) -> Outcome:
        """Where both models could be loaded, and then left no room to compute in, each is tried once more alone."""
        outcome = self.tried(stage, title, items, job)
        no_memory = outcome.left and "memory" in outcome.why.lower()  # of the error its words alone are left
        if no_memory and not self.models.one_at_a_time:
            self.models.make_room()
            outcome = self.tried(stage, title, {item: items[item] for item in outcome.left}, job)
        return outcome

    def tried(self, stage: str, title: str, items: dict[int, int], job: Job | None) -> Outcome:
        made, total = 0, sum(items.values())
        outcome, loaded = Outcome(), partial(self.maker, stage, job or self.job)
        self.say(title, made, total)
        for number in self.engine.work(StageWork(job or self.job, stage, loaded), items, Ends(), outcome):
            made += number
            self.say(title, made, total)
            if self.cancelled():
                raise Cancelled
        return outcome

    def maker(self, stage: str, job: Job) -> Maker:
        found = self.models.maker(stage, job, self.request)
        return WithNearest(self, found) if isinstance(found, DescriptionsStage) and self.neighbours else found


class WithNearest:
    """Descriptions, and of the features that they were made of the nearest prompts."""

    def __init__(self, line: ResidentLine, stage: DescriptionsStage) -> None:
        self.line, self.stage = line, stage

    def make(self, item: int, share: Share) -> Iterator[int]:
        yield from self.stage.make(item, share)
        self.line.nearest |= self.line.models.nearest(self.stage.rows, self.line.neighbours)
