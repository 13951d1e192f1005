"""The published models by their architecture: the numbers of their config.json, none of their weights.

What a configuration leaves out is the default of its class in transformers (BLIP-2: EVA ViT-g with 39 layers of 1,408,
Q-Former with 12 layers of 768, 32 queries; BLIP: 12 layers of 768, 384 pixels).
"""

from dataclasses import dataclass
from typing import Any

from kernel.captions import BLIP, BLIP2

# open_clip carries this configuration itself: open_clip.get_model_config("ViT-g-14")
CLIP = "ViT-g-14"


@dataclass(frozen=True)
class Published:
    """A captioner: the hub's repository, its class, its configuration, whether its file holds the tied head twice."""

    name: str
    class_name: str
    config: dict[str, Any]
    head_stored_twice: bool = False


def flan_t5(model_width: int, feed_forward: int, heads: int) -> dict[str, Any]:
    """Source: config.json of google/flan-t5-xl and -xxl, as blip2-flan-t5-xl and -xxl repeat them."""
    return {
        "model_type": "t5",
        "d_model": model_width,
        "d_ff": feed_forward,
        "d_kv": 64,
        "num_heads": heads,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "scale_decoder_outputs": False,
        "bos_token_id": 1,
        "decoder_start_token_id": 0,
    }


# Source: config.json of blip2-opt-2.7b
OPT = {
    "model_type": "opt",
    "hidden_size": 2560,
    "ffn_dim": 10240,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "word_embed_proj_dim": 2560,
    "vocab_size": 50304,
}

# Source: config.json of blip-image-captioning-base and -large; the text decoder has 12 heads where the class says 8
BLIP_TEXT = {"num_attention_heads": 12}
BLIP_LARGE_VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
}

# from the smallest to the largest: the order in which a smaller one is proposed
CAPTIONERS = {
    published.name: published
    for published in (
        Published("blip-image-captioning-base", BLIP, {"text_config": BLIP_TEXT}, head_stored_twice=True),
        Published(
            "blip-image-captioning-large",
            BLIP,
            {"text_config": {**BLIP_TEXT, "encoder_hidden_size": 1024}, "vision_config": BLIP_LARGE_VISION},
            head_stored_twice=True,
        ),
        Published("blip2-opt-2.7b", BLIP2, {"text_config": OPT, "image_token_index": 50265}),
        Published("blip2-flan-t5-xl", BLIP2, {"text_config": flan_t5(2048, 5120, 32), "image_token_index": 32100}),
        Published("blip2-flan-t5-xxl", BLIP2, {"text_config": flan_t5(4096, 10240, 64), "image_token_index": 32100}),
    )
}
# what `publish weights` puts into captioners/blip2 and captioners/blip
SHIPPED = {"auto": "blip2-flan-t5-xl", "blip2": "blip2-flan-t5-xl", "blip": "blip-image-captioning-large"}

# Source: config.json of sentence-transformers/all-MiniLM-L6-v2
MINILM = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_attention_heads": 12,
    "num_hidden_layers": 6,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}

# phrases of CLIP-Interrogator's lists that are left after blank, repeated and undecodable lines: `clip-interrogator`
# 0.6.0, clip_interrogator/data/
PHRASES = {"mediums": 95, "movements": 200, "flavors": 100_952, "artists": 5265, "negative": 41}
