"""How a finished weights folder is added to, so that a kill at any instant costs nothing that stands there.

While something is added to the part `prompt_bank` of WEIGHTS, .WEIGHTS.prompt_bank.adding lies beside it: in `files/`
what is added and, from the moment that all of it is there, `manifest.json`, the whole new manifest. The one rename that
puts this file there decides: killed before it, WEIGHTS is as it was; killed after it, only renames are left, which
`finish_additions` does at the start of the next command that adds or publishes.
"""

import shutil
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

from kernel.models.weights_folder import ADDED_PARTS, MANIFEST, FileEntry, addition_path, is_decided, read_manifest
from kernel.system.files import write_json

NOT_ADDED = "free space there, then run the same command again: nothing that stands there is lost"


def files_to_add(weights: Path, part: str) -> Path:
    """The folder, made where it is missing, in which the new files of `part` are put together.

    What a killed command left in it is still there. Files are written into it under other names and renamed, for under
    its own name a file counts as whole.
    """
    folder = addition_path(weights, part) / "files"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def drop_files_to_add(weights: Path, part: str) -> None:
    """Removes what was put together for `part`, unless it is decided already that it is added."""
    if not is_decided(addition_path(weights, part)):
        shutil.rmtree(addition_path(weights, part), ignore_errors=True)


def add_files(weights: Path, part: str, entries: list[FileEntry], kept: Collection[str] = ()) -> None:
    """Puts the files of `entries` from `files_to_add` into `part` and lists them there.

    What `part` held before goes, but for the files named in `kept`.
    """
    manifest = read_manifest(weights / MANIFEST)
    stay = [entry for entry in manifest.files if not is_of(part, entry) or name_of(part, entry) in kept]
    files = sorted([*stay, *entries], key=lambda entry: entry.path)
    write_json(addition_path(weights, part) / MANIFEST, asdict(replace(manifest, files=files)))
    finish_additions(weights)


def finish_additions(weights: Path) -> None:
    """Brings to its end what was decided before a kill; nothing to do is the usual case."""
    for part in ADDED_PARTS:
        addition = addition_path(weights, part)
        if not is_decided(addition):
            continue
        if belongs_to(weights, part):
            move_in(weights, part)
        shutil.rmtree(addition)


def belongs_to(weights: Path, part: str) -> bool:
    """Whether the decided addition was made of this very folder; it may have been replaced by another since."""
    if not (weights / MANIFEST).is_file():
        return False
    old, new = (read_manifest(folder / MANIFEST) for folder in (weights, addition_path(weights, part)))
    others = [[entry for entry in manifest.files if not is_of(part, entry)] for manifest in (old, new)]
    return old.models == new.models and others[0] == others[1]


def move_in(weights: Path, part: str) -> None:
    """Only renames and removals, each of which may have been done before; the manifest comes last."""
    addition, target = addition_path(weights, part), weights / part
    expected = {name_of(part, entry) for entry in read_manifest(addition / MANIFEST).files if is_of(part, entry)}
    target.mkdir(exist_ok=True)
    for path in target.iterdir():
        if path.name not in expected:
            path.unlink()
    for name in expected:
        if (addition / "files" / name).is_file():
            (addition / "files" / name).replace(target / name)
    (addition / MANIFEST).replace(weights / MANIFEST)


def is_of(part: str, entry: FileEntry) -> bool:
    return entry.path.startswith(f"{part}/")


def name_of(part: str, entry: FileEntry) -> str:
    return entry.path.removeprefix(f"{part}/")
