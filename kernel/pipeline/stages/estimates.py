"""What the run folder holds by now to every estimate with a share; and these to one row an image."""

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np

from kernel.banks.nearest import neighbour_weights
from kernel.banks.prompt_bank import PromptBank, opened_bank
from kernel.config import CAPTIONS, Recipe
from kernel.estimates import estimating
from kernel.estimates.fusion import fuse
from kernel.estimates.known import Known, Said
from kernel.estimates.texts import consensus, together, weighed_captions
from kernel.models.encoders.choice import chosen_encoders
from kernel.models.sentences import SentenceEncoder
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.job import Job
from kernel.pipeline.stages import StageDeclaration
from kernel.system.devices import Device
from kernel.system.work import Share

KEPT = 10  # nearest prompts of an image, for people to look at


class EstimatesStage:
    def __init__(self, job: Job, device: Device, encoder: SentenceEncoder, bank: PromptBank | None) -> None:
        self.job, self.device, self.encoder, self.bank = job, device, encoder, bank

    @classmethod
    def at_hand(cls, job: Job, encoder: Callable[[], SentenceEncoder], bank: PromptBank | None) -> "EstimatesStage":
        """On the CPU, of what a process has, or loads when `encoder` is first called."""
        return cls(job, Device("cpu"), encoder(), bank)

    @classmethod
    def load(cls, job: Job, device: Device) -> "EstimatesStage":
        encoder = SentenceEncoder.load(job.weights, device)
        return cls(job, device, encoder, opened_bank(job.recipe, job.bank, job.weights))

    @cached_property
    def read(self) -> tuple[Known, np.ndarray]:
        """What the folder holds, and (n,) bool, False for bad images: the same for every estimate of this stage."""
        folder, recipe = self.job.folder, self.job.recipe
        image_features, bad = results.read_clip(folder)
        said = [Said([], []) for _ in folder.images]
        if recipe.needs(CAPTIONS):
            own = {}
            for by in results.apart(recipe.captioner):
                captions, bad_later = results.read_captions(folder, by)
                bad |= bad_later
                scores = results.read_caption_scores(folder, recipe.caption_weighting, by)
                if recipe.caption_weighting == "consensus":
                    scores = consensus(captions, self.encoder, recipe.text_batch)
                own[by] = weighed_captions(captions, scores, recipe)
            said = together(own, recipe.captioner_shares)
        modifiers = results.read_modifiers(folder)
        good = np.array([image.id not in bad for image in folder.images])
        for image in np.flatnonzero(~good).tolist():
            said[image], modifiers[image] = Said([], []), []
        encoded = results.read_encoded(folder, chosen_encoders(recipe, self.job.weights))
        known = Known(recipe, self.device, self.encoder, self.bank, image_features, said, modifiers, encoded,
                      self.keep_nearest)  # fmt: skip
        return known, good

    def keep_nearest(self, indices: np.ndarray, cosines: np.ndarray) -> None:
        recipe = self.job.recipe
        weights = neighbour_weights(cosines, recipe.neighbour_weighting, recipe.neighbour_temperature)
        nearest = results.Nearest(indices[:, :KEPT], cosines[:, :KEPT], weights[:, :KEPT])
        results.write_nearest(self.job.folder, nearest)

    def make(self, item: int, share: Share) -> Iterator[int]:
        """Writes the rows of the estimate of this number among the recipe's `shared`, (n, 384), the fallback where it
        says nothing of an image."""
        name = self.job.recipe.shared[item]
        known, good = self.read
        rows, usable = yield from estimating(name, known)
        usable &= good
        fallback = np.array(self.job.fallback, dtype=np.float32)
        results.write_estimate(self.job.folder, name, np.where(usable[:, None], rows, fallback), usable)


def fused_rows(folder: RunFolder, recipe: Recipe, fallback: np.ndarray) -> np.ndarray:
    """One row an image, (n, 384), of the estimates that were written."""
    estimates, usable = {}, {}
    for name in recipe.shared:
        estimates[name], usable[name] = results.read_estimate(folder, name)
    return fuse(estimates, usable, recipe.estimates, fallback, recipe.normalise)


STAGE = StageDeclaration(
    "estimates",
    EstimatesStage.load,
    label="estimates",
    reads=(results.CLIP, results.CAPTIONS, results.COSINES, results.MATCHING),
    depends_on=("recipe", "models", "words", "bank", "encoders", "matching"),
    planned_as=("sentences", "neighbours"),
)
