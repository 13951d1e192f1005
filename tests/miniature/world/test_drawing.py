from dataclasses import replace

import numpy as np
import pytest

from kernel.miniature.world import drawing, grammar
from kernel.miniature.world.drawing import SIZE, draw
from kernel.miniature.world.subjects import OUTLINES

SCENE = grammar.Scene("fish", "red", "on a hill", "pixel art", "pop art", ("snow",), grammar.TEMPLATES[0])


def pixels(scene: grammar.Scene, seed: int = 0) -> np.ndarray:
    return np.asarray(draw(scene, np.random.default_rng(seed)), dtype=np.float32)


def test_every_phrase_of_the_grammar_can_be_drawn():
    assert set(OUTLINES) == set(grammar.SUBJECTS) and set(drawing.RGB) == set(grammar.COLORS)
    assert set(drawing.MEDIUMS) == set(grammar.MEDIUMS) and set(drawing.MOVEMENTS) == set(grammar.MOVEMENTS)
    assert set(drawing.FLAVORS) == set(grammar.FLAVORS)


def test_the_same_scene_and_seed_give_the_same_pixels():
    assert np.array_equal(pixels(SCENE, 3), pixels(SCENE, 3))
    assert not np.array_equal(pixels(SCENE, 3), pixels(SCENE, 4))


def test_a_picture_is_rgb_of_the_documented_size():
    picture = draw(SCENE, np.random.default_rng(0))
    assert picture.mode == "RGB" and picture.size == (SIZE, SIZE)


@pytest.mark.parametrize(
    ("part", "phrases"),
    [
        ("subject", grammar.SUBJECTS),
        ("color", grammar.COLORS),
        ("setting", grammar.SETTINGS),
        ("medium", grammar.MEDIUMS),
        ("movement", grammar.MOVEMENTS),
        ("flavors", [(flavor,) for flavor in grammar.FLAVORS]),
    ],
)
def test_each_phrase_changes_the_picture_so_that_it_shows(part, phrases):
    """Every two phrases of a kind differ by at least 2 of 255 levels on average over the picture."""
    drawn = [pixels(replace(SCENE, **{part: phrase})) for phrase in phrases]
    for i, first in enumerate(drawn):
        for j, second in enumerate(drawn[:i]):
            assert np.abs(first - second).mean() > 2, (phrases[i], phrases[j])
