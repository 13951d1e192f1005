"""What captioners have in common that are asked in words: a task's through their processor, or a chat by its template.

They are the classes that transformers' AutoModelForImageTextToText makes of their configurations, taken by name, so
that a folder cannot ask for another: no code of a checkpoint is ever run. The words are the same for all images of a
batch; prompts of different lengths (more pixels, more tokens) are filled up on the left, where a decoder expects it,
and what a decoder returns begins with its prompt, which is cut off.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from kernel.config import Recipe
from kernel.errors import UserError
from kernel.models.captioners.captioner import CaptionerKind
from kernel.models.weights_folder import ADVICE
from kernel.system.devices import Device

# a checkpoint's own wishes, which would change what a recipe's beams and samples mean
PLAIN_DECODING = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
# an instruction's tokens and those of a chat's roles, for the costs
PROMPT_TOKENS = 32


class AskedKind(CaptionerKind):
    """`words` is the task or the instruction, by the language of the caption; `nested` says that a processor wants a
    list of images a text; `image_tokens` are those of one image at its published size."""

    words: dict[str, str]
    nested = False
    longest_sentence = 77  # Florence-2, asked for details, says 40 to 70
    is_decoder_only = True
    image_tokens: int

    def adapted(self, model: Any) -> Any:
        for name, value in PLAIN_DECODING.items():
            setattr(model.generation_config, name, value)
        return model

    def read_processor(self, folder: Path) -> Any:
        processor = super().read_processor(folder)
        processor.tokenizer.padding_side = "left" if self.is_decoder_only else "right"
        return self.capped(processor)

    def capped(self, processor: Any) -> Any:
        """The processor with a bound on the pixels, and so on the tokens, of an image."""
        return processor

    def check(self, folder: Path, config: Any, processor: Any) -> None:
        if self.prompt_kind == "chat" and not getattr(processor, "chat_template", None):
            raise UserError(
                f"{folder}: holds no chat template, so it cannot be asked as it was trained to be. {ADVICE}"
            )
        ids = self.asked(processor, [Image.new("RGB", (64, 64))], "English")["input_ids"]
        if not (ids == config.image_token_id).any():
            raise UserError(
                f"{folder}: the processor makes no token {config.image_token_id}, which the image's features would "
                f"take the place of: the image would not reach the words. {ADVICE}"
            )

    def asked_in(self, language: str) -> bool:
        return language in self.words

    def asked(self, processor: Any, images: list[Image.Image], language: str) -> Any:
        text = self.words[language]
        if self.prompt_kind == "chat":
            content = [{"type": "image"}, {"type": "text", "text": text}]
            text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        given = [[image] for image in images] if self.nested else images
        return processor(text=[text] * len(images), images=given, padding=True, return_tensors="pt")

    def prompt(
        self, processor: Any, images: list[Image.Image], device: Device, language: str = "English"
    ) -> dict[str, Any]:
        return dict(self.asked(processor, images, language).to(device.name, device.dtype))

    def lengths(self, model: Any, recipe: Recipe) -> dict[str, int]:
        """A decoder's would count its prompt too."""
        if self.is_decoder_only:
            return {"max_new_tokens": recipe.max_length - 1, "min_new_tokens": max(0, recipe.min_length - 1)}
        return super().lengths(model, recipe)

    def said(self, model: Any, processor: Any, prompt: dict[str, Any], decoding: dict[str, Any]) -> Iterable[str]:
        ids = model.generate(**prompt, **decoding)
        own = ids[:, prompt["input_ids"].shape[1] :] if self.is_decoder_only else ids
        return [" ".join(text.split()) for text in processor.batch_decode(own, skip_special_tokens=True)]

    # costs: transformers repeats pixels and prompt for every beam, so all of it is the first step of each, but where a
    # kind looks before that

    def meta_model(self, config: dict[str, Any], half: bool) -> Any:
        """With positions that are turned on the CPU: transformers 5.0 asks torch whether it casts on the meta device,
        of which torch knows nothing."""
        import torch

        def turned(plain: Any, hidden: Any, position_ids: Any) -> Any:
            given = torch.empty(1, dtype=hidden.dtype), torch.zeros(position_ids.shape, dtype=torch.long)
            return tuple(own.to("meta") for own in plain(*given))

        model = super().meta_model(config, half)
        for part in model.modules():
            if hasattr(part, "rotary_emb"):
                plain = part.rotary_emb.to_empty(device="cpu")
                del part.rotary_emb
                part.rotary_emb = partial(turned, plain)
        return model

    def encode_image(self, model: Any, image: Any) -> Any:
        return image

    def decode_step(self, model: Any, seen: Any, cache: Any) -> Any:
        import torch

        language = self.language_model(model)
        if cache is None:
            self.look(model, seen)
        tokens = self.image_tokens + PROMPT_TOKENS if cache is None else 1
        new = torch.empty(1, tokens, self.output_head(model).shape[1], device="meta", dtype=seen.dtype)
        return language(inputs_embeds=new, past_key_values=cache, use_cache=True).past_key_values

    def look(self, model: Any, pixels: Any) -> None:
        """The vision tower at work on one image."""
        raise NotImplementedError

    def language_model(self, model: Any) -> Any:
        return model.model.language_model

    def decoder_layers(self, model: Any) -> Any:
        return self.language_model(model).layers

    def output_head(self, model: Any) -> Any:
        return model.lm_head.weight
