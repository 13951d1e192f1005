"""Captioners: BLIP-2 (T5 or OPT) and BLIP, by transformers from a local folder.

Both load leniently by themselves: a missing layer gets random numbers and a log line, a wrong dtype or
scaling gives fluent wrong captions. So everything that can be silently wrong is checked after loading.
"""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from kernel.checkpoints import ADVICE, KNOWN_SENTENCE, Weights, check_tokenizer, tokenizer_record
from kernel.config import Recipe
from kernel.devices import Device
from kernel.errors import UserError

# T5 overflows in half precision in its `wo` matrices; the Q-Former and its queries were trained in float32.
# Versions of transformers differ in which of these they keep by themselves.
FULL_PRECISION_PARTS = ["wo", "query_tokens", "qformer"]
BLIP, BLIP2 = "BlipForConditionalGeneration", "Blip2ForConditionalGeneration"
LOADING_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)


class Captioner:
    """One captioning model with its processor."""

    def __init__(self, model: Any, processor: Any, device: Device) -> None:
        self.model, self.processor, self.device = model, processor, device

    @classmethod
    def load(cls, weights: Weights, name: str, device: Device) -> "Captioner":
        """Loads `weights/captioners/NAME`, whose class the manifest names, and checks it whole."""
        processor = inspect_captioner(weights, name)
        folder = weights.model_folder(name)
        if weights.models[name]["class"] == BLIP2:
            model = load_blip2(folder, device)
        else:
            model = load_blip(folder, device)
        return cls(model.to(device.name).eval(), processor, device)

    def captions(self, images: list[Image.Image], recipe: Recipe, seed: int = 0) -> list[list[str]]:
        """RGB images -> for each its `captions_per_image` captions: beams best first, or sampled by `seed`.

        The same images in the same order, recipe, seed, model and device give the same captions.
        """
        import torch

        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
        if recipe.caption_decoding == "sampling":
            torch.manual_seed(seed)
            # top_k=0: transformers would else keep 50 words whatever their probability
            decoding = {"do_sample": True, "num_beams": 1, "top_p": recipe.sampling_top_p, "top_k": 0}
        else:
            decoding = {"do_sample": False, "num_beams": recipe.num_beams}
        with torch.inference_mode():
            ids = self.model.generate(
                pixel_values=pixels.to(self.device.name, self.device.dtype),
                num_return_sequences=recipe.captions_per_image,
                **decoding,
                **self.lengths(recipe),
            )
        texts = [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]
        n = recipe.captions_per_image
        return [texts[i : i + n] for i in range(0, len(texts), n)]

    def lengths(self, recipe: Recipe) -> dict[str, int]:
        """Caption lengths in tokens. T5 and BLIP count their start token; OPT would count its image slots too."""
        if hasattr(self.model, "qformer") and self.model.config.use_decoder_only_language_model:
            return {"max_new_tokens": recipe.max_length - 1, "min_new_tokens": recipe.min_length - 1}
        return {"max_length": recipe.max_length, "min_length": recipe.min_length}


def inspect_captioner(weights: Weights, name: str) -> Any:
    """Checks what needs no weights in memory (class, configuration, processor, tokenizer); returns the processor.

    `run` calls it before the first image: loading the captioner comes only after CLIP's stage.
    """
    from transformers import Blip2Config, Blip2Processor, BlipConfig, BlipProcessor

    folder, record = weights.model_folder(name), weights.models[name]
    if record["class"] not in (BLIP, BLIP2):
        raise UserError(f"{folder}: class {record['class']!r} is no captioner; expected one of {BLIP2}, {BLIP}")
    is_blip2 = record["class"] == BLIP2
    if is_blip2:
        check_stated_scaling(folder)
    try:
        config = (Blip2Config if is_blip2 else BlipConfig).from_pretrained(folder, local_files_only=True)
        processor = (Blip2Processor if is_blip2 else BlipProcessor).from_pretrained(folder, local_files_only=True)
    except LOADING_ERRORS as error:
        raise cannot_load(folder, error) from error
    if is_blip2:
        check_image_slots(folder, config, processor)
    tokenizer = captioner_tokenizer_record(processor.tokenizer)
    check_tokenizer(str(folder), tokenizer, record.get("tokenizer"), config.text_config.vocab_size)
    return processor


def captioner_tokenizer_record(tokenizer: Any) -> dict[str, Any]:
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "sep")}
    return tokenizer_record(len(tokenizer), special, tokenizer(KNOWN_SENTENCE)["input_ids"])


def load_blip(folder: Path, device: Device) -> Any:
    from transformers import BlipForConditionalGeneration

    from kernel.image_attention import look_once

    model, info = load_complete(BlipForConditionalGeneration, folder, device)
    check_complete(folder, info)
    check_dtypes(folder, model, device, full_precision=[])
    look_once(model)
    return model


def load_blip2(folder: Path, device: Device) -> Any:
    from transformers import Blip2ForConditionalGeneration

    class Blip2(Blip2ForConditionalGeneration):
        _keep_in_fp32_modules = FULL_PRECISION_PARTS

    model, info = load_complete(Blip2, folder, device)
    check_complete(folder, info)
    check_dtypes(folder, model, device, full_precision=FULL_PRECISION_PARTS)
    check_loaded_scaling(folder, model)
    return model


def load_complete(model_class: Any, folder: Path, device: Device) -> tuple[Any, dict[str, Any]]:
    try:
        return model_class.from_pretrained(
            folder,
            dtype=device.dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except LOADING_ERRORS as error:
        raise cannot_load(folder, error) from error


def cannot_load(folder: Path, error: Exception) -> UserError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"{folder}: transformers cannot load it ({line}). {ADVICE}")


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


def check_dtypes(folder: Path, model: Any, device: Device, full_precision: list[str]) -> None:
    import torch

    for name, parameter in model.named_parameters():
        kept = any(part in name.split(".") for part in full_precision)
        expected = torch.float32 if kept else device.dtype
        if parameter.dtype != expected:
            raise UserError(
                f"{folder}: {name} loaded as {parameter.dtype}, expected {expected}: captions would be wrong or "
                "overflow. This version of transformers is not supported; install the one in pyproject.toml"
            )


def check_stated_scaling(folder: Path) -> None:
    """T5 text configurations must say whether decoder outputs are scaled: versions guess differently.

    transformers 5.0 scales whenever the key is absent, which flan-T5 was not trained with.
    """
    path = folder / "config.json"
    try:
        text_config = json.loads(path.read_text(encoding="utf-8"))["text_config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a BLIP-2 configuration ({error!r}). {ADVICE}") from error
    if text_config.get("model_type") == "t5" and text_config.get("scale_decoder_outputs") is not False:
        raise UserError(
            f"{path}: text_config.scale_decoder_outputs is {text_config.get('scale_decoder_outputs')}, expected false: "
            f"decoder outputs would be scaled and captions wrong. {ADVICE}"
        )


def check_loaded_scaling(folder: Path, model: Any) -> None:
    config = model.language_model.config
    if config.model_type == "t5" and config.scale_decoder_outputs is not False:
        raise UserError(
            f"{folder}: this transformers would scale T5's decoder outputs although the configuration says not to: "
            "captions would be wrong. Install the version in pyproject.toml"
        )


def check_image_slots(folder: Path, config: Any, processor: Any) -> None:
    """The language model must receive exactly one slot for each query of the Q-Former."""
    queries = config.num_query_tokens
    image_token = processor.tokenizer.convert_tokens_to_ids("<image>")
    found = {
        "processor num_query_tokens": (processor.num_query_tokens, queries),
        "config image_token_index": (config.image_token_index, image_token),
    }
    for what, (value, expected) in found.items():
        if value != expected:
            raise UserError(
                f"{folder}: {what} is {value}, expected {expected}: the image would not reach "
                f"the language model. {ADVICE}"
            )
    if config.text_config.bos_token_id is None:
        raise UserError(
            f"{folder}: text_config.bos_token_id is missing, expected a token id: captions cannot start. {ADVICE}"
        )
    slots = processor(images=Image.new("RGB", (8, 8)), text="", return_tensors="pt")["input_ids"] == image_token
    if int(slots.sum()) != queries:
        raise UserError(
            f"{folder}: the processor makes {int(slots.sum())} image slots for {queries} queries: "
            f"the image would not reach the language model. {ADVICE}"
        )
