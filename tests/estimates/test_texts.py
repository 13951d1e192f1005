from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.config import Recipe
from kernel.estimates import estimate, estimating
from kernel.estimates.known import Known, Said
from kernel.estimates.texts import compose, consensus, modifier_line, together, weighed_captions
from kernel.models.sentences import SentenceEncoder

DECK = Recipe()
texts = st.text(max_size=20)
words = st.text(min_size=1, max_size=20)


def test_modifiers_are_joined_in_their_order():
    assert modifier_line(["a woodcut", "art nouveau", "whorl"], DECK) == "a woodcut, art nouveau, whorl"


def test_modifiers_are_joined_with_the_recipes_separator():
    assert modifier_line(["a woodcut", "whorl"], Recipe(modifier_separator=" | ")) == "a woodcut | whorl"


def test_no_modifiers_make_an_empty_line():
    assert modifier_line([], DECK) == ""


def test_the_decks_prompt_has_nothing_between_caption_and_modifiers():
    assert compose(["a spiral on it"], ["a woodcut", "swirl"], DECK) == ["a spiral on ita woodcut, swirl"]


def test_the_recipes_separator_stands_between_caption_and_modifiers():
    assert compose(["a spiral"], ["a woodcut"], Recipe(separator=", ")) == ["a spiral, a woodcut"]


def test_without_captions_the_modifiers_alone_are_the_prompt():
    assert compose([], ["a woodcut", "swirl"], DECK) == ["a woodcut, swirl"]


def test_without_modifiers_the_captions_stay_as_they_are():
    assert compose(["a fish", "a hill"], [], Recipe(separator=", ")) == ["a fish", "a hill"]


def test_without_captions_and_modifiers_there_is_no_prompt():
    assert compose([], [], DECK) == []


def test_an_empty_caption_still_makes_a_prompt():
    assert compose([""], ["a woodcut"], DECK) == ["a woodcut"]


@settings(deadline=None)
@given(captions=st.lists(texts, min_size=1), phrases=st.lists(words), separator=texts)
def test_each_caption_makes_one_prompt_that_begins_with_it_and_ends_with_every_modifier(captions, phrases, separator):
    recipe = Recipe(separator=separator)
    ending = separator + ", ".join(phrases) if phrases else ""
    assert compose(captions, phrases, recipe) == [caption + ending for caption in captions]


RECIPE = Recipe(separator=", ")


@pytest.fixture(scope="module")
def known_of(weights, cpu):
    """What is known of images of which this was said."""
    encoder = SentenceEncoder.load(weights, cpu)

    def known(said: list[Said], modifiers: list[list[str]], **parts) -> Known:
        return Known(RECIPE, cpu, encoder, None, np.zeros((len(said), 128), np.float32), said, modifiers, **parts)

    return known


@pytest.mark.parametrize(
    ("name", "captions", "phrases", "expected"),
    [
        (
            "prompts",
            ["a fish", "a cat"],
            ["a woodcut", "swirl"],
            ["a fish, a woodcut, swirl", "a cat, a woodcut, swirl"],
        ),
        ("captions", ["a fish", "a cat"], ["a woodcut"], ["a fish", "a cat"]),
        ("modifiers", ["a fish"], ["a woodcut", "swirl"], ["a woodcut, swirl"]),
        ("captions", [], ["a woodcut"], []),
        ("modifiers", ["a fish"], [], []),
        ("prompts", [], ["a woodcut"], ["a woodcut"]),
        ("prompts", [], [], []),
    ],
)
def test_the_texts_of_each_estimate(name, captions, phrases, expected, known_of):
    known = known_of([Said(captions, [1.0] * len(captions))], [phrases])
    rows, usable = estimate(name, known)
    assert usable.tolist() == [bool(expected)]
    mean = known.encoder.encode(expected, 8).mean(axis=0) if expected else np.zeros(384)
    np.testing.assert_allclose(rows, [mean], atol=1e-6)


def test_captions_count_alike_unless_their_cosines_are_given():
    said = weighed_captions([["a", "b", "a"], []], None, RECIPE)
    assert said == [Said(["a", "b", "a"], [1, 1, 1]), Said([], [])]


def test_captions_count_by_their_cosine_with_the_image():
    recipe = replace(RECIPE, caption_weighting="clip", caption_temperature=0.1)
    (said,) = weighed_captions([["a", "b"]], [[0.3, 0.4]], recipe)
    assert said.weights == pytest.approx([np.exp(-1), 1])


def test_captions_count_by_the_probability_that_they_match():
    (said,) = weighed_captions([["a", "b"]], [[0.0, 800.0]], replace(RECIPE, caption_weighting="itm"))
    assert said.weights == pytest.approx([0.5, 1])
    (said,) = weighed_captions([["a", "b"]], [[-800.0, -801.0]], replace(RECIPE, caption_weighting="itm"))
    assert said.weights == pytest.approx([1, np.exp(-1)])


def test_captions_are_compared_with_the_image_s_others(known_of):
    encoder = known_of([], []).encoder
    fish, cat = encoder.encode(["a fish", "a cat"], 8)
    near = float(fish @ cat)
    found = consensus([["a fish", "a fish", "a cat"], [], ["a hill"]], encoder, 8)
    assert found == [pytest.approx([(1 + near) / 2, (1 + near) / 2, near], abs=1e-6), [], pytest.approx([0], abs=1e-6)]


def test_many_images_are_compared_part_by_part(known_of, monkeypatch):
    encoder, said = known_of([], []).encoder, [["a fish", "a cat"], ["a hill", "a fish", "a cat"]]
    whole = consensus(said, encoder, 8)
    monkeypatch.setattr("kernel.estimates.texts.IMAGES", 1)
    assert [pytest.approx(own, abs=1e-6) for own in whole] == consensus(said, encoder, 8)


@pytest.mark.parametrize("cosines", [None, [[0.3, 0.4, 0.3]]])
def test_of_equal_captions_one_counts_where_the_recipe_says_so(cosines):
    (said,) = weighed_captions([["a", "b", "a"]], cosines, replace(RECIPE, distinct_captions=True))
    assert said.texts == ["a", "b"]
    assert len(said.weights) == 2


def test_the_weights_of_captions_are_those_of_their_prompts(known_of):
    known = known_of([Said(["a fish", "a cat"], [0.2, 1.0])], [["a woodcut"]])
    own = known.encoder.encode(["a fish, a woodcut", "a cat, a woodcut"], 8)
    np.testing.assert_allclose(estimate("prompts", known)[0], [(0.2 * own[0] + own[1]) / 1.2], atol=1e-6)


def test_a_text_estimate_is_the_mean_of_its_texts_and_unusable_without_any(known_of):
    said = [Said(["a red fish", "a blue cat"], [3.0, 1.0]), Said([], []), Said(["a hill"], [0.5])]
    known = known_of(said, [[], [], []])
    rows, usable = estimate("captions", known)
    own = known.encoder.encode(["a red fish", "a blue cat", "a hill"], 8)
    np.testing.assert_allclose(rows, [0.75 * own[0] + 0.25 * own[1], np.zeros(384), own[2]], atol=1e-6)
    assert usable.tolist() == [True, False, True]


def test_texts_of_many_images_are_embedded_part_by_part(known_of, monkeypatch):
    said = [Said([f"a fish {index}", "a cat"][: index % 3], [1.0, 3.0][: index % 3]) for index in range(7)]
    known = known_of(said, [[]] * 7)
    rows, usable = estimate("captions", known)
    asked: list[int] = []

    class Counting(SentenceEncoder):
        def encode(self, prompts, batch):
            asked.append(len(prompts))
            return super().encode(prompts, batch)

    monkeypatch.setattr("kernel.estimates.texts.IMAGES", 3)
    parts = replace(known, encoder=Counting(known.encoder.model))
    assert list(estimating("captions", parts)) == [3, 3, 1]
    asked.clear()
    in_parts, same = estimate("captions", parts)
    assert asked == [3, 3]  # images 0 to 2 and 3 to 5; image 6 has no text
    np.testing.assert_array_equal(same, usable)
    np.testing.assert_allclose(in_parts, rows, atol=1e-6)
    assert usable.tolist() == [False, True, True, False, True, True, False]


def test_several_captioners_count_by_their_shares_however_many_captions_each_has():
    by = {"blip2": [Said(["a", "b"], [1.0, 3.0])], "coca": [Said(["c"], [0.2])]}
    assert together(by, {}) == [Said(["a", "b", "c"], [0.25, 0.75, 1.0])]
    assert together(by, {"blip2": 0.8, "coca": 0.2}) == [Said(["a", "b", "c"], pytest.approx([0.2, 0.6, 0.2]))]


def test_who_says_nothing_of_an_image_leaves_it_to_the_others():
    by = {"blip2": [Said([], []), Said([], [])], "coca": [Said(["c", "d"], [1.0, 1.0]), Said([], [])]}
    assert together(by, {"blip2": 0.8, "coca": 0.2}) == [Said(["c", "d"], [0.1, 0.1]), Said([], [])]


def test_a_single_captioner_s_captions_stay_as_they_are():
    said = [Said(["a", "b"], [1.0, 3.0]), Said([], [])]
    assert together({"": said}, {}) is said
