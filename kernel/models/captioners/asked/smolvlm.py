"""SmolVLM (arXiv 2504.05299): SigLIP's vision tower and SmolLM2; its checkpoints are of the class Idefics3."""

from typing import Any, Literal

from typing_extensions import TypedDict

from kernel.models.captioners.asked.kind import AskedKind
from kernel.models.captioners.captioner import Published

# Source: config.json of SmolVLM-256M-, -500M- and SmolVLM-Instruct
BASE_VISION = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 512,
               "patch_size": 16}  # fmt: skip
LARGE_VISION = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "image_size": 384,
                "patch_size": 14}  # fmt: skip


def smol(width: int, feed_forward: int, layers: int, heads: tuple[int, int], vocabulary: int) -> dict[str, Any]:
    """SmolLM2 by its size; its heads and those of keys and values."""
    return {
        "model_type": "llama", "hidden_size": width, "intermediate_size": feed_forward, "num_hidden_layers": layers,
        "num_attention_heads": heads[0], "num_key_value_heads": heads[1], "vocab_size": vocabulary,
    }  # fmt: skip


class SmolVLMConfiguration(TypedDict, total=False):
    model_type: Literal["idefics3"]


class SmolVLM(AskedKind):
    class_name = "Idefics3ForConditionalGeneration"
    name = "smolvlm"
    configuration = SmolVLMConfiguration
    prompt_kind = "chat"
    words = {"English": "Describe this image in one sentence."}
    nested = True
    image_tokens = 81
    published = (
        Published(
            "smolvlm-256m-instruct", class_name,
            {"vision_config": BASE_VISION, "text_config": smol(576, 1536, 30, (9, 3), 49280), "scale_factor": 4},
            256_484_928, "smolvlm-256m", "HuggingFaceTB/SmolVLM-256M-Instruct", "Apache-2.0", gigabytes=0.51,
        ),
        Published(
            "smolvlm-500m-instruct", class_name,
            {"vision_config": BASE_VISION, "text_config": smol(960, 2560, 32, (15, 5), 49280), "scale_factor": 4},
            507_482_304, "smolvlm-500m", "HuggingFaceTB/SmolVLM-500M-Instruct", "Apache-2.0", gigabytes=1.01,
        ),
        Published(
            "smolvlm-instruct", class_name,
            {"vision_config": LARGE_VISION, "text_config": smol(2048, 8192, 24, (32, 32), 49155), "scale_factor": 3},
            2_246_272_880, "smolvlm", "HuggingFaceTB/SmolVLM-Instruct", "Apache-2.0", gigabytes=4.49,
        ),
    )  # fmt: skip

    def capped(self, processor: Any) -> Any:
        """The whole picture once, without the sub-images in which it would be seen again, seventeen times the work."""
        processor.image_processor.do_image_splitting = False
        return processor

    def look(self, model: Any, pixels: Any) -> None:
        import torch

        vision = model.model.vision_model
        patches = (pixels.shape[-1] // vision.config.patch_size) ** 2
        vision.encoder(
            inputs_embeds=torch.empty(1, patches, vision.config.hidden_size, device="meta", dtype=pixels.dtype)
        )

    def language_model(self, model: Any) -> Any:
        return model.model.text_model


SMOLVLM = SmolVLM()
