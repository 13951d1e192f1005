import pytest

from kernel.interrogator.modes import classic_prompt, fitting

ALL = {"mediums": ["a photo"], "artists": ["by Ann"], "trendings": ["flickr"], "movements": ["dada"],
       "flavors": ["fog", "dusk"]}  # fmt: skip


@pytest.mark.parametrize(
    "caption, terms, expected",
    [
        ("a fox", ALL, "a fox, a photo by Ann, flickr, dada, fog, dusk"),
        ("a photo of a fox", ALL, "a photo of a fox by Ann, flickr, dada, fog, dusk"),
        ("a fox", {**ALL, "artists": []}, "a fox, a photo, flickr, dada, fog, dusk"),
        ("a fox", {"artists": ["by Ann"], "flavors": ["fog"]}, "a fox, by Ann, fog"),
        ("a fox", {"pets": ["a cat"], **ALL}, "a fox, a photo by Ann, flickr, dada, a cat, fog, dusk"),
        ("a fox", {}, "a fox"),
        ("", ALL, "a photo by Ann, flickr, dada, fog, dusk"),
        ("", {"flavors": ["fog"]}, "fog"),
    ],
)
def test_the_classic_order(caption, terms, expected):
    assert classic_prompt(caption, terms) == expected


def test_a_prompt_ends_at_the_last_comma_that_fits():
    assert fitting("one, two, three", lambda text: len(text) > 11) == "one, two"
    assert fitting("one, two, three", lambda text: len(text) > 99) == "one, two, three"
    assert fitting("one, two", lambda text: True) == "one"
