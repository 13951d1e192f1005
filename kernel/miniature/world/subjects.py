"""Outlines of the miniature world's subjects, as primitives in a square from -1 to 1 (y points down).

Each primitive is a filled polygon and its ink. Inks: BODY is the subject's own colour, DARK and LIGHT
are details that make the outline readable, HOLE shows what lies behind.
"""

import math
from typing import NamedTuple

HOLE, BODY, DARK, LIGHT = 0, 1, 2, 3


class Primitive(NamedTuple):
    ink: int
    points: tuple[tuple[float, float], ...]


def polygon(*points: tuple[float, float], ink: int = BODY) -> Primitive:
    return Primitive(ink, points)


def box(left: float, top: float, right: float, bottom: float, ink: int = BODY) -> Primitive:
    return polygon((left, top), (right, top), (right, bottom), (left, bottom), ink=ink)


def ellipse(x: float, y: float, rx: float, ry: float, ink: int = BODY) -> Primitive:
    points = tuple(
        (x + rx * math.cos(2 * math.pi * i / 28), y + ry * math.sin(2 * math.pi * i / 28)) for i in range(28)
    )
    return Primitive(ink, points)


OUTLINES: dict[str, tuple[Primitive, ...]] = {
    "house": (
        box(-0.7, -0.15, 0.7, 0.9),
        polygon((-0.95, -0.1), (0, -0.95), (0.95, -0.1)),
        box(-0.2, 0.3, 0.2, 0.9, ink=DARK),
        box(-0.55, 0.1, -0.3, 0.35, ink=LIGHT),
        box(0.3, 0.1, 0.55, 0.35, ink=LIGHT),
    ),
    "fish": (
        ellipse(-0.15, 0, 0.75, 0.48),
        polygon((0.4, 0), (0.98, -0.5), (0.98, 0.5)),
        polygon((-0.3, -0.4), (0.2, -0.75), (0.2, -0.3)),
        ellipse(-0.55, -0.12, 0.12, 0.12, ink=LIGHT),
        ellipse(-0.55, -0.12, 0.06, 0.06, ink=DARK),
    ),
    "tree": (
        box(-0.13, 0.1, 0.13, 0.95, ink=DARK),
        ellipse(0, -0.55, 0.45, 0.42),
        ellipse(-0.42, -0.1, 0.42, 0.38),
        ellipse(0.42, -0.1, 0.42, 0.38),
        ellipse(0, 0, 0.45, 0.35),
    ),
    "sailboat": (
        polygon((-0.95, 0.45), (0.95, 0.45), (0.6, 0.9), (-0.6, 0.9)),
        box(-0.06, -0.95, 0.06, 0.45, ink=DARK),
        polygon((0.14, -0.9), (0.14, 0.3), (0.85, 0.3)),
        polygon((-0.14, -0.6), (-0.14, 0.3), (-0.7, 0.3)),
    ),
    "moon": (
        ellipse(-0.05, 0, 0.9, 0.9),
        ellipse(0.42, -0.12, 0.72, 0.74, ink=HOLE),
    ),
    "heart": (
        ellipse(-0.42, -0.35, 0.48, 0.48),
        ellipse(0.42, -0.35, 0.48, 0.48),
        polygon((-0.86, -0.18), (0.86, -0.18), (0, 0.95)),
    ),
    "mushroom": (
        polygon((-0.22, 0), (0.22, 0), (0.32, 0.92), (-0.32, 0.92), ink=LIGHT),
        polygon(*((0.95 * math.cos(math.pi * i / 16), 0.1 - 0.95 * math.sin(math.pi * i / 16)) for i in range(17))),
        ellipse(-0.4, -0.25, 0.14, 0.14, ink=LIGHT),
        ellipse(0.1, -0.55, 0.15, 0.15, ink=LIGHT),
        ellipse(0.5, -0.2, 0.13, 0.13, ink=LIGHT),
    ),
    "cat": (
        ellipse(0, 0.15, 0.78, 0.7),
        polygon((-0.76, 0.1), (-0.8, -0.95), (-0.15, -0.45)),
        polygon((0.76, 0.1), (0.8, -0.95), (0.15, -0.45)),
        ellipse(-0.3, 0, 0.14, 0.16, ink=LIGHT),
        ellipse(0.3, 0, 0.14, 0.16, ink=LIGHT),
        ellipse(-0.3, 0, 0.06, 0.13, ink=DARK),
        ellipse(0.3, 0, 0.06, 0.13, ink=DARK),
        polygon((-0.12, 0.3), (0.12, 0.3), (0, 0.45), ink=DARK),
    ),
    "car": (
        box(-0.97, 0, 0.97, 0.5),
        polygon((-0.6, 0.02), (-0.38, -0.5), (0.38, -0.5), (0.65, 0.02)),
        polygon((-0.42, -0.02), (-0.28, -0.38), (-0.04, -0.38), (-0.04, -0.02), ink=LIGHT),
        polygon((0.06, -0.02), (0.06, -0.38), (0.3, -0.38), (0.45, -0.02), ink=LIGHT),
        ellipse(-0.52, 0.52, 0.25, 0.25, ink=DARK),
        ellipse(0.52, 0.52, 0.25, 0.25, ink=DARK),
    ),
    "umbrella": (
        polygon(*((0.98 * math.cos(math.pi * i / 16), 0.05 - 0.9 * math.sin(math.pi * i / 16)) for i in range(17))),
        ellipse(-0.65, 0.06, 0.31, 0.16, ink=HOLE),
        ellipse(0, 0.06, 0.31, 0.16, ink=HOLE),
        ellipse(0.65, 0.06, 0.31, 0.16, ink=HOLE),
        box(-0.06, -0.1, 0.06, 0.8, ink=DARK),
        polygon((0.06, 0.65), (0.06, 0.95), (0.4, 0.95), (0.4, 0.65), (0.28, 0.65), (0.28, 0.82), ink=DARK),
    ),
    "teapot": (
        ellipse(0, 0.25, 0.6, 0.52),
        polygon((-0.5, 0.1), (-0.98, -0.4), (-0.8, -0.45), (-0.4, 0.35), (-0.45, 0.5)),
        ellipse(0.68, 0.2, 0.3, 0.34),
        ellipse(0.68, 0.2, 0.15, 0.19, ink=HOLE),
        ellipse(0, 0.25, 0.58, 0.5),
        polygon((-0.35, -0.25), (0, -0.5), (0.35, -0.25), ink=DARK),
        ellipse(0, -0.55, 0.11, 0.11, ink=DARK),
    ),
    "key": (
        ellipse(-0.58, 0, 0.4, 0.46),
        ellipse(-0.58, 0, 0.19, 0.23, ink=HOLE),
        box(-0.25, -0.13, 0.97, 0.13),
        box(0.4, 0.1, 0.57, 0.48),
        box(0.78, 0.1, 0.97, 0.55),
    ),
    "flower": (
        box(-0.07, 0.2, 0.07, 0.98, ink=DARK),
        *(
            ellipse(0.4 * math.sin(2 * math.pi * i / 6), -0.3 - 0.4 * math.cos(2 * math.pi * i / 6), 0.26, 0.26)
            for i in range(6)
        ),
        ellipse(0, -0.3, 0.22, 0.22, ink=LIGHT),
    ),
    "butterfly": (
        ellipse(-0.5, -0.38, 0.45, 0.48),
        ellipse(0.5, -0.38, 0.45, 0.48),
        ellipse(-0.38, 0.42, 0.34, 0.4),
        ellipse(0.38, 0.42, 0.34, 0.4),
        ellipse(-0.52, -0.4, 0.16, 0.18, ink=LIGHT),
        ellipse(0.52, -0.4, 0.16, 0.18, ink=LIGHT),
        ellipse(0, 0, 0.1, 0.75, ink=DARK),
    ),
    "rocket": (
        polygon((0, -0.98), (0.34, -0.45), (0.34, 0.55), (-0.34, 0.55), (-0.34, -0.45)),
        polygon((-0.34, 0.05), (-0.75, 0.75), (-0.34, 0.55)),
        polygon((0.34, 0.05), (0.75, 0.75), (0.34, 0.55)),
        ellipse(0, -0.25, 0.19, 0.19, ink=LIGHT),
        polygon((-0.22, 0.58), (0.22, 0.58), (0, 0.98), ink=DARK),
    ),
    "castle": (
        box(-0.9, -0.5, -0.45, 0.9),
        box(0.45, -0.5, 0.9, 0.9),
        box(-0.5, -0.05, 0.5, 0.9),
        *(box(x, -0.75, x + 0.13, -0.45) for x in (-0.9, -0.74, -0.58, 0.45, 0.61, 0.77)),
        *(box(x, -0.25, x + 0.18, 0) for x in (-0.4, -0.09, 0.22)),
        polygon((-0.2, 0.9), (-0.2, 0.45), (0, 0.28), (0.2, 0.45), (0.2, 0.9), ink=DARK),
    ),
    "crown": (
        polygon((-0.9, 0.6), (-0.95, -0.5), (-0.45, 0.05), (0, -0.75), (0.45, 0.05), (0.95, -0.5), (0.9, 0.6)),
        box(-0.9, 0.42, 0.9, 0.68, ink=DARK),
        ellipse(0, -0.75, 0.13, 0.13, ink=LIGHT),
        ellipse(-0.93, -0.5, 0.12, 0.12, ink=LIGHT),
        ellipse(0.93, -0.5, 0.12, 0.12, ink=LIGHT),
    ),
    "cactus": (
        ellipse(0, -0.6, 0.25, 0.35),
        box(-0.25, -0.6, 0.25, 0.75),
        box(-0.75, 0.05, 0, 0.3),
        box(-0.75, -0.4, -0.5, 0.3),
        box(0, -0.15, 0.75, 0.1),
        box(0.5, -0.65, 0.75, 0.1),
        polygon((-0.45, 0.62), (0.45, 0.62), (0.35, 0.98), (-0.35, 0.98), ink=DARK),
    ),
    "bell": (
        ellipse(0, -0.35, 0.45, 0.5),
        polygon((-0.45, -0.35), (0.45, -0.35), (0.85, 0.6), (-0.85, 0.6)),
        ellipse(0, -0.86, 0.13, 0.13, ink=DARK),
        ellipse(0, 0.72, 0.2, 0.2, ink=DARK),
        box(-0.85, 0.5, 0.85, 0.64),
    ),
    "ladder": (
        box(-0.5, -0.98, -0.28, 0.98),
        box(0.28, -0.98, 0.5, 0.98),
        *(box(-0.35, y - 0.09, 0.35, y + 0.09) for y in (-0.68, -0.23, 0.22, 0.67)),
    ),
}
