"""encoder.json: which tower sees how many pixels of what brightness, what it was trained on, and how good it was."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kernel.config import TIERS
from kernel.errors import UserError, others_beside, shown
from kernel.models.weights_folder import ENCODER, FileEntry
from kernel.system.records import read_record

FORMAT = 2
RECORD, WEIGHTS, SPLIT = ENCODER, "model.safetensors", "split.json"
ADVICE = "Make it again: 'python -m kernel train PAIRS --weights DIR --out ENCODER'"
MADE_BY = ("ridge", *TIERS)  # two layers on a frozen tower are `head`


@dataclass(frozen=True)
class Pixels:
    """What a tower is shown: pictures of `size` x `size`, (value - mean) / std for values of 0 to 1, by channel."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"]

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096:
            raise ValueError(f"size is {self.size}; expected 1 to 4096")
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std is {self.std}; expected numbers above 0")


@dataclass(frozen=True)
class Tower:
    """`kind` "clip": the CLIP of the weights folder, by its `sha256`, whose features a run has anyway; "blip2": the
    eyes of its BLIP-2, by the captioner's `sha256` and `configuration`, config.json. The tensors of the others stand in
    the encoder's own file, and `pixels` is what they are shown: "timm", a model of timm by its `architecture`;
    "open_clip", the vision tower of a CLIP by its `configuration`, open_clip's `model_cfg`."""

    kind: Literal["clip", "blip2", "timm", "open_clip"]
    dimensions: int
    sha256: str | None = None
    architecture: str | None = None
    configuration: dict[str, Any] | None = None
    pixels: Pixels | None = None

    def __post_init__(self) -> None:
        told = {
            "clip": ["sha256"],
            "blip2": ["sha256", "configuration"],
            "timm": ["architecture", "pixels"],
            "open_clip": ["configuration", "pixels"],
        }
        named = ("sha256", "architecture", "configuration", "pixels")
        given = [name for name in named if getattr(self, name) is not None]
        if given != told[self.kind]:
            raise ValueError(f"a tower of kind {self.kind} with {', '.join(given)}; expected {told[self.kind]}")

    @property
    def size(self) -> int:
        """Of the square of pixels that one looks at which is no borrowed CLIP."""
        if self.pixels is not None:
            return self.pixels.size
        assert self.configuration is not None
        return self.configuration["vision_config"]["image_size"]


@dataclass(frozen=True)
class TrainedOn:
    """The pairs: the sha256 of their ids and prompts, how many pictures of how many prompts, and their licence."""

    pairs: str
    pictures: int
    prompts: int
    licence: str


@dataclass(frozen=True)
class HeldOut:
    """The mean cosine over pictures of prompts that are near to none of those trained on, with its 95 % interval."""

    pictures: int
    prompts: int
    mean: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class EncoderRecord:
    """`validation` holds the mean cosine of each tier that was tried, by which the `tier` was chosen; `left_out` counts
    what of the set was no pair that could be used, by reason."""

    format: int
    towers: list[Tower]  # what their features are, one after the other, the head reads
    tier: str
    sentences: str  # sha256 of the MiniLM that it answers for
    trained_on: TrainedOn
    held_out: HeldOut
    files: list[FileEntry]
    validation: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}")
        kinds = [tower.kind for tower in self.towers]
        if not kinds or "clip" in kinds[1:]:
            raise ValueError(f"towers of kinds {kinds}; expected one or more, clip first")
        if self.tier not in MADE_BY:
            raise ValueError(f"tier is {self.tier!r}; expected one of {', '.join(MADE_BY)}")
        if sorted(entry.path for entry in self.files) != sorted((WEIGHTS, SPLIT)):
            raise ValueError(f"lists {[entry.path for entry in self.files]}; expected {WEIGHTS} and {SPLIT}")

    @property
    def borrowed(self) -> dict[str, str]:
        """The sha256 of each model of a weights folder that it looks with, by the tower's kind."""
        return {tower.kind: tower.sha256 for tower in self.towers if tower.sha256 is not None}

    @property
    def clip_sha256(self) -> str | None:
        """The CLIP of a weights folder whose features it reads."""
        return self.towers[0].sha256


def read_encoder_record(folder: Path) -> EncoderRecord:
    """Raises UserError where there is no encoder."""
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"{path}: not found; expected a trained encoder{others_beside(folder, RECORD)}. {ADVICE}")
    return read_record(path, EncoderRecord, f"an encoder's record of format {FORMAT}", ADVICE)


def check_encoder(folder: Path, record: EncoderRecord) -> None:
    """Raises UserError naming the first file that is not as the record says."""
    for entry in record.files:
        entry.check(folder / entry.path, RECORD, ADVICE)


def check_models(folder: Path, record: EncoderRecord, models: Mapping[str, Any]) -> None:
    """Raises UserError when it was trained for another MiniLM than that of `models`, each as a manifest has it, or
    looks with another CLIP or BLIP-2."""
    borrowed = record.borrowed
    trained_with = [("MiniLM", record.sentences, models["sentences"]["sha256"])]
    if "clip" in borrowed:
        trained_with.append(("CLIP", borrowed["clip"], models["clip"]["sha256"]))
    if "blip2" in borrowed:
        of_kind = [own["sha256"] for own in models.values() if own["class"].startswith("Blip2")]
        other = borrowed["blip2"] if borrowed["blip2"] in of_kind else next(iter(of_kind), "no such ")
        trained_with.append(("BLIP-2", borrowed["blip2"], other))
    for name, own, given in trained_with:
        if own != given:
            raise UserError(
                f"{folder / RECORD}: trained with the {name} model {shown(own[:8])}..., the weights folder holds "
                f"{given[:8]}...: their vectors cannot be compared. Give the weights that it was trained with, or "
                f"{ADVICE[0].lower()}{ADVICE[1:]}"
            )
