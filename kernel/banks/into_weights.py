"""Puts a finished prompt bank into a weights folder, so that it travels with the weights and a run finds it there."""

from pathlib import Path

from kernel.banks.prompt_bank import RECORD, SHARES, PromptBank
from kernel.models.additions import add_copies
from kernel.models.weights_folder import BANK_FOLDER, MANIFEST, read_manifest


def add_bank(weights: Path, bank: Path) -> Path:
    """Copies the bank's files to WEIGHTS/prompt_bank in place of any bank there, as `add_copies` does; returns that
    folder. Raises UserError too when the bank is damaged or was made with other models than these weights."""
    models = read_manifest(weights / MANIFEST).models
    opened = PromptBank.open(bank, models["clip"]["sha256"], models["sentences"]["sha256"])
    names = [RECORD, *(entry.path for entry in opened.record["files"])]
    names += [SHARES] if opened.fitted() else []
    return add_copies(weights, BANK_FOLDER, {name: bank / name for name in names})
