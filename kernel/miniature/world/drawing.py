"""Draws a scene: background (movement), setting and subject, then medium, then flavors.

Everything works on one uint8 RGB array of SIZE x SIZE and draws its chances from the scene's generator,
so the same scene and seed give the same pixels.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from kernel.miniature.world.canvas import SIZE
from kernel.miniature.world.flavors import FLAVORS
from kernel.miniature.world.grammar import Scene
from kernel.miniature.world.mediums import MEDIUMS
from kernel.miniature.world.movements import MOVEMENTS
from kernel.miniature.world.subjects import BODY, DARK, HOLE, LIGHT, OUTLINES

RGB = {
    "red": (214, 30, 36),
    "orange": (250, 136, 18),
    "yellow": (250, 224, 40),
    "green": (36, 160, 60),
    "blue": (34, 84, 220),
    "purple": (128, 44, 180),
    "pink": (255, 128, 190),
    "brown": (110, 62, 28),
}


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """The picture of `scene`, RGB, SIZE x SIZE."""
    canvas = Image.fromarray(MOVEMENTS[scene.movement](rng))
    behind_subject(canvas, scene.setting, rng)
    paste_subject(canvas, scene, rng)
    before_subject(canvas, scene.setting, rng)
    pixels = MEDIUMS[scene.medium](canvas, rng)
    for flavor in sorted(scene.flavors, key=list(FLAVORS).index):
        pixels = FLAVORS[flavor](pixels, rng)
    return Image.fromarray(pixels)


def paste_subject(canvas: Image.Image, scene: Scene, rng: np.random.Generator) -> None:
    """Draws the subject large, with a dark outline and a white halo that part it from any background."""
    scale = SIZE * rng.uniform(0.29, 0.33)
    angle = rng.uniform(-0.15, 0.15)
    x, y = SIZE * (0.5 + rng.uniform(-0.05, 0.05, size=2))
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)

    inks = Image.new("L", (SIZE, SIZE), HOLE)
    pen = ImageDraw.Draw(inks)
    for ink, points in OUTLINES[scene.subject]:
        pen.polygon([(x + cos * px - sin * py, y + sin * px + cos * py) for px, py in points], fill=ink)

    body = inks.point(lambda ink: 255 if ink else 0)
    canvas.paste((255, 255, 255), mask=grown(body, 6))
    canvas.paste((20, 20, 20), mask=grown(body, 2))
    shade = rng.uniform(0.92, 1.08)
    color = tuple(min(255, round(channel * shade)) for channel in RGB[scene.color])
    for ink, paint in ((BODY, color), (DARK, (35, 30, 30)), (LIGHT, (250, 250, 240))):
        canvas.paste(paint, mask=inks.point(lambda value, ink=ink: 255 if value == ink else 0))


def grown(mask: Image.Image, margin: int) -> Image.Image:
    """The 0/255 mask grown by `margin` pixels to all sides: a blur that leaves anything above zero."""
    return mask.filter(ImageFilter.BoxBlur(margin)).point(lambda level: 255 if level else 0)


def behind_subject(canvas: Image.Image, setting: str, rng: np.random.Generator) -> None:
    pen = ImageDraw.Draw(canvas)
    if setting == "on a hill":
        top = int(rng.integers(104, 112))
        pen.ellipse((-60, top, SIZE + 60, SIZE + 90), fill=(96, 172, 64), outline=(20, 60, 20), width=3)


def before_subject(canvas: Image.Image, setting: str, rng: np.random.Generator) -> None:
    pen = ImageDraw.Draw(canvas)
    if setting == "under a cloud":
        x = int(rng.integers(50, 110))
        puffs = [(x - 30, 22, 17), (x - 8, 15, 20), (x + 16, 17, 18), (x + 36, 24, 14), (x, 26, 16)]
        for grow, paint in ((3, (40, 50, 70)), (0, (245, 248, 255))):
            for px, py, radius in puffs:
                radius += grow
                pen.ellipse((px - radius, py - radius, px + radius, py + radius), fill=paint)
    if setting == "beside a candle":
        x = int(rng.integers(14, 22) if rng.random() < 0.5 else SIZE - rng.integers(14, 22))
        pen.rectangle((x - 9, 82, x + 9, 150), fill=(250, 244, 220), outline=(60, 40, 20), width=3)
        pen.ellipse((x - 9, 48, x + 9, 80), fill=(255, 120, 0), outline=(90, 30, 0), width=2)
        pen.ellipse((x - 4, 60, x + 4, 78), fill=(255, 240, 120))
    if setting == "behind a fence":
        top = int(rng.integers(106, 112))
        for y in (top + 12, top + 30):
            pen.rectangle((0, y, SIZE, y + 6), fill=(205, 170, 120), outline=(60, 35, 15))
        for x in range(int(rng.integers(-6, 4)), SIZE, 20):
            picket = [(x, SIZE), (x, top + 6), (x + 6, top - 4), (x + 12, top + 6), (x + 12, SIZE)]
            pen.polygon(picket, fill=(226, 196, 150), outline=(60, 35, 15), width=2)
