"""What is asked of the contenders."""

from dataclasses import dataclass, replace

from kernel.config import RECIPES, Recipe

CLASSIC_WORDS = {"mediums": 1, "artists": 1, "trendings": 1, "movements": 1, "flavors": 3}
MAX_LENGTH = 20
# faster than 4, and unlike 16 it leaves job `classic` more than one batch
BATCH = 8


@dataclass(frozen=True)
class Job:
    """A recipe, and who can do it."""

    name: str
    recipe: Recipe
    contenders: tuple[str, ...]


JOBS = {
    job.name: job
    for job in (
        # clip-interrogator's classic mode: one greedy caption, one term of four lists and three flavors
        Job(
            "classic",
            replace(RECIPES["baseline"], name="classic", separator=", ", modifiers=CLASSIC_WORDS, num_beams=1,
                    captions_per_image=1, max_length=MAX_LENGTH, min_length=0, caption_batch=BATCH),
            ("floor", "ours", "clip_interrogator"),
        ),
        # the seed deck: five captions of five beams
        Job(
            "deck",
            replace(RECIPES["baseline"], max_length=MAX_LENGTH, min_length=5, caption_batch=BATCH),
            ("floor", "ours", "seed"),
        ),
        # the same by the deck's own captioner, whose few layers are its true widths (blip2_material.py)
        Job(
            "blip2",
            replace(RECIPES["baseline"], captioner="blip2", max_length=MAX_LENGTH, min_length=5),
            ("floor", "ours"),
        ),
    )
}  # fmt: skip
