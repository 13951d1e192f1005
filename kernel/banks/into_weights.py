"""Puts a finished prompt bank, or the word banks' features, into a weights folder, so that they travel with the weights
and a run finds them there."""

from pathlib import Path

from kernel.banks.prompt_bank import RECORD, SHARES, PromptBank
from kernel.banks.word_banks import encode_missing, features_key, read_phrases
from kernel.config import RECIPES
from kernel.models.additions import (
    NOT_ADDED,
    add_copies,
    add_files,
    drop_files_to_add,
    files_to_add,
    finish_additions,
)
from kernel.models.clip import ClipEncoder
from kernel.models.weights_folder import BANK_FOLDER, FEATURES_FOLDER, MANIFEST, FileEntry, open_weights, read_manifest
from kernel.system.devices import find_device
from kernel.system.files import writing


def add_bank(weights: Path, bank: Path) -> Path:
    """Copies the bank's files to WEIGHTS/prompt_bank in place of any bank there, as `add_copies` does; returns that
    folder. Raises UserError too when the bank is damaged or was made with other models than these weights."""
    models = read_manifest(weights / MANIFEST).models
    opened = PromptBank.open(bank, models["clip"]["sha256"], models["sentences"]["sha256"])
    names = [RECORD, *(entry.path for entry in opened.record["files"])]
    names += [SHARES] if opened.fitted() else []
    return add_copies(weights, BANK_FOLDER, {name: bank / name for name in names})


def encode_word_banks(folder: Path) -> None:
    """Puts the features of the word banks that a recipe names into the weights folder, so that no run makes them.

    Killed, it goes on with the banks that are not encoded yet. Raises UserError when the disk is full.
    """
    finish_additions(folder)
    weights = open_weights(folder)
    sha256 = weights.sha256("clip")
    batches = {name: recipe.text_batch for recipe in RECIPES.values() for name, n in recipe.modifiers.items() if n}
    words = {name: read_phrases(folder / "word_banks" / f"{name}.txt") for name in batches}
    wanted = {f"{features_key(sha256, each.phrases)}.safetensors" for each in words.values()}
    there = {path.name for path in (folder / FEATURES_FOLDER).glob("*")}
    if wanted <= there:
        return drop_files_to_add(folder, FEATURES_FOLDER)
    with writing(folder / FEATURES_FOLDER, NOT_ADDED):
        unfinished = files_to_add(folder, FEATURES_FOLDER)
        clip = ClipEncoder.load(weights, find_device("auto"))
        for name, phrases in words.items():
            encode_missing(phrases, clip, sha256, [folder / FEATURES_FOLDER, unfinished], batches[name])
        added = [FileEntry.of(unfinished / name, f"{FEATURES_FOLDER}/{name}") for name in sorted(wanted - there)]
        add_files(folder, FEATURES_FOLDER, added, kept=wanted & there)
