"""Word banks: phrases with their CLIP text features, and which of them fit an image best."""

import hashlib
import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kernel.banks.cleaning import MAX_CHARACTERS
from kernel.banks.nearest import best
from kernel.banks.text_lines import not_text
from kernel.config import Recipe
from kernel.errors import UserError, did_you_mean
from kernel.models.weights_folder import FEATURES_FOLDER, Weights, check_header
from kernel.system.files import write_whole
from kernel.system.opening import read_whole

if TYPE_CHECKING:
    from kernel.models.clip import ClipEncoder

MOST_BYTES = 2**26  # of a list; the longest known, clip-interrogator's flavors, takes 2.5 MB
PART = 1024  # phrases that are encoded together: on a CPU lists take hours, of which a kill takes a part at most


@dataclass(frozen=True)
class Phrases:
    """The usable lines of a word list, in order, and how many were dropped and why."""

    name: str
    phrases: list[str]
    dropped: dict[str, int]


class Part(NamedTuple):
    """Consecutive phrases of one list, and the file that holds their features, unit rows (n, d)."""

    phrases: list[str]
    path: Path


def read_phrases(path: Path, most_bytes: int = MOST_BYTES) -> Phrases:
    """One phrase a line; blank, repeated, undecodable and too long lines are dropped and counted.

    Raises UserError when the file is missing, cannot be read, is no text or larger, or when no phrase is left.
    """
    expected = "expected a text file with one phrase a line"
    try:
        content = read_whole(path, most_bytes)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such word list; {expected}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {expected}. Give another one") from error
    if (what := not_text(content[:1024])) is not None:
        raise UserError(f"{path}: not UTF-8 but {what}")
    phrases: dict[str, None] = {}
    dropped = {"blank": 0, "duplicate": 0, "undecodable": 0, "too long": 0}
    for line in content.splitlines():
        phrase = line.decode("utf-8", errors="replace").lstrip("\ufeff").strip()
        if not phrase:
            dropped["blank"] += 1
        elif "\ufffd" in phrase:
            dropped["undecodable"] += 1
        elif len(phrase) > MAX_CHARACTERS:
            dropped["too long"] += 1
        elif phrase in phrases:
            dropped["duplicate"] += 1
        else:
            phrases[phrase] = None
    if not phrases:
        raise UserError(f"{path}: no phrase left ({dropped}); expected one phrase a line")
    return Phrases(path.stem, list(phrases), dropped)


def features_key(clip_sha256: str, phrases: list[str]) -> str:
    """The name of a features file: a sha256 of the model and the phrases."""
    return hashlib.sha256(json.dumps([clip_sha256, phrases], ensure_ascii=False).encode()).hexdigest()


def shipped_features(weights: Weights) -> Path:
    """Where a weights folder brings the features of its word lists."""
    return weights.folder / FEATURES_FOLDER


def features_path(words: Phrases, clip_sha256: str, folder: Path) -> Path:
    return folder / f"{features_key(clip_sha256, words.phrases)}.safetensors"


def features_file(words: Phrases, clip_sha256: str, folders: Sequence[Path]) -> Path | None:
    """Where in one of the folders the phrases' features lie; None where they are yet to be encoded."""
    return next(filter(Path.is_file, (features_path(words, clip_sha256, folder) for folder in folders)), None)


def read_features(words: Phrases, path: Path) -> np.ndarray:
    """The unit text features of the phrases, (n, d) float32. Raises UserError for another number of rows."""
    from safetensors.numpy import load_file

    found = [(own.name, own.shape) for own in check_header(path) if own.dtype in ("F16", "F32")]
    if [(name, shape[:1], len(shape)) for name, shape in found] != [("features", (len(words.phrases),), 2)]:
        raise UserError(
            f"{path}: holds {reprlib.repr(found)}; expected rows for the {len(words.phrases)} phrases of {words.name}: "
            "the file is damaged. Remove it and run again"
        )
    return load_file(path)["features"].astype(np.float32)


def write_features(path: Path, features: np.ndarray) -> None:
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save({"features": features}))


def encode_missing(words: Phrases, clip: "ClipEncoder", clip_sha256: str, folders: Sequence[Path], batch: int) -> None:
    """Encodes the phrases where none of the folders has their features, and keeps them in the last one."""
    if features_file(words, clip_sha256, folders) is None:
        write_features(features_path(words, clip_sha256, folders[-1]), clip.encode_texts(words.phrases, batch))


def parts_of(lists: Sequence[Phrases], clip_sha256: str, folder: Path) -> list[Part]:
    """Every part of the lists, in their order; files lie in `folder` until `join_parts` makes one of them."""
    return [
        Part(words.phrases[start : start + PART], folder / f"{key}-{start // PART:05d}.safetensors")
        for words, key in ((words, features_key(clip_sha256, words.phrases)) for words in lists)
        for start in range(0, len(words.phrases), PART)
    ]


def join_parts(words: Phrases, clip_sha256: str, folder: Path) -> bool:
    """One features file of a list's parts, which then go; False, and nothing done, while one of them is missing."""
    parts = parts_of([words], clip_sha256, folder)
    if not all(part.path.is_file() for part in parts):
        return False
    rows = [read_features(Phrases(words.name, part.phrases, {}), part.path) for part in parts]
    write_features(features_path(words, clip_sha256, folder), np.concatenate(rows))
    for part in parts:
        part.path.unlink()
    return True


def rank(
    image_features: np.ndarray, bank_features: np.ndarray, top_k: int, chunk: int = 512
) -> tuple[np.ndarray, np.ndarray]:
    """The `top_k` best phrases of every image: indices and cosines, best first, ties by index.

    Unit rows (n, d) and (p, d) -> (n, k) int64 and (n, k) float32 with k = min(top_k, p); exact.
    `chunk` images are compared with the whole bank at a time, so memory is chunk x p floats.
    """
    import torch

    images, bank = torch.from_numpy(image_features), torch.from_numpy(bank_features)
    k = min(top_k, len(bank))
    indices = np.empty((len(images), k), dtype=np.int64)
    cosines = np.empty((len(images), k), dtype=np.float32)
    for start in range(0, len(images), chunk):
        values, order = best(images[start : start + chunk] @ bank.T, top_k)
        indices[start : start + chunk] = order.numpy()
        cosines[start : start + chunk] = values.numpy()
    return indices, cosines


def best_phrases(
    image_features: np.ndarray, lists: Sequence[tuple[Phrases, int]], clip_sha256: str, folders: Sequence[Path]
) -> list[list[str]]:
    """For each image, (n, d), the so many best phrases of every list; none of a list that no folder holds the features
    of, and none for an image whose row is zero."""
    seen = np.flatnonzero(np.abs(image_features).max(axis=1) > 0)
    found: list[list[str]] = [[] for _ in image_features]
    for words, number in lists:
        path = features_file(words, clip_sha256, folders)
        if path is not None:
            indices, _ = rank(image_features[seen], read_features(words, path), number)
            for image, row in zip(seen.tolist(), indices.tolist(), strict=True):
                found[image].extend(words.phrases[index] for index in row)
    return found


def word_lists(recipe: Recipe, weights: Weights) -> list[Phrases]:
    """The recipe's word lists. A name ending in .txt is a user's own file, any other lies in word_banks/."""
    folder = weights.folder / "word_banks"
    lists = []
    for name, count in recipe.modifiers.items():
        own = name.endswith(".txt")
        if count and not own and not (folder / f"{name}.txt").is_file():
            valid = sorted(path.stem for path in folder.glob("*.txt"))
            raise UserError(
                f"unknown word bank {name!r}{did_you_mean(name, valid)}. Valid: {', '.join(valid)}, or a path ending "
                "in .txt to a file of your own"
            )
        if count:
            lists.append(replace(read_phrases(Path(name) if own else folder / f"{name}.txt"), name=name))
    return lists
