"""What the stages of a run leave in its folder: each kind of shard and file, written and read back.

Whatever is said of all images is in their order.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kernel.config import MATCHING_HEADS, captioner_names
from kernel.pipeline.folder.run_folder import MOST_BYTES, RunFolder, Shards
from kernel.system.files import write_json, write_whole
from kernel.system.opening import read_whole


def unmade_in_json(folder: RunFolder, shards: Shards, shard: int) -> list[str]:
    return folder.read_json(shards, shard)["unmade"]


def unmade_of_rows(folder: RunFolder, shards: Shards, shard: int) -> list[str]:
    return read_rows(folder, shards, shard)[2]


CLIP = Shards("clip", ".safetensors", unmade_of_rows)
CAPTIONS = Shards("captions", ".json", unmade_in_json, of_captions=True)
COSINES = Shards("cosines", ".json", of_captions=True)  # of each image's captions
MATCHING = Shards("matching", ".json", unmade_in_json, of_captions=True)
# by the recipe's `caption_weighting` where a stage finds it; the others are found when answers are made
WEIGHED_BY = {"clip": COSINES, **dict.fromkeys(MATCHING_HEADS, MATCHING)}
DESCRIPTIONS = Shards("descriptions", ".json")  # by image what `describe` found, or its `error`


def encoded(sha256: str) -> Shards:
    """The rows of one image encoder: of another one they are other files."""
    return Shards("encoders", f".{sha256[:16]}.safetensors", unmade_of_rows)


def apart(captioner: str) -> list[str]:
    """By whom the captions of a run lie apart, as its recipe names captioners: several by their names, one by none.

    Example: "blip2,coca" -> ["blip2", "coca"], "blip2" -> [""]
    """
    names = captioner_names(captioner)
    return names if len(names) > 1 else [""]


def unmade_images(folder: RunFolder, shards: Shards, captioner: str) -> set[str]:
    """The ids of images that a stage has not come to, of captions those that it came to for no captioner."""
    return set.intersection(*(folder.unmade_images(shards.by(name)) for name in apart(captioner)))


def write_rows(
    folder: RunFolder, shards: Shards, shard: int, rows: np.ndarray, bad: dict[str, str], unmade: list[str]
) -> None:
    """A row an image (n, d), zero rows for bad images and those not made; the former's reasons, the latter's ids."""
    from safetensors.numpy import save

    # one entry: safetensors writes several in an order that differs from time to time, and bytes must not
    notes = {"notes": json.dumps({"bad": bad, "unmade": unmade})}
    folder.write_shard(shards, shard, save({"rows": rows}, metadata=notes), whole=not unmade)


def read_rows(folder: RunFolder, shards: Shards, shard: int) -> tuple[np.ndarray, dict[str, str], list[str]]:
    """What `write_rows` wrote."""
    from safetensors import safe_open

    with safe_open(folder.shard_path(shards, shard), framework="np") as file:
        notes = json.loads(file.metadata()["notes"])
        return file.get_tensor("rows"), notes["bad"], notes["unmade"]


def read_all_rows(folder: RunFolder, shards: Shards) -> tuple[np.ndarray, dict[str, str]]:
    """All shards: (n, d) float32, zero rows where a shard was not made, d 0 where none was; and {id: reason} of bad
    images."""
    whole = np.zeros((len(folder.images), 0), dtype=np.float32)
    bad: dict[str, str] = {}
    for shard in folder.made(shards):
        rows, own, _ = read_rows(folder, shards, shard)
        if not whole.size:
            whole = np.zeros((len(folder.images), rows.shape[1]), dtype=np.float32)
        whole[slice(*folder.borders[shard])] = rows
        bad |= own
    return whole, bad


def read_clip(folder: RunFolder) -> tuple[np.ndarray, dict[str, str]]:
    """CLIP's features; at least one shard must have been made."""
    return read_all_rows(folder, CLIP)


def read_encoded(folder: RunFolder, encoders: dict[str, str]) -> dict[str, np.ndarray]:
    """By name the (n, 384) rows of each of these encoders, {name: sha256}; of those that have made any."""
    found = {name: read_all_rows(folder, encoded(sha256))[0] for name, sha256 in encoders.items()}
    return {name: rows for name, rows in found.items() if rows.size}


def write_modifiers(folder: RunFolder, modifiers: list[list[str]]) -> None:
    write_json(folder.folder / "clip" / "modifiers.json", modifiers)


def read_modifiers(folder: RunFolder) -> list[list[str]]:
    return json.loads(read_whole(folder.folder / "clip" / "modifiers.json", MOST_BYTES))


@dataclass(frozen=True)
class CaptionShard:
    """Captions of a shard's images in their order, and of each who captioned it, None where nobody did.

    `sha256` names the weights of every captioner that took part. By id: `bad` and `failed` hold the reasons of bad
    images and of those that a captioner failed on, `reduced` those captioned with less effort than the recipe asks,
    `unmade` those that were not come to.
    """

    captions: list[list[str]]
    captioners: list[str | None]
    sha256: dict[str, str] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    reduced: list[str] = field(default_factory=list)
    unmade: list[str] = field(default_factory=list)

    def over(self, lesser: "CaptionShard", ids: list[str]) -> "CaptionShard":
        """This one, but where it failed on an image what the lesser captioner said of it stands."""
        captions, captioners, reduced = list(self.captions), list(self.captioners), list(self.reduced)
        for index, image_id in enumerate(ids):
            if image_id in self.failed:
                captions[index], captioners[index] = lesser.captions[index], lesser.captioners[index]
                reduced += [own for own in lesser.reduced if own == image_id]
        known = lesser.sha256 | self.sha256
        sha256 = {name: known[name] for name in known if name in captioners}
        return CaptionShard(captions, captioners, sha256, self.bad, self.failed, reduced, self.unmade)

    def could_be_better(self, ids: list[str], lesser: Collection[str]) -> bool:
        """Whether one of the lesser captioners captioned an image that no better one has failed on since."""
        return any(own in lesser and image not in self.failed for image, own in zip(ids, self.captioners, strict=True))


def write_captions(folder: RunFolder, shard: int, content: CaptionShard, by: str = "") -> None:
    """Of several captioners `by` one of them, as in all that follows."""
    for shards in (COSINES, MATCHING):
        folder.shard_path(shards.by(by), shard).unlink(missing_ok=True)  # of other captions
    folder.write_json(CAPTIONS.by(by), shard, asdict(content), whole=not content.unmade)


def read_caption_shard(folder: RunFolder, shard: int, by: str = "") -> CaptionShard:
    """What `write_captions` wrote."""
    return CaptionShard(**folder.read_json(CAPTIONS.by(by), shard))


def caption_shards(folder: RunFolder, by: str = "") -> dict[int, CaptionShard]:
    """Those that are there."""
    return {shard: read_caption_shard(folder, shard, by) for shard in folder.made(CAPTIONS.by(by))}


def read_captions(folder: RunFolder, by: str = "") -> tuple[list[list[str]], dict[str, str]]:
    """The captions of each image, none where its shard was not made, and {id: reason} of bad images."""
    captions: list[list[str]] = [[] for _ in folder.images]
    bad: dict[str, str] = {}
    for shard, content in caption_shards(folder, by).items():
        captions[slice(*folder.borders[shard])] = content.captions
        bad |= content.bad
    return captions, bad


def told_captions(folder: RunFolder, captioner: str) -> list[list[str]]:
    """The captions of each image for people to read; of several captioners' each follows its captioner's name.

    Example: captioner "blip2,coca" -> [["blip2: a fox", "coca: a red fox"]]
    """
    found: list[list[str]] = [[] for _ in folder.images]
    for name in apart(captioner):
        for told, own in zip(found, read_captions(folder, name)[0], strict=True):
            told += [f"{name}: {caption}" if name else caption for caption in own]
    return found


def unscored(folder: RunFolder, scores: Shards, shard: int, captioner: str) -> Iterator[str]:
    """By whom there are captions of a shard, but none of these scores of them."""
    for name in apart(captioner):
        if folder.shard_path(CAPTIONS.by(name), shard).is_file():
            if not folder.shard_path(scores.by(name), shard).is_file():
                yield name


def drop_captions_of_others(folder: RunFolder, known: dict[str, str], by: str = "") -> None:
    """Removes captions of captioners other than these, {name: sha256}, so that they are made again."""
    for shard, content in caption_shards(folder, by).items():
        if not content.sha256.items() <= known.items():
            folder.shard_path(CAPTIONS.by(by), shard).unlink()


def drop_described_of_others(folder: RunFolder, known: dict[str, str], by: str = "") -> None:
    """Removes captions of captioners other than these, and of shards where one failed, with what was described by
    them: they may be made better now."""
    for shard, content in caption_shards(folder, by).items():
        if content.failed or not content.sha256.items() <= known.items():
            for shards in (DESCRIPTIONS, CAPTIONS):
                folder.shard_path(shards.by(by), shard).unlink(missing_ok=True)


def drop_matching_of_failed(folder: RunFolder, by: str = "") -> None:
    """Removes scores of shards with images on which the model failed: it may not fail on them now."""
    for shard in folder.made(MATCHING.by(by)):
        if folder.read_json(MATCHING.by(by), shard)["failed"]:
            folder.shard_path(MATCHING.by(by), shard).unlink()


@dataclass(frozen=True)
class MatchingShard:
    """Of a shard's images in their order a score of each caption, None where there is none though there are captions;
    by id: `failed` holds the reasons of images that the model failed on, `unmade` those not come to."""

    scores: list[list[float] | None]
    failed: dict[str, str] = field(default_factory=dict)
    unmade: list[str] = field(default_factory=list)


def write_matching(folder: RunFolder, shard: int, content: MatchingShard, by: str = "") -> None:
    folder.write_json(MATCHING.by(by), shard, asdict(content), whole=not content.unmade)


def read_caption_scores(folder: RunFolder, weighting: str, by: str = "") -> list[list[float] | None] | None:
    """Of each image's captions, in their order, what the stage of this weighting found: cosines with the image, or log
    odds of `itm`; None of an image for which it found none, and of all where no stage is asked."""
    if weighting not in WEIGHED_BY:
        return None
    kind = WEIGHED_BY[weighting]
    shards = kind.by(by)
    scores: list[list[float] | None] = [None for _ in folder.images]
    for shard in set(folder.made(shards)) & set(folder.made(CAPTIONS.by(by))):
        content = folder.read_json(shards, shard)
        scores[slice(*folder.borders[shard])] = content if kind is COSINES else content["scores"]
    return scores


def estimate_path(folder: RunFolder, name: str) -> Path:
    return folder.folder / "estimates" / f"{name}.safetensors"


def write_estimate(folder: RunFolder, name: str, rows: np.ndarray, usable: np.ndarray) -> None:
    """One estimator's rows, (n, 384) float32, and (n,) bool, False where it says nothing of the image."""
    from safetensors.numpy import save

    write_whole(estimate_path(folder, name), save({"rows": rows, "usable": usable}))


def read_estimate(folder: RunFolder, name: str) -> tuple[np.ndarray, np.ndarray]:
    """What `write_estimate` wrote."""
    from safetensors.numpy import load_file

    content = load_file(estimate_path(folder, name))
    return content["rows"], content["usable"]


class Nearest(NamedTuple):
    """Of each image its nearest prompts of the bank, best first: their rows in the bank, (n, k) int64, their cosines,
    (n, k) float32, and their weights among all neighbours that were asked for, (n, k) float64."""

    indices: np.ndarray
    cosines: np.ndarray
    weights: np.ndarray


def write_nearest(folder: RunFolder, nearest: Nearest) -> None:
    from safetensors.numpy import save

    # slices of wider arrays must lie in one piece
    found = {name: np.ascontiguousarray(own) for name, own in nearest._asdict().items()}
    write_whole(estimate_path(folder, "nearest"), save(found))


def read_nearest(folder: RunFolder) -> Nearest | None:
    """What `write_nearest` wrote; None where no bank was asked."""
    from safetensors.numpy import load_file

    path = estimate_path(folder, "nearest")
    return Nearest(**load_file(path)) if path.is_file() else None
