"""PaliGemma (arXiv 2407.07726): SigLIP's vision tower and Gemma, told its task and the language as words."""

from typing import Any, Literal

from typing_extensions import TypedDict

from kernel.models.captioners.asked.kind import AskedKind
from kernel.models.captioners.captioner import Published


class PaliGemmaConfiguration(TypedDict, total=False):
    model_type: Literal["paligemma"]


class PaliGemma(AskedKind):
    class_name = "PaliGemmaForConditionalGeneration"
    name = "paligemma"
    configuration = PaliGemmaConfiguration
    prompt_kind = "task"
    words = {"English": "<image>caption en", "Korean": "<image>caption ko"}
    image_tokens = 256
    # Source: config.json of paligemma-3b-mix-224; it was trained on captions in 33 more languages
    published = (
        Published(
            "paligemma-3b", class_name,
            {
                "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304,
                                  "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14,
                                  "vision_use_head": False},
                "text_config": {"model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384,
                                "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1,
                                "vocab_size": 257216},
            }, 2_923_466_480,
            "paligemma", "google/paligemma-3b-mix-224", "Gemma (gated)", ("English", "Korean"), 5.85,
        ),
    )  # fmt: skip

    def look(self, model: Any, pixels: Any) -> None:
        model.model.multi_modal_projector(model.model.vision_tower(pixels).last_hidden_state)


PALIGEMMA = PaliGemma()
