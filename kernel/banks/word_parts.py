"""Features of word lists part by part: hours on a CPU, of which a kill or a deadline takes a part at most."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kernel.banks.word_banks import Phrases, features_key
from kernel.system.files import write_whole

PHRASES = 1024  # of a part


class Part(NamedTuple):
    """Consecutive phrases of one list, and the file that holds their features, unit rows (n, d)."""

    phrases: list[str]
    path: Path


def parts_of(lists: Sequence[Phrases], clip_sha256: str, folder: Path) -> list[Part]:
    """Every part of the lists, in their order; files lie in `folder` until `join_parts` makes one of them."""
    return [
        Part(words.phrases[start : start + PHRASES], folder / f"{key}-{start // PHRASES:05d}.safetensors")
        for words, key in ((words, features_key(clip_sha256, words.phrases)) for words in lists)
        for start in range(0, len(words.phrases), PHRASES)
    ]


def write_part(part: Part, features: np.ndarray) -> None:
    from safetensors.numpy import save

    part.path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(part.path, save({"features": features}))


def join_parts(words: Phrases, clip_sha256: str, folder: Path) -> bool:
    """One features file of a list's parts, which then go; False, and nothing done, while one of them is missing."""
    from safetensors.numpy import load_file, save

    parts = parts_of([words], clip_sha256, folder)
    if not all(part.path.is_file() for part in parts):
        return False
    features = np.concatenate([load_file(part.path)["features"] for part in parts])
    write_whole(folder / f"{features_key(clip_sha256, words.phrases)}.safetensors", save({"features": features}))
    for part in parts:
        part.path.unlink()
    return True
