"""Everything that must be right before image 1: what was asked, opened and checked; else a UserError.

A run folder goes on with what the last run left, and what no longer belongs to this one is made again."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from kernel.banks.prompt_bank import RECORD, PromptBank, opened_bank, with_fitted_shares
from kernel.banks.word_banks import Phrases, features_file, features_key, shipped_features, word_lists
from kernel.config import Paths, Recipe, captioner_names
from kernel.errors import UserError
from kernel.estimates.constant import constant_row
from kernel.models.captioners.loading import captioners_named, inspect_captioner
from kernel.models.encoders.choice import chosen_encoders
from kernel.models.image_text_matching import MATCHING, inspect_matching
from kernel.models.sentences import SentenceEncoder, inspect_sentences
from kernel.models.weights_folder import Weights, open_weights
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import FORMAT, RunFolder, Shards, read_run
from kernel.pipeline.images import ImageFile, images_sha256, left_out_note, list_images
from kernel.pipeline.planning.run_plan import plan_run
from kernel.pipeline.stages.load import kept
from kernel.system.devices import Device
from kernel.system.files import cannot_write, file_sha256, unfinished_path
from kernel.system.versions import deciding_versions
from kernel.system.work import Engine


@dataclass(frozen=True)
class Prepared:
    """What a run works with. `encoders` are those that are asked, each with its sha256; `shares_from` says whether the
    estimates' shares are the recipe's, published or fitted, `encoder` loads MiniLM into this process when it is first
    called, `planned` by stage what the run is estimated to take, `warnings` what stops nothing."""

    recipe: Recipe
    shares_from: str
    images: list[ImageFile]
    weights: Weights
    captioners: list[str]
    encoders: dict[str, str]
    words: list[Phrases]
    bank: PromptBank | None
    devices: list[Device]
    encoder: Callable[[], SentenceEncoder]
    fallback: np.ndarray
    planned: Mapping[str, dict[str, Any]]
    warnings: list[str]

    @property
    def asked(self) -> list[str]:
        """The captioner that the run would best have, or the several that it has."""
        return self.captioners[: len(captioner_names(self.recipe.captioner))]

    @property
    def phrases(self) -> int:
        """How many all word lists hold."""
        return sum(len(own.phrases) for own in self.words)

    def identity(self) -> dict[str, dict[str, Any]]:
        """For each stage of the run folder what its outputs depend on: images, device, versions, what it declares."""
        recipe, bank = self.recipe, self.bank
        models = {name: self.weights.sha256(name) for name in ("clip", *self.asked, "sentences")}
        kinds = sorted({device.title for device in self.devices})
        files = {"images": images_sha256(self.images), "device": ", ".join(kinds), "format": FORMAT,
                 "versions": deciding_versions()}  # fmt: skip
        known = {
            **asdict(recipe),
            "recipe": asdict(recipe),
            "models": models,
            "clip": models["clip"],
            # by whatever name it was asked for; of several each file is one's, by its name, and tells its sha256
            "captioner": models[self.asked[0]] if len(self.asked) == 1 else "several",
            "words": {own.name: features_key(models["clip"], own.phrases) for own in self.words},
            "bank": file_sha256(bank.folder / RECORD) if bank else None,
            "encoders": self.encoders,
            "matching": {"head": recipe.matching_head, "model": self.weights.sha256(MATCHING)}
            if recipe.matching_head
            else None,
        }
        found: dict[str, dict[str, Any]] = {}
        for stage in kept():
            found[stage.name] = dict(files)
            for what in stage.depends_on:
                found[stage.name] |= found[what.stage] if isinstance(what, Shards) else {what: known[what]}
        return found


def prepare(recipe: Recipe, paths: Paths, engine: Engine, limit: int | None) -> Prepared:
    """Opens and checks what the recipe asks of the folders given, for the engine's devices."""
    images = list_images(paths.images)[:limit]
    weights = open_weights(paths.weights, meanwhile=import_libraries)
    captioners = captioners_named(recipe, weights)
    words = word_lists(recipe, weights)
    bank = opened_bank(recipe, paths.bank, weights)
    encoders = chosen_encoders(recipe, weights)
    recipe, shares_from = with_fitted_shares(recipe, bank, encoders)
    devices = engine.devices
    for name in captioners[: len(captioner_names(recipe.captioner))]:
        inspect_captioner(weights, name)
    if recipe.matching_head:
        inspect_matching(weights)
    inspect_sentences(weights)
    # small, so it stays, and on the CPU, as this process never touches a GPU
    encoder = cache(partial(SentenceEncoder.load, weights, Device("cpu")))
    fallback = constant_row(weights.folder, encoder)
    shipped = all(features_file(own, weights.sha256("clip"), [shipped_features(weights)]) for own in words)
    plan = plan_run(recipe, weights, bank, devices, len(images), shipped)
    return Prepared(plan.recipe, shares_from, images, weights, captioners, encoders, words, bank, devices, encoder,
                    fallback, plan.stages, [*plan.notes, *left_out_note(paths.images)])  # fmt: skip


def import_libraries() -> None:
    """What any run imports sooner or later: seconds of one core."""
    import open_clip  # noqa: F401 - and with it torch, torchvision and transformers


def open_run(
    folder: Path, images: list[ImageFile], shard_images: int, identity: dict[str, dict[str, Any]]
) -> tuple[RunFolder, str]:
    """The run folder, ready to go on or to start, and one line about which of the two.

    `identity` holds for each stage what its outputs depend on: a stage of which something changed is made again, the
    others stay. Raises UserError when the folder cannot be written or holds files that no run wrote.
    """
    run = RunFolder(folder, images, shard_images, identity)
    previous = read_run(folder)
    # a run that was killed while it wrote its first record left no more than this
    first = unfinished_path(folder / "run.json")
    if previous is None and folder.is_dir() and any(path != first for path in folder.iterdir()):
        raise UserError(
            f"{folder}: holds files but no run.json, so no run wrote it. Give --out an empty or a new folder"
        )
    before = previous["identity"] if previous else {}  # without any, a run only began: with the constant
    changed = {stage: changes(before, identity, stage) for stage in identity} if before else {}
    stale = [stage for stage, keys in changed.items() if keys]
    try:
        for stage in stale:
            shutil.rmtree(folder / stage, ignore_errors=True)
        if stale:
            (folder / "submission.csv").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        # before the stages' folders: a run that ends between the two must find its own record again
        if stale or not before:
            run.write_run({"identity": identity, "shards": run.borders})
        for own in kept():
            (folder / own.name).mkdir(exist_ok=True)
            if own.writes:
                run.drop_unsound_shards(own.writes)
    except OSError as error:
        raise cannot_write(folder, error) from error
    if stale:
        what = ", ".join(dict.fromkeys(key for keys in changed.values() for key in keys))
        return run, f"{folder}: {what} changed since the last run: {', '.join(stale)} made again"
    return run, f"{folder}: going on with the last run" if before else f"{folder}: new run"


def drop_of_others(folder: RunFolder, ready: Prepared) -> None:
    """Takes out of an opened folder what captioners said that are none of these any more, and unsound shards of those
    and of encoders that are named by them."""
    captioners = {name: ready.weights.sha256(name) for name in ready.captioners}
    for by in results.apart(ready.recipe.captioner):
        for shards in (results.CAPTIONS, results.COSINES, results.MATCHING) if by else ():
            folder.drop_unsound_shards(shards.by(by))
        results.drop_captions_of_others(folder, captioners, by)
        results.drop_matching_of_failed(folder, by)
    for sha256 in ready.encoders.values():
        folder.drop_unsound_shards(results.encoded(sha256))


def changes(before: dict[str, Any], now: dict[str, dict[str, Any]], stage: str) -> list[str]:
    """The names of what differs in a stage's identity, in its order."""
    known = before.get(stage, {})
    return [key for key, value in now[stage].items() if key not in known or known[key] != value]
