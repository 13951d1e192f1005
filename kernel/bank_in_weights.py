"""Puts a finished prompt bank into a weights folder, so that it travels with the weights and a run finds it there."""

import shutil
from pathlib import Path
from typing import Any

from kernel.checkpoints import MANIFEST, check_file, file_sha256, read_manifest
from kernel.errors import UserError
from kernel.prompt_bank import RECORD, REGRESSION, SHARES, PromptBank
from kernel.store import write_json

BANK_FOLDER = "prompt_bank"  # where a run without --bank looks in its weights folder


def add_bank(weights: Path, bank: Path) -> Path:
    """Copies the bank's files to WEIGHTS/prompt_bank in place of any bank there, lists them in the manifest, and
    returns that folder. Does nothing where they are there already.

    Raises UserError when the bank is damaged or was made with other models than these weights, or the disk is full;
    the weights folder then stays as it was.
    """
    manifest = read_manifest(weights / MANIFEST)
    models = manifest["models"]
    opened = PromptBank.open(bank, models["clip"]["sha256"], models["sentences"]["sha256"])
    fitted = opened.fitted()
    names = [RECORD, *(entry["path"] for entry in opened.record["files"])]
    names += [SHARES, REGRESSION] if fitted else []
    target, unfinished = weights / BANK_FOLDER, weights.with_name(f".{weights.name}.bank.tmp")
    others = [entry for entry in manifest["files"] if not entry["path"].startswith(f"{BANK_FOLDER}/")]
    entries = [listed(bank / name) for name in names]
    if is_there(target, entries, manifest["files"]):
        return target
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        for name, entry in zip(names, entries, strict=True):
            shutil.copyfile(bank / name, unfinished / name)
            check_file(unfinished / name, entry)  # the disk must give back what was written to it
        # from here to the manifest only names change: a folder with files that nothing lists is no weights folder
        shutil.rmtree(target, ignore_errors=True)
        unfinished.replace(target)
        files = sorted([*others, *entries], key=lambda entry: entry["path"])
        write_json(weights / MANIFEST, {**manifest, "files": files})
    except OSError as error:
        raise UserError(
            f"{target}: the bank cannot be written there ({error.strerror or error}). Free "
            f"{sum(entry['bytes'] for entry in entries) / 1e9:.2f} GB and run again"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def listed(path: Path) -> dict[str, Any]:
    return {"path": f"{BANK_FOLDER}/{path.name}", "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def is_there(target: Path, entries: list[dict[str, Any]], files: list[dict[str, Any]]) -> bool:
    """Whether the manifest's `files` list exactly these, and they are there in these sizes."""
    own = [entry for entry in files if entry["path"].startswith(f"{BANK_FOLDER}/")]
    sizes = {path.name: path.stat().st_size for path in target.glob("*")}
    return sorted(map(str, own)) == sorted(map(str, entries)) and sizes == {
        entry["path"].removeprefix(f"{BANK_FOLDER}/"): entry["bytes"] for entry in entries
    }
