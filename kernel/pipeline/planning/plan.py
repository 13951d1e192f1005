"""Memory and time of a run before it is started: an estimate, made without weights and without a GPU.

Parameters, operations and bytes are counted (model_costs.py) and turned into each stage's memory and seconds
(stage_costs.py). One worker a GPU, each with every k-th image.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from kernel.config import BANK, CAPTIONS, MODIFIERS, NEAREST, Recipe, captioner_names
from kernel.errors import UserError
from kernel.pipeline.planning import stage_costs as costs
from kernel.pipeline.planning.bank_costs import bank_cost, neighbours_stage, room_note
from kernel.pipeline.planning.gpus import GB, Gpu
from kernel.pipeline.planning.models import CAPTIONERS, PROPOSED, SHIPPED, Models, published_models
from kernel.pipeline.planning.stage_costs import ASSUMED, Stage

DEADLINE_SECONDS = 9 * 3600
HOST_MEMORY = 30 * GB  # of Kaggle's host with T4 x2
PROMPTS_OF_A_BANK = 1_000_000  # where a recipe asks a bank and none is named
MOST_GPUS, MOST_RUNS = 8, 100  # how far a cure is looked for


@dataclass(frozen=True)
class Plan:
    """What a run is estimated to take, whether that fits, and what would help where it does not."""

    recipe: Recipe
    captioner: str | None
    images: int
    gpu: Gpu
    usable_bytes: int
    stages: list[Stage]
    seconds: float
    deadline_seconds: float
    host_bytes: dict[str, int]
    host_memory: int
    bank: dict[str, float] | None
    fits: bool
    problems: list[str]
    cures: list[str]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Everything the table says, in bytes, operations and seconds."""
        stages = [{**asdict(stage), "memory_bytes": stage.memory_bytes} for stage in self.stages]
        return {"estimate": True, **asdict(self), "stages": stages, "assumed": ASSUMED.told()}


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

    models.models_of() counts those of a weights folder, for the dtype of the device planned for.
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
    models = models or published_models(recipe, half=not gpu.is_cpu)
    clip, captioners, (sentences, sentence) = models.clip, models.captioners, models.sentences
    matching = models.matching if recipe.matching_head else None  # a cure may ask none of it
    usable = costs.usable_bytes(gpu)
    whole = costs.Case(recipe, gpu, clip, sentences, images, usable)
    share = replace(whole, images=math.ceil(images / gpu.count))
    notes, problems = [], []
    if asks_bank and bank_prompts is None:
        notes.append(f"the bank is taken to hold {prompts:,} prompts; --bank-prompts N says otherwise")
    if prompts and (note := room_note(prompts)):
        notes.append(note)
    if features_shipped:
        notes.append("the word banks' features are taken to lie in the weights folder")

    asked = prompts if asks_bank else 0
    reading = costs.reading_stage(clip, captioners, sentences, gpu, asked, matching)
    stages = [reading, costs.clip_stage(share)]
    stages += [costs.encoder_stage(share, encoder) for encoder in models.encoders]
    if any(recipe.modifiers.values()):
        stages.append(costs.words_stage(whole, features_shipped, models.word_lists))
    for captioner in captioners:
        stage = costs.captions_stage(share, captioner)
        stages.append(stage if len(captioners) == 1 else replace(stage, name=f"{stage.name} {captioner.name}"))
        if gpu.count > 1 and stage.memory_at(1) > usable:
            notes.append(costs.split_note(gpu, captioner, stage, usable))
    if captioners:
        if recipe.caption_weighting == "clip":
            stages.append(costs.cosines_stage(share))
        if matching:
            stages.append(costs.matching_stage(share, matching))
    if recipe.needs(CAPTIONS) or recipe.needs(MODIFIERS):
        stages.append(costs.sentences_stage(whole, sentence))
    if recipe.needs(NEAREST):
        stages.append(neighbours_stage(whole, prompts))
    stages.append(costs.submission_stage(images))

    for stage in stages:
        if (least := stage.memory_at(1)) > usable:
            found = f"{least / GB:.2f} GB at batch 1, usable are {usable / GB:.2f} GB of {gpu.name}"
            problems.append(f"{stage.name}: {found}")
    host = costs.host_bytes(whole, captioners, models.word_lists, matching)
    for what, needed in host.items():
        # at the same time is no must
        if needed > host_memory and not what.startswith("models loading at the same time"):
            problems.append(f"host: {needed / GB:.1f} GB with {what}, it has {host_memory / GB:.0f} GB")
    seconds = sum(stage.seconds for stage in stages)
    if seconds > deadline_seconds:
        problems.append(f"time: {seconds / 3600:.1f} h, {deadline_seconds / 3600:.1f} h are allowed")
    planned = Plan(
        recipe, ", ".join(own.name for own in captioners) or None, images, gpu, usable, stages, seconds,
        deadline_seconds, host, host_memory, bank_cost(gpu, clip, prompts) if prompts else None, not problems,
        problems, [], notes,
    )  # fmt: skip
    return replace(planned, cures=list(cures(planned, again))) if problems and with_cures else planned


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
        names = captioner_names(recipe.captioner)
        alone = names if len(names) > 1 else []
        name = next((name for name in alone if fits(recipe=with_captioner(recipe, name))), None)
        if name:
            shares = " --set 'captioner_shares={}'" if recipe.captioner_shares else ""  # which name others too
            yield f"one captioner: --set captioner={name}{shares}"
        # of a weights folder's own captioner no smaller one is known
        own = CAPTIONERS.get(failed.captioner)
        smaller = [name for name in reversed(PROPOSED) if own and CAPTIONERS[name].parameters < own.parameters]
        name = next((name for name in smaller if fits(recipe=with_captioner(recipe, name))), None)
        if name:
            alias = next((alias for alias, model in SHIPPED.items() if model == name and alias != "auto"), name)
            yield f"smaller captioner: --set captioner={alias} ({name})"
        fewer = next((changed for changed in with_fewer_beams(recipe) if fits(recipe=changed)), None)
        if fewer:
            yield f"fewer beams: --set num_beams={fewer.num_beams} --set captions_per_image={fewer.captions_per_image}"
    if recipe.matching_head and fits(recipe=replace(recipe, caption_weighting="mean")):
        yield "captions that count alike: --set caption_weighting=mean"
    if failed.seconds > failed.deadline_seconds:
        counts = range(gpu.count + 1, MOST_GPUS + 1) if not gpu.is_cpu else range(0)
        more = next((n for n in counts if fits(gpu=replace(gpu, count=n))), None)
        if more:
            yield f"shards: over {more} {gpu.name} instead of {gpu.count}"
        runs = next((n for n in range(2, MOST_RUNS + 1) if fits(images=math.ceil(images / n))), None)
        if runs:
            yield f"shards: {runs} runs of {math.ceil(images / runs):,} images each"


def with_captioner(recipe: Recipe, name: str) -> Recipe:
    return replace(recipe, captioner=name, captioner_shares={})


def with_fewer_beams(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe with one beam less each time, and no more captions than beams; nothing for a recipe that samples."""
    for beams in range(recipe.num_beams - 1 if recipe.caption_decoding == "beams" else 0, 0, -1):
        yield replace(recipe, num_beams=beams, captions_per_image=min(beams, recipe.captions_per_image))
