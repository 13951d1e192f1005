"""BLIP whose words look at an image's tokens without keys and values says what transformers' own says."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import BlipForConditionalGeneration, BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention

from kernel.config import RECIPES
from kernel.models.captioners.blip_attention import ImageAttention, VisionAttention
from kernel.models.captioners.captioner import Captioner
from kernel.models.captioners.loading import load_captioner

BEAMS = RECIPES["baseline"]
GREEDY = replace(BEAMS, num_beams=1, captions_per_image=1)
SAMPLED = replace(BEAMS, caption_decoding="sampling", sampling_top_p=1.0)


@pytest.fixture(scope="module")
def once(weights, cpu):
    return load_captioner(weights, "blip", cpu)


@pytest.fixture(scope="module")
def plain(weights, cpu, once):
    folder = weights.model_folder("blip")
    model = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return Captioner(once.kind, model.eval(), once.processor, cpu)


@pytest.mark.parametrize("recipe", [BEAMS, GREEDY, SAMPLED, replace(BEAMS, num_beams=3, captions_per_image=2)])
@pytest.mark.parametrize("images", [1, 7, 24])
def test_captions_are_those_of_transformers_own_attention(once, plain, drawn, recipe, images):
    pictures = [picture for picture, _ in drawn[:images]]
    assert once.captions(pictures, recipe) == plain.captions(pictures, recipe)


def test_scores_of_every_word_of_every_beam_are_those_of_transformers_own_attention(once, plain, drawn):
    """Captions of a sure model could be the same by luck: of noise every word's score is near the others'."""
    pixels = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    scores = []
    for captioner in (once, plain):
        side = captioner.model.config.vision_config.image_size
        sized = torch.nn.functional.interpolate(pixels, (side, side))
        told = captioner.model.generate(
            pixel_values=sized, num_beams=4, num_return_sequences=4, min_length=12, max_length=12,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        scores.append(torch.stack(told.logits))
    assert scores[0].shape[1] == 3 * 4
    assert torch.equal(scores[0].argmax(dim=-1), scores[1].argmax(dim=-1))
    assert torch.allclose(*scores, atol=1e-4)


def test_a_batch_is_not_answered_with_the_images_of_the_one_before(once, drawn):
    first, second = ([picture] for picture, _ in drawn[:2])
    alone = once.captions(second, BEAMS)
    once.captions(first, BEAMS)
    assert once.captions(second, BEAMS) == alone
    assert once.captions(first, BEAMS) != alone


def test_a_checkpoint_that_keeps_no_words_says_the_same(once, drawn, monkeypatch):
    pictures = [picture for picture, _ in drawn[:3]]
    expected = once.captions(pictures, BEAMS)
    monkeypatch.setattr(once.model.text_decoder.generation_config, "use_cache", False)
    assert once.captions(pictures, BEAMS) == expected


def test_all_beams_of_an_image_look_at_one_copy_of_it(once, drawn, monkeypatch):
    seen = []
    really = ImageAttention.forward

    def noting(self, hidden_states, *, encoder_hidden_states, **others):
        seen.append((len(hidden_states), len(encoder_hidden_states)))
        return really(self, hidden_states, encoder_hidden_states=encoder_hidden_states, **others)

    monkeypatch.setattr(ImageAttention, "forward", noting)
    once.captions([picture for picture, _ in drawn[:3]], BEAMS)
    assert set(seen) == {(3 * BEAMS.num_beams, 3)}


@pytest.fixture(scope="module")
def layer():
    """One cross-attention as transformers has it, wide as BLIP's, its weights random and no bias zero."""
    config = BlipTextConfig(hidden_size=96, num_attention_heads=4, encoder_hidden_size=160, is_decoder=True)
    torch.manual_seed(0)
    own = BlipTextSelfAttention(config, is_cross_attention=True, layer_idx=0).eval()
    for parameter in own.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return own


def both(layer, dtype, beams=5, words=3):
    """What the layer's own way and ours say, of two images, in float64."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2 * beams, words, 96, generator=generator).to(dtype)
    image = torch.randn(2, 30, 160, generator=generator).to(dtype)
    layer = copy.deepcopy(layer).to(dtype)
    with torch.inference_mode():
        own = layer(hidden, encoder_hidden_states=image.repeat_interleave(beams, dim=0))[0]
        ours = ImageAttention(layer)(hidden, encoder_hidden_states=image)[0]
    return own.double(), ours.double()


@pytest.mark.parametrize(("beams", "words"), [(1, 1), (5, 1), (1, 4), (5, 3)])
def test_one_layer_hears_the_same_to_the_last_digits(layer, beams, words):
    own, ours = both(layer, torch.float64, beams, words)
    assert own.std() > 0.1
    torch.testing.assert_close(ours, own, rtol=1e-10, atol=1e-12)


def test_half_precision_loses_about_as_little_as_the_plain_way(layer):
    true, _ = both(layer, torch.float64)
    own, ours = both(layer, torch.float16)
    # of the same rounded weights and inputs neither is exact
    assert 0 < (ours - true).std() < 2 * (own - true).std()


def test_the_vision_tower_sees_what_transformers_own_does(once, plain):
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    sized = torch.nn.functional.interpolate(pixels, (once.model.config.vision_config.image_size,) * 2)
    seen = [own.model.vision_model(pixel_values=sized).last_hidden_state for own in (once, plain)]
    assert isinstance(once.model.vision_model.encoder.layers[0].self_attn, VisionAttention)
    assert torch.allclose(*seen, atol=1e-5)
    assert seen[0].std() > 0.1
