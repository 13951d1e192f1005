"""What the JSON files of a model's folder may say. Libraries act on them: they import what is named there, look for it
on a hub, and make layers of any number and size. So all is read here before a library sees it.

Keys that are not known here pass, for a newer version writes new ones.
"""

import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from typing_extensions import TypedDict

from kernel.errors import UserError
from kernel.models.weights_folder import ADVICE
from kernel.system.records import read_record

# These name code, another repository or another file, or ask a loader for it.
REACHING = {
    "auto_map", "base_model_name_or_path", "custom_generate", "custom_pipelines", "hf_model_name",
    "quantization_config", "timm_model_name", "tokenizer_name_or_path", "transformers_weights", "trust_remote_code",
    "model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs",
}  # fmt: skip
# Names in a library's own tables; with a dot or a slash they are imported, or fetched from a hub.
PLAIN = {
    "activation_fn", "activation_function", "attn_implementation", "_attn_implementation", "dense_act_fn",
    "experts_implementation", "feed_forward_proj", "hidden_act",
}  # fmt: skip
# The most that a number, or one of a list, may be; three times what the largest models have, or more.
MOST = {
    **dict.fromkeys(("layers", "num_decoder_layers", "num_hidden_layers", "num_layers"), 256),
    **dict.fromkeys(("attn_pooler_queries", "context_length", "num_query_tokens"), 4096),
    **dict.fromkeys(("height", "image_size", "longest_edge", "shortest_edge", "width"), 8192),
    **dict.fromkeys(("d_ff", "d_kv", "d_model", "embed_dim", "ffn_dim", "hidden_size", "intermediate_size",
                     "max_position_embeddings", "projection_dim", "word_embed_proj_dim"), 2**16),
    "mlp_ratio": 64,
    "vocab_size": 2**22,
}  # fmt: skip
# their keys are words of a vocabulary
VOCABULARIES = ("added_tokens.json", "tokenizer.json", "vocab.json")


class ImageProcessing(TypedDict, total=False):
    """What of preprocessor_config.json is computed with."""

    image_mean: tuple[float, float, float] | None
    image_std: tuple[float, float, float] | None


class Processing(TypedDict, total=False):
    """processor_config.json, which may hold the other."""

    image_processor: ImageProcessing


SHARED: dict[str, Any] = {
    "preprocessor_config.json": ImageProcessing,
    "processor_config.json": Processing,
    **dict.fromkeys(("generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
                    dict[str, Any]),
}  # fmt: skip


def check_configurations(folder: Path, known: Mapping[str, Any], largest: Mapping[str, float] = MOST) -> None:
    """Every JSON file of a model's folder; `known` are the types of those whose values are its kind's own, by path,
    and `largest` what its numbers may be where that is not what any kind's may.

    Raises UserError, in one line, for the first file that is not as it may be.
    """
    types = {**SHARED, **known}
    for path in sorted(folder.rglob("*.json")):
        read_configuration(path, types.get(path.relative_to(folder).as_posix()), largest=largest)


def read_configuration(path: Path, kind: Any = None, advice: str = ADVICE, largest: Mapping[str, float] = MOST) -> Any:
    """All that a JSON file says, once that is as `kind` tells, and nothing in it loads code or reaches a hub.

    Raises UserError.
    """
    expected = "a model's configuration"
    content = read_record(path, object, expected, advice)
    wrong = None if path.name in VOCABULARIES else next(problems(content, {**MOST, **largest}), None)
    if wrong is not None:
        raise UserError(f"{path}: not {expected} ({wrong}). {advice}")
    if kind is not None:
        read_record(path, kind, expected, advice)
    return content


def problems(content: Any, most: Mapping[str, float] = MOST) -> Iterator[str]:
    """What no key of a configuration may say, at any depth."""
    for key, value in entries(content):
        found = f"{key} is {reprlib.repr(value)}"
        if key in REACHING and value:
            yield f"{found}: it loads what is none of the folder's own weights, expected plain settings alone"
        elif key in PLAIN and value and not (isinstance(value, str) and re.fullmatch(r"[\w-]+", value)):
            yield f"{found}: expected a plain name, as others are imported"
        elif key in most and not all(0 <= own <= most[key] for own in numbers(value)):
            yield f"{found}: expected up to {most[key]}"
        elif key == "weight_map" and not all(map(is_beside, value.values() if isinstance(value, dict) else [value])):
            yield f"{found}: expected files beside it"


def entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key and what it says, at any depth."""
    if isinstance(content, list):
        content = {f"[{index}]": own for index, own in enumerate(content)}
    if isinstance(content, dict):
        for key, value in content.items():
            yield key, value
            yield from entries(value)


def numbers(value: Any) -> list[float]:
    """The numbers of a value that is one, or a list of them; a library refuses what is neither."""
    return [own for own in (value if isinstance(value, list) else [value]) if isinstance(own, int | float)]


def is_beside(name: Any) -> bool:
    return isinstance(name, str) and PurePosixPath(name).name == name and name.endswith(".safetensors")
