"""BLIP's attention to images: within an image fused, and from words to an image with its keys and values kept once.

transformers has BLIP's vision tower compute attention step by step, with all scores of 577 x 577 tokens in memory;
torch's fused attention takes about two thirds of the tower's time and none of that memory.

transformers expands an image's 577 tokens to every beam before the text decoder sees them, keeps keys and values of
each (42 MB a beam in float32 at base size) and copies all of them whenever beams are reordered, after every word. An
image's beams stay beside one another, so their queries can be asked of one copy together.
"""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import scaled_dot_product_attention


class VisionAttention(torch.nn.Module):
    """The weights of one vision layer's attention; stands where transformers has BlipAttention."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.qkv, self.projection, self.heads = plain.qkv, plain.projection, plain.num_heads

    def forward(self, hidden_states: torch.Tensor, **ignored: Any) -> tuple[torch.Tensor, None]:
        """Image tokens (images, tokens, width) -> as they are."""
        images, tokens, width = hidden_states.shape
        mixed = self.qkv(hidden_states).view(images, tokens, 3, self.heads, width // self.heads)
        said = scaled_dot_product_attention(*mixed.permute(2, 0, 3, 1, 4))
        return self.projection(said.transpose(1, 2).reshape(hidden_states.shape)), None


class ImageAttention(torch.nn.Module):
    """The weights of one layer's cross-attention; of every image its keys and values once.

    Stands where transformers has BlipTextSelfAttention and takes what that is called with.
    """

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.query, self.key, self.value = plain.query, plain.key, plain.value
        self.heads = plain.num_attention_heads
        # by the cache that a generation keeps of its words: gone when that is
        self.kept: WeakKeyDictionary[Any, tuple[torch.Tensor, torch.Tensor]] = WeakKeyDictionary()

    def forward(
        self, hidden_states: torch.Tensor, *, encoder_hidden_states: torch.Tensor, past_key_values: Any, **ignored: Any
    ) -> tuple[torch.Tensor, None]:
        """Words (images x beams, words, width) and image tokens (images, tokens, width) -> as the words.

        No mask: every token of every image counts.
        """
        kept = self.kept.get(past_key_values) if past_key_values is not None else None
        if kept is None:
            kept = self.keep(encoder_hidden_states, past_key_values)
        # the words of all beams of an image ask together
        queries = self.query(hidden_states).view(len(encoder_hidden_states), -1, self.query.out_features)
        said = scaled_dot_product_attention(by_head(queries, self.heads), *kept)
        return said.transpose(1, 2).reshape(hidden_states.shape), None

    def keep(self, image_tokens: torch.Tensor, cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of these images, kept while `cache`, a generation's own, is there; None: not kept."""
        keys_values = by_head(self.key(image_tokens), self.heads), by_head(self.value(image_tokens), self.heads)
        if cache is not None:
            self.kept[cache] = keys_values
        return keys_values


def by_head(states: torch.Tensor, heads: int) -> torch.Tensor:
    """(images, tokens, heads x d) -> (images, heads, tokens, d)"""
    return states.view(*states.shape[:2], heads, -1).transpose(1, 2)


def look_once(model: Any) -> None:
    """Changes how a BlipForConditionalGeneration attends to images; its captions stay the same."""
    for layer in model.vision_model.encoder.layers:
        layer.self_attn = VisionAttention(layer.self_attn)
    decoder = model.text_decoder
    for layer in decoder.bert.encoder.layer:
        layer.crossattention.self = ImageAttention(layer.crossattention.self)
    expand = decoder._expand_inputs_for_generation

    def expand_words_only(*, encoder_hidden_states: Any, **others: Any) -> tuple[Any, dict[str, Any]]:
        ids, expanded = expand(**others)
        return ids, {**expanded, "encoder_hidden_states": encoder_hidden_states}

    decoder._expand_inputs_for_generation = expand_words_only
