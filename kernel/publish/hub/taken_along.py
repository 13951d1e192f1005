"""What was put into a weights folder goes along when the folder is made anew, as for another captioner."""

import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath

from kernel.errors import UserError
from kernel.models.additions import add_copies
from kernel.models.encoders.record import check_models, read_encoder_record
from kernel.models.weights_folder import (
    BANK_FOLDER,
    ENCODERS_FOLDER,
    FEATURES_FOLDER,
    MANIFEST,
    FileEntry,
    Manifest,
    Weights,
    check_files,
    read_manifest,
)
from kernel.publish.hub.pins import CHOICES
from kernel.system.files import write_json


def take_along(old: Path, before: Manifest, new: Path) -> None:
    """Puts what was put into the weights folder `old`, which `new` is to replace, into that too: features and banks
    cost minutes on a GPU, encoders hours, and models and word lists that somebody put there are made by nobody else.
    What is damaged, or made with models that `new` lacks, is told and left.

    Raises UserError when the disk is full.
    """
    take_files_along(old, before, new)
    models = read_manifest(new / MANIFEST).models
    parts: dict[str, list[FileEntry]] = {}
    for entry in before.files:
        part = entry.path.rpartition("/")[0]
        if part in (FEATURES_FOLDER, BANK_FOLDER) or part.startswith(f"{ENCODERS_FOLDER}/"):
            parts.setdefault(part, []).append(entry)
    for part, entries in parts.items():
        try:
            for entry in entries:
                entry.check(old / entry.path, "the manifest", "Put it in again")
            if part.startswith(ENCODERS_FOLDER):
                check_models(old / part, read_encoder_record(old / part), models)
            asked = {FEATURES_FOLDER: ["clip"], BANK_FOLDER: ["clip", "sentences"]}.get(part, [])
            if others := [name for name in asked if before.models[name]["sha256"] != models[name]["sha256"]]:
                raise UserError(f"{old / part}: made with another model {others[0]}. Make it again, put it in again")
        except UserError as error:
            print(f"{error}. It is not taken along", file=sys.stderr)
        else:
            add_copies(new, part, {entry.path.removeprefix(f"{part}/"): old / entry.path for entry in entries})


def models_put_in(manifest: Manifest) -> list[str]:
    """The models that `publish weights` never makes, such as a Korean CLIP or a captioner of one's own."""
    return [name for name in manifest.models if name not in CHOICES]


def take_files_along(old: Path, before: Manifest, new: Path) -> None:
    """Models and word lists that were put in by hand. A captioner among them keeps its place in the order of fallback,
    or is last where the others' order is new."""
    made, weights = read_manifest(new / MANIFEST), Weights(old, before.models, before.captioners)
    taken, files = dict(made.models), {entry.path: entry for entry in made.files}
    for name in models_put_in(before):
        part = weights.model_folder(name).relative_to(old).as_posix()
        entries = [entry for entry in before.files if entry.path.startswith(f"{part}/")]
        if copied(old, new, entries, f"The model {name}"):
            taken[name] = before.models[name]
            files |= {entry.path: entry for entry in entries}
    for entry in before.files:
        own = PurePosixPath(entry.path)
        if own.match("word_banks/*.txt") and len(own.parts) == 2 and entry.path not in files:
            if copied(old, new, [entry], f"The word list {own.stem}"):
                files[entry.path] = entry
    captioners = [name for name in before.captioners if name in taken]
    if [name for name in captioners if name in made.models] != made.captioners:
        captioners = [*made.captioners, *(name for name in captioners if name not in made.models)]
    entries_now = [files[path] for path in sorted(files)]
    write_json(new / MANIFEST, asdict(replace(made, models=taken, captioners=captioners, files=entries_now)))


def copied(old: Path, new: Path, entries: list[FileEntry], what: str) -> bool:
    """Whether these files of a manifest are sound, and now in `new` too; `what` is told of those that are not."""
    try:
        for entry in entries:
            entry.check(old / entry.path, "the manifest", "Put it in again")
        # what may not lie in any weights folder is not copied
        check_files(old, {entry.path: entry for entry in entries}, set(), hashes=False)
    except UserError as error:
        print(f"{error}. {what} is not taken along", file=sys.stderr)
        return False
    for entry in entries:
        (new / entry.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(old / entry.path, new / entry.path)
    return True
