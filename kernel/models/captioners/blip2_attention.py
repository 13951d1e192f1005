"""BLIP-2's T5: keys and values of an image are made once, whatever the beams and steps of its captions.

transformers expands what T5's encoder says of an image, 33 tokens, to every beam before the decoder sees it, makes keys
and values of each for every layer (0.54 MB a beam and layer in float32 at flan-t5-xl's width) and copies all of them
whenever beams are reordered, after every word. Here each layer makes them once of an image and keeps them beside
transformers' cache, for as long as the encoder's output lives; all beams of an image, side by side as they stay, look
at the one copy.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary


class ImageAttention(torch.nn.Module):
    """The weights of one layer's cross-attention; stands where transformers has T5Attention and takes what that is
    called with."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = plain.q, plain.k, plain.v, plain.o
        self.heads = plain.n_heads
        # by identity: an encoder's output is one tensor from a caption's first step to its last
        self.made = WeakTensorKeyDictionary()

    def keys_and_values(self, encoder_hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of image tokens (images, tokens, width), both (images, heads, tokens, width of a head); made when they are
        first asked for, gone with the image tokens."""
        made = self.made.get(encoder_hidden_states)
        if made is None:
            made = self.split(self.k(encoder_hidden_states)), self.split(self.v(encoder_hidden_states))
            self.made[encoder_hidden_states] = made
        return made

    def split(self, rows: torch.Tensor) -> torch.Tensor:
        """(images, tokens, width) -> (images, heads, tokens, width of a head)."""
        return rows.view(*rows.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(
        self, hidden_states: torch.Tensor, *, key_value_states: torch.Tensor, **ignored: Any
    ) -> tuple[torch.Tensor, None, None]:
        """Words (images x beams, words, width) and image tokens (images, tokens, width) -> as the words.

        No mask: every token of every image counts. No bias either: T5 has one for words among themselves alone, and
        does not scale its scores.
        """
        keys, values = self.keys_and_values(key_value_states)
        asked = self.q(hidden_states)
        queries = self.split(asked.view(len(key_value_states), -1, asked.shape[2]))
        heard = scaled_dot_product_attention(queries, keys, values, scale=1.0)
        return self.o(heard.transpose(1, 2).reshape(asked.shape)), None, None


def attentions(model: Any) -> list[ImageAttention]:
    """Of every layer of the decoder that which looks at images."""
    return [block.layer[1].EncDecAttention for block in model.language_model.decoder.block]


def look_once(model: Any) -> None:
    """Changes how the T5 of a Blip2ForConditionalGeneration attends to images; its captions stay the same."""
    language_model = model.language_model
    for block in language_model.decoder.block:
        block.layer[1].EncDecAttention = ImageAttention(block.layer[1].EncDecAttention)
    expand = language_model._expand_inputs_for_generation

    def expand_words_only(
        *, encoder_outputs: Any, attention_mask: Any, is_encoder_decoder: bool, **others: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Without the mask of image tokens, which is all ones: no text comes beside an image."""
        ids, expanded = expand(**others)
        return ids, {**expanded, "encoder_outputs": encoder_outputs}

    language_model._expand_inputs_for_generation = expand_words_only
