"""Finds what is mounted: on Kaggle in both of its layouts, or in a folder laid out like either.

Old layout: ROOT/SLUG. New: ROOT/competitions/SLUG, ROOT/datasets/OWNER/SLUG, ROOT/notebooks/OWNER/SLUG.
Folders are known by a file in them, never by a fixed path: the code dataset by `image-to-prompts.json` (the notebook's
first cell looks for that one), weights by their manifest, image encoders by their record, pairs by the suffix of their
tars. Nothing here lists the competition's images.

A weights folder travels flat, because an interrupted upload resumes only for single top-level files, and
because a zip with one folder in it loses that folder when Kaggle unpacks it. `flat_name` says how,
`restore_weights` takes it back by the manifest. A pair set's tars travel under a suffix of their own, for Kaggle
unpacks every .tar; `restore_pairs` links them under their names.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kernel.errors import UserError
from kernel.models.weights_folder import ENCODER, MANIFEST, read_manifest

COMPETITION = "stable-diffusion-image-to-prompts"
MARKER = "image-to-prompts.json"
# What goes up as a single top-level file; everything else goes with its folder, as a zip.
SINGLE_FILE_SUFFIXES = {".safetensors", ".parquet"}
PAIRS_SUFFIX = ".pairs"  # of a tar that stays one
TRAINED = "encoder"  # the folder that the train notebook leaves


@dataclass(frozen=True)
class Inputs:
    """Mounted folders: the competition's, the one with the weights, the one with the wheels (or None), and image
    encoders by the names of what holds them."""

    competition: Path
    weights: Path
    wheels: Path | None
    encoders: dict[str, Path] = field(default_factory=dict)


def find_inputs(root: Path) -> Inputs:
    """Raises UserError naming what is mounted when the competition or the weights are not, or are there twice."""
    mounts = mounted_folders(root)
    competition = [folder for folder in mounts if folder.name == COMPETITION and (folder / "images").is_dir()]
    encoders = {
        mount.name: folder for mount in mounts for folder in (mount, mount / TRAINED) if (folder / ENCODER).is_file()
    }
    return Inputs(
        the_one(competition, root, mounts, "competition", "Add the competition as an input"),
        mounted_weights(root, mounts),
        mounted_wheels(mounts),
        encoders,
    )


def mounted_weights(root: Path, mounts: list[Path]) -> Path:
    sources = [folder for folder in mounts for folder in (folder, folder / "weights") if (folder / MANIFEST).is_file()]
    return the_one(
        sources, root, mounts, "weights folder", "Add the weights dataset (or the prepare notebook's output)"
    )


def mounted_wheels(mounts: list[Path]) -> Path | None:
    wheels = [folder / "wheels" for folder in mounts if (folder / "wheels" / "requirements.txt").is_file()]
    return next((folder for folder in wheels if any(folder.glob("*.whl"))), None)


def mounted_pairs(root: Path, mounts: list[Path]) -> Path:
    pairs = [folder for folder in mounts if any(folder.glob(f"*{PAIRS_SUFFIX}"))]
    advice = "Add the dataset that 'python -m kernel publish dataset --pairs FOLDER' made"
    return the_one(pairs, root, mounts, "pair set", advice)


def mounted_folders(root: Path) -> list[Path]:
    patterns = ("*", "competitions/*", "datasets/*/*", "notebooks/*/*")
    return [folder for pattern in patterns for folder in sorted(root.glob(pattern)) if folder.is_dir()]


def the_one(found: list[Path], root: Path, mounts: list[Path], what: str, advice: str) -> Path:
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{root}: more than one {what} is mounted: {', '.join(map(str, found))}. Remove all but one")
    names = ", ".join(folder.relative_to(root).as_posix() for folder in mounts) or "nothing"
    raise UserError(
        f"{root}: no {what} is mounted; found {names}. {advice}; a dataset that was not ready when the notebook "
        "started is left out silently, so look at its page and run again"
    )


def flat_name(path: str) -> str:
    """Where a file of the weights folder lies in the dataset.

    Example: "captioners/blip2/model.safetensors" -> "captioners--blip2--model.safetensors",
    "captioners/blip2/config.json" -> "captioners--blip2/config.json", "prior.txt" -> "prior.txt"
    """
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).suffix in SINGLE_FILE_SUFFIXES:
        return "--".join(parts)
    return "/".join(filter(None, ("--".join(parts[:-1]), parts[-1])))


def restore_weights(mounted: Path, out: Path) -> Path:
    """Links every file of the manifest into its place under `out` and returns it; nothing is copied.

    `mounted` is a dataset as `flat_name` lays it out, or a weights folder as it is (the prepare notebook's).
    """
    manifest = read_manifest(mounted / MANIFEST)
    shutil.rmtree(out, ignore_errors=True)
    for entry in manifest.files:
        places = [mounted / entry.path, mounted / flat_name(entry.path)]
        source = next((place for place in places if place.is_file()), None)
        if source is None:
            raise UserError(
                f"{places[-1]}: not there, though {mounted / MANIFEST} lists {entry.path}: the dataset is "
                "incomplete. Publish it again: 'make dataset'"
            )
        target = out / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())
    (out / MANIFEST).symlink_to((mounted / MANIFEST).resolve())
    return out


def restore_pairs(mounted: Path, out: Path) -> Path:
    """Links every file of a pair set under its own name into `out` and returns it; nothing is copied."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in sorted(mounted.iterdir()):
        name = path.with_suffix(".tar").name if path.suffix == PAIRS_SUFFIX else path.name
        (out / name).symlink_to(path.resolve())
    return out
