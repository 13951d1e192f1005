"""What the models of a weights folder cost: its configurations, as published_models.py has them for published ones.

Of the files only the headers are read: which numbers lie in which dtype.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from kernel.banks.word_banks import read_phrases
from kernel.config import CAPTIONS, Recipe
from kernel.errors import UserError
from kernel.models.captioners.captioner import Published
from kernel.models.captioners.loading import captioners_named
from kernel.models.clip import CONFIG
from kernel.models.weights_folder import ADVICE, Weights
from kernel.pipeline.planning.counting import Work
from kernel.pipeline.planning.gpus import GB
from kernel.pipeline.planning.model_costs import Captioning, Clip, Weighed, captioner_costs, clip_costs, sentence_costs
from kernel.pipeline.planning.plan import Models, Plan
from kernel.pipeline.planning.stage_costs import ASSUMED
from kernel.pipeline.stages.load import STAGES
from kernel.system.records import read_record


def models_of(weights: Weights, recipe: Recipe, half: bool) -> Models:
    """The recipe's models in this folder, in half precision as a GPU runs them or in float32 as a CPU does.

    Raises UserError for a captioner that the folder does not hold and for a configuration that makes no model.
    """
    clip_folder, sentence_folder = weights.model_folder("clip"), weights.model_folder("sentences")
    name = captioners_named(recipe, weights)[0]
    try:
        model_config = read_config(clip_folder / CONFIG)["model_cfg"]
        clip = counted_clip(weights.models["clip"]["source"], json.dumps(model_config), half)
        config = json.dumps(read_config(weights.model_folder(name) / "config.json"))
        counted = (
            counted_captioner(name, weights.models[name]["class"], config, half) if recipe.needs(CAPTIONS) else None
        )
        sentences, sentence = counted_sentences(json.dumps(read_config(sentence_folder / "config.json")))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{weights.folder}: its configurations make no models to count ({error!r}), so a run with them cannot be "
            f"planned. {ADVICE}"
        ) from error
    clip = replace(clip, weights=as_stored(clip.weights, clip_folder, half))
    captioner = counted and replace(counted, weights=as_stored(counted.weights, weights.model_folder(name), half))
    # MiniLM is float32 on every device; on a GPU nothing stays mapped
    sentences = as_stored(sentences, sentence_folder, half)
    lists = {path.stem: len(read_phrases(path).phrases) for path in (weights.folder / "word_banks").glob("*.txt")}
    return Models(clip, captioner, (sentences, sentence), lists)


@cache
def counted_clip(name: str, config: str, half: bool) -> Clip:
    return clip_costs(name, json.loads(config), half)


@cache
def counted_captioner(name: str, class_name: str, config: str, half: bool) -> Captioning:
    return captioner_costs(Published(name, class_name, json.loads(config)), half)


@cache
def counted_sentences(config: str) -> tuple[Weighed, Work]:
    return sentence_costs(ASSUMED.prompt_tokens, json.loads(config))


def read_config(path: Path) -> dict[str, Any]:
    return read_record(path, dict[str, Any], "a configuration, so its model cannot be counted", ADVICE)


def as_stored(weights: Weighed, folder: Path, half: bool) -> Weighed:
    """With what the files add: the bytes that a CPU runs as they lie there."""
    in_float32 = sum(4 * count for dtype, count in stored_tensors(folder) if dtype == "F32")
    return replace(weights, mapped_bytes=0 if half else min(weights.bytes, in_float32))


def stored_tensors(folder: Path) -> Iterator[tuple[str, int]]:
    """(dtype in safetensors' words, number of items) of every tensor of a model's folder."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    tensor = file.get_slice(name)
                    yield tensor.get_dtype(), prod(tensor.get_shape())
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a safetensors file ({error}). {ADVICE}") from error


def predicted_memory(plan: Plan) -> dict[str, int]:
    """Peak bytes by stage as run.json names and measures them.

    On a GPU what its tensors take; on the CPU the anonymous memory of the process: its libraries, and all of a stage
    but the weights that stay mapped.
    """
    base = int(ASSUMED.cpu_libraries_gb * GB) if plan.gpu.is_cpu else 0
    taken = {row.name: row.memory_bytes - row.mapped_bytes for row in plan.stages}
    return {
        stage.label: base + max(taken[name] for name in stage.planned_as if name in taken)
        for stage in STAGES.values()
        if not taken.keys().isdisjoint(stage.planned_as)
    }
