"""Images with their captions to prompts for people, shard by shard."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from kernel.interrogator.korean import by_partners, captioners_for, in_korean, korean_of
from kernel.interrogator.modes import Describer
from kernel.interrogator.request import Request
from kernel.interrogator.terms import TermTable, chosen_banks
from kernel.models.multilingual.loading import AnyClip, load_clip
from kernel.models.text_tower import TextTower
from kernel.pipeline.folder import results
from kernel.pipeline.job import Job
from kernel.pipeline.stages import StageDeclaration
from kernel.pipeline.stages.batches import BatchSize, encode_files, in_one
from kernel.system.devices import Device
from kernel.system.work import Share


class DescriptionsStage:
    """`clip`: one that is loaded already, else it is loaded; `rows` are its features (d,) of the last shard's images,
    by their ids."""

    def __init__(self, job: Job, device: Device, clip: AnyClip | None = None) -> None:
        self.job = job
        self.request = Request.read(job.folder.folder)
        self.clip = clip or load_clip(job.weights, device, job.clip)
        self.rows: dict[str, np.ndarray] = {}
        self.banks = chosen_banks(self.request, job.weights)
        self.captioned = bool(captioners_for(self.request, job.recipe, job.weights))
        self.korean = korean_of(self.request) if by_partners(self.request, job.weights) else None
        self.size = BatchSize(job.recipe.clip_batch)
        self.features = job.weights.sha256(job.clip), job.features_folders

    @cached_property
    def describer(self) -> Describer:
        """Reads the features of every bank, which must have been encoded, once."""
        tower = TextTower(self.clip, self.job.recipe.text_batch)
        return Describer(TermTable(self.banks, *self.features, self.request.banned), tower)

    def make(self, item: int, share: Share) -> Iterator[int]:
        files = self.job.folder.shard_files(item)
        captions, failed = self.captions(item)
        wanted = [file for file in files if file.id not in failed]
        made = in_one(encode_files(wanted, self.size, self.clip.encode_images))
        rows = self.rows = {file.id: row for file, row in zip(wanted, made.results, strict=True) if row is not None}
        content: dict[str, dict] = {image: {"error": why} for image, why in (failed | made.bad | made.failed).items()}
        if rows:
            texts = [captions.get(image, "") for image in rows]
            # a CLIP that reads English alone is given no Korean caption
            read = texts if self.korean is None else [""] * len(texts)
            found = self.describer.describe(self.request.mode, np.stack(list(rows.values())), read, self.request.most)
            for image, text, own in zip(rows, texts, found, strict=True):
                caption = {"caption": text} if self.captioned else {}
                content[image] = {**caption, **self.in_language(own, text)}
        self.job.folder.write_json(results.DESCRIPTIONS, item, content)
        yield len(files)

    def in_language(self, description: dict, caption: str) -> dict:
        if self.request.language == "en":
            return description
        if self.korean is None:
            return {"language": "ko", "ranked_by": self.job.clip, **description}
        return {"language": "ko", "ranked_by": "English partners", **in_korean(description, self.korean, caption)}

    def captions(self, shard: int) -> tuple[dict[str, str], dict[str, str]]:
        """By image the caption, and why there is none; nothing of either where none are made."""
        if not self.captioned:
            return {}, {}
        said = results.read_caption_shard(self.job.folder, shard)
        by_image = zip(self.job.folder.shard_ids(shard), said.captions, strict=True)
        captions = {image: own[0] for image, own in by_image if own}
        return captions, said.bad | said.failed


# of `describe`, whose folder goes with it: no run goes on with them
STAGE = StageDeclaration(
    "descriptions",
    DescriptionsStage,
    label="describe",
    reads=(results.CAPTIONS,),
    writes=results.DESCRIPTIONS,
)
