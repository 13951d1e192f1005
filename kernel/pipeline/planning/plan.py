"""Memory and time of a run before it is started: an estimate, made without weights and without a GPU.

Parameters, operations and bytes are counted (model_costs.py) and turned into each stage's memory and seconds
(stage_costs.py). One worker a GPU, each with every k-th image.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from typing import Any

from kernel.config import BANK, CAPTIONS, MODIFIERS, NEAREST, Recipe
from kernel.errors import UserError, did_you_mean
from kernel.pipeline.planning.counting import Work
from kernel.pipeline.planning.gpus import GB, Gpu
from kernel.pipeline.planning.model_costs import Captioning, Clip, Weighed, captioner_costs, clip_costs, sentence_costs
from kernel.pipeline.planning.published_models import CAPTIONERS, CLIP, PHRASES, SHIPPED
from kernel.pipeline.planning.stage_costs import (
    ASSUMED,
    Case,
    Stage,
    bank_cost,
    captions_stage,
    clip_stage,
    cosines_stage,
    host_bytes,
    neighbours_stage,
    reading_stage,
    sentences_stage,
    split_note,
    submission_stage,
    usable_bytes,
    words_stage,
)

DEADLINE_SECONDS = 9 * 3600
HOST_MEMORY = 30 * GB  # of Kaggle's host with T4 x2
PROMPTS_OF_A_BANK = 1_000_000  # where a recipe asks a bank and none is named
MOST_GPUS, MOST_RUNS = 8, 100  # how far a cure is looked for


@dataclass(frozen=True)
class Models:
    """The models to plan with and the lengths of the word lists, where a recipe's published ones are not meant."""

    clip: Clip
    captioner: Captioning | None
    sentences: tuple[Weighed, Work]
    word_lists: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """What a run is estimated to take, whether that fits, and what would help where it does not."""

    recipe: Recipe
    gpu: Gpu
    images: int
    deadline_seconds: float
    captioner: str | None
    stages: list[Stage]
    usable_bytes: int
    host_bytes: dict[str, int]
    host_memory: int
    bank: dict[str, float] | None
    problems: list[str]
    notes: list[str]
    cures: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def fits(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """Everything the table says, in bytes, operations and seconds."""
        return {
            "estimate": True,
            "recipe": asdict(self.recipe),
            "captioner": self.captioner,
            "images": self.images,
            "gpu": asdict(self.gpu),
            "usable_bytes": self.usable_bytes,
            "stages": [{**asdict(stage), "memory_bytes": stage.memory_bytes} for stage in self.stages],
            "seconds": self.seconds,
            "deadline_seconds": self.deadline_seconds,
            "host_bytes": self.host_bytes,
            "host_memory": self.host_memory,
            "bank": self.bank,
            "fits": self.fits,
            "problems": self.problems,
            "cures": self.cures,
            "notes": self.notes,
            "assumed": ASSUMED.told(),
        }


def plan(
    recipe: Recipe,
    gpu: Gpu,
    images: int,
    deadline_seconds: float = DEADLINE_SECONDS,
    bank_prompts: int | None = None,
    features_shipped: bool = False,
    host_memory: int = HOST_MEMORY,
    models: Models | None = None,
    with_cures: bool = True,
) -> Plan:
    """The estimate for `images` images, with cures where it does not fit; of `models`, or else of the published ones.

    from_weights.models_of() counts those of a weights folder, for the dtype of the device planned for.
    Raises UserError for an unknown captioner, for a bank smaller than the neighbours asked of it, and numbers below 1.
    """
    again = partial(
        plan, recipe=recipe, gpu=gpu, images=images, deadline_seconds=deadline_seconds, bank_prompts=bank_prompts,
        features_shipped=features_shipped, host_memory=host_memory, models=models, with_cures=False,
    )  # fmt: skip
    numbers = {"images": images, "deadline": deadline_seconds, "bank of prompts": bank_prompts or 1,
               "host memory": host_memory}  # fmt: skip
    for what, number in numbers.items():
        if not number > 0:
            raise UserError(f"{what} {number}: expected more than 0")
    asks_bank = recipe.needs(BANK)
    prompts = bank_prompts if bank_prompts is not None else PROMPTS_OF_A_BANK if asks_bank else 0
    if recipe.needs(NEAREST) and prompts < recipe.neighbours:
        raise UserError(f"a bank of {prompts} prompts for {recipe.neighbours} neighbours; expected at least as many")
    models = models or published(recipe, half=not gpu.is_cpu)
    clip, captioner, (sentences, sentence) = models.clip, models.captioner, models.sentences
    usable = usable_bytes(gpu)
    whole = Case(recipe, gpu, clip, sentences, images, usable)
    share = replace(whole, images=math.ceil(images / gpu.count))
    notes = []

    stages = [reading_stage(clip, captioner, sentences, gpu), clip_stage(share)]
    if any(recipe.modifiers.values()):
        stages.append(words_stage(whole, features_shipped, models.word_lists))
    if captioner:
        stages.append(captions_stage(share, captioner))
        if recipe.caption_weighting == "clip":
            stages.append(cosines_stage(share))
    if recipe.needs(CAPTIONS) or recipe.needs(MODIFIERS):
        stages.append(sentences_stage(whole, sentence))
    if recipe.needs(NEAREST):
        stages.append(neighbours_stage(whole, prompts))
    stages.append(submission_stage(images))
    if asks_bank and bank_prompts is None:
        notes.append(f"the bank is taken to hold {prompts:,} prompts; --bank-prompts N says otherwise")
    if features_shipped:
        notes.append("the word banks' features are taken to lie in the weights folder")

    host = host_bytes(whole, captioner, models.word_lists)
    problems = [
        f"{stage.name}: {stage.memory_at(1) / GB:.2f} GB at batch 1, usable are {usable / GB:.2f} GB of {gpu.name}"
        for stage in stages
        if stage.memory_at(1) > usable
    ]
    problems += [
        f"host: {needed / GB:.1f} GB with {what}, it has {host_memory / GB:.0f} GB"
        for what, needed in host.items()
        # at the same time is no must
        if needed > host_memory and not what.startswith("models loading at the same time")
    ]
    seconds = sum(stage.seconds for stage in stages)
    if seconds > deadline_seconds:
        problems.append(f"time: {seconds / 3600:.1f} h, {deadline_seconds / 3600:.1f} h are allowed")
    if captioner and gpu.count > 1 and captions_of(stages).memory_at(1) > usable:
        notes.append(split_note(gpu, captioner, captions_of(stages), usable))
    bank = bank_cost(gpu, clip, prompts) if prompts else None
    name = captioner.name if captioner else None
    found = Plan(recipe, gpu, images, deadline_seconds, name, stages, usable, host, host_memory, bank, problems, notes)
    return replace(found, cures=list(cures(found, again))) if problems and with_cures else found


def published(recipe: Recipe, half: bool) -> Models:
    """What the recipe names, by the sizes of published_models.py. Raises UserError for an unknown captioner."""
    captioner = captioner_of(captioner_name(recipe), half) if recipe.needs(CAPTIONS) else None
    return Models(clip_of(half), captioner, sentences_of(ASSUMED.prompt_tokens), PHRASES)


def captioner_name(recipe: Recipe) -> str:
    name = SHIPPED.get(recipe.captioner, recipe.captioner)
    if name not in CAPTIONERS:
        raise UserError(
            f"captioner {recipe.captioner!r} is none whose size is known{did_you_mean(recipe.captioner, CAPTIONERS)}; "
            f"expected one of {', '.join([*SHIPPED, *CAPTIONERS])}, as in --set captioner=blip"
        )
    return name


@cache
def clip_of(half: bool) -> Clip:
    import open_clip

    return clip_costs(CLIP, open_clip.get_model_config(CLIP), half)


@cache
def captioner_of(name: str, half: bool) -> Captioning:
    return captioner_costs(CAPTIONERS[name], half)


@cache
def sentences_of(tokens: int) -> tuple[Weighed, Work]:
    return sentence_costs(tokens)


def captions_of(stages: list[Stage]) -> Stage:
    return next(stage for stage in stages if stage.name == "captions")


def cures(failed: Plan, again: Callable[..., Plan]) -> Iterator[str]:
    """Changes of which each alone makes the plan fit, made `again` with them; and of the weights' dtype what it can."""

    def fits(**changes: Any) -> bool:
        return again(**changes).fits

    recipe, gpu, images = failed.recipe, failed.gpu, failed.images
    if gpu.is_cpu:
        yield "dtype: a CPU computes in float32; a GPU halves the weights (--gpu T4x2)"
    elif failed.captioner:
        yield "dtype: weights are in half precision already, but for the parts that overflow in it"
    if failed.captioner:
        sizes = list(CAPTIONERS)
        # of a weights folder's own captioner no smaller one is known
        smaller = reversed(sizes[: sizes.index(failed.captioner)] if failed.captioner in sizes else [])
        name = next((name for name in smaller if fits(recipe=replace(recipe, captioner=name))), None)
        if name:
            alias = next((alias for alias, model in SHIPPED.items() if model == name and alias != "auto"), name)
            yield f"smaller captioner: --set captioner={alias} ({name})"
        fewer = next((changed for changed in with_fewer_beams(recipe) if fits(recipe=changed)), None)
        if fewer:
            yield f"fewer beams: --set num_beams={fewer.num_beams} --set captions_per_image={fewer.captions_per_image}"
    if failed.seconds > failed.deadline_seconds:
        counts = range(gpu.count + 1, MOST_GPUS + 1) if not gpu.is_cpu else range(0)
        more = next((n for n in counts if fits(gpu=replace(gpu, count=n))), None)
        if more:
            yield f"shards: over {more} {gpu.name} instead of {gpu.count}"
        runs = next((n for n in range(2, MOST_RUNS + 1) if fits(images=math.ceil(images / n))), None)
        if runs:
            yield f"shards: {runs} runs of {math.ceil(images / runs):,} images each"


def with_fewer_beams(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe with one beam less each time, and no more captions than beams; nothing for a recipe that samples."""
    for beams in range(recipe.num_beams - 1 if recipe.caption_decoding == "beams" else 0, 0, -1):
        yield replace(recipe, num_beams=beams, captions_per_image=min(beams, recipe.captions_per_image))
