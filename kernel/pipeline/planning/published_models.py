"""The published models by their architecture: the numbers of their config.json, none of their weights.

What a configuration leaves out is the default of its class. Captioners' are told by their own kind.
"""

from kernel.models.captioners.loading import SHIPPED_KINDS, published_captioners

# open_clip carries this configuration itself: open_clip.get_model_config("ViT-g-14")
CLIP = "ViT-g-14"

# from the smallest to the largest: the order in which a smaller one is proposed
CAPTIONERS = published_captioners()
# what `publish weights` puts into captioners/blip2 and captioners/blip
SHIPPED = {
    "auto": next(iter(SHIPPED_KINDS.values())).shipped,
    **{name: kind.shipped for name, kind in SHIPPED_KINDS.items()},
}

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
