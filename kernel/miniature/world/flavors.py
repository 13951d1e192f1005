"""Flavors: laid over the finished picture in the order of FLAVORS, one function each, (SIZE, SIZE, 3) uint8."""

import math

import numpy as np
from PIL import Image, ImageDraw

from kernel.miniature.world.canvas import COLUMNS, ROWS, SIZE, blend, smooth_noise


def sepia(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    light = pixels.astype(np.float32) @ np.array((0.299, 0.587, 0.114), dtype=np.float32)
    return blend(pixels, light[..., None] * np.array((1.08, 0.85, 0.58)) + np.array((24, 14, 0)), 0.5)


def fog(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    depth = ((ROWS - rng.uniform(70, 84)) / 60).clip(0, 1) * (0.8 + 0.3 * smooth_noise(rng, 5))
    return blend(pixels, (226, 230, 236), (0.95 * depth).clip(0, 0.92))


def god_rays(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    angle = np.arctan2(ROWS + 14, COLUMNS + 14) + rng.uniform(-0.05, 0.05)
    beams = (np.sin(angle * 26) > 0.1) * (1 - np.hypot(ROWS, COLUMNS) / 250)
    return blend(pixels, (255, 250, 196), 0.72 * beams)


def overlay(pixels: np.ndarray, layer: Image.Image) -> np.ndarray:
    """Pixels with an RGBA layer over them."""
    canvas = Image.fromarray(pixels)
    canvas.paste(layer, mask=layer)
    return np.asarray(canvas)


def empty_layer() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    layer = Image.new("RGBA", (SIZE, SIZE), (0, 0, 0, 0))
    return layer, ImageDraw.Draw(layer)


def rainbow(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    layer, pen = empty_layer()
    x, y, radius = 80 + int(rng.integers(-10, 11)), 104, int(rng.integers(78, 86))
    bands = [(230, 30, 30), (250, 140, 20), (250, 230, 40), (50, 180, 60), (40, 90, 220), (140, 50, 190)]
    for i, paint in enumerate(bands):
        r = radius - 5 * i
        pen.arc((x - r, y - r, x + r, y + r), 180, 360, fill=(*paint, 225), width=5)
    return overlay(pixels, layer)


def lightning(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    layer, pen = empty_layer()
    x = int(rng.integers(116, 140))
    bolt = [(x, -4), (x - 22, 44), (x - 4, 42), (x - 30, 100), (x + 14, 32), (x - 4, 34), (x + 18, -4)]
    pen.polygon(bolt, fill=(255, 246, 90, 255))
    pen.line([*bolt, bolt[0]], fill=(60, 30, 120, 255), width=3)
    return overlay(pixels, layer)


def fire(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    layer, pen = empty_layer()
    for height, paint in ((30, (226, 40, 10)), (20, (255, 140, 0)), (11, (255, 232, 80))):
        for x in range(-8, SIZE, 18):
            tip = height * rng.uniform(0.7, 1.1)
            flame = [(x, SIZE), (x + 3, SIZE - tip / 2), (x + 9 + rng.uniform(-5, 5), SIZE - tip)]
            pen.polygon([*flame, (x + 18, SIZE - tip / 3), (x + 22, SIZE)], fill=(*paint, 255))
    return overlay(pixels, layer)


def leaves(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    layer, pen = empty_layer()
    for x, y in rng.uniform(0, SIZE, size=(15, 2)):
        angle, paint = rng.uniform(0, math.pi), ((60, 150, 40), (190, 110, 20))[rng.integers(2)]
        dx, dy = 11 * math.cos(angle), 11 * math.sin(angle)
        leaf = [(x - dx, y - dy), (x + dy * 0.5, y - dx * 0.5), (x + dx, y + dy), (x - dy * 0.5, y + dx * 0.5)]
        pen.polygon(leaf, fill=(*paint, 255), outline=(30, 50, 10, 255))
        pen.line((x - dx, y - dy, x + 1.4 * dx, y + 1.4 * dy), fill=(30, 50, 10, 255), width=1)
    return overlay(pixels, layer)


def bubbles(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    layer, pen = empty_layer()
    for x, y in rng.uniform(8, SIZE - 8, size=(12, 2)):
        r = rng.uniform(7, 12)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(190, 240, 255, 70), outline=(30, 150, 220, 255), width=2)
        pen.ellipse((x - r / 2, y - r / 2, x - r / 8, y - r / 8), fill=(255, 255, 255, 255))
    return overlay(pixels, layer)


def snow(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    layer, pen = empty_layer()
    for x, y in rng.uniform(0, SIZE, size=(75, 2)):
        r = rng.uniform(1.6, 3.6)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 255, 255), outline=(150, 170, 200, 255))
    return overlay(pixels, layer)


def rain(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    layer, pen = empty_layer()
    for x, y in rng.uniform(-10, SIZE, size=(60, 2)):
        pen.line((x + 7, y, x, y + 19), fill=(70, 130, 215, 235), width=2)
        pen.line((x + 8, y, x + 1, y + 19), fill=(225, 240, 255, 235), width=1)
    return overlay(blend(pixels, (90, 110, 140), 0.18), layer)


def vignette(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    far = np.hypot(ROWS - SIZE / 2, COLUMNS - SIZE / 2) / (SIZE / 2)
    return blend(pixels, (0, 0, 0), ((far - 0.66) / 0.42).clip(0, 0.96))


def framed(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    canvas = Image.fromarray(pixels)
    pen = ImageDraw.Draw(canvas)
    width = int(rng.integers(12, 16))
    pen.rectangle((0, 0, SIZE - 1, SIZE - 1), outline=(190, 146, 52), width=width)
    pen.rectangle((4, 4, SIZE - 5, SIZE - 5), outline=(244, 212, 120), width=3)
    pen.rectangle((width, width, SIZE - 1 - width, SIZE - 1 - width), outline=(70, 44, 10), width=2)
    return np.asarray(canvas)


FLAVORS = {
    "sepia": sepia,
    "fog": fog,
    "god rays": god_rays,
    "rainbow": rainbow,
    "lightning": lightning,
    "fire": fire,
    "leaves": leaves,
    "bubbles": bubbles,
    "snow": snow,
    "rain": rain,
    "vignette": vignette,
    "framed": framed,
}
