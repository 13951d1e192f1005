"""Compares a run on the competition's 7 visible images with what the seed deck printed of the real weights.

That is the only known output of the real weights. The deck prints it without image ids, in the order of a
folder listing: the ids below are inferred from the words. No run with the real weights has been compared yet.
"""

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from kernel.config import Recipe, captioner_names
from kernel.errors import UserError
from kernel.evaluation.finished import GO_ON, Finished, finished_run

# medium, movement and three flavors, best first
DECK_MODIFIERS = {
    "20057f34d": ["a digital painting", "context art", "planet arrakis", "crater", "looking down at a massive crater"],
    "227ef0887": ["a woodcut", "art nouveau", "whorl", "carved wood", "swirl"],
    "92e911621": ["a storybook illustration", "digital art", "nachosaurus", '"a dinosaur market', "pastry lizard"],
    "a4e1c55a9": ["a screenprint", "lowbrow", "robot!", "rabbit robot", "robot"],
    "c98f79f71": [
        "a detailed painting",
        "magic realism",
        "oil canvas of lucifer",
        "epic surrealism 8k oil painting",
        "thomas blackshear and moebius",
    ],
    "d8edf2e40": [
        "digital art",
        "conceptual art",
        "american astronaut in the forest",
        "astronaut walking",
        "lonely astronaut",
    ],
    "f27825b2c": ["digital art", "digital art", "the mighty donut", "at the counter", "donut"],
}
# in beam order; the deck prints captions of this image only
CAPTIONED = "227ef0887"
DECK_CAPTIONS = [
    "A circular piece of wood with a spiral design on it",
    "A circular piece of wood with a spiral design",
    "A circular piece of wood with a spiral pattern on it",
    "A circular piece of wood with a spiral on it",
    "A circular piece of wood with a spiral pattern",
]
REAL_CLIP = "laion/CLIP-ViT-g-14-laion2B-s34B-b88K"
REAL_CAPTIONER = "Salesforce/blip2-flan-t5-xl"
# the settings that decide which words come out, and in which order
DECK_SETTINGS = ("modifiers", "num_beams", "captions_per_image", "max_length", "min_length")
ENOUGH_MEDIUMS = 5
# the deck's slides and the word lists write the same phrase with different quotes
STRAIGHT_QUOTES = str.maketrans("“”„‘’", '"""\'\'')


@dataclass(frozen=True)
class Verdict:
    """How many of the 7 images got the deck's medium, and a line for whatever differs from the deck."""

    same_mediums: int
    differences: list[str]

    @property
    def plausible(self) -> bool:
        return self.same_mediums >= ENOUGH_MEDIUMS

    @property
    def text(self) -> str:
        """What to print: a line for each difference, then what they amount to."""
        count = f"{self.same_mediums} of {len(DECK_MODIFIERS)} images have the seed deck's medium"
        result = f"{count}; {len(self.differences)} lines differ"
        if not self.plausible:
            result = (
                f"{count}, expected {ENOUGH_MEDIUMS} or more: something is wrong. Check CLIP's weights (source, "
                "revision, conversion to fp16), its preprocessing (bicubic, shortest side 224, centre crop, OpenAI's "
                "mean and deviation) and its tokenizer; where captions differ too, the captioner's weights, its "
                "tokenizer and its output scaling (text_config.scale_decoder_outputs must be false)"
            )
        return "\n".join([*self.differences, result])


def verify(run: Path) -> Verdict:
    """Compares the finished run in folder `run` with the deck; the images themselves are not needed.

    Raises UserError when the run is no such run, see `reason_against`, or its files are damaged.
    """
    finished = finished_run(run)
    reason = reason_against(finished)
    if reason:
        raise UserError(f"{run}: cannot be compared with the seed deck: {reason}")
    modifiers = dict(zip(finished.ids, finished.modifiers, strict=True))
    captions = dict(zip(finished.ids, finished.captions, strict=True))
    differences = []
    for name, expected in DECK_MODIFIERS.items():
        if phrases(modifiers[name]) != phrases(expected):
            differences.append(difference(f"{name} modifiers", ", ".join(expected), ", ".join(modifiers[name])))
    for beam, (said, found) in enumerate(zip_longest(DECK_CAPTIONS, captions[CAPTIONED], fillvalue=""), 1):
        if sentence(said) != sentence(found):
            differences.append(difference(f"{CAPTIONED} caption {beam}", said, found))
    same = sum(phrases(modifiers[name])[:1] == expected[:1] for name, expected in DECK_MODIFIERS.items())
    return Verdict(same, differences)


def reason_against(run: Finished) -> str | None:
    """None when the run can be compared with the deck, else the reason why it cannot."""
    content = run.record
    for name, real in (("clip", REAL_CLIP), *((captioner, REAL_CAPTIONER) for captioner in run.captioners)):
        source = content["models"][name]
        if source != real:
            return f"its {name} is {source}, the deck's was {real}. Make the real weights with 'publish weights'"
    deck = Recipe()
    if len(captioner_names(named := content["recipe"]["captioner"])) > 1:
        return f"its recipe has captioner={named}, the deck had one alone. Run with --recipe {deck.name}"
    for setting in DECK_SETTINGS:
        found, expected = content["recipe"][setting], getattr(deck, setting)
        # the banks' order is the order of the words, and dictionaries compare equal in any order
        if found != expected or (setting == "modifiers" and list(found) != list(expected)):
            return f"its recipe has {setting}={found}, the deck's was {expected}. Run with --recipe {deck.name}"
    reason = f"expected exactly the competition's {len(DECK_MODIFIERS)} visible images. Run on their folder"
    if content["counts"]["images"] != len(DECK_MODIFIERS):
        return f"it is on {content['counts']['images']} images, {reason}"
    missing = sorted(set(DECK_MODIFIERS) - set(run.ids))
    if missing:
        return f"it has no image {missing[0]!r}, {reason}"
    for name, why in content["bad_images"].items():
        return f"its image {name} is bad ({why}). Get the images anew"
    for name, modifiers, captions in zip(run.ids, run.modifiers, run.captions, strict=True):
        if not (modifiers and captions):
            return f"its image {name} has no {'captions' if modifiers else 'modifiers'}. {GO_ON}: it goes on there"
    return None


def phrases(line: list[str]) -> list[str]:
    return [phrase.translate(STRAIGHT_QUOTES) for phrase in line]


def sentence(caption: str) -> str:
    """Example: "A spiral on it." and "a spiral on it" are the same"""
    return caption.translate(STRAIGHT_QUOTES).casefold().strip().rstrip(".")


def difference(what: str, expected: str, found: str) -> str:
    return f"{what}: the deck has {expected!r}, this run {found!r}"
