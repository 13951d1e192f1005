"""Two drawn pictures that any captioner at work tells apart: one that does not sees nothing of what it is shown.

Damaged weights, or half precision that overflowed, still make fluent words: the same for every picture. Two captions of
one beam say so before 16,000 images are captioned in vain.
"""

from functools import cache

from PIL import Image, ImageDraw

from kernel.config import Recipe
from kernel.errors import UserError
from kernel.models.captioners.captioner import Captioner
from kernel.models.weights_folder import ADVICE

SIDE = 256


@cache
def drawn() -> tuple[Image.Image, Image.Image]:
    """A red disc on white, and blue and black stripes."""
    disc, stripes = Image.new("RGB", (SIDE, SIDE), "white"), Image.new("RGB", (SIDE, SIDE), "black")
    ImageDraw.Draw(disc).ellipse((SIDE // 4, SIDE // 4, 3 * SIDE // 4, 3 * SIDE // 4), "red")
    for left in range(0, SIDE, 32):
        ImageDraw.Draw(stripes).rectangle((left, 0, left + 15, SIDE), "blue")
    return disc, stripes


def check_sight(captioner: Captioner, recipe: Recipe) -> None:
    """Raises UserError where both pictures get the same words, or the scores of words are no numbers."""
    one_beam = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
    try:
        said = [captioner.said([picture], recipe, one_beam)[0] for picture in drawn()]
    except ValueError as error:
        raise UserError(f"{error}. {ADVICE}") from error
    if said[0] == said[1]:
        raise UserError(
            f"it says {said[0]!r} of a red disc and of blue stripes alike, so it sees nothing of what it is shown: its "
            f"weights are damaged, or half precision overflowed. {ADVICE}"
        )
