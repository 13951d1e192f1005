from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.config import Recipe
from kernel.prompts import compose, modifier_line

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
