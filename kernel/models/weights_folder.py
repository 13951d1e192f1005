"""The weights folder: its manifest, its checks, and what may lie in it.

manifest.json: {"format": 1, "models": {name: {"class", "source", "revision", "sha256", ...}},
"captioners": [...], "files": [{"path", "bytes", "sha256"}]}. Everything is checked before any loader runs.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from kernel.errors import UserError, others_beside
from kernel.system.files import file_sha256, write_json

FORMAT = 1
MANIFEST = "manifest.json"
# what a finished folder can be added to
FEATURES_FOLDER, BANK_FOLDER = "word_banks/features", "prompt_bank"
ADDED_PARTS = (FEATURES_FOLDER, BANK_FOLDER)
# Pickles run code when they are read, so only these are ever opened.
SAFE_SUFFIXES = {".safetensors", ".json", ".txt", ".model", ".parquet"}
ADVICE = "Make it again: 'make miniature' (build/weights) or 'make weights' (the real ones)"


@dataclass(frozen=True)
class Weights:
    """A weights folder whose files are exactly the manifest's, byte for byte."""

    folder: Path
    models: dict[str, dict[str, Any]]
    captioners: list[str]

    def model_folder(self, name: str) -> Path:
        parent = self.folder / "captioners" if name in self.captioners else self.folder
        return parent / name

    def sha256(self, name: str) -> str:
        return self.models[name]["sha256"]


def open_weights(folder: Path, parts: tuple[str, ...] | None = None, hashes: bool = True) -> Weights:
    """Checks every file against the manifest. Raises UserError naming the first file that is wrong.

    With `parts`, only files in these top-level folders (or of these names) are checked, and nothing else may be read.
    Without `hashes`, a changed byte is not seen, as no file is read whole: for a look at a folder, not for a run.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{path}: not found; expected a weights folder with a manifest{others_beside(folder, MANIFEST)}. "
            "'make miniature' makes the miniature one, 'make weights' the real one"
        )
    manifest = read_manifest(path)
    listed = {entry["path"]: entry for entry in manifest["files"] if is_part(entry["path"], parts)}
    # rglob does not look behind a link to a folder, so the link itself counts as a file that nothing lists
    files = [p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
    present = {p.relative_to(folder).as_posix() for p in files} - {MANIFEST}
    present = {name for name in present if is_part(name, parts)}
    try:
        check_files(folder, listed, present, hashes)
    except UserError as error:
        cut = next(filter(is_decided, (addition_path(folder, part) for part in ADDED_PARTS)), None)
        if cut is None:
            raise
        raise UserError(
            f"{folder}: a command was ended while it put files there, and left {cut} beside it: they do not fit "
            f"{MANIFEST} yet. Run that command again, such as 'python -m kernel publish weights': it ends in a moment"
        ) from error
    return Weights(folder, manifest["models"], manifest["captioners"])


def check_files(folder: Path, listed: dict[str, dict[str, Any]], present: set[str], hashes: bool) -> None:
    """Raises UserError for the first file that is not as `listed` or, being `present`, is not listed at all."""
    for name in sorted(present | set(listed)):
        if PurePosixPath(name).suffix not in SAFE_SUFFIXES:
            raise UserError(
                f"{folder / name}: this kind of file can hold a pickle, which runs code when it is read; expected "
                f"only {', '.join(sorted(SAFE_SUFFIXES))}. Remove it, or convert it to safetensors"
            )
    for name in sorted(present - set(listed)):
        raise UserError(f"{folder / name}: not listed in {MANIFEST}, so nothing vouches for it. Remove it. {ADVICE}")
    for name in sorted(set(listed) - present):
        raise UserError(f"{folder / name}: missing, though {MANIFEST} lists it: the folder is incomplete. {ADVICE}")
    for name in sorted(listed):
        check_file(folder / name, listed[name], hashes=hashes)


def addition_path(folder: Path, part: str) -> Path:
    """The folder beside a weights folder in which an addition to `part` of it is put together."""
    whole = folder.resolve()  # where `folder` is a link: files can be renamed only on the disk of the folder itself
    return whole.with_name(f".{whole.name}.{PurePosixPath(part).name}.adding")


def is_decided(addition: Path) -> bool:
    """Whether all that is added is there: its manifest is the last file to come."""
    return (addition / MANIFEST).is_file()


def is_part(name: str, parts: tuple[str, ...] | None) -> bool:
    return parts is None or PurePosixPath(name).parts[0] in parts


def read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        assert_shape(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a weights manifest of format {FORMAT} ({error!r}). {ADVICE}") from error
    for entry in manifest["files"]:
        listed = PurePosixPath(entry["path"])
        if listed.is_absolute() or ".." in listed.parts:
            raise UserError(f"{path}: lists {entry['path']!r}, which lies outside the folder. {ADVICE}")
    return manifest


def assert_shape(manifest: dict[str, Any]) -> None:
    """Raises ValueError, KeyError or TypeError when a part of the manifest is missing or of another kind."""
    if manifest["format"] != FORMAT:
        raise ValueError(f"format is {manifest['format']!r}")
    for entry in manifest["files"]:
        if not (isinstance(entry["path"], str) and isinstance(entry["bytes"], int) and len(entry["sha256"]) == 64):
            raise ValueError(f"file entry {entry!r}")
    for name, model in manifest["models"].items():
        if not {"class", "source", "revision", "sha256"} <= set(model):
            raise ValueError(f"model {name!r} lacks class, source, revision or sha256")
    if not set(manifest["captioners"]) <= set(manifest["models"]):
        raise ValueError(f"captioners {manifest['captioners']} are not all among the models")


def check_file(path: Path, entry: dict[str, Any], hashes: bool = True) -> None:
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise UserError(f"{path}: {size} bytes, the manifest says {entry['bytes']}: the file is incomplete. {ADVICE}")
    found = file_sha256(path) if hashes else entry["sha256"]
    if found != entry["sha256"]:
        raise UserError(
            f"{path}: sha256 {found[:8]}... differs from the manifest's {entry['sha256'][:8]}...: "
            f"the file is damaged or was changed. {ADVICE}"
        )
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            head = file.read(9)
        if len(head) < 9 or int.from_bytes(head[:8], "little") > size or head[8:] != b"{":
            raise UserError(f"{path}: named safetensors but is not (a renamed pickle?). {ADVICE}")


def write_manifest(folder: Path, models: dict[str, dict[str, Any]], captioners: list[str]) -> None:
    """Lists every file of `folder` and names each model by the sha256 over its files' paths and sha256s.

    For a folder that nobody reads yet; a finished one is added to by `weights_addition`.
    """
    files: list[dict[str, Any]] = [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    ]
    weights = Weights(folder, models, captioners)
    named = {}
    for name, model in models.items():
        prefix = weights.model_folder(name).relative_to(folder).as_posix() + "/"
        own = [
            f"{entry['path'].removeprefix(prefix)} {entry['sha256']}"
            for entry in files
            if entry["path"].startswith(prefix)
        ]
        named[name] = {**model, "sha256": hashlib.sha256("\n".join(own).encode()).hexdigest()}
    manifest = {"format": FORMAT, "models": named, "captioners": captioners, "files": files}
    write_json(folder / MANIFEST, manifest)
