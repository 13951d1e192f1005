"""BLIP with every image's keys and values kept once says what transformers' own says."""

from dataclasses import replace

import pytest
import torch
from transformers import BlipForConditionalGeneration

from kernel.captions import Captioner
from kernel.config import RECIPES
from kernel.image_attention import ImageAttention, VisionAttention

BEAMS = RECIPES["baseline"]
GREEDY = replace(BEAMS, num_beams=1, captions_per_image=1)
SAMPLED = replace(BEAMS, caption_decoding="sampling", sampling_top_p=1.0)


@pytest.fixture(scope="module")
def once(weights, cpu):
    return Captioner.load(weights, "blip", cpu)


@pytest.fixture(scope="module")
def plain(weights, cpu, once):
    folder = weights.model_folder("blip")
    model = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return Captioner(model.eval(), once.processor, cpu)


def noting(kept):
    """`keep` as it is, which also notes of how many images."""
    really = ImageAttention.keep
    return lambda self, tokens, cache: (kept.append(len(tokens)), really(self, tokens, cache))[1]


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


def test_what_is_kept_of_images_goes_when_their_captions_are_made(once, drawn):
    once.captions([picture for picture, _ in drawn[:3]], BEAMS)
    layers = [module for module in once.model.modules() if isinstance(module, ImageAttention)]
    assert len(layers) == once.model.config.text_config.num_hidden_layers
    assert all(len(layer.kept) == 0 for layer in layers)


def test_a_checkpoint_that_keeps_no_words_says_the_same(once, drawn, monkeypatch):
    pictures = [picture for picture, _ in drawn[:3]]
    expected = once.captions(pictures, BEAMS)
    monkeypatch.setattr(once.model.text_decoder.generation_config, "use_cache", False)
    kept = []
    monkeypatch.setattr(ImageAttention, "keep", noting(kept))
    assert once.captions(pictures, BEAMS) == expected
    assert len(kept) > once.model.config.text_config.num_hidden_layers  # anew for every word


def test_an_image_is_kept_once_whatever_its_beams(once, drawn, monkeypatch):
    kept = []
    monkeypatch.setattr(ImageAttention, "keep", noting(kept))
    once.captions([picture for picture, _ in drawn[:3]], BEAMS)
    assert kept == [3] * once.model.config.text_config.num_hidden_layers


def test_the_vision_tower_sees_what_transformers_own_does(once, plain):
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    sized = torch.nn.functional.interpolate(pixels, (once.model.config.vision_config.image_size,) * 2)
    seen = [own.model.vision_model(pixel_values=sized).last_hidden_state for own in (once, plain)]
    assert isinstance(once.model.vision_model.encoder.layers[0].self_attn, VisionAttention)
    assert torch.allclose(*seen, atol=1e-5)
    assert seen[0].std() > 0.1
