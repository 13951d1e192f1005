"""Florence-2 (arXiv 2311.06242): DaViT's vision tower and BART, which is told its task as words.

The hub's own `microsoft/` repositories carry code; those of `florence-community` are the same weights for transformers'
class. The task's token stands for a sentence that only the processor knows.
"""

from math import prod
from typing import Any, Literal

from typing_extensions import TypedDict

from kernel.models.captioners.asked.kind import PROMPT_TOKENS, AskedKind
from kernel.models.captioners.captioner import Published

SEEN = 24  # patches along a side, after the last stage


def davit(wide: int) -> dict[str, Any]:
    """Source: config.json of Florence-2-base and -large, as multiples of base."""
    heads = [4 * wide, 8 * wide, 16 * wide, 32 * wide]
    return {"embed_dim": [32 * own for own in heads], "num_heads": heads, "num_groups": heads}


def bart(width: int, feed_forward: int, layers: int, heads: int) -> dict[str, Any]:
    sides = {f"{side}_{what}": value for side in ("encoder", "decoder") for what, value in (
        ("layers", layers), ("attention_heads", heads), ("ffn_dim", feed_forward))}  # fmt: skip
    return {"model_type": "bart", "d_model": width, "vocab_size": 51290, **sides}


class FlorenceConfiguration(TypedDict, total=False):
    model_type: Literal["florence2"]


class Florence2(AskedKind):
    class_name = "Florence2ForConditionalGeneration"
    name = "florence2"
    configuration = FlorenceConfiguration
    prompt_kind = "task"
    words = {"English": "<DETAILED_CAPTION>"}
    is_decoder_only = False
    image_tokens = SEEN**2 + 1
    published = (
        Published(
            "florence-2-base", class_name,
            {"vision_config": {**davit(1), "projection_dim": 768}, "text_config": bart(768, 3072, 6, 12)},
            231_414_784, "florence2-base", "florence-community/Florence-2-base", "MIT", gigabytes=0.46,
        ),
        Published(
            "florence-2-large", class_name,
            {"vision_config": {**davit(2), "projection_dim": 1024}, "text_config": bart(1024, 4096, 12, 16)},
            770_174_976, "florence2", "florence-community/Florence-2-large", "MIT", gigabytes=1.54,
        ),
    )  # fmt: skip

    def one_image(self, model: Any, half: bool) -> Any:
        import torch

        side = SEEN * prod(model.config.vision_config.patch_stride)  # 768 pixels
        return torch.empty(1, 3, side, side, device="meta", dtype=torch.float16 if half else torch.float32)

    def encode_image(self, model: Any, image: Any) -> Any:
        """Once an image, as every encoder and decoder does."""
        import torch

        features = model.model.multi_modal_projector(model.model.vision_tower(image).last_hidden_state)
        words = torch.empty(1, PROMPT_TOKENS, features.shape[-1], device="meta", dtype=features.dtype)
        return self.language_model(model).encoder(inputs_embeds=torch.cat([features, words], 1)).last_hidden_state

    def decode_step(self, model: Any, seen: Any, cache: Any) -> Any:
        import torch

        token = torch.zeros(1, 1, device="meta", dtype=torch.long)
        decoder = self.language_model(model).decoder
        return decoder(
            input_ids=token, encoder_hidden_states=seen, past_key_values=cache, use_cache=True
        ).past_key_values

    def decoder_layers(self, model: Any) -> Any:
        return self.language_model(model).decoder.layers


FLORENCE2 = Florence2()
