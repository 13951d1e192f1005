"""Miniature pictures in the competition's shape, for the rehearsal; drawn once and kept."""

import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

BLOCK = 250  # pictures drawn from one seed, so that blocks can be drawn side by side


def draw_images(folder: Path, count: int) -> Path:
    """`folder/images` with `count` pictures, ids as the competition's; prompts beside it, in `folder`.csv."""
    from kernel.miniature.world import folders

    blocks = [(folder / "images", start, min(BLOCK, count - start)) for start in range(0, count, BLOCK)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        drawn = [prompt for prompts in pool.map(draw_block, blocks) for prompt in prompts.items()]
    folders.write_prompts(folder.with_suffix(".csv"), dict(drawn))
    return folder


def draw_block(block: tuple[Path, int, int]) -> dict[str, str]:
    from kernel.miniature.world.folders import REHEARSAL_SEED, draw_folder

    folder, start, count = block
    names = [f"{index * 7919:09x}" for index in range(start, start + count)]
    return draw_folder(folder, REHEARSAL_SEED + start, count, names.__getitem__)


def write_prompts(folder: Path, which: str | None) -> None:
    """prompts.csv: the "true" ones, those of "other" images, or none."""
    from kernel.evaluation.evaluate import read_prompts
    from kernel.miniature.world import folders

    path = folder / "prompts.csv"
    path.unlink(missing_ok=True)
    if which is None:
        return
    prompts = read_prompts(folder.with_suffix(".csv"))
    if which == "other":
        prompts = {f"f{image_id[1:]}": prompt for image_id, prompt in list(prompts.items())[:7]}
    folders.write_prompts(path, prompts)
