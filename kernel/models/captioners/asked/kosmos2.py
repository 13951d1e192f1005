"""Kosmos-2 (arXiv 2306.14824): CLIP's vision tower, 64 queries that ask it, and a decoder that goes on with words."""

from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from kernel.models.captioners.asked.kind import AskedKind
from kernel.models.captioners.captioner import Published


class KosmosConfiguration(TypedDict, total=False):
    model_type: Literal["kosmos-2"]


class Kosmos2(AskedKind):
    class_name = "Kosmos2ForConditionalGeneration"
    name = "kosmos2"
    configuration = KosmosConfiguration
    prompt_kind = "task"
    words = {"English": "An image of"}  # without <grounding>, which would have it say where things are
    image_tokens = 66
    # by the class itself, whose defaults are kosmos-2-patch14-224
    published = (
        Published(
            "kosmos-2",
            class_name,
            {},
            1_664_485_376,
            "kosmos2",
            "microsoft/kosmos-2-patch14-224",
            "MIT",
            gigabytes=3.33,
        ),
    )

    def check(self, folder: Path, config: Any, processor: Any) -> None:
        """Its image has places by a mask of its own, not by a token."""

    # an image is seen once: the class asks its vision tower before the text model repeats rows

    def encode_image(self, model: Any, image: Any) -> Any:
        model.image_to_text_projection(model.vision_model(pixel_values=image).last_hidden_state)
        return image

    def look(self, model: Any, pixels: Any) -> None:
        """Nothing more for a row."""

    def language_model(self, model: Any) -> Any:
        return model.text_model.model

    def output_head(self, model: Any) -> Any:
        return model.text_model.lm_head.weight


KOSMOS2 = Kosmos2()
