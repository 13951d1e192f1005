"""Qwen2-VL (arXiv 2409.12191) and Qwen3-VL (arXiv 2511.21631): pictures of any shape, in many languages."""

from typing import Any, Literal

from typing_extensions import TypedDict

from kernel.models.captioners.asked.kind import AskedKind
from kernel.models.captioners.captioner import Published

LANGUAGES = ("English", "Chinese", "Korean", "Japanese")  # among others
MOST_PIXELS = 512 * 512  # Stable Diffusion's own; twice the side is four times the work
LEAST_PIXELS = 64 * 64


class Qwen2Configuration(TypedDict, total=False):
    model_type: Literal["qwen2_vl"]


class Qwen3Configuration(TypedDict, total=False):
    model_type: Literal["qwen3_vl"]


def qwen3(size: str, key: str, text: dict[str, Any], parameters: int, gigabytes: float) -> Published:
    """Source: config.json of Qwen3-VL-2B-Instruct and -4B-Instruct."""
    vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
              "out_hidden_size": text["hidden_size"], "deepstack_visual_indexes": [5, 11, 17]}  # fmt: skip
    turned = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    shared = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "rope_scaling": turned}
    return Published(
        f"qwen3-vl-{size}-instruct",
        "Qwen3VLForConditionalGeneration",
        {"vision_config": vision, "text_config": {**text, **shared}, "tie_word_embeddings": True},
        parameters,
        key,
        f"Qwen/Qwen3-VL-{size.upper()}-Instruct",
        "Apache-2.0",
        LANGUAGES,
        gigabytes,
    )


class Qwen2VL(AskedKind):
    class_name = "Qwen2VLForConditionalGeneration"
    name = "qwen2-vl"
    configuration: Any = Qwen2Configuration
    # edges count pixels here, and are set by `capped`; positions are turned, so that none has a row of a table
    largest = {"longest_edge": 2**25, "shortest_edge": 2**25, "max_position_embeddings": 2**20}
    prompt_kind = "chat"
    words = {
        "English": "Describe this image in one sentence.",
        "Korean": "이 이미지를 한국어 한 문장으로 묘사해 주세요.",
    }
    image_tokens = 324  # 18 x 18 of 28 pixels each
    # Source: config.json of Qwen2-VL-2B-Instruct
    published: tuple[Published, ...] = (
        Published(
            "qwen2-vl-2b-instruct", class_name,
            {
                "vision_config": {"hidden_size": 1536},
                "text_config": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                                "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
                                "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
                "tie_word_embeddings": True,
            },
            2_208_985_600, "qwen2-vl", "Qwen/Qwen2-VL-2B-Instruct", "Apache-2.0", LANGUAGES, 4.42,
        ),
    )  # fmt: skip

    def capped(self, processor: Any) -> Any:
        processor.image_processor.size = {"shortest_edge": LEAST_PIXELS, "longest_edge": MOST_PIXELS}
        return processor

    def one_image(self, model: Any, half: bool) -> Any:
        import torch

        vision = model.config.vision_config
        patches = self.image_tokens * vision.spatial_merge_size**2
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        return torch.empty(patches, values, device="meta", dtype=torch.float16 if half else torch.float32)

    def look(self, model: Any, pixels: Any) -> None:
        import torch

        vision = model.model.visual
        hidden = vision.patch_embed(pixels)
        width = hidden.shape[1] // vision.config.num_heads
        turned = torch.empty(len(hidden), width, device="meta", dtype=torch.float32)
        for block in vision.blocks:
            hidden = block(hidden, cu_seqlens=torch.tensor([0, len(hidden)]), position_embeddings=(turned, turned))
        vision.merger(hidden)


class Qwen3VL(Qwen2VL):
    class_name = "Qwen3VLForConditionalGeneration"
    name = "qwen3-vl"
    configuration: Any = Qwen3Configuration
    image_tokens = 256  # 16 x 16 of 32 pixels each
    published = (
        qwen3("2b", "qwen3-vl", {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
                                 "num_attention_heads": 16}, 2_127_532_032, 4.26),
        qwen3("4b", "qwen3-vl-4b", {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
                                    "num_attention_heads": 32}, 4_437_815_808, 8.88),
    )  # fmt: skip


QWEN2_VL, QWEN3_VL = Qwen2VL(), Qwen3VL()
