"""The plan of the very run that is about to start: its own models on its own devices, and the batches that fit."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kernel.banks.prompt_bank import PromptBank
from kernel.config import CAPTIONS, Recipe
from kernel.errors import UserError
from kernel.models.weights_folder import Weights
from kernel.pipeline.planning.gpus import GB, KNOWN, Gpu
from kernel.pipeline.planning.models import models_of
from kernel.pipeline.planning.plan import Plan, plan
from kernel.pipeline.planning.stage_costs import ASSUMED, ENCODER, Stage
from kernel.pipeline.stages.load import STAGES
from kernel.system.devices import Device


@dataclass(frozen=True)
class RunPlan:
    """The recipe with batches that fit, and by stage as run.json names them what a run is estimated to take."""

    recipe: Recipe
    stages: Mapping[str, dict[str, Any]]
    notes: list[str]


def plan_run(
    recipe: Recipe, weights: Weights, bank: PromptBank | None, devices: list[Device], images: int, shipped: bool
) -> RunPlan:
    """Counts the models of the weights folder for the devices; every figure of it is an estimate.

    Without a plan, for models of an unknown kind, a run goes all the same.
    """
    gpu, notes = gpu_of(devices)
    try:
        models = models_of(weights, recipe, half=devices[0].is_gpu)
    except UserError as error:
        return RunPlan(recipe, {}, [str(error)])
    prompts = len(bank.features) if bank else None
    planned = plan(recipe, gpu, images, bank_prompts=prompts, features_shipped=shipped, models=models)
    memory = predicted_memory(planned)
    by_label = {**rows_by_label(planned), "submission": [planned.stages[-1]]}
    stages = {
        label: {"seconds_estimated": round(sum(row.seconds for row in rows), 3), "bytes_estimated": memory.get(label)}
        for label, rows in by_label.items()
    }
    return RunPlan(with_fitting_batches(recipe, planned), stages, notes)


def rows_by_label(planned: Plan) -> dict[str, list[Stage]]:
    """The plan's rows by the stage whose cost they are, as run.json names it."""
    found = {own.label: [row for row in planned.stages if row.name in own.planned_as] for own in STAGES.values()}
    found |= {row.name: [row] for row in planned.stages if row.name.startswith((f"{ENCODER} ", f"{CAPTIONS} "))}
    return {label: rows for label, rows in found.items() if rows}


def predicted_memory(planned: Plan) -> dict[str, int]:
    """Peak bytes by stage as run.json names and measures them.

    On a GPU what its tensors take; on the CPU the anonymous memory of the process: its libraries, and all of a stage
    but the weights that stay mapped.
    """
    base = int(ASSUMED.cpu_libraries_gb * GB) if planned.gpu.is_cpu else 0
    return {
        label: base + max(row.memory_bytes - row.mapped_bytes for row in rows)
        for label, rows in rows_by_label(planned).items()
    }


def with_fitting_batches(recipe: Recipe, planned: Plan) -> Recipe:
    """The recipe's batches where they fit, the largest that do where not: nothing has to fail first to find out."""
    fits = {stage.name: max(1, stage.fits_up_to) for stage in planned.stages if stage.batch}
    return replace(
        recipe,
        clip_batch=min(recipe.clip_batch, fits["clip"]),
        encoder_batch=min([recipe.encoder_batch, *(fits[name] for name in fits if name.startswith(f"{ENCODER} "))]),
        caption_batch=min([recipe.caption_batch, *(fits[name] for name in fits if name.split(" ")[0] == CAPTIONS)]),
        matching_batch=min(recipe.matching_batch, fits.get("image-text matching", recipe.matching_batch)),
    )


def gpu_of(devices: list[Device]) -> tuple[Gpu, list[str]]:
    """The devices as a plan knows them: published speeds by the driver's name, the memory that it reports."""
    first = devices[0]
    memory = min(device.memory or KNOWN["cpu"].memory for device in devices)
    if not first.is_gpu:
        sharing = max(Counter(device.machine for device in devices).values())
        return replace(KNOWN["cpu"], memory=memory // sharing), []
    words = first.title.split()
    known = next((gpu for gpu in KNOWN.values() if gpu.name in words), None)
    notes = [] if known else [f"the speeds of {first.title} are not known, the plan takes a T4's"]
    return replace(known or KNOWN["T4"], memory=memory, count=len(devices)), notes
