"""Held pictures of the miniature world as arrays, drawn once for training and for evaluation."""

from multiprocessing import get_context

import numpy as np
from PIL import Image

from kernel.miniature.world.drawing import draw
from kernel.miniature.world.grammar import Scene, sample_scene, scene_stream

MODEL_SIZE = 80
# Captioners learn from pictures that CLIP has not seen: what its tower says of those is as unsure as it will be in use.
TRAIN_SEED, HELD_OUT_SEED, CAPTIONER_SEED = 1, 2, 6


def scenes(seed: int, count: int) -> list[Scene]:
    """The first `count` scenes of a seed. Example: scenes(1, 2) == scenes(1, 5)[:2]"""
    return [scene for scene, _ in scene_stream(seed, count)]


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
