"""The miniature world in words: what can be drawn, and the prompts that ask for it.

Every medium, movement and flavor stands word for word in CLIP-Interrogator's lists, and each of them
changes the picture so that a person sees it (`drawing.py`).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MEDIUMS = (
    "a woodcut",
    "pixel art",
    "a watercolor painting",
    "a mosaic",
    "a cross stitch",
    "chalk art",
    "a jigsaw puzzle",
    "a comic book panel",
)
MOVEMENTS = (
    "op art",
    "art deco",
    "de stijl",
    "psychedelic art",
    "pop art",
    "space art",
    "ukiyo-e",
    "bauhaus",
)
FLAVORS = (
    "snow",
    "rain",
    "vignette",
    "lightning",
    "rainbow",
    "bubbles",
    "leaves",
    "god rays",
    "framed",
    "fog",
    "sepia",
    "fire",
)
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
SUBJECTS = (
    "house",
    "fish",
    "tree",
    "sailboat",
    "moon",
    "heart",
    "mushroom",
    "cat",
    "car",
    "umbrella",
    "teapot",
    "key",
    "flower",
    "butterfly",
    "rocket",
    "castle",
    "crown",
    "cactus",
    "bell",
    "ladder",
)
SETTINGS = ("under a cloud", "beside a candle", "on a hill", "behind a fence")
TEMPLATES = (
    "{caption}, {medium}, {movement}, {flavors}",
    "{medium} of {caption}, {movement}, {flavors}",
    "{caption}, {flavors}, {movement}, {medium}",
    "{caption} with {flavors}, {movement}",
    "{medium} of {caption}",
    "{caption} in {flavors}, {medium}",
)


@dataclass(frozen=True)
class Scene:
    """One picture of the miniature world in words. `flavors` holds one to three distinct phrases."""

    subject: str
    color: str
    setting: str
    medium: str
    movement: str
    flavors: tuple[str, ...]
    template: str

    @property
    def caption(self) -> str:
        """What a captioner should say.

        Example: an orange fish in the setting "on a hill" -> "an orange fish on a hill"
        """
        article = "an" if self.color[0] in "aeiou" else "a"
        return f"{article} {self.color} {self.subject} {self.setting}"

    @property
    def prompt(self) -> str:
        """The prompt that made the picture; some templates leave parts of the picture unsaid."""
        return self.template.format(
            caption=self.caption,
            medium=self.medium,
            movement=self.movement,
            flavors=", ".join(self.flavors),
        )


def other(scene: Scene, part: str, rng: np.random.Generator) -> Scene:
    """The scene with another "color", "subject" or "setting"."""
    phrases = {"color": COLORS, "subject": SUBJECTS, "setting": SETTINGS}[part]
    others = [own for own in phrases if own != getattr(scene, part)]
    changed: dict[str, Any] = {part: others[rng.integers(len(others))]}
    return replace(scene, **changed)


def sample_scene(rng: np.random.Generator) -> Scene:
    """A scene with every part drawn uniformly and independently; one to three flavors."""

    def one(phrases: tuple[str, ...]) -> str:
        return phrases[rng.integers(len(phrases))]

    flavors = rng.choice(len(FLAVORS), size=rng.integers(1, 4), replace=False)
    return Scene(
        subject=one(SUBJECTS),
        color=one(COLORS),
        setting=one(SETTINGS),
        medium=one(MEDIUMS),
        movement=one(MOVEMENTS),
        flavors=tuple(FLAVORS[i] for i in flavors),
        template=one(TEMPLATES),
    )


def scene_stream(seed: int, count: int) -> list[tuple[Scene, np.random.Generator]]:
    """`count` scenes, each with the generator that draws its picture.

    Picture i depends on (seed, i) alone, so a longer stream begins with the shorter one.
    """
    generators = [np.random.default_rng((seed, index)) for index in range(count)]
    return [(sample_scene(rng), rng) for rng in generators]
