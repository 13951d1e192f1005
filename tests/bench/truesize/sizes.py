"""Which sizes the rehearsal's models have: those of the published ones, or tiny ones of the same classes for tests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kernel.models.captioners.blip2 import BLIP2
from kernel.models.captioners.captioner import Published
from kernel.pipeline.planning.models import CAPTIONERS, CLIP, SHIPPED


@dataclass(frozen=True)
class Sizes:
    """open_clip's configuration of CLIP, asked for at use, and a BLIP-2 with a T5 text model."""

    name: str
    clip: Callable[[], dict[str, Any]]
    captioner: Published


def published_clip() -> dict[str, Any]:
    import open_clip

    return open_clip.get_model_config(CLIP)


def tiny_clip() -> dict[str, Any]:
    return {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 56, "patch_size": 14, "width": 96, "layers": 3, "head_width": 24},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }


TINY_CAPTIONER = Published(
    "tiny-blip2",
    BLIP2.class_name,
    {
        "vision_config": {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
                          "image_size": 56, "patch_size": 14},
        "qformer_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                           "num_attention_heads": 2, "encoder_hidden_size": 96, "vocab_size": 64},
        "text_config": {"model_type": "t5", "d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2,
                        "num_decoder_layers": 2, "vocab_size": 2048, "feed_forward_proj": "gated-gelu",
                        "tie_word_embeddings": False, "scale_decoder_outputs": False, "bos_token_id": 1,
                        "decoder_start_token_id": 0},
        "image_token_index": 2000,
    },
)  # fmt: skip

SIZES = {
    sizes.name: sizes
    for sizes in (
        Sizes("true", published_clip, CAPTIONERS[SHIPPED["blip2"]]),
        Sizes("tiny", tiny_clip, TINY_CAPTIONER),
    )
}
