"""BLIP's attention to images: within an image fused, and from words to an image without keys and values.

transformers has BLIP's vision tower compute attention step by step, with all scores of 577 x 577 tokens in memory;
torch's fused attention takes about two thirds of the tower's time and none of that memory.

transformers expands an image's 577 tokens to every beam before the text decoder sees them, makes keys and values of
each for every layer (42 MB a beam in float32 at base size) and copies all of them whenever beams are reordered, after
every word. But a score is linear in the image's tokens: q . (K x) = (K' q) . x, and so is what is heard, V (sum of
a_i x_i). So a word's query goes through the key's matrix, and what it hears through the value's (DeepSeek-V2, section
2.1.2, does so with compressed tokens); all beams of an image, side by side as they stay, and all heads look at one
copy of its tokens, 1.8 MB for all layers.
"""

from typing import Any

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
    """The weights of one layer's cross-attention, applied to the words instead of to the image.

    Stands where transformers has BlipTextSelfAttention and takes what that is called with. Its `matrices` are layers
    that nothing is put through: their numbers are read.
    """

    matrices = ("key", "value")

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.query, self.key, self.value = plain.query, plain.key, plain.value
        self.heads = plain.num_attention_heads

    def forward(
        self, hidden_states: torch.Tensor, *, encoder_hidden_states: torch.Tensor, **ignored: Any
    ) -> tuple[torch.Tensor, None]:
        """Words (images x beams, words, width) and image tokens (images, tokens, image width) -> as the words.

        No mask: every token of every image counts. The key's bias adds the same to all scores of a query, so it falls
        out of the softmax; the value's is added once, as weights of a softmax sum to 1.
        """
        images, heads = len(encoder_hidden_states), self.heads
        image_width = encoder_hidden_states.shape[2]
        queries = self.query(hidden_states).view(-1, heads, self.query.out_features // heads).transpose(0, 1)
        queries = queries * queries.shape[2] ** -0.5
        asked = torch.bmm(queries, self.key.weight.view(heads, -1, image_width))
        asked = asked.view(heads, images, -1, image_width).transpose(0, 1).reshape(images, -1, image_width)
        weights = torch.bmm(asked, encoder_hidden_states.transpose(1, 2)).softmax(dim=-1)
        heard = torch.bmm(weights, encoder_hidden_states)
        heard = heard.view(images, heads, -1, image_width).transpose(0, 1).reshape(heads, -1, image_width)
        said = torch.bmm(heard, self.value.weight.view(heads, -1, image_width).transpose(1, 2))
        return said.transpose(0, 1).reshape(hidden_states.shape) + self.value.bias, None


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
