"""Movements: the background of a picture, one function each. They return (SIZE, SIZE, 3) uint8."""

import math

import numpy as np
from PIL import Image, ImageDraw

from kernel.miniature.world.canvas import COLUMNS, ROWS, SIZE


def paint_of(choice: np.ndarray, *paints: tuple[int, int, int]) -> np.ndarray:
    """Pixels from a map of paint numbers. Shapes (h, w) ints -> (h, w, 3) uint8."""
    return np.array(paints, dtype=np.uint8)[choice.astype(np.intp) % len(paints)]


def op_art(rng: np.random.Generator) -> np.ndarray:
    x, y = rng.uniform(60, 100, size=2)
    distance = np.hypot(COLUMNS - x, ROWS - y) + 6 * np.sin(np.arctan2(ROWS - y, COLUMNS - x) * 6)
    return paint_of(distance // 9, (250, 250, 250), (12, 12, 12))


def art_deco(rng: np.random.Generator) -> np.ndarray:
    x = rng.uniform(60, 100)
    angle = np.arctan2(SIZE + 6 - ROWS, COLUMNS - x)
    ring = np.hypot(COLUMNS - x, SIZE + 6 - ROWS) // 46
    return paint_of(angle * 22 / math.pi + ring, (18, 32, 72), (212, 170, 74))


def de_stijl(rng: np.random.Generator) -> np.ndarray:
    canvas = Image.new("RGB", (SIZE, SIZE), (246, 244, 236))
    pen = ImageDraw.Draw(canvas)
    xs = [-5, *(int(v) for v in np.array((42, 112)) + rng.integers(-12, 13, 2)), SIZE + 5]
    ys = [-5, *(int(v) for v in np.array((38, 84, 126)) + rng.integers(-9, 10, 3)), SIZE + 5]
    cells = [(i, j) for i in range(3) for j in range(4)]
    paints = [(214, 30, 30), (30, 70, 180), (248, 214, 40), (214, 30, 30), (30, 70, 180), (248, 214, 40)]
    for cell, paint in zip(rng.permutation(len(cells)), paints, strict=False):
        i, j = cells[cell]
        pen.rectangle((xs[i], ys[j], xs[i + 1], ys[j + 1]), fill=paint)
    for x in xs:
        pen.rectangle((x - 3, 0, x + 3, SIZE), fill=(10, 10, 10))
    for y in ys:
        pen.rectangle((0, y - 3, SIZE, y + 3), fill=(10, 10, 10))
    return np.asarray(canvas)


def psychedelic_art(rng: np.random.Generator) -> np.ndarray:
    phase, lean = rng.uniform(0, 80), rng.uniform(-0.4, 0.4)
    wave = COLUMNS + lean * ROWS + 13 * np.sin(ROWS / 13 + phase) + phase
    paints = [(255, 40, 130), (255, 150, 0), (250, 240, 30), (40, 210, 70), (0, 190, 230), (130, 40, 230)]
    return paint_of(wave // 13, *paints)


def pop_art(rng: np.random.Generator) -> np.ndarray:
    x, y = rng.uniform(0, 20, size=2)
    row = (ROWS + y) // 20
    dots = np.hypot((COLUMNS + x + 10 * (row % 2)) % 20 - 10, (ROWS + y) % 20 - 10) < 6.5
    pairs = (((255, 232, 60), (240, 40, 130)), ((90, 220, 240), (250, 60, 60)), ((255, 170, 200), (30, 110, 230)))
    return paint_of(dots, *pairs[rng.integers(len(pairs))])


def space_art(rng: np.random.Generator) -> np.ndarray:
    glow = np.exp(-(((COLUMNS - rng.uniform(20, 140)) / 60) ** 2) - ((ROWS - rng.uniform(40, 120)) / 40) ** 2)
    pixels = np.array((8, 8, 28)) + glow[..., None] * np.array((92, 24, 110))
    canvas = Image.fromarray(pixels.astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for x, y in rng.integers(0, SIZE, size=(70, 2)):
        pen.rectangle((x, y, x + 1, y + 1), fill=(255, 255, 255))
    x, y = int(rng.choice((24, SIZE - 24))), int(rng.integers(26, 60))
    pen.ellipse((x - 15, y - 15, x + 15, y + 15), fill=(222, 160, 96))
    pen.arc((x - 26, y - 7, x + 26, y + 9), -20, 200, fill=(240, 226, 190), width=3)
    return np.asarray(canvas)


def ukiyo_e(rng: np.random.Generator) -> np.ndarray:
    canvas = Image.new("RGB", (SIZE, SIZE), (240, 226, 192))
    pen = ImageDraw.Draw(canvas)
    x = int(rng.integers(28, SIZE - 28))
    pen.ellipse((x - 24, 8, x + 24, 56), fill=(206, 66, 48))
    shift = int(rng.integers(0, 28))
    for row, y in enumerate(range(44, SIZE + 28, 10)):
        for x in range(-28 + shift + 14 * (row % 2) - 28, SIZE + 28, 28):
            for radius, paint in (
                (14, (24, 58, 112)),
                (11, (226, 232, 226)),
                (8, (60, 112, 162)),
                (4, (226, 232, 226)),
            ):
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=paint)
    return np.asarray(canvas)


def bauhaus(rng: np.random.Generator) -> np.ndarray:
    canvas = Image.new("RGB", (SIZE, SIZE))
    pen = ImageDraw.Draw(canvas)
    paints = [(232, 220, 192), (28, 92, 98), (204, 84, 44), (38, 38, 44), (226, 174, 70)]
    half = SIZE // 2
    shift = rng.integers(0, len(paints))
    for i, (left, top) in enumerate(((0, 0), (half, 0), (0, half), (half, half))):
        pen.rectangle((left, top, left + half, top + half), fill=paints[(i + shift) % 5])
        corner_x, corner_y = left + half * int(rng.integers(2)), top + half * int(rng.integers(2))
        quarter = Image.new("L", (SIZE, SIZE), 0)
        arc = ImageDraw.Draw(quarter)
        for radius, level in ((74, 255), (46, 0), (28, 255)):
            arc.ellipse((corner_x - radius, corner_y - radius, corner_x + radius, corner_y + radius), fill=level)
        cell = (left, top, left + half, top + half)
        canvas.paste(paints[(i + 2 + shift) % 5], box=cell, mask=quarter.crop(cell))
    return np.asarray(canvas)


MOVEMENTS = {
    "op art": op_art,
    "art deco": art_deco,
    "de stijl": de_stijl,
    "psychedelic art": psychedelic_art,
    "pop art": pop_art,
    "space art": space_art,
    "ukiyo-e": ukiyo_e,
    "bauhaus": bauhaus,
}
