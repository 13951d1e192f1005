"""Both kinds through their real loaders: what a recipe asks is what a captioner says."""

from dataclasses import replace

import pytest
from PIL import Image

from kernel.config import RECIPES
from kernel.models.captioners.loading import load_captioner

RECIPE = RECIPES["baseline"]


@pytest.fixture(scope="module", params=["blip2", "blip"])
def captioner(request, weights, cpu):
    return load_captioner(weights, request.param, cpu)


def test_every_image_gets_the_recipes_number_of_captions(captioner, drawn):
    said = captioner.captions([picture for picture, _ in drawn[:3]], RECIPE)
    assert [len(own) for own in said] == [5, 5, 5]
    assert all(len(set(own)) == 5 and all(own) for own in said)


def test_captions_are_those_of_generate_on_one_image(captioner, drawn):
    pictures = [picture for picture, _ in drawn[:4]]
    for picture, own in zip(pictures, captioner.captions(pictures, RECIPE), strict=True):
        pixels = captioner.processor(images=picture, return_tensors="pt")["pixel_values"]
        ids = captioner.model.generate(
            pixel_values=pixels, num_beams=5, num_return_sequences=5, max_length=20, min_length=5
        )
        assert own == [text.strip() for text in captioner.processor.batch_decode(ids, skip_special_tokens=True)]


def test_fewer_beams_and_captions(captioner, drawn):
    said = captioner.captions([drawn[0][0]], replace(RECIPE, num_beams=1, captions_per_image=1))
    assert len(said) == 1 and len(said[0]) == 1


SAMPLED = replace(RECIPE, caption_decoding="sampling", captions_per_image=20)


def test_twenty_sampled_captions_an_image_are_the_same_by_the_same_seed_alone(captioner):
    """Of pictures that show nothing, so that the captioner is not sure of a word."""
    pictures = [Image.effect_noise((160, 160), spread).convert("RGB") for spread in (40, 90)]
    recipe = replace(SAMPLED, sampling_top_p=1.0)
    first, again, other = (captioner.captions(pictures, recipe, seed) for seed in (3, 3, 4))
    assert [len(own) for own in first] == [20, 20]
    assert first == again
    assert first != other


def test_sampling_draws_from_all_words_that_together_have_the_probability(captioner, drawn):
    """So little that only the likeliest word is left: then every draw is the same."""
    (own,) = captioner.captions([drawn[0][0]], replace(SAMPLED, sampling_top_p=1e-6))
    (greedy,) = captioner.captions([drawn[0][0]], replace(RECIPE, num_beams=1, captions_per_image=1))
    assert set(own) == set(greedy)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 20), (3, 2)])
def test_odd_sizes_are_captioned(captioner, size):
    assert len(captioner.captions([Image.new("RGB", size, "red")], RECIPE)[0]) == 5
