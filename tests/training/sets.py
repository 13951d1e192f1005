"""Pair sets as others write them: a folder, and tars of the WebDataset format, by Python's own tarfile."""

import csv
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image


def write_folder(folder: Path, pairs: Iterable[tuple[Image.Image, str]]) -> Path:
    (folder / "images").mkdir(parents=True)
    rows = [("imgId", "prompt")]
    for index, (picture, prompt) in enumerate(pairs):
        picture.save(folder / "images" / f"{index:03d}.png")
        rows.append((f"{index:03d}", prompt))
    with (folder / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_tars(folder: Path, pairs: list[tuple[Image.Image, str, int]], a_tar: int = 10) -> Path:
    """Pictures with prompts and clusters, as sd-4.4M's: KEY.png, KEY.txt, KEY.json."""
    for start in range(0, len(pairs), a_tar):
        members = {}
        for index, (picture, prompt, cluster) in enumerate(pairs[start : start + a_tar], start):
            members |= {
                f"{index:06d}.png": png(picture),
                f"{index:06d}.txt": prompt.encode(),
                f"{index:06d}.json": json.dumps({"ntokens": 9, "cluster": cluster}).encode(),
            }
        write_tar(folder / f"set-{start // a_tar:03d}.tar", members)
    return folder
