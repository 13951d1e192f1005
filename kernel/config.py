"""What to run (`Recipe`) and where things are (`Paths`). Every default of a run or a bank lives here."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from kernel.errors import UserError, did_you_mean

EMBEDDING_DIMENSIONS = 384
DEFAULT_WEIGHTS = Path("build/weights")
DEFAULT_DEMO = Path("build/demo")
NEAR_PROMPTS = 0.7  # the cosine from which prompts of pairs are held out of training together
DEFAULT_MIRROR = Path("build/stores")  # of what URLs name
DEFAULT_FEATURES = Path("build/features")  # of phrases that `describe` encoded, for the next time
DEFAULT_PORT = 8765  # of `serve`


# what a run must have for an estimate
CAPTIONS, MODIFIERS = "captions", "modifiers"
BANK, NEAREST = "bank", "nearest prompts of the bank"
ENCODERS = "image encoders trained on pairs"


@dataclass(frozen=True)
class Estimate:
    """One way to answer: the function of its name in kernel/estimates/FILE.py, and what a run must have for it."""

    file: str
    needs: tuple[str, ...]


ESTIMATES = {
    "prompts": Estimate("texts", (CAPTIONS, MODIFIERS)),
    "captions": Estimate("texts", (CAPTIONS,)),
    "modifiers": Estimate("texts", (MODIFIERS,)),
    "neighbours": Estimate("of_bank", (BANK, NEAREST)),
    "head": Estimate("of_bank", (BANK,)),
    "encoder": Estimate("of_encoders", (ENCODERS,)),
    "constant": Estimate("of_bank", (BANK,)),
}


def declared(name: str) -> Estimate:
    """Raises UserError for a name that the table lacks."""
    if name not in ESTIMATES:
        raise UserError(f"unknown estimate {name!r}{did_you_mean(name, ESTIMATES)}. Valid: {', '.join(ESTIMATES)}")
    return ESTIMATES[name]


ITC, ITM = MATCHING_HEADS = ("itc", "itm")  # of the model for image-text matching; each weighs captions
CHOICES = {
    "caption_decoding": ("beams", "sampling"),
    "caption_weighting": ("mean", "consensus", "clip", *MATCHING_HEADS),
    "neighbour_weighting": ("published", "softmax"),
}

# The most that a setting may be: far beyond what helps an answer, and near enough that a slip of the keyboard is told
# at once instead of planned, decoded or allocated for hours.
LARGEST = {
    "num_beams": 100,  # the published decks use 3 to 8; time and memory grow with each
    "captions_per_image": 1000,
    "max_length": 512,  # the positions that BLIP's text model has; BLIP-2's captions end at a fraction of them
    "neighbours": 10_000,  # weights fall with rank: what lies behind counts for nothing
    "clip_batch": 65_536,  # what does not fit in memory is halved on the way
    "encoder_batch": 65_536,
    "caption_batch": 65_536,
    "matching_batch": 65_536,
    "text_batch": 65_536,
    "shard_images": 1_000_000,  # of one shard everything is held in memory, and a kill loses all of it
}
LARGEST_FRACTIONS = {
    "caption_temperature": 100.0,  # cosines lie within -1 to 1: at 100 every caption counts alike
    "neighbour_temperature": 100.0,
    "sampling_top_p": 1.0,  # a probability
}
LARGEST_SEED = 2**32 - 1  # what numpy's and torch's generators both take
MOST_MODIFIERS = 1000  # CLIP's text tower reads 77 tokens, so no model reads more phrases than these


@dataclass(frozen=True)
class Recipe:
    """Settings of one run. The defaults are the seed deck's values (recipe `baseline`).

    The deck submits the plain mean of its prompts' embeddings; rows of length 1 score the same, so rows
    are normalised here, and `--set normalise=false` gives the deck's own rows.
    """

    name: str = "baseline"
    # word banks, in the order in which their best phrases are joined, and how many of each
    modifiers: dict[str, int] = field(default_factory=lambda: {"mediums": 1, "movements": 1, "flavors": 3})
    modifier_separator: str = ", "
    # what stands between caption and modifiers; the deck joins them with nothing
    separator: str = ""
    # "auto" takes the first captioner of the weights folder; several by name, joined by commas, each say their own, and
    # their means count by their shares: none given, all alike
    captioner: str = "auto"
    captioner_shares: dict[str, float] = field(default_factory=dict)
    # "beams": the best of beam search; "sampling": drawn from the most likely words that together have this
    # probability, by a seed, so that a run can be repeated
    caption_decoding: str = "beams"
    num_beams: int = 5
    captions_per_image: int = 5
    max_length: int = 20
    min_length: int = 5
    sampling_top_p: float = 0.9
    seed: int = 0
    # of equal captions of an image only one counts
    distinct_captions: bool = False
    # "mean": each caption of an image counts alike; by exp(cosine / temperature): "consensus", the mean cosine to the
    # image's other captions in MiniLM's space, "clip" and "itc", that to the image by CLIP and by the Q-Former; "itm":
    # by the probability that caption and image match
    caption_weighting: str = "mean"
    caption_temperature: float = 0.02
    # what the answer is made of, and each part's share: one alone is taken as it is, several as unit rows
    estimates: dict[str, float] = field(default_factory=lambda: {"prompts": 1.0})
    # nearest prompts of the bank an image, and how they are weighed
    neighbours: int = 100
    neighbour_weighting: str = "published"
    neighbour_temperature: float = 0.05
    # image encoders of the weights folder, each with its share among them; none named: every one, all alike
    encoders: dict[str, float] = field(default_factory=dict)
    normalise: bool = True
    # batch and shard borders change float rounding in the last digits, so they belong to the run's identity
    clip_batch: int = 64
    encoder_batch: int = 64
    caption_batch: int = 16
    matching_batch: int = 16
    text_batch: int = 256
    shard_images: int = 256

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            if not 1 <= getattr(self, name) <= most:
                raise UserError(f"recipe setting {name} is {getattr(self, name):,}; expected 1 to {most:,}")
        for name, valid in CHOICES.items():
            if getattr(self, name) not in valid:
                raise UserError(f"recipe setting {name} is {getattr(self, name)!r}; expected one of {', '.join(valid)}")
        for name, largest in LARGEST_FRACTIONS.items():
            value = getattr(self, name)
            if not 0 < value <= largest:
                raise UserError(f"recipe setting {name} is {value}; expected more than 0, at most {largest}")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise UserError(f"recipe setting seed is {self.seed:,}; expected 0 to {LARGEST_SEED:,}")
        if not 0 <= self.min_length <= self.max_length:
            raise UserError(
                f"recipe setting min_length is {self.min_length}; expected 0 to max_length={self.max_length}"
            )
        if self.caption_decoding == "beams" and self.captions_per_image > self.num_beams:
            raise UserError(
                f"recipe asks for captions_per_image={self.captions_per_image} from num_beams={self.num_beams}: beam "
                "search returns at most one caption a beam. Raise num_beams, lower captions_per_image, or set "
                "caption_decoding=sampling"
            )
        for bank, count in self.modifiers.items():
            if not 0 <= count <= MOST_MODIFIERS:
                raise UserError(f"recipe setting modifiers.{bank} is {count:,}; expected 0 to {MOST_MODIFIERS:,}")
        for name in self.estimates:
            declared(name)
        for setting in ("estimates", "encoders", "captioner_shares"):
            for name, share in getattr(self, setting).items():
                if not 0 <= share <= 1:
                    raise UserError(f"recipe setting {setting}.{name} is {share}; expected 0 to 1")
        if self.encoders and not any(self.encoders.values()):
            raise UserError(f"recipe setting encoders is {json.dumps(self.encoders)}; expected a share above 0")
        total = sum(self.estimates.values())
        if abs(total - 1) > 1e-6:
            raise UserError(
                f"the recipe's estimates {json.dumps(self.estimates)} sum to {total:g}; expected shares that sum to 1. "
                "Set them together: --set 'estimates={\"prompts\": 1}'"
            )

    @property
    def shared(self) -> list[str]:
        """The estimates with a share in the answer."""
        return [name for name, share in self.estimates.items() if share > 0]

    def needs(self, what: str) -> bool:
        """Whether any estimate with a share needs this."""
        return any(what in ESTIMATES[name].needs for name in self.shared)

    @property
    def matching_head(self) -> str | None:
        """The head of image-text matching that weighs captions; None where another way does, or there are none."""
        return self.caption_weighting if self.caption_weighting in MATCHING_HEADS and self.needs(CAPTIONS) else None


def captioner_names(setting: str) -> list[str]:
    """Example: "blip2, coca" -> ["blip2", "coca"]"""
    return [name.strip() for name in setting.split(",")]


RECIPES = {
    "baseline": Recipe(),
    # The shares of a published ensemble (0.592 on the leaderboard): neighbours 0.42, interrogator 0.15, and 0.43 for a
    # regression on images, in whose place the text-only head stands. They were not fitted with it.
    "text": Recipe(
        name="text",
        separator=", ",
        distinct_captions=True,
        estimates={"neighbours": 0.42, "prompts": 0.15, "head": 0.43},
    ),
    # The shares of the competition's 36th place: kNN 0.3, interrogator 0.1, fine-tuned encoders 0.6.
    "pairs": Recipe(
        name="pairs",
        separator=", ",
        distinct_captions=True,
        estimates={"neighbours": 0.3, "prompts": 0.1, "encoder": 0.6},
    ),
}
DEFAULT_RECIPE = "text"


@dataclass(frozen=True)
class TrainingSettings:
    """How an image encoder's tower is trained, by what the competition's write-ups say helps; of all tiers but head.

    The learning rate is that of the uppermost layer: each below has `layer_decay` times the one above it, the head
    `head_factor` times more. It rises over `warmup` of all steps and falls to 0 by a cosine.
    """

    epochs: int = 3
    batch: int = 256  # pictures a step, of all processes together
    accumulate: int = 1  # parts of a batch, one after the other, so that it needs less memory
    learning_rate: float = 1e-4
    head_factor: float = 10.0
    layer_decay: float = 0.6
    weight_decay: float = 0.05
    warmup: float = 0.05
    largest_gradient: float = 1.0  # its length; longer ones are cut
    average: float = 0.9998  # of the weights over steps; those are what is judged and kept
    trained_layers: float = 0.5  # of the tower's, the upper ones; of tier blocks
    lora_rank: int = 16  # of the two matrices that learn beside each of the tower's; of tier lora
    loss: str = "cosine"
    # the picture cut to half of its area or more, brightness and colours by 5 %; never mirrored, which hurts
    augment: bool = True
    recompute: bool = False  # of what a step would hold in memory: slower, and less memory
    workers: int = 2  # that decode, a process
    seed: int = 0
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("epochs", 1, 1000), ("batch", 2, 65_536), ("accumulate", 1, 65_536), ("learning_rate", 0, 1),
            ("head_factor", 0, 1000), ("layer_decay", 0, 1), ("weight_decay", 0, 1), ("warmup", 0, 1),
            ("largest_gradient", 0, 1e6), ("average", 0, 1), ("trained_layers", 0, 1), ("lora_rank", 1, 4096),
            ("workers", 0, 256), ("seed", 0, LARGEST_SEED), ("checkpoint_minutes", 0, 1440),
        ):  # fmt: skip
            if not least <= getattr(self, name) <= most:
                raise UserError(f"training setting {name} is {getattr(self, name)}; expected {least:g} to {most:g}")
        if self.loss not in LOSSES:
            raise UserError(f"training setting loss is {self.loss!r}; expected one of {', '.join(LOSSES)}")


LOSSES = ("cosine", "angular")
LOCAL, RAY = ENGINES = ("local", "ray")  # who makes shards: this machine's devices, or a Ray cluster
TIERS = ("head", "blocks", "lora", "full")  # what of an image encoder is trained


@dataclass(frozen=True)
class Paths:
    """Where a run reads and writes."""

    images: Path
    weights: Path
    run: Path
    bank: Path | None = None


@dataclass(frozen=True)
class BankSettings:
    """What goes into a bank: the files, the column of tables (None: found), the scored prompts that must stay out."""

    sources: list[Path]
    column: str | None = None
    exclude: Path | None = None
    near: float = 0.9


@dataclass(frozen=True)
class PairSettings:
    """What `publish pairs` takes of a source: pictures whose short side is `size` pixels or less, `limit` of them at
    most (None: all), and of prompts whose MiniLM cosine is `near` or more the first."""

    source: str
    size: int = 336  # pixels of CLIP ViT-L/14-336, and enough for every tower of 224
    limit: int | None = None
    near: float = 0.9

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 2048:
            raise UserError(f"--size {self.size}: expected 32 to 2048 pixels, the short side of what is kept")


def recipe_named(name: str, settings: Iterable[str] = ()) -> Recipe:
    """The preset `name` with `key=value` settings over it.

    Values are JSON where they parse as JSON, else text; `modifiers.BANK=N` sets one bank.
    Example: recipe_named("baseline", ["num_beams=3", "captions_per_image=3", "modifiers.flavors=5"])
    """
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES)}. Valid recipes: {', '.join(RECIPES)}")
    return with_settings(RECIPES[name], settings)


Settings = TypeVar("Settings", Recipe, TrainingSettings)


def with_settings(default: Settings, settings: Iterable[str]) -> Settings:
    """`default` with `key=value` settings over it, as `recipe_named` takes them."""
    changes: dict[str, Any] = {}
    fields = {f.name: f for f in dataclasses.fields(default) if f.name != "name"}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting!r} has no '='; expected key=value")
        key, _, bank = key.partition(".")
        if key not in fields:
            raise UserError(f"unknown setting {key!r}{did_you_mean(key, fields)}. Valid settings: {', '.join(fields)}")
        own = getattr(default, key)
        value = parsed(text)
        if bank and isinstance(own, dict):
            value = {**changes.get(key, own), bank: value}
        elif bank:
            raise UserError(f"setting {key!r} has no parts; write {key}=value")
        changes[key] = checked(type(default), key, own, value, text)
    return dataclasses.replace(default, **changes)


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def checked(of: type, key: str, default: Any, value: Any, text: str) -> Any:
    """`value` when it has the setting's type; settings that are text take the words as written."""
    from pydantic import TypeAdapter, ValidationError

    kind = get_type_hints(of)[key]
    if kind is str:
        return value if isinstance(value, str) else text
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        expected = "names and numbers" if isinstance(default, dict) else kind.__name__
        raise UserError(f"setting {key}={text}: expected {expected}, such as {json.dumps(default)}") from error
