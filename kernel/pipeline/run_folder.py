"""The run folder: shards written whole or not at all, and what they belong to.

A shard is written under a temporary name and renamed, so a killed run leaves only whole shards, and the
next one goes on with what is missing. Beside each lies its seal, a sha256 over the settings and inputs of its stage,
its name and its contents: a shard that was cut or altered, or comes from elsewhere, is made again.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from kernel.errors import UserError
from kernel.pipeline.caption_shard import CaptionShard
from kernel.pipeline.images import ImageFile
from kernel.system.files import cannot_write, json_bytes, unfinished_path, write_json, write_whole
from kernel.system.records import read_record

FORMAT = 3  # of shards: those of another are made again
STAGES = ("clip", "captions", "cosines", "estimates")
NEAREST = "nearest.safetensors"
SHARDS = {"clip": ".safetensors", "captions": ".json", "cosines": ".json", "descriptions": ".json"}


class Run(TypedDict):
    """What run.json holds from the start, and by what a run goes on; the rest is `record`'s to write."""

    __pydantic_config__ = {"extra": "allow"}  # type: ignore[misc]
    identity: dict[str, dict[str, Any]]


class RunFolder:
    """One run's outputs. `images` are shared out into shards of `shard_images` consecutive ids."""

    def __init__(
        self, folder: Path, images: list[ImageFile], shard_images: int, identity: dict[str, Any] | None = None
    ) -> None:
        self.folder = folder
        self.images = images
        self.identity = identity or {}
        self.borders = [
            (start, min(start + shard_images, len(images))) for start in range(0, len(images), shard_images)
        ]

    def shard_files(self, shard: int) -> list[ImageFile]:
        start, stop = self.borders[shard]
        return self.images[start:stop]

    def shard_path(self, stage: str, shard: int) -> Path:
        return self.folder / stage / f"{shard:05d}{SHARDS[stage]}"

    def made(self, stage: str) -> list[int]:
        """The shards of a stage that are there."""
        return [shard for shard in range(len(self.borders)) if self.shard_path(stage, shard).is_file()]

    def sizes(self, shards: Iterable[int]) -> dict[int, int]:
        """Of each shard how many images it holds."""
        return {shard: self.borders[shard][1] - self.borders[shard][0] for shard in shards}

    def write_shard(self, stage: str, shard: int, data: bytes, whole: bool = True) -> None:
        """The seal first: ended between the two, the shard is missing or does not fit its seal, so it is made again.

        A part of a shard, for which the time did not suffice, gets none: this run answers with it, the next makes it
        again.
        """
        path = self.shard_path(stage, shard)
        seal_path(path).unlink(missing_ok=True)
        if whole:
            write_whole(seal_path(path), self.seal(stage, path.name, data).encode())
        write_whole(path, data)

    def has_shard(self, stage: str, shard: int) -> bool:
        """Whether the shard is there, whole, and of this very stage and run."""
        path = self.shard_path(stage, shard)
        if not (path.is_file() and seal_path(path).is_file()):
            return False
        return seal_path(path).read_bytes() == self.seal(stage, path.name, path.read_bytes()).encode()

    def drop_unsound_shards(self) -> None:
        """Removes what was cut or altered or comes from elsewhere, so that every shard that is there can be read."""
        for stage in SHARDS:
            for shard in self.made(stage):
                if not self.has_shard(stage, shard):
                    self.shard_path(stage, shard).unlink()

    def seal(self, stage: str, name: str, data: bytes) -> str:
        settings = json.dumps(self.identity.get(stage), sort_keys=True)
        return hashlib.sha256(f"{settings}\n{name}\n".encode() + data).hexdigest()

    def write_clip(self, shard: int, features: np.ndarray, bad: dict[str, str], unmade: list[str]) -> None:
        """Features (n, d), zero rows for bad images and those not made; the former's reasons, the latter's ids."""
        from safetensors.numpy import save

        # one entry: safetensors writes several in an order that differs from time to time, and bytes must not
        notes = {"notes": json.dumps({"bad": bad, "unmade": unmade})}
        self.write_shard("clip", shard, save({"image_features": features}, metadata=notes), whole=not unmade)

    def read_clip(self) -> tuple[np.ndarray, dict[str, str]]:
        """All shards: (n, d) float32 features in image order, zero rows where a shard was not made, and {id: reason} of
        bad images. At least one shard must have been made."""
        made = self.made("clip")
        features = np.zeros((len(self.images), 0), dtype=np.float32)
        bad: dict[str, str] = {}
        for shard in made:
            rows, own, _ = self.read_clip_shard(shard)
            if shard == made[0]:
                features = np.zeros((len(self.images), rows.shape[1]), dtype=np.float32)
            start, stop = self.borders[shard]
            features[start:stop] = rows
            bad |= own
        return features, bad

    def read_clip_shard(self, shard: int) -> tuple[np.ndarray, dict[str, str], list[str]]:
        """What `write_clip` wrote."""
        from safetensors import safe_open

        with safe_open(self.shard_path("clip", shard), framework="np") as file:
            notes = json.loads(file.metadata()["notes"])
            return file.get_tensor("image_features"), notes["bad"], notes["unmade"]

    def unmade_images(self, stage: str) -> set[str]:
        """The ids of images that `clip` or `captions` has not come to: of missing shards, and of parts of shards."""
        unmade: set[str] = set()
        made = set(self.made(stage))
        for shard in range(len(self.borders)):
            if shard not in made:
                unmade |= {file.id for file in self.shard_files(shard)}
            elif stage == "clip":
                unmade |= set(self.read_clip_shard(shard)[2])
            else:
                unmade |= set(self.read_caption_shard(shard).unmade)
        return unmade

    def write_captions(self, shard: int, content: CaptionShard) -> None:
        self.shard_path("cosines", shard).unlink(missing_ok=True)  # of other captions
        self.write_shard("captions", shard, json_bytes(content.as_json()), whole=not content.unmade)

    def read_caption_shard(self, shard: int) -> CaptionShard:
        """What `write_captions` wrote."""
        return CaptionShard(**json.loads(self.shard_path("captions", shard).read_text(encoding="utf-8")))

    def caption_shards(self) -> dict[int, CaptionShard]:
        """Those that are there."""
        return {shard: self.read_caption_shard(shard) for shard in self.made("captions")}

    def read_captions(self) -> tuple[list[list[str]], dict[str, str]]:
        """The captions of each image in order, none where its shard was not made, and {id: reason} of bad images."""
        captions: list[list[str]] = [[] for _ in self.images]
        bad: dict[str, str] = {}
        for shard, content in self.caption_shards().items():
            start, stop = self.borders[shard]
            captions[start:stop] = content.captions
            bad |= content.bad
        return captions, bad

    def drop_captions_of_others(self, known: dict[str, str]) -> None:
        """Removes captions of captioners other than these, {name: sha256}, so that they are made again."""
        for shard, content in self.caption_shards().items():
            if not content.is_by(known):
                self.shard_path("captions", shard).unlink()

    def write_descriptions(self, shard: int, content: dict[str, dict[str, Any]]) -> None:
        """By image what `describe` found, or its `error`."""
        self.write_shard("descriptions", shard, json_bytes(content))

    def read_descriptions(self, shard: int) -> dict[str, dict[str, Any]]:
        return json.loads(self.shard_path("descriptions", shard).read_text(encoding="utf-8"))

    def write_caption_cosines(self, shard: int, cosines: list[list[float]]) -> None:
        self.write_shard("cosines", shard, json_bytes(cosines))

    def read_caption_cosines(self) -> list[list[float] | None]:
        """Of each image's captions, in their order, the cosines with the image; None where its shard was not made."""
        cosines: list[list[float] | None] = []
        made = set(self.made("cosines")) & set(self.made("captions"))
        for shard, (start, stop) in enumerate(self.borders):
            path = self.shard_path("cosines", shard)
            cosines.extend(json.loads(path.read_text(encoding="utf-8")) if shard in made else [None] * (stop - start))
        return cosines

    def write_modifiers(self, modifiers: list[list[str]]) -> None:
        write_json(self.folder / "clip" / "modifiers.json", modifiers)

    def read_modifiers(self) -> list[list[str]]:
        return json.loads((self.folder / "clip" / "modifiers.json").read_text(encoding="utf-8"))

    def estimate_path(self, name: str) -> Path:
        return self.folder / "estimates" / f"{name}.safetensors"

    def write_estimate(self, name: str, rows: np.ndarray, usable: np.ndarray) -> None:
        """One estimator's rows, (n, 384) float32, and (n,) bool, False where it says nothing of the image."""
        from safetensors.numpy import save

        write_whole(self.estimate_path(name), save({"rows": rows, "usable": usable}))

    def read_estimate(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """What `write_estimate` wrote."""
        from safetensors.numpy import load_file

        content = load_file(self.estimate_path(name))
        return content["rows"], content["usable"]

    def write_nearest(self, indices: np.ndarray, cosines: np.ndarray, weights: np.ndarray) -> None:
        """Of each image its nearest prompts of the bank, (n, k) int64, their cosines, (n, k) float32, and their weights
        among all that the estimate asked, (n, k) float64."""
        from safetensors.numpy import save

        # slices of wider arrays must lie in one piece
        found = {"indices": indices, "cosines": cosines, "weights": weights}
        found = {name: np.ascontiguousarray(own) for name, own in found.items()}
        write_whole(self.folder / "estimates" / NEAREST, save(found))

    def read_nearest(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """What `write_nearest` wrote; None where no bank was asked."""
        from safetensors.numpy import load_file

        path = self.folder / "estimates" / NEAREST
        if not path.is_file():
            return None
        content = load_file(path)
        return content["indices"], content["cosines"], content["weights"]

    def write_run(self, content: dict[str, Any]) -> None:
        write_json(self.folder / "run.json", content)


def open_run(
    folder: Path, images: list[ImageFile], shard_images: int, identity: dict[str, dict[str, Any]]
) -> tuple[RunFolder, str]:
    """The run folder, ready to go on or to start, and one line about which of the two.

    `identity` holds for each stage what its outputs depend on: a stage of which something changed is made again, the
    others stay. Raises UserError when the folder cannot be written or holds files that no run wrote.
    """
    run = RunFolder(folder, images, shard_images, identity)
    previous = read_run(folder)
    # a run that was killed while it wrote its first record left no more than this
    first = unfinished_path(folder / "run.json")
    if previous is None and folder.is_dir() and any(path != first for path in folder.iterdir()):
        raise UserError(
            f"{folder}: holds files but no run.json, so no run wrote it. Give --out an empty or a new folder"
        )
    changed = {} if previous is None else {stage: changes(previous["identity"], identity, stage) for stage in identity}
    stale = [stage for stage, keys in changed.items() if keys]
    try:
        for stage in stale:
            shutil.rmtree(folder / stage, ignore_errors=True)
        if stale:
            (folder / "submission.csv").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        # before the stages' folders: a run that ends between the two must find its own record again
        if previous is None or stale:
            run.write_run({"identity": identity, "shards": run.borders})
        for stage in STAGES:
            (folder / stage).mkdir(exist_ok=True)
        run.drop_unsound_shards()
    except OSError as error:
        raise cannot_write(folder, error) from error
    if stale:
        what = ", ".join(dict.fromkeys(key for keys in changed.values() for key in keys))
        return run, f"{folder}: {what} changed since the last run: {', '.join(stale)} made again"
    return run, f"{folder}: going on with the last run" if previous else f"{folder}: new run"


def changes(before: dict[str, Any], now: dict[str, dict[str, Any]], stage: str) -> list[str]:
    """The names of what differs in a stage's identity, in its order."""
    known = before.get(stage, {})
    return [key for key, value in now[stage].items() if key not in known or known[key] != value]


def read_run(folder: Path) -> dict[str, Any] | None:
    """run.json of a folder; None when there is none. Raises UserError when it is no run's."""
    path = folder / "run.json"
    if not path.exists():
        return None
    return dict(read_record(path, Run, "a run's record", "Give --out an empty or a new folder"))


def seal_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
