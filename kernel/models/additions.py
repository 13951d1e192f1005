"""What is added to a finished weights folder: the word banks' features, a prompt bank, image encoders.

A kill at any instant costs nothing that stands there. While something is added to the part `encoders/vit` of WEIGHTS,
.WEIGHTS.adding.encoders.vit lies beside it: in `files/` what is added and, from the moment that all of it is there,
`manifest.json`, the whole new manifest. The one rename that puts this file there decides: killed before it, WEIGHTS is
as it was; killed after it, only renames are left, which `finish_additions` does at the start of the next command that
adds or publishes.
"""

import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from kernel.models.weights_folder import (
    ADVICE,
    MANIFEST,
    FileEntry,
    addition_path,
    decided_additions,
    read_manifest,
)
from kernel.system.files import write_json, writing

NOT_ADDED = "free space there, then run the same command again: nothing that stands there is lost"


def add_copies(weights: Path, part: str, sources: Mapping[str, Path]) -> Path:
    """Copies files to WEIGHTS/PART under these names in place of all that lies there, lists them in the manifest, and
    returns that folder. Does nothing where they are there already.

    Raises UserError when the disk is full or gives back other bytes; the weights folder then stays as it was.
    """
    finish_additions(weights)
    target = weights / part
    entries = [FileEntry.of(source, f"{part}/{name}") for name, source in sources.items()]
    drop_files_to_add(weights, part)
    if is_there(weights, part, entries):
        return target
    try:
        with writing(target, NOT_ADDED):
            unfinished = files_to_add(weights, part)
            for (name, source), entry in zip(sources.items(), entries, strict=True):
                shutil.copyfile(source, unfinished / name)
                entry.check(unfinished / name, "the manifest", ADVICE)  # the disk must give back what was written to it
            add_files(weights, part, entries)
    finally:
        drop_files_to_add(weights, part)
    return target


def is_there(weights: Path, part: str, entries: list[FileEntry]) -> bool:
    """Whether the manifest lists exactly these of `part`, and they are there in these sizes."""
    own = [entry for entry in read_manifest(weights / MANIFEST).files if is_of(part, entry)]
    sizes = {path.name: path.stat().st_size for path in (weights / part).glob("*")}
    return set(own) == set(entries) and sizes == {name_of(part, entry): entry.bytes for entry in entries}


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
    if part not in decided_additions(weights):
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
    for part in decided_additions(weights):
        if belongs_to(weights, part):
            move_in(weights, part)
        shutil.rmtree(addition_path(weights, part))


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
    target.mkdir(parents=True, exist_ok=True)
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
