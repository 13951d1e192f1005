"""The models that a plan is made with: the published ones by name, or those of a weights folder.

Of a folder's files only configurations and headers are read: which numbers lie in which dtype.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from kernel.banks.word_banks import read_phrases
from kernel.config import CAPTIONS, ENCODERS, ITM, Recipe, captioner_names
from kernel.errors import UserError, did_you_mean
from kernel.models.captioners.captioner import Published
from kernel.models.captioners.loading import BY_DEFAULT, captioners_named, kind_of, names_in, published_captioners
from kernel.models.captioners.loading import SHIPPED as TAKEN
from kernel.models.clip import CONFIG, Configuration
from kernel.models.configurations import read_configuration
from kernel.models.encoders.choice import chosen_encoders
from kernel.models.encoders.record import Pixels, Tower, read_encoder_record
from kernel.models.image_text_matching import (
    MATCHING,
    PUBLISHED,
    PUBLISHED_CONFIG,
    inspect_matching,
    read_matching_config,
)
from kernel.models.sentences import Bert
from kernel.models.weights_folder import ADVICE, Weights, check_header
from kernel.pipeline.planning import model_costs
from kernel.pipeline.planning.model_costs import (
    Captioning,
    Clip,
    Encoding,
    Matching,
    Weighed,
    Work,
    captioner_costs,
    clip_costs,
    counted_once,
    encoder_costs,
    matching_costs,
    sentence_costs,
)
from kernel.pipeline.planning.stage_costs import ASSUMED, PHRASES
from kernel.system.files import write_json
from kernel.system.records import read_record

# open_clip carries this configuration itself: open_clip.get_model_config("ViT-g-14")
CLIP = "ViT-g-14"
COSTS = "costs.json"  # of a weights folder
# what an image encoder is taken to be where none is known: the tower of most of the competition's winners, and pixels
ENCODER = "ViT-L-14"
ENCODER_TOWER = Tower(
    "timm",
    1024,
    architecture="vit_large_patch14_clip_224.openai",
    pixels=Pixels(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic"),
)
# from the smallest to the largest: the order in which a smaller one is proposed
CAPTIONERS = published_captioners()
# where one does not fit: of the classes that 'publish weights' takes unasked
PROPOSED = [name for name, own in CAPTIONERS.items() if own.class_name in {TAKEN[key].class_name for key in BY_DEFAULT}]
# what `publish weights` puts into captioners/, by their folders' names
SHIPPED = {"auto": TAKEN[BY_DEFAULT[0]].name, **{key: own.name for key, own in TAKEN.items()}}


@dataclass(frozen=True)
class Models:
    """The models to plan with, of captioners those that the recipe names, MiniLM with the work of a prompt, the lengths
    of the word lists, the image encoders that have a tower of their own, and image-text matching where it is asked."""

    clip: Clip
    captioners: tuple[Captioning, ...]
    sentences: tuple[Weighed, Work]
    word_lists: Mapping[str, int]
    encoders: tuple[Encoding, ...] = ()
    matching: Matching | None = None


def published_models(recipe: Recipe, half: bool) -> Models:
    """What the recipe names, by the published sizes. Raises UserError for an unknown captioner."""
    names = names_in(recipe, [*SHIPPED, *CAPTIONERS]) if recipe.needs(CAPTIONS) else []
    for name in names:
        if SHIPPED.get(name, name) not in CAPTIONERS or (name == "auto" and len(names) > 1):
            raise UserError(
                f"captioner {name!r} is none whose size is known{did_you_mean(name, CAPTIONERS)}; expected one of "
                f"{', '.join([*SHIPPED, *CAPTIONERS])}, as in --set captioner=blip"
            )
    captioners = tuple(captioner_costs(CAPTIONERS[SHIPPED.get(name, name)], half) for name in names)
    encoders = (encoder_costs(ENCODER, [ENCODER_TOWER], half),) if recipe.needs(ENCODERS) else ()
    matching = None
    if recipe.matching_head:
        matching = matching_costs(PUBLISHED, PUBLISHED_CONFIG, ASSUMED.caption_tokens, half)
    return Models(published_clip(half), captioners, sentence_costs(ASSUMED.prompt_tokens), PHRASES, encoders, matching)


@counted_once
def published_clip(half: bool, name: str = CLIP) -> Clip:
    import open_clip

    return clip_costs(name, open_clip.get_model_config(name), half)


def models_of(weights: Weights, recipe: Recipe, half: bool) -> Models:
    """The recipe's models in this folder, in half precision as a GPU runs them or in float32 as a CPU does.

    Raises UserError for a captioner that the folder does not hold and for a configuration that makes no model.
    """
    named = captioners_named(recipe, weights)[: len(captioner_names(recipe.captioner))]
    bring_costs(weights.folder)
    clip_folder, sentence_folder = map(weights.model_folder, ("clip", "sentences"))
    try:
        clip_config = read_configuration(clip_folder / CONFIG, Configuration)["model_cfg"]
        clip = clip_costs(weights.models["clip"]["source"], clip_config, half)
        captioners = tuple(captioner_of(weights, name, half) for name in named if recipe.needs(CAPTIONS))
        asked = chosen_encoders(recipe, weights)
        towers = {own: read_encoder_record(weights.encoder_folder(own)).towers for own in asked}
        looking = {name: [tower for tower in own if tower.kind != "clip"] for name, own in towers.items()}
        encoders = [encoder_costs(name, own, half) for name, own in looking.items() if own]
        matching = matching_of(weights, half) if recipe.matching_head else None
        sentence_config = read_configuration(sentence_folder / "config.json", Bert)
        sentences, sentence = sentence_costs(ASSUMED.prompt_tokens, sentence_config)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError, ArithmeticError) as error:
        raise UserError(
            f"{weights.folder}: its configurations make no models to count ({error!r}), so a run with them cannot be "
            f"planned. {ADVICE}"
        ) from error
    encoders = [
        replace(own, weights=as_stored(own.weights, weights.encoder_folder(own.name), half)) for own in encoders
    ]
    clip = replace(clip, weights=as_stored(clip.weights, clip_folder, half))
    # MiniLM is float32 on every device; on a GPU nothing stays mapped
    sentences = as_stored(sentences, sentence_folder, half)
    lists = {path.stem: len(read_phrases(path).phrases) for path in (weights.folder / "word_banks").glob("*.txt")}
    return Models(clip, captioners, (sentences, sentence), lists, tuple(encoders), matching)


def captioner_of(weights: Weights, name: str, half: bool) -> Captioning:
    folder = weights.model_folder(name)
    kind = kind_of(weights.models[name]["class"], folder)
    published = Published(name, kind.class_name, kind.read_config(folder / kind.config_file))
    return captioner_costs(published, half)  # a CPU packs them, so nothing of them stays mapped


def matching_of(weights: Weights, half: bool) -> Matching:
    """Image-text matching of this folder. Raises UserError where it holds none."""
    inspect_matching(weights)
    folder = weights.model_folder(MATCHING)
    config = read_matching_config(folder / "config.json")
    costs = matching_costs(weights.models[MATCHING]["source"], config, ASSUMED.caption_tokens, half)
    return replace(costs, weights=as_stored(costs.weights, folder, half))


def as_stored(weights: Weighed, folder: Path, half: bool) -> Weighed:
    """With what the files add: the bytes that a CPU runs as they lie there."""
    in_float32 = sum(4 * count for dtype, count in stored_tensors(folder) if dtype == "F32")
    return replace(weights, mapped_bytes=0 if half else min(weights.bytes, in_float32))


def stored_tensors(folder: Path) -> Iterator[tuple[str, int]]:
    """(dtype in safetensors' words, number of items) of every tensor of a model's folder."""
    for path in sorted(folder.glob("*.safetensors")):
        for tensor in check_header(path):
            yield tensor.dtype, prod(tensor.shape)


class Kept(TypedDict):
    """costs.json: by key what models take, as published.json has it, and the sha256 of the code that counted them."""

    code: str
    costs: dict[str, Any]


def keep_costs(weights: Weights) -> None:
    """Puts what its models take into a weights folder that is being made, so that no run has to count them: seconds
    before the first image. Image encoders are put in later, and counted by each run. What cannot be counted is left
    out; a run then tells why it goes without a plan."""
    before = dict(model_costs.counted)
    model_costs.counted.clear()
    recipe = Recipe(caption_weighting=ITM) if MATCHING in weights.models else Recipe()
    for half in (False, True):
        for name in weights.captioners:
            with suppress(UserError):
                models_of(weights, replace(recipe, captioner=name), half)
    costs = {key: {"costs": as_data(own)} for key, own in model_costs.counted.items()}
    model_costs.counted |= before
    write_json(weights.folder / COSTS, Kept(code=counting_sha256(), costs=costs))


def bring_costs(folder: Path) -> None:
    """Has what a weights folder says of its models at hand, unless other code counted it. Raises UserError for a file
    that says anything else."""
    if (folder / COSTS).is_file():
        kept = read_record(folder / COSTS, Kept, "what the models of a weights folder take", ADVICE)
        if kept["code"] == counting_sha256():
            model_costs.brought.update(kept["costs"])


def as_data(costs: Any) -> Any:
    return [asdict(own) for own in costs] if isinstance(costs, tuple) else asdict(costs)


@cache
def counting_sha256() -> str:
    """Names the code that counts, with that of the models which it counts."""
    digest, here = hashlib.sha256(), Path(model_costs.__file__)
    for path in [here, *sorted((here.parents[2] / "models").rglob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
