"""Everything that must be right before image 1: what was asked, opened and checked; else a UserError."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kernel.banks.prompt_bank import RECORD, REGRESSION, PromptBank, opened_bank, with_fitted_shares
from kernel.banks.word_banks import Phrases, features_file, features_key, shipped_features, word_lists
from kernel.config import FIT, Paths, Recipe
from kernel.estimates.constant import constant_row
from kernel.models.captioners.loading import captioners_named, inspect_captioner
from kernel.models.sentences import SentenceEncoder
from kernel.models.weights_folder import Weights, open_weights
from kernel.pipeline.folder.run_folder import FORMAT, Shards
from kernel.pipeline.images import ImageFile, images_sha256, left_out_note, list_images
from kernel.pipeline.planning.run_plan import plan_run
from kernel.pipeline.stages.load import kept
from kernel.system.devices import Device, find_devices
from kernel.system.files import file_sha256


@dataclass(frozen=True)
class Prepared:
    """What a run works with. `shares_from` says whether the estimates' shares are the recipe's, published or fitted,
    `planned` by stage what the run is estimated to take, `warnings` what stops nothing."""

    recipe: Recipe
    shares_from: str
    images: list[ImageFile]
    weights: Weights
    captioners: list[str]
    words: list[Phrases]
    bank: PromptBank | None
    devices: list[Device]
    encoder: SentenceEncoder
    fallback: np.ndarray
    planned: Mapping[str, dict[str, Any]]
    warnings: list[str]

    @property
    def models(self) -> dict[str, str]:
        """The models that answer, by name, and their sha256."""
        return {name: self.weights.sha256(name) for name in ("clip", self.captioners[0], "sentences")}

    def identity(self) -> dict[str, dict[str, Any]]:
        """For each stage of the run folder what its outputs depend on: images and device, and what it declares."""
        recipe, models, bank = self.recipe, self.models, self.bank
        kinds = sorted({device.title for device in self.devices})
        files = {"images": images_sha256(self.images), "device": ", ".join(kinds), "format": FORMAT}
        known = {
            **asdict(recipe),
            "recipe": asdict(recipe),
            "models": models,
            "clip": models["clip"],
            "captioner": models[self.captioners[0]],  # by whatever name it was asked for
            "words": {own.name: features_key(models["clip"], own.phrases) for own in self.words},
            "bank": file_sha256(bank.folder / RECORD) if bank else None,
            "regression": file_sha256(bank.folder / REGRESSION) if bank and recipe.needs(FIT) else None,
        }
        found: dict[str, dict[str, Any]] = {}
        for stage in kept():
            found[stage.name] = dict(files)
            for what in stage.depends_on:
                found[stage.name] |= found[what.stage] if isinstance(what, Shards) else {what: known[what]}
        return found


def prepare(recipe: Recipe, paths: Paths, device_name: str, limit: int | None) -> Prepared:
    """Opens and checks what the recipe asks of the folders and devices given."""
    images = list_images(paths.images)[:limit]
    weights = open_weights(paths.weights)
    captioners = captioners_named(recipe, weights)
    words = word_lists(recipe, weights)
    bank = opened_bank(recipe, paths.bank, weights)
    recipe, shares_from = with_fitted_shares(recipe, bank)
    devices = find_devices(device_name)
    inspect_captioner(weights, captioners[0])
    # small, so it stays, and on the CPU, as this process never touches a GPU
    encoder = SentenceEncoder.load(weights, Device("cpu"))
    fallback = constant_row(weights.folder, lambda: encoder)
    shipped = all(features_file(own, weights.sha256("clip"), [shipped_features(weights)]) for own in words)
    plan = plan_run(recipe, weights, bank, devices, len(images), shipped)
    return Prepared(plan.recipe, shares_from, images, weights, captioners, words, bank, devices, encoder, fallback,
                    plan.stages, [*plan.notes, *left_out_note(paths.images)])  # fmt: skip
