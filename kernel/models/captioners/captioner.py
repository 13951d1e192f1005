"""What a kind of captioner must say of itself, and the captioner that a run calls.

A kind is one file with one object: how its checkpoint is read and checked, what it is given of an image and of a
recipe, and what it costs. Nobody else asks which kind a captioner is.

transformers loads leniently: a missing layer gets random numbers and a log line, a wrong dtype gives fluent wrong
captions. So everything is checked here that can be silently wrong.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from kernel.config import Recipe
from kernel.errors import UserError
from kernel.models.configurations import check_configurations, read_configuration
from kernel.models.tokenizers import KNOWN_SENTENCE, check_tokenizer, tokenizer_record
from kernel.models.weights_folder import ADVICE, loading
from kernel.system.devices import Device

CONFIG = "config.json"


def load_complete(
    model_class: Any,
    folder: Path,
    device: Device,
    full_precision: Sequence[str] = (),
    state: dict[str, Any] | None = None,
) -> Any:
    """The model with every weight from its files, or from `state`, {name: tensor}, in the device's dtype but for the
    parts in float32; else UserError."""
    with loading(folder, "transformers"):
        model, info = model_class.from_pretrained(
            folder if state is None else None,
            config=None if state is None else str(folder),
            dtype=device.dtype,
            local_files_only=True,
            use_safetensors=True,
            state_dict=state,
            output_loading_info=True,
        )
    check_complete(folder, info)
    check_dtypes(folder, model, device, full_precision)
    return model


def check_complete(folder: Path, info: dict[str, Any]) -> None:
    """Every weight of the model from the file and every weight of the file in the model."""
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        # buffers that the class recomputes are no weights
        keys = sorted(str(key) for key in info[kind] if "position_ids" not in str(key))
        if keys:
            follows = (
                "the model would run on random numbers" if kind != "unexpected_keys" else "it is another model's file"
            )
            raise UserError(
                f"{folder}: {kind.replace('_', ' ')} {', '.join(keys[:3])} ({len(keys)} in all): {follows}. {ADVICE}"
            )


def check_dtypes(folder: Path, model: Any, device: Device, full_precision: Sequence[str]) -> None:
    import torch

    for name, parameter in model.named_parameters():
        expected = torch.float32 if in_full_precision(name, full_precision) else device.dtype
        if parameter.dtype != expected:
            raise UserError(
                f"{folder}: {name} loaded as {parameter.dtype}, expected {expected}: captions would be wrong or "
                "overflow. This version of transformers is not supported; install the one in pyproject.toml"
            )


def in_full_precision(name: str, parts: Sequence[str]) -> bool:
    """Whether a parameter stays in float32 on a GPU, by its dotted name.

    Example: in_full_precision("encoder.block.0.wo.weight", ["wo"]) is True, of "encoder.wonder.weight" False
    """
    return any(part in parts for part in name.split("."))


@dataclass(frozen=True)
class Published:
    """A captioner by its architecture: a name, its class, the numbers of its config.json.

    What a configuration leaves out is the default of its class in transformers. `parameters` are the published number,
    0 for a weights folder's own. One that `publish weights` takes has a `key`, which is its folder in `captioners/`
    and what a recipe calls it, its `repository` on the hub, its `licence` as remembered of its page, the `languages`
    it was trained to say, and its weights' `gigabytes` in memory as they are loaded on a GPU.
    """

    name: str
    class_name: str
    config: dict[str, Any]
    parameters: int = 0
    key: str = ""
    repository: str = ""
    licence: str = ""
    languages: tuple[str, ...] = ("English",)
    gigabytes: float = 0.0


class CaptionerKind(ABC):
    """One class of checkpoints. What is not abstract is what transformers' image-to-text models have in common.

    A manifest names `class_name`; `name` is the folder in `captioners/` that `publish weights` and the miniature world
    fill. `configuration` is the type of its config.json and `largest` what numbers of its files may be where others'
    may not (see kernel/models/configurations.py). `full_precision` are dotted parts of the names of parameters that
    stay float32 on a GPU, `weights_files` the names that the file of weights may have on the hub. `published` are the
    sizes that can be planned by name. `prompt_kind` says what a model is asked with beside the image: "none", "task"
    words or a "chat"; `longest_sentence` is `max_length` in `describe` where that is more than others'.
    """

    class_name: str
    name: str
    configuration: Any
    config_file = CONFIG
    largest: dict[str, int] = {}
    full_precision: tuple[str, ...] = ()
    weights_files: tuple[str, ...] = ("model.safetensors",)
    published: tuple[Published, ...] = ()
    prompt_kind = "none"
    longest_sentence = 0

    # loading

    def of_transformers(self, part: str) -> Any:
        """The class "Config", "Processor" or "ForConditionalGeneration" of this kind."""
        import transformers

        return getattr(transformers, self.class_name.replace("ForConditionalGeneration", part))

    def read_processor(self, folder: Path) -> Any:
        """What prepares images and tells tokens as text."""
        return self.of_transformers("Processor").from_pretrained(folder, local_files_only=True)

    def load(self, folder: Path, device: Device) -> Any:
        """The model in the host's memory, in the device's dtype, complete and checked; else UserError."""
        plain = self.of_transformers("ForConditionalGeneration")
        # by its module transformers knows a class for its own, and what its checkpoints' keys were called before
        own = {"_keep_in_fp32_modules": list(self.full_precision) or None, "__module__": plain.__module__}
        kept = type(plain.__name__, (plain,), own)
        return self.adapted(load_complete(kept, folder, device, self.full_precision))

    def adapted(self, model: Any) -> Any:
        """The model with what a kind computes otherwise than transformers."""
        return model

    def check(self, folder: Path, config: Any, processor: Any) -> None:  # noqa: B027 - nothing to check is a kind's right
        """Raises UserError where configuration and processor do not go together."""

    def embedding_rows(self, config: Any) -> int:
        return config.text_config.vocab_size

    def inspect(self, folder: Path, tokenizer: dict[str, Any] | None) -> Any:
        """Checks what needs no weights in memory against itself and the manifest's tokenizer record; returns the
        processor. Raises UserError."""
        check_configurations(folder, self.configurations, self.largest)
        with loading(folder, "transformers"):
            config = self.of_transformers("Config").from_pretrained(folder, local_files_only=True)
            processor = self.read_processor(folder)
            self.check(folder, config, processor)
            record = self.tokenizer_record(processor)
        check_tokenizer(str(folder), record, tokenizer, self.embedding_rows(config))
        return processor

    @property
    def configurations(self) -> dict[str, Any]:
        """The types of its JSON files, for `check_configurations`."""
        return {self.config_file: self.configuration}

    def read_config(self, path: Path, advice: str = ADVICE) -> dict[str, Any]:
        """A config.json of this kind, all of it. Raises UserError."""
        return read_configuration(path, self.configuration, advice, self.largest)

    def tokenizer_record(self, processor: Any) -> dict[str, Any]:
        """What the manifest keeps of the tokenizer."""
        tokenizer = processor.tokenizer
        special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "sep")}
        return tokenizer_record(len(tokenizer), special, tokenizer(KNOWN_SENTENCE)["input_ids"])

    def stated(self, config: dict[str, Any]) -> dict[str, Any]:
        """A hub's config.json as it is kept: no dtype claimed, as those are the file's and the loader asks its own."""
        return without_dtype(config)

    def complete(self, folder: Path) -> bool:
        """Adds to a hub's small files what this kind needs and they lack; whether anything was."""
        return False

    # captioning

    def asked_in(self, language: str) -> bool:
        """Whether it can be asked for captions in a language; one that is asked in no words says what it was trained
        to."""
        return True

    def prompt(
        self, processor: Any, images: list[Image.Image], device: Device, language: str = "English"
    ) -> dict[str, Any]:
        """What the model is asked with: the images' pixels on the device, and a kind's own words if it needs any, in
        the language that its captions are to be in."""
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels.to(device.name, device.dtype)}

    def lengths(self, model: Any, recipe: Recipe) -> dict[str, int]:
        """Caption lengths in tokens; the recipe counts the start token."""
        return {"max_length": recipe.max_length, "min_length": recipe.min_length}

    def decoding(self, recipe: Recipe) -> dict[str, Any]:
        """Beams, or samples, as the recipe says."""
        if recipe.caption_decoding == "sampling":
            # top_k=0: transformers would else keep 50 words whatever their probability
            how = {"do_sample": True, "num_beams": 1, "top_p": recipe.sampling_top_p, "top_k": 0}
        else:
            how = {"do_sample": False, "num_beams": recipe.num_beams}
        return {"num_return_sequences": recipe.captions_per_image, **how}

    def said(self, model: Any, processor: Any, prompt: dict[str, Any], decoding: dict[str, Any]) -> Iterable[str]:
        """All captions of all images, one image after the other, without the prompt's own words."""
        return processor.batch_decode(model.generate(**prompt, **decoding), skip_special_tokens=True)

    # costs

    def new_model(self, config: dict[str, Any]) -> Any:
        """The model as `load` leaves it but for its dtypes, by the numbers of a config.json, on torch's own device."""
        model_class, config_class = (self.of_transformers(part) for part in ("ForConditionalGeneration", "Config"))
        model = model_class(config_class(**deepcopy(config)))  # some classes fill in what they are given
        model.tie_weights()  # which transformers 5.0 leaves undone on the meta device
        return self.adapted(model)

    def meta_model(self, config: dict[str, Any], half: bool) -> Any:
        """The model without memory for its weights, its dtypes those that `load` leaves on a GPU, or on a CPU."""
        import torch

        with torch.device("meta"):
            model = self.new_model(config)
        if half:
            model.half()
            for name, parameter in model.named_parameters():
                if in_full_precision(name, self.full_precision):
                    parameter.data = parameter.data.float()
        return model.eval()

    def one_image(self, model: Any, half: bool) -> Any:
        """What `encode_image` takes of one image: pixels on the meta device."""
        import torch

        side = model.config.vision_config.image_size
        return torch.empty(1, 3, side, side, device="meta", dtype=torch.float16 if half else torch.float32)

    @abstractmethod
    def encode_image(self, model: Any, image: Any) -> Any:
        """What decoding sees of one image."""

    @abstractmethod
    def decode_step(self, model: Any, seen: Any, cache: Any) -> Any:
        """One token more of one row, as beam search asks for it; returns the cache, which begins as None."""

    @abstractmethod
    def decoder_layers(self, model: Any) -> Any:
        """The blocks that every step passes, a ModuleList."""

    @abstractmethod
    def output_head(self, model: Any) -> Any:
        """The matrix from the decoder's last state to the scores of all tokens, (tokens, width)."""

    def cache_bytes(self, cache: Any) -> int:
        """A row's keys and values of every layer, those of the image included where each row has its own, in
        transformers' caches."""
        halves = [cache.self_attention_cache, cache.cross_attention_cache] if hasattr(cache, "is_updated") else [cache]
        layers = [layer for half in halves for layer in half.layers if layer.keys is not None]
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    def image_bytes(self, model: Any, seen: Any) -> tuple[int, int]:
        """Bytes that lie there once of an image for all its rows, and those that one step reads of them in all layers;
        none where each row has its own in the cache."""
        return 0, 0


@dataclass
class Captioner:
    """One captioning model with its processor, on a device, and the language that it is asked for."""

    kind: CaptionerKind
    model: Any
    processor: Any
    device: Device
    language: str = "English"

    def captions(self, images: list[Image.Image], recipe: Recipe, seed: int = 0) -> list[list[str]]:
        """RGB images -> for each its `captions_per_image` captions: beams best first, or sampled by `seed`.

        The same images in the same order, recipe, seed, model and device give the same captions. Raises ValueError
        where the model's scores of words are no numbers: from these, too, `generate` makes words, alike for all images.
        """
        import torch

        if recipe.caption_decoding == "sampling":
            torch.manual_seed(seed)
        texts, n = self.said(images, recipe, self.kind.decoding(recipe)), recipe.captions_per_image
        return [texts[i : i + n] for i in range(0, len(texts), n)]

    def said(self, images: list[Image.Image], recipe: Recipe, decoding: dict[str, Any]) -> list[str]:
        """What `decoding` makes of the images, one after the other, in the recipe's lengths."""
        import torch

        prompt = self.kind.prompt(self.processor, images, self.device, self.language)
        decoding = {**decoding, **self.kind.lengths(self.model, recipe), **FINITE}
        with torch.inference_mode():
            return [text.strip() for text in self.kind.said(self.model, self.processor, prompt, decoding)]


def finite(ids: Any, scores: Any) -> Any:
    """Scores of every token, as they are, where none is NaN or infinite but minus infinity, of what may not follow."""
    if not scores.amax(dim=-1).isfinite().all():  # a row's largest is NaN where any of its scores is
        raise ValueError("its scores of words are no numbers: the weights are damaged, or half precision overflowed")
    return scores


FINITE = {"logits_processor": [finite]}


def without_dtype(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {key: without_dtype(value) for key, value in config.items() if key not in ("dtype", "torch_dtype")}
