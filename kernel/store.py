"""The run folder: shards written whole or not at all, and what they belong to.

A shard is written under a temporary name and renamed, so a killed run leaves only whole shards, and the
next one goes on with what is missing.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kernel.errors import UserError
from kernel.images import ImageFile

STAGES = ("clip", "captions", "estimates")


class RunFolder:
    """One run's outputs. `images` are shared out into shards of `shard_images` consecutive ids."""

    def __init__(self, folder: Path, images: list[ImageFile], shard_images: int) -> None:
        self.folder = folder
        self.images = images
        self.borders = [
            (start, min(start + shard_images, len(images))) for start in range(0, len(images), shard_images)
        ]

    def shard_files(self, shard: int) -> list[ImageFile]:
        start, stop = self.borders[shard]
        return self.images[start:stop]

    def shard_path(self, stage: str, shard: int, suffix: str) -> Path:
        return self.folder / stage / f"{shard:05d}{suffix}"

    def write_clip(self, shard: int, features: np.ndarray, bad: dict[str, str]) -> None:
        """Features (n, d), zero rows for bad images, and the bad images' reasons."""
        from safetensors.numpy import save

        data = save({"image_features": features}, metadata={"bad": json.dumps(bad)})
        write_whole(self.shard_path("clip", shard, ".safetensors"), data)

    def read_clip(self) -> tuple[np.ndarray, dict[str, str]]:
        """All shards: (n, d) float32 features in image order, and {id: reason} of bad images."""
        from safetensors import safe_open

        parts, bad = [], {}
        for shard in range(len(self.borders)):
            with safe_open(self.shard_path("clip", shard, ".safetensors"), framework="np") as file:
                parts.append(file.get_tensor("image_features"))
                bad.update(json.loads(file.metadata()["bad"]))
        return np.concatenate(parts), bad

    def write_captions(
        self, shard: int, captions: list[list[str]], bad: dict[str, str], failed: dict[str, str], reduced: int
    ) -> None:
        """Captions, {id: reason} of bad images and of those that the captioner failed on, and how many images were
        captioned with less effort than the recipe asks."""
        content = {"captions": captions, "bad": bad, "failed": failed, "reduced": reduced}
        self.shard_path("captions", shard, ".cosines.json").unlink(missing_ok=True)  # of other captions
        write_json(self.shard_path("captions", shard, ".json"), content)

    def read_captions(self) -> tuple[list[list[str]], dict[str, str]]:
        """The captions of each image in order, none where its shard was not made, and {id: reason} of bad images."""
        captions: list[list[str]] = []
        bad: dict[str, str] = {}
        for (start, stop), content in zip(self.borders, self.caption_shards(), strict=True):
            captions.extend(content["captions"] if content else [[] for _ in range(start, stop)])
            bad.update(content["bad"] if content else {})
        return captions, bad

    def read_caption_shortfall(self) -> tuple[dict[str, str], int, int]:
        """{id: reason} of images that the captioner failed on, how many got less effort, how many none at all."""
        failed: dict[str, str] = {}
        reduced = missing = 0
        for (start, stop), content in zip(self.borders, self.caption_shards(), strict=True):
            failed.update(content["failed"] if content else {})
            reduced += content["reduced"] if content else 0
            missing += 0 if content else stop - start
        return failed, reduced, missing

    def caption_shards(self) -> Iterator[dict[str, Any] | None]:
        for shard in range(len(self.borders)):
            path = self.shard_path("captions", shard, ".json")
            yield json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write_caption_cosines(self, shard: int, cosines: list[list[float]]) -> None:
        write_json(self.shard_path("captions", shard, ".cosines.json"), cosines)

    def read_caption_cosines(self) -> list[list[float] | None]:
        """Of each image's captions, in their order, the cosines with the image; None where its shard was not made."""
        cosines: list[list[float] | None] = []
        for shard, (start, stop) in enumerate(self.borders):
            path = self.shard_path("captions", shard, ".cosines.json")
            made = path.is_file() and self.shard_path("captions", shard, ".json").is_file()
            cosines.extend(json.loads(path.read_text(encoding="utf-8")) if made else [None] * (stop - start))
        return cosines

    def write_modifiers(self, modifiers: list[list[str]]) -> None:
        write_json(self.folder / "clip" / "modifiers.json", modifiers)

    def read_modifiers(self) -> list[list[str]]:
        return json.loads((self.folder / "clip" / "modifiers.json").read_text(encoding="utf-8"))

    def write_estimate(self, name: str, rows: np.ndarray, usable: np.ndarray) -> None:
        """One estimator's rows, (n, 384) float32, and (n,) bool, False where it says nothing of the image."""
        from safetensors.numpy import save

        write_whole(self.folder / "estimates" / f"{name}.safetensors", save({"rows": rows, "usable": usable}))

    def read_estimate(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """What `write_estimate` wrote."""
        from safetensors.numpy import load_file

        content = load_file(self.folder / "estimates" / f"{name}.safetensors")
        return content["rows"], content["usable"]

    def write_run(self, content: dict[str, Any]) -> None:
        write_json(self.folder / "run.json", content)


def open_run(
    folder: Path, images: list[ImageFile], shard_images: int, identity: dict[str, Any]
) -> tuple[RunFolder, str]:
    """The run folder, ready to go on or to start, and one line about which of the two.

    Raises UserError when the folder cannot be written or holds files that no run wrote.
    """
    run = RunFolder(folder, images, shard_images)
    previous = read_run(folder)
    if previous is None and folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder}: holds files but no run.json, so no run wrote it. Give --out an empty or a new folder"
        )
    changed = [
        key for key, value in identity.items() if previous is not None and previous["identity"].get(key) != value
    ]
    try:
        if changed:
            for stage in STAGES:
                shutil.rmtree(folder / stage, ignore_errors=True)
            (folder / "submission.csv").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        # before the stages' folders: a run that ends between the two must find its own record again
        if previous is None or changed:
            run.write_run({"identity": identity})
        for stage in STAGES:
            (folder / stage).mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    if changed:
        return run, f"{folder}: {', '.join(changed)} changed since the last run: starting over"
    return run, f"{folder}: going on with the last run" if previous else f"{folder}: new run"


def read_run(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder; None when there is none. Raises UserError when it is no run's."""
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["identity"], dict):
            raise ValueError("identity is no object")
        return content
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run's record ({error!r}). Give --out an empty or a new folder") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}). Give --out a folder you may read and write"
        ) from error


def images_sha256(images: list[ImageFile]) -> str:
    """Names the images by id, size and time of change; contents are not read twice."""
    digest = hashlib.sha256()
    for image in images:
        try:
            stat = image.path.stat()
            digest.update(f"{image.path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except OSError as error:
            digest.update(f"{image.path.name}\0{error.errno}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def write_json(path: Path, content: Any) -> None:
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="replace"))


def write_whole(path: Path, data: bytes) -> None:
    """Writes under a temporary name beside `path`, then renames; leaves nothing behind when it fails."""
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def cannot_write(folder: Path, error: OSError) -> UserError:
    free = f"; {shutil.disk_usage(folder).free // 2**20} MiB are free there" if folder.exists() else ""
    return UserError(
        f"{folder}: cannot be written ({error.strerror or error}){free}. No half-written submission was left; "
        "free space or give --out another folder, then run again: finished shards are kept"
    )
