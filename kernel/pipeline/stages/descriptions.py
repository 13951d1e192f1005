"""Images with their captions to prompts for people, shard by shard."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

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
        apart = self.apart
        for by in apart:
            # an image that nobody captioned is described once
            seen = {image: row for image, row in rows.items() if by in captions.get(image, apart[:1])}
            for image, description in self.described(seen, captions, by).items():
                if image not in content or description["similarity"] > content[image]["similarity"]:
                    every = {"captions": captions.get(image, {})} if apart != [""] else {}
                    content[image] = {**description, **every}
        self.job.folder.write_json(results.DESCRIPTIONS, item, content)
        yield len(files)

    @property
    def apart(self) -> list[str]:
        """By whom there are captions, as `results.apart` says."""
        return results.apart(self.job.recipe.captioner) if self.captioned else [""]

    def described(
        self, rows: dict[str, np.ndarray], captions: dict[str, dict[str, str]], by: str
    ) -> dict[str, dict[str, Any]]:
        """By image, of these rows of CLIP's, what is found behind the caption of one captioner."""
        if not rows:
            return {}
        texts = [captions.get(image, {}).get(by, "") for image in rows]
        # a CLIP that reads English alone is given no Korean caption
        read = texts if self.korean is None else [""] * len(texts)
        found = self.describer.describe(self.request.mode, np.stack(list(rows.values())), read, self.request.most)
        return {
            image: {**({"caption": text} if self.captioned else {}), **self.in_language(own, text)}
            for image, text, own in zip(rows, texts, found, strict=True)
        }

    def in_language(self, description: dict, caption: str) -> dict:
        if self.request.language == "en":
            return description
        if self.korean is None:
            return {"language": "ko", "ranked_by": self.job.clip, **description}
        return {"language": "ko", "ranked_by": "English partners", **in_korean(description, self.korean, caption)}

    def captions(self, shard: int) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        """By image the caption of each captioner that says one, and why there is none of any; nothing of either where
        none are made."""
        captions: dict[str, dict[str, str]] = {}
        failed: dict[str, list[str]] = {}
        for by in self.apart if self.captioned else ():
            said = results.read_caption_shard(self.job.folder, shard, by)
            for image, own in zip(self.job.folder.shard_ids(shard), said.captions, strict=True):
                if own:
                    captions.setdefault(image, {})[by] = own[0]
            for image, why in (said.bad | said.failed).items():
                failed.setdefault(image, []).append(why)
        lacking = {image: own for image, own in failed.items() if image not in captions}
        return captions, {image: "; ".join(dict.fromkeys(own)) for image, own in lacking.items()}


# of `describe`, whose folder goes with it: no run goes on with them
STAGE = StageDeclaration(
    "descriptions",
    DescriptionsStage,
    label="describe",
    reads=(results.CAPTIONS,),
    writes=results.DESCRIPTIONS,
)
