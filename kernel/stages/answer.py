"""What the run folder holds by now to every estimate with a share; and these to one row an image."""

from collections.abc import Iterator

import numpy as np

from kernel.config import OF_BANK, Recipe
from kernel.devices import Device
from kernel.estimates import IMAGES, Said, bank_estimate, said_of, text_estimate, weighed_captions
from kernel.fusion import fuse
from kernel.inventory import opened_bank
from kernel.job import Job
from kernel.neighbours import neighbour_weights
from kernel.prompt_bank import PromptBank
from kernel.sentences import SentenceEncoder
from kernel.stages.batches import Share
from kernel.store import RunFolder

KEPT = 10  # nearest prompts of an image, for people to look at


class AnswerStage:
    def __init__(self, job: Job, device: Device, encoder: SentenceEncoder, bank: PromptBank | None) -> None:
        self.job, self.device, self.encoder, self.bank = job, device, encoder, bank

    @classmethod
    def load(cls, job: Job, device: Device) -> "AnswerStage":
        encoder = SentenceEncoder.load(job.weights, device)
        return cls(job, device, encoder, opened_bank(job.recipe, job.bank, job.weights))

    def make(self, item: int, share: Share) -> Iterator[int]:
        """Writes the rows of the estimate of this number among `shared`, (n, 384), the fallback where it says nothing
        of an image."""
        folder, recipe = self.job.folder, self.job.recipe
        name = shared(recipe)[item]
        fallback = np.array(self.job.fallback, dtype=np.float32)
        image_features, bad = folder.read_clip()
        said = [Said([], []) for _ in folder.images]
        if recipe.needs_captions:
            captions, bad_later = folder.read_captions()
            bad |= bad_later
            cosines = folder.read_caption_cosines() if recipe.caption_weighting == "clip" else None
            said = weighed_captions(captions, cosines, recipe)
        modifiers = folder.read_modifiers()
        good = np.array([image.id not in bad for image in folder.images])
        if name in OF_BANK:
            assert self.bank is not None  # checked before the first image
            rows, usable = bank_estimate(name, image_features, self.bank, recipe, self.device, self.keep_nearest)
            yield len(folder.images)
        else:
            texts = [
                said_of(name, captions, phrases, recipe) if is_good else Said([], [])
                for captions, phrases, is_good in zip(said, modifiers, good, strict=True)
            ]
            blocks = []
            for start in range(0, len(texts), IMAGES):
                blocks.append(text_estimate(texts[start : start + IMAGES], self.encoder, recipe.text_batch))
                yield len(blocks[-1][0])
            rows, usable = (np.concatenate(own) for own in zip(*blocks, strict=True))
        usable &= good
        folder.write_estimate(name, np.where(usable[:, None], rows, fallback), usable)

    def keep_nearest(self, indices: np.ndarray, cosines: np.ndarray) -> None:
        recipe = self.job.recipe
        weights = neighbour_weights(cosines, recipe.neighbour_weighting, recipe.neighbour_temperature)
        self.job.folder.write_nearest(indices[:, :KEPT], cosines[:, :KEPT], weights[:, :KEPT])


def shared(recipe: Recipe) -> list[str]:
    return [name for name in recipe.estimates if recipe.uses(name)]


def fused_rows(folder: RunFolder, recipe: Recipe, fallback: np.ndarray) -> np.ndarray:
    """One row an image, (n, 384), of the estimates that were written."""
    estimates, usable = {}, {}
    for name in shared(recipe):
        estimates[name], usable[name] = folder.read_estimate(name)
    return fuse(estimates, usable, recipe.estimates, fallback, recipe.normalise)
