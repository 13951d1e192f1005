"""Mediums: how the whole picture is made, one function each. They return (SIZE, SIZE, 3) uint8."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from kernel.miniature.world.canvas import COLUMNS, ROWS, SIZE, blend, smooth_noise


def cell_means(canvas: Image.Image, cells: int) -> np.ndarray:
    """The picture in `cells` x `cells` squares of their mean colour. Shape (SIZE, SIZE, 3)."""
    small = canvas.resize((cells, cells), Image.Resampling.BOX)
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.NEAREST))


def woodcut(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    pixels = np.asarray(canvas)
    light = np.asarray(canvas.convert("L"), dtype=np.float32) / 255
    printed = blend(pixels, (232, 206, 160), 0.3)
    lines = (ROWS + 1.5 * np.sin(COLUMNS / 14 + rng.uniform(0, 6))) % 7 < 1.6 + 2.4 * (1 - light)
    return blend(printed, (34, 20, 10), 0.88 * lines)


def pixel_art(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    blocks = cell_means(canvas, 26).astype(np.int32)
    return ((blocks + 20) // 40 * 40).clip(0, 255).astype(np.uint8)


def watercolor(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    soft = np.asarray(canvas.filter(ImageFilter.GaussianBlur(2.4)))
    wash = blend(soft, (255, 255, 255), 0.22 + 0.38 * smooth_noise(rng, 9))
    edge = np.minimum.reduce([ROWS, COLUMNS, SIZE - 1 - ROWS, SIZE - 1 - COLUMNS])
    ragged = edge < 4 + 14 * smooth_noise(rng, 14)
    return blend(wash, (252, 250, 244), ragged)


def mosaic(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    tiles = blend(np.asarray(canvas), cell_means(canvas, 16), 0.45)
    jitter = rng.uniform(-30, 30, size=(SIZE // 10, SIZE // 10)).repeat(10, 0).repeat(10, 1)
    tiles = (tiles + jitter[..., None]).clip(0, 255)
    grout = (ROWS % 10 < 2) | (COLUMNS % 10 < 2)
    return blend(tiles, (238, 232, 220), grout)


def cross_stitch(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    x, y = COLUMNS % 8, ROWS % 8
    thread = (np.abs(x - y) < 2) | (np.abs(x + y - 7) < 2)
    stitches = cell_means(canvas, 40)
    return blend(np.full_like(stitches, (238, 228, 206)), stitches, 0.16 + 0.84 * thread)


def chalk(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    grain = rng.random((SIZE, SIZE)) + 0.35 * np.sin((ROWS + COLUMNS) * 0.55)
    rubbed = grain > 0.42 + 0.3 * smooth_noise(rng, 8)
    board = np.full((SIZE, SIZE, 3), (26, 44, 38), dtype=np.uint8)
    return blend(board, np.asarray(canvas), np.where(rubbed, 0.9, 0.12))


def jigsaw_puzzle(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    seams = Image.new("L", (SIZE, SIZE), 0)
    pen = ImageDraw.Draw(seams)
    piece = 40
    for i in range(1, SIZE // piece):
        pen.line((i * piece, 0, i * piece, SIZE), fill=255, width=2)
        pen.line((0, i * piece, SIZE, i * piece), fill=255, width=2)
    for i in range(1, SIZE // piece):
        for j in range(SIZE // piece):
            side = 6 if rng.random() < 0.5 else -6
            middle = j * piece + piece // 2
            for x, y in ((i * piece + side, middle), (middle, i * piece + side)):
                pen.ellipse((x - 7, y - 7, x + 7, y + 7), outline=255, width=2)
    shine = np.roll(np.asarray(seams, dtype=np.float32) / 255, (2, 2), axis=(0, 1))
    lit = blend(np.asarray(canvas), (255, 255, 255), 0.55 * shine)
    return blend(lit, (15, 15, 15), np.asarray(seams, dtype=np.float32) / 255)


def comic_book_panel(canvas: Image.Image, rng: np.random.Generator) -> np.ndarray:
    edges = np.asarray(canvas.convert("L").filter(ImageFilter.FIND_EDGES), dtype=np.float32)
    printed = blend(np.asarray(canvas), (0, 0, 0), (edges > 60).astype(np.float32))
    dots = np.hypot((COLUMNS + ROWS) % 8 - 4, (COLUMNS - ROWS) % 8 - 4) < 2.2
    printed = blend(printed, (255, 255, 255), 0.65 * dots)
    panel = Image.fromarray(printed)
    pen = ImageDraw.Draw(panel)
    pen.rectangle((0, 0, SIZE - 1, SIZE - 1), outline=(255, 255, 255), width=7)
    pen.rectangle((7, 7, SIZE - 8, SIZE - 8), outline=(0, 0, 0), width=4)
    right = int(rng.integers(62, 84))
    pen.rectangle((11, 11, right, 32), fill=(255, 236, 110), outline=(0, 0, 0), width=2)
    for y in (17, 24):
        for x in range(16, right - 8, 7):
            pen.line((x, y, x + 4, y), fill=(0, 0, 0), width=2)
    return np.asarray(panel)


MEDIUMS = {
    "a woodcut": woodcut,
    "pixel art": pixel_art,
    "a watercolor painting": watercolor,
    "a mosaic": mosaic,
    "a cross stitch": cross_stitch,
    "chalk art": chalk,
    "a jigsaw puzzle": jigsaw_puzzle,
    "a comic book panel": comic_book_panel,
}
