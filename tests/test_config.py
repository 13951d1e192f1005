import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.config import BANK, CAPTIONS, DEFAULT_RECIPE, LARGEST, NEAREST, RECIPES, Recipe, recipe_named
from kernel.errors import UserError, did_you_mean

COUNTS = ["num_beams", "captions_per_image", "max_length", "clip_batch", "caption_batch", "text_batch", "shard_images"]


def test_baseline_holds_the_seed_decks_values():
    deck = recipe_named("baseline")
    assert deck.modifiers == {"mediums": 1, "movements": 1, "flavors": 3}
    assert (deck.modifier_separator, deck.separator) == (", ", "")
    assert (deck.num_beams, deck.captions_per_image, deck.max_length, deck.min_length) == (5, 5, 20, 5)


def test_baseline_joins_the_banks_in_the_decks_order():
    assert list(recipe_named("baseline").modifiers) == ["mediums", "movements", "flavors"]


def test_the_default_recipe_is_one_of_the_recipes():
    assert DEFAULT_RECIPE in RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_carries_the_name_it_is_listed_under(name):
    assert RECIPES[name].name == name


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("num_beams=7", "num_beams", 7),
        ("normalise=false", "normalise", False),
        ("separator=, ", "separator", ", "),
        ('separator=", "', "separator", ", "),
        ("separator=", "separator", ""),
        ("separator==", "separator", "="),
        ("separator=1", "separator", "1"),
        ("separator=null", "separator", "null"),
        ("captioner=blip2", "captioner", "blip2"),
        ("captioner=blip2,coca", "captioner", "blip2,coca"),
        ("captioner_shares.blip2=0.7", "captioner_shares", {"blip2": 0.7}),
        ('modifiers={"flavors": 2}', "modifiers", {"flavors": 2}),
        ("modifiers={}", "modifiers", {}),
        ("modifiers.flavors=9", "modifiers", {"mediums": 1, "movements": 1, "flavors": 9}),
        ("modifiers.flavors=0", "modifiers", {"mediums": 1, "movements": 1, "flavors": 0}),
        ("modifiers.artists=2", "modifiers", {"mediums": 1, "movements": 1, "flavors": 3, "artists": 2}),
    ],
)
def test_a_setting_is_read_with_its_type(setting, name, value):
    assert getattr(recipe_named("baseline", [setting]), name) == value


def test_a_users_own_word_list_is_a_bank_with_all_the_dots_of_its_path():
    recipe = recipe_named("baseline", ["modifiers.../my words/list.v2.txt=4"])
    assert recipe.modifiers["../my words/list.v2.txt"] == 4


def test_settings_add_up():
    recipe = recipe_named(
        "baseline", ["num_beams=3", "captions_per_image=2", "modifiers.flavors=5", "modifiers.mediums=0"]
    )
    expected = {"mediums": 0, "movements": 1, "flavors": 5}
    assert (recipe.num_beams, recipe.captions_per_image, recipe.modifiers) == (3, 2, expected)


def test_one_bank_is_set_over_a_whole_modifiers_setting_before_it():
    assert recipe_named("baseline", ['modifiers={"mediums": 2}', "modifiers.flavors=1"]).modifiers == {
        "mediums": 2,
        "flavors": 1,
    }


def test_the_last_of_two_equal_settings_wins():
    assert recipe_named("baseline", ["num_beams=6", "num_beams=8"]).num_beams == 8


def test_settings_leave_the_preset_as_it_was():
    before = dataclasses.asdict(RECIPES["baseline"])
    recipe_named("baseline", ["num_beams=9", "modifiers.flavors=9"])
    assert dataclasses.asdict(RECIPES["baseline"]) == before


@settings(deadline=None)
@given(value=st.integers(min_value=5, max_value=LARGEST["num_beams"]), text=st.text())
def test_any_valid_number_and_any_text_come_through_unchanged(value, text):
    recipe = recipe_named("baseline", [f"num_beams={value}", f"separator=x{text}"])
    assert (recipe.num_beams, recipe.separator) == (value, f"x{text}")


def test_an_unknown_recipe_names_the_nearest_one():
    with pytest.raises(UserError, match=r"unknown recipe 'basline' \(did you mean 'baseline'\?\)"):
        recipe_named("basline")


def test_an_unknown_recipe_lists_the_valid_ones():
    with pytest.raises(UserError, match=f"Valid recipes: {', '.join(RECIPES)}"):
        recipe_named("zzz")


def test_an_unknown_setting_names_the_nearest_one():
    with pytest.raises(UserError, match=r"unknown setting 'num_beam' \(did you mean 'num_beams'\?\)"):
        recipe_named("baseline", ["num_beam=3"])


def test_an_unknown_setting_lists_the_valid_ones():
    with pytest.raises(UserError, match=r"Valid settings: modifiers, .*num_beams, .*shard_images"):
        recipe_named("baseline", ["zzz=3"])


def test_a_recipes_name_is_no_setting():
    with pytest.raises(UserError, match="unknown setting 'name'"):
        recipe_named("baseline", ["name=mine"])


def test_nothing_is_suggested_when_nothing_is_near():
    assert did_you_mean("zzz", ["num_beams", "captioner"]) == ""


def test_a_setting_without_an_equals_sign_is_refused():
    with pytest.raises(UserError, match="'num_beams' has no '='; expected key=value"):
        recipe_named("baseline", ["num_beams"])


def test_only_modifiers_have_parts():
    with pytest.raises(UserError, match="'num_beams' has no parts; write num_beams=value"):
        recipe_named("baseline", ["num_beams.x=3"])


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("num_beams=five", "num_beams=five: expected int, such as 5"),
        ("num_beams=5.0", "num_beams=5.0: expected int, such as 5"),
        ("num_beams=true", "num_beams=true: expected int, such as 5"),
        ("num_beams=", "num_beams=: expected int, such as 5"),
        ("num_beams=[5]", r"num_beams=\[5\]: expected int, such as 5"),
        ("normalise=1", "normalise=1: expected bool, such as true"),
        ("normalise=no", "normalise=no: expected bool, such as true"),
        ("modifiers=3", 'modifiers=3: expected names and numbers, such as {"mediums": 1'),
        ('modifiers=["mediums"]', "expected names and numbers"),
        ("modifiers.flavors=many", "modifiers=many: expected names and numbers"),
        ("modifiers.flavors=1.5", "modifiers=1.5: expected names and numbers"),
        ("modifiers.flavors=true", "modifiers=true: expected names and numbers"),
        ("modifiers.=3", "modifiers=3: expected names and numbers"),
        (f"caption_temperature=1{'0' * 400}", "0: expected float, such as 0.02"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_an_example(setting, expected):
    with pytest.raises(UserError, match=expected):
        recipe_named("baseline", [setting])


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1])
def test_a_count_below_one_is_refused(name, value):
    with pytest.raises(UserError, match=f"recipe setting {name} is {value}; expected 1 to {LARGEST[name]:,}"):
        recipe_named("baseline", [f"{name}={value}"])


@pytest.mark.parametrize("name", LARGEST)
def test_a_count_beyond_its_bound_is_refused_with_the_bound(name):
    sampling = "caption_decoding=sampling"  # with beams, captions are bounded by these
    assert getattr(recipe_named("baseline", [sampling, f"{name}={LARGEST[name]}"]), name) == LARGEST[name]
    with pytest.raises(UserError, match=f"recipe setting {name} is .*; expected 1 to {LARGEST[name]:,}"):
        recipe_named("baseline", [sampling, f"{name}={LARGEST[name] + 1}"])


def test_every_number_of_a_recipe_has_a_bound():
    for field in dataclasses.fields(Recipe):
        if type(field.default) in (int, float):
            with pytest.raises(UserError, match=f"recipe setting {field.name} is .*; expected "):
                recipe_named("baseline", [f"{field.name}={10**11}"])


@pytest.mark.parametrize("setting", ["modifiers.flavors=1001", "estimates.prompts=1e9", "caption_temperature=Infinity",
                                     "neighbour_temperature=NaN", "estimates.prompts=NaN"])  # fmt: skip
def test_a_part_or_fraction_beyond_its_bound_is_refused(setting):
    with pytest.raises(UserError, match="; expected .*0"):
        recipe_named("baseline", [setting])


def test_a_negative_number_of_modifiers_is_refused():
    with pytest.raises(UserError, match="modifiers.flavors is -1; expected 0 to 1,000"):
        recipe_named("baseline", ["modifiers.flavors=-1"])


def test_more_captions_than_beams_are_refused():
    with pytest.raises(
        UserError, match="captions_per_image=5 from num_beams=4.*Raise num_beams, lower captions_per_image"
    ):
        Recipe(num_beams=4)


def test_as_many_captions_as_beams_are_allowed():
    assert Recipe(num_beams=3, captions_per_image=3).captions_per_image == 3


def test_sampling_needs_no_beams():
    recipe = recipe_named("baseline", ["caption_decoding=sampling", "captions_per_image=20"])
    assert (recipe.captions_per_image, recipe.num_beams) == (20, 5)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("caption_decoding=beam", "caption_decoding is 'beam'; expected one of beams, sampling"),
        ("caption_weighting=median", "caption_weighting is 'median'; expected one of mean, consensus, clip, itc, itm"),
        ("neighbour_weighting=none", "neighbour_weighting is 'none'; expected one of published, softmax"),
        ("caption_temperature=0", "caption_temperature is 0.0; expected more than 0"),
        ("neighbour_temperature=-1", "neighbour_temperature is -1.0; expected more than 0"),
        ("sampling_top_p=0", "sampling_top_p is 0.0; expected more than 0"),
        ("sampling_top_p=1.5", "sampling_top_p is 1.5; expected more than 0, at most 1.0"),
        ("seed=-1", "seed is -1; expected 0 to 4,294,967,295"),
    ],
)
def test_a_setting_outside_its_choices_or_range_is_refused(setting, words):
    with pytest.raises(UserError, match=f"recipe setting {words}"):
        recipe_named("text", [setting])


@pytest.mark.parametrize("value", [-1, 21])
def test_a_shortest_caption_below_zero_or_beyond_the_longest_is_refused(value):
    with pytest.raises(UserError, match=f"recipe setting min_length is {value}; expected 0 to max_length=20"):
        recipe_named("baseline", [f"min_length={value}"])


@pytest.mark.parametrize("value", [0, 20])
def test_a_shortest_caption_of_any_length_up_to_the_longest_is_allowed(value):
    assert recipe_named("baseline", [f"min_length={value}"]).min_length == value


def test_an_estimates_share_is_set_by_its_name():
    recipe = recipe_named("text", ["estimates.prompts=0", "estimates.head=0.58"])
    assert recipe.estimates == {"neighbours": 0.42, "prompts": 0, "head": 0.58}
    assert recipe.shared == ["neighbours", "head"]
    assert recipe.needs(BANK) and recipe.needs(NEAREST) and not recipe.needs(CAPTIONS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["estimates.prompts=0.5"], "sum to 0.5; expected shares that sum to 1"),
        (["estimates.heads=0"], r"unknown estimate 'heads' \(did you mean 'head'\?\). Valid: prompts, captions"),
        (["estimates.prompts=1.5", "estimates.head=-0.5"], "estimates.prompts is 1.5; expected 0 to 1"),
        (["captioner_shares.blip=2"], "captioner_shares.blip is 2.0; expected 0 to 1"),
        (["neighbours=0"], "neighbours is 0; expected 1 to 10,000"),
    ],
)
def test_shares_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        recipe_named("baseline", settings)


def test_a_whole_number_stands_for_a_fraction():
    assert recipe_named("text", ["neighbour_temperature=1"]).neighbour_temperature == 1.0


def test_deep_json_is_a_text_like_any_other():
    with pytest.raises(UserError, match="expected int, such as 5"):
        recipe_named("baseline", ["num_beams=" + "[" * 100_000])
