"""Puts a finished prompt bank into a weights folder, so that it travels with the weights and a run finds it there."""

import shutil
from pathlib import Path

from kernel.banks.prompt_bank import RECORD, REGRESSION, SHARES, PromptBank
from kernel.models.weights_folder import (
    ADVICE,
    BANK_FOLDER,
    MANIFEST,
    NOT_ADDED,
    FileEntry,
    add_files,
    drop_files_to_add,
    files_to_add,
    finish_additions,
    is_of,
    name_of,
    read_manifest,
)
from kernel.system.files import writing


def add_bank(weights: Path, bank: Path) -> Path:
    """Copies the bank's files to WEIGHTS/prompt_bank in place of any bank there, lists them in the manifest, and
    returns that folder. Does nothing where they are there already.

    Raises UserError when the bank is damaged or was made with other models than these weights, or the disk is full;
    the weights folder then stays as it was.
    """
    finish_additions(weights)
    manifest = read_manifest(weights / MANIFEST)
    opened = PromptBank.open(bank, manifest.models["clip"]["sha256"], manifest.models["sentences"]["sha256"])
    fitted = opened.fitted()
    names = [RECORD, *(entry.path for entry in opened.record["files"])]
    names += [SHARES, REGRESSION] if fitted else []
    target = weights / BANK_FOLDER
    entries = [FileEntry.of(bank / name, f"{BANK_FOLDER}/{name}") for name in names]
    drop_files_to_add(weights, BANK_FOLDER)
    if is_there(target, entries, manifest.files):
        return target
    try:
        with writing(target, NOT_ADDED):
            unfinished = files_to_add(weights, BANK_FOLDER)
            for name, entry in zip(names, entries, strict=True):
                shutil.copyfile(bank / name, unfinished / name)
                entry.check(unfinished / name, "the manifest", ADVICE)  # the disk must give back what was written to it
            add_files(weights, BANK_FOLDER, entries)
    finally:
        drop_files_to_add(weights, BANK_FOLDER)
    return target


def is_there(target: Path, entries: list[FileEntry], files: list[FileEntry]) -> bool:
    """Whether the manifest's `files` list exactly these, and they are there in these sizes."""
    own = [entry for entry in files if is_of(BANK_FOLDER, entry)]
    sizes = {path.name: path.stat().st_size for path in target.glob("*")}
    return set(own) == set(entries) and sizes == {name_of(BANK_FOLDER, entry): entry.bytes for entry in entries}
