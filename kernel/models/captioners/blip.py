"""BLIP (arXiv 2201.12086): a vision transformer, and a BERT that looks at its tokens as it writes."""

from typing import Any, Literal

from typing_extensions import TypedDict

from kernel.models.captioners.captioner import CaptionerKind, Published

# Source: config.json of blip-image-captioning-base and -large; the text decoder has 12 heads where the class says 8,
# which has 12 layers of 768 and 384 pixels by itself
BLIP_TEXT = {"num_attention_heads": 12}
LARGE_VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}


class BlipText(TypedDict, total=False):
    model_type: Literal["blip_text_model"]


class BlipVision(TypedDict, total=False):
    model_type: Literal["blip_vision_model"]


class BlipConfiguration(TypedDict, total=False):
    model_type: Literal["blip"]
    architectures: list[Literal["BlipForConditionalGeneration"]] | None
    text_config: BlipText | None
    vision_config: BlipVision | None


class Blip(CaptionerKind):
    class_name = "BlipForConditionalGeneration"
    name = "blip"
    configuration = BlipConfiguration
    published = (
        Published("blip-image-captioning-base", class_name, {"text_config": BLIP_TEXT}, parameters=223_971_644),
        Published(
            "blip-image-captioning-large",
            class_name,
            {"text_config": {**BLIP_TEXT, "encoder_hidden_size": 1024}, "vision_config": LARGE_VISION},
            parameters=446_290_492,
            key="blip",
            repository="Salesforce/blip-image-captioning-large",
            licence="BSD-3-Clause",
            gigabytes=0.89,
        ),
    )

    def adapted(self, model: Any) -> Any:
        from kernel.models.captioners.blip_attention import look_once

        look_once(model)
        return model

    def encode_image(self, model: Any, image: Any) -> Any:
        """Pixels -> the image's tokens, (1, tokens, width)."""
        return model.vision_model(pixel_values=image).last_hidden_state

    def decode_step(self, model: Any, seen: Any, cache: Any) -> Any:
        import torch

        token = torch.zeros(1, 1, device="meta", dtype=torch.long)
        output = model.text_decoder(input_ids=token, encoder_hidden_states=seen, past_key_values=cache, use_cache=True)
        return output.past_key_values

    def decoder_layers(self, model: Any) -> Any:
        return model.text_decoder.bert.encoder.layer

    def output_head(self, model: Any) -> Any:
        return model.text_decoder.cls.predictions.decoder.weight

    def image_bytes(self, model: Any, seen: Any) -> tuple[int, int]:
        """Its words look at one copy of the tokens (blip_attention.py): each layer twice, for the scores and for what
        is heard."""
        return seen.nbytes, 2 * len(self.decoder_layers(model)) * seen.nbytes


BLIP = Blip()
