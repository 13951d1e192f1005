"""Pictures of the miniature world in folders and as arrays, and the seed of every one that is ever drawn."""

import csv
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from kernel.miniature.world.drawing import draw
from kernel.miniature.world.grammar import Scene, sample_scene, scene_stream
from kernel.system.files import whole_file

MODEL_SIZE = 80
# Each purpose has seeds of its own, so that nothing is scored that something else was made or trained from.
TRAIN_SEED, HELD_OUT_SEED, PRIOR_SEED, CONSTANT_SEED, TEST_SEED = 1, 2, 3, 4, 5
# Captioners learn from pictures that CLIP has not seen: what its tower says of those is as unsure as it will be in use.
CAPTIONER_SEED = 6
BANK_SEED = 8
DEMO_SEED = 1_000  # plus the demo's own --seed
TRUESIZE_SEED = 2_000
REHEARSAL_SEED = 7_000  # plus the number of a block's first picture
ABLATION_SEED = 30_000  # plus the number of the part
ABLATION_BANK_SEED = 40_000
ENDURANCE_SEED = 50_000
BENCH_SEED = 60_000
TEXT_SIDE_SEED = 70_000
PAIRS_SEED = 80_000  # plus ten a split, and the number of the part


def scenes(seed: int, count: int) -> list[Scene]:
    """The first `count` scenes of a seed. Example: scenes(1, 2) == scenes(1, 5)[:2]"""
    return [scene for scene, _ in scene_stream(seed, count)]


def draw_folder(
    folder: Path, seed: int, count: int, name: Callable[[int], str] = "{:06d}".format, side: int | None = None
) -> dict[str, str]:
    """Makes `folder` hold the first `count` pictures of a seed as PNG files, and returns their prompts by name.

    `name`: of the picture of a number. `side`: pixels to resize each side to. What lies there is not drawn again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prompts = {}
    for index, (scene, rng) in enumerate(scene_stream(seed, count)):
        path = folder / f"{name(index)}.png"
        prompts[path.stem] = scene.prompt
        if not path.is_file():
            picture = draw(scene, rng)
            if side:
                picture = picture.resize((side, side), Image.Resampling.BICUBIC)
            with whole_file(path) as unfinished:
                picture.save(unfinished, "PNG")
    return prompts


def write_prompts(path: Path, prompts: dict[str, str]) -> None:
    """A prompts.csv as the competition's: `imgId,prompt`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("imgId", "prompt"), *prompts.items()])


def model_pixels(seed_and_index: tuple[int, int]) -> np.ndarray:
    """Picture `index` of `seed`, resized as the models' preprocessing does. Shape (80, 80, 3) uint8."""
    rng = np.random.default_rng(seed_and_index)
    picture = draw(sample_scene(rng), rng)
    return np.asarray(picture.resize((MODEL_SIZE, MODEL_SIZE), Image.Resampling.BICUBIC))


def draw_all(seed: int, count: int) -> np.ndarray:
    """The first `count` pictures of a seed on all cores. Shape (count, 80, 80, 3) uint8."""
    result = np.empty((count, MODEL_SIZE, MODEL_SIZE, 3), dtype=np.uint8)
    with get_context("spawn").Pool() as pool:
        jobs = ((seed, index) for index in range(count))
        for index, pixels in enumerate(pool.imap(model_pixels, jobs, chunksize=256)):
            result[index] = pixels
    return result
