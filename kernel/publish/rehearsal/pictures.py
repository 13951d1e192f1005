"""Miniature pictures in the competition's shape, for the rehearsal; drawn once and kept."""

import csv
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

BLOCK = 250  # pictures drawn from one seed, so that blocks can be drawn side by side


def draw_images(folder: Path, count: int) -> Path:
    """`folder/images` with `count` pictures, ids as the competition's; prompts beside it, in `folder`.csv."""
    listing = folder.with_suffix(".csv")
    if (folder / "images").is_dir() and listing.is_file() and len(read_listing(folder)) == count:
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    blocks = [(folder, start, min(BLOCK, count - start)) for start in range(0, count, BLOCK)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = [row for rows in pool.map(draw_block, blocks) for row in rows]
    with listing.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(drawn)
    return folder


def draw_block(block: tuple[Path, int, int]) -> list[tuple[str, str]]:
    from kernel.miniature.world.folders import REHEARSAL_SEED, draw_folder

    folder, start, count = block
    names = [f"{index * 7919:09x}" for index in range(start, start + count)]
    return list(draw_folder(folder / "images", REHEARSAL_SEED + start, count, names.__getitem__).items())


def read_listing(folder: Path) -> list[list[str]]:
    with folder.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write_prompts(folder: Path, which: str | None) -> None:
    """prompts.csv: the "true" ones, those of "other" images, or none."""
    from kernel.miniature.world import folders

    path = folder / "prompts.csv"
    path.unlink(missing_ok=True)
    if which is None:
        return
    rows = read_listing(folder)
    if which == "other":
        rows = [[f"f{image_id[1:]}", prompt] for image_id, prompt in rows[:7]]
    folders.write_prompts(path, dict(rows))
