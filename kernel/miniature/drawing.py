"""Draws a scene: background (movement), setting and subject, then medium, then flavors.

Everything works on one uint8 RGB array of SIZE x SIZE and draws its chances from the scene's generator,
so the same scene and seed give the same pixels.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from kernel.miniature.grammar import Scene
from kernel.miniature.subjects import BODY, DARK, HOLE, LIGHT, OUTLINES

SIZE = 160
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
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


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


# --- the subject and its setting ---


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


# --- movements: the background ---


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


# --- mediums: how the whole picture is made ---


def blend(pixels: np.ndarray, paint: np.ndarray | tuple[int, int, int], amount: np.ndarray | float) -> np.ndarray:
    """Moves pixels toward `paint` by `amount` in 0..1. Shapes (h, w, 3), amount (h, w) or one number."""
    weight = np.asarray(amount, dtype=np.float32)
    if weight.ndim == 2:
        weight = weight[..., None]
    return (pixels + weight * (np.asarray(paint, dtype=np.float32) - pixels)).clip(0, 255).astype(np.uint8)


def smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Soft random blotches in 0..1, about SIZE / cells pixels wide. Shape (SIZE, SIZE)."""
    coarse = Image.fromarray(rng.integers(0, 256, size=(cells, cells), dtype=np.uint8))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32) / 255


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


# --- flavors: laid over the finished picture, in the order of FLAVORS ---


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
