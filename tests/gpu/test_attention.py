"""What stands in for the libraries' own attention, in half precision on a GPU."""

import copy

import numpy as np
import pytest
import torch
from transformers import BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention

from kernel.models.captioners.blip_attention import ImageAttention, VisionAttention
from kernel.models.captioners.loading import load_captioner
from kernel.models.clip import ClipEncoder
from kernel.models.text_tower import TextTower, joined
from tests.gpu.rounding import COSINE, RELATIVE_ERROR, seen_by_a_random_row

BEAMS = 5
STARTS = ["", "a woodcut of a red fish", "ends in dots...", "word " * 60]
TERMS = ["swirl", "by Ann Smith", "a", "trending on a very long site name of many words", "Café 日本", "it's", "!"]


@pytest.fixture(scope="module")
def layer():
    """One cross-attention as transformers has it, wide as BLIP's base, its weights random and no bias zero."""
    config = BlipTextConfig(hidden_size=768, num_attention_heads=12, encoder_hidden_size=768, is_decoder=True)
    torch.manual_seed(0)
    own = BlipTextSelfAttention(config, is_cross_attention=True, layer_idx=0).eval()
    for parameter in own.parameters():
        torch.nn.init.normal_(parameter, std=0.04)
    return own


def heard(layer, device: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """What the layer's own way and ours say of two images' 577 tokens, in float64."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randn(2 * BEAMS, 3, 768, generator=generator).to(device, dtype)
    image = torch.randn(2, 577, 768, generator=generator).to(device, dtype)
    layer = copy.deepcopy(layer).to(device, dtype)
    with torch.inference_mode():
        own = layer(words, encoder_hidden_states=image.repeat_interleave(BEAMS, dim=0))[0]
        ours = ImageAttention(layer)(words, encoder_hidden_states=image)[0]
    return own.double().cpu(), ours.double().cpu()


def test_blip_s_words_hear_in_half_precision_what_they_hear_in_float32(layer, cuda, cpu):
    own, ours = heard(layer, cuda.name, cuda.dtype)
    true, _ = heard(layer, cpu.name, torch.float64)
    assert (ours - true).norm() <= RELATIVE_ERROR * true.norm()
    # of the same rounded weights and inputs neither is exact
    assert 0 < (ours - true).std() < 2 * (own - true).std()


def test_blip_s_fused_vision_tower_sees_in_half_precision_what_it_sees_in_float32(weights, cuda, cpu):
    seen = []
    for device in (cuda, cpu):
        tower = load_captioner(weights, "blip", device).model.vision_model
        assert isinstance(tower.encoder.layers[0].self_attn, VisionAttention)
        side = tower.config.image_size
        pixels = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            seen.append(tower(pixel_values=pixels.to(device.name, device.dtype)).last_hidden_state.float().cpu())
    half, full = seen
    assert torch.nn.functional.cosine_similarity(half, full, dim=-1).min() >= COSINE


@pytest.fixture(scope="module")
def half(weights, cuda):
    return ClipEncoder.load(weights, cuda)


@pytest.fixture(scope="module")
def rows(half):
    found = np.random.default_rng(5).standard_normal((len(STARTS), half.encode_texts(["a"], 1).shape[1]))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("plain_device", ["cuda", "cpu"])
def test_the_tower_that_shares_beginnings_says_what_the_plain_one_says(half, rows, weights, plain_device, request):
    plain = ClipEncoder.load(weights, request.getfixturevalue(plain_device))
    tower = TextTower(half, 64)
    assert tower.shares_beginnings
    terms = [TERMS[: 3 + number] for number in range(len(STARTS))]  # of each another number
    found = tower.similarities(STARTS, terms, rows)
    for start, own, row, cosines in zip(STARTS, terms, rows, found, strict=True):
        expected = plain.encode_texts([joined(start, term) for term in own], 64) @ row
        np.testing.assert_allclose(cosines, expected, atol=seen_by_a_random_row(len(row)))
