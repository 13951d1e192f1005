"""Encodes a weights folder's word banks ahead, so that no scoring run spends its minutes on them."""

from pathlib import Path

from kernel.banks.word_banks import encode_missing, features_key, read_phrases
from kernel.config import RECIPES
from kernel.models.clip import ClipEncoder
from kernel.models.weights_folder import (
    FEATURES_FOLDER,
    NOT_ADDED,
    FileEntry,
    add_files,
    drop_files_to_add,
    files_to_add,
    finish_additions,
    open_weights,
)
from kernel.system.devices import find_device
from kernel.system.files import writing


def encode_word_banks(folder: Path) -> None:
    """Puts `word_banks/features/*.safetensors` of the banks that a recipe names into the weights folder.

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
        new = sorted(wanted - there)
        added = [FileEntry.of(unfinished / name, f"{FEATURES_FOLDER}/{name}") for name in new]
        add_files(folder, FEATURES_FOLDER, added, kept=wanted & there)
