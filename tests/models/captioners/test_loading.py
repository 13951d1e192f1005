"""Captioners of a weights folder by their names, and the table of their kinds."""

from dataclasses import replace

import pytest

from kernel.config import Recipe
from kernel.errors import UserError
from kernel.models.captioners.loading import (
    BY_DEFAULT,
    KINDS,
    SHIPPED,
    SHIPPED_KINDS,
    captioners_named,
    captioners_speaking,
    kind_of,
    listing,
    load_captioner,
    published_captioners,
)
from kernel.pipeline.planning.model_costs import captioner_costs
from tests.models.captioners.conftest import edit_json


def test_the_first_captioner_of_the_folder_comes_first_and_those_behind_a_named_one_stand_in_for_it(weights):
    assert captioners_named(Recipe(), weights) == ["blip2", "blip"]
    assert captioners_named(Recipe(captioner="blip2"), weights) == ["blip2", "blip"]
    assert captioners_named(Recipe(captioner="blip"), weights) == ["blip"]


def test_a_captioner_that_the_folder_does_not_hold_is_refused_with_those_it_holds(weights):
    with pytest.raises(UserError, match=r"holds no captioner 'blip22' \(did you mean 'blip2'\?\); it has blip2, blip"):
        captioners_named(Recipe(captioner="blip22"), weights)
    with pytest.raises(UserError, match="holds no captioner 'auto'; it has none"):
        captioners_named(Recipe(), replace(weights, captioners=[]))


def test_of_several_captioners_each_is_named_once_and_none_stands_in(weights):
    assert captioners_named(Recipe(captioner="blip, blip2"), weights) == ["blip", "blip2"]
    assert captioners_named(Recipe(captioner="blip2,blip", captioner_shares={"blip": 0.2, "blip2": 1}), weights) == [
        "blip2", "blip"
    ]  # fmt: skip
    with pytest.raises(UserError, match="captioner=blip,blip names 'blip' more than once.* of blip2, blip"):
        captioners_named(Recipe(captioner="blip,blip"), weights)
    with pytest.raises(UserError, match=r"holds no captioner 'coca'.*; it has blip2, blip"):
        captioners_named(Recipe(captioner="blip,coca"), weights)
    with pytest.raises(UserError, match="captioner_shares gives coca 1; expected a share above 0 of .*: blip2, blip"):
        captioners_named(Recipe(captioner="blip2,blip", captioner_shares={"coca": 1}), weights)


def test_every_kind_is_found_by_its_class_and_has_a_name_of_its_own():
    assert all(kind_of(kind.class_name, "") is kind for kind in KINDS.values())
    assert len({kind.name for kind in KINDS.values()}) == len(KINDS)


def test_what_is_shipped_is_one_of_the_kinds_own_published_sizes():
    assert BY_DEFAULT == ("blip2", "blip") and set(BY_DEFAULT) < set(SHIPPED)
    for key, own in SHIPPED.items():
        assert own in SHIPPED_KINDS[key].published
        assert own.repository.count("/") == 1 and own.licence and own.languages


@pytest.mark.parametrize("published", published_captioners().values(), ids=lambda own: own.name)
def test_a_published_captioner_has_the_parameters_and_the_size_that_it_is_listed_with(published):
    weights = captioner_costs(published, half=True).weights
    assert weights.parameters == published.parameters
    if published.key:
        assert round(weights.bytes / 1e9, 2) == published.gigabytes


def test_the_listing_has_every_captioner_once_with_all_that_is_asked_before_a_download():
    rows = listing()
    assert [row["kind"] for row in rows] == list(SHIPPED)
    for row in rows:
        assert row["class"] in KINDS and row["prompt"] in ("none", "task", "chat") and row["gigabytes"] > 0.3


def test_published_captioners_are_of_their_own_kind_and_stand_from_small_to_large():
    assert {own.class_name for own in published_captioners().values()} == set(KINDS)
    assert all(own.class_name == kind.class_name for kind in KINDS.values() for own in kind.published)
    sizes = [own.parameters for own in published_captioners().values()]
    assert sizes == sorted(sizes) and all(sizes)


def test_two_exchanged_words_in_the_tokenizer_are_refused(own_copy, cpu):
    broken = own_copy("blip2")

    def exchange(content):
        pieces = content["model"]["vocab"]
        first, second = (next(i for i, (piece, _) in enumerate(pieces) if piece == word) for word in ("▁red", "▁fish"))
        pieces[first], pieces[second] = pieces[second], pieces[first]

    edit_json(broken.model_folder("blip2") / "tokenizer.json", exchange)
    with pytest.raises(UserError, match="tokenizer's ids are .*would mean other words"):
        load_captioner(broken, "blip2", cpu)


def test_the_tokenizer_of_the_other_captioner_is_refused(own_copy, cpu, weights):
    broken = own_copy("blip")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (weights.model_folder("blip2") / name).read_text(encoding="utf-8")
        (broken.model_folder("blip") / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer|cannot load"):
        load_captioner(broken, "blip", cpu)


def test_an_unknown_class_lists_the_known_ones(weights, cpu):
    models = {**weights.models, "blip": {**weights.models["blip"], "class": "ViTForImageClassification"}}
    with pytest.raises(UserError, match="Blip2ForConditionalGeneration, BlipForConditionalGeneration"):
        load_captioner(replace(weights, models=models), "blip", cpu)


def test_a_run_s_captions_are_english(weights):
    models = {**weights.models, "blip2": {**weights.models["blip2"], "languages": ["Korean"]}}
    own = replace(weights, models=models)
    assert captioners_named(Recipe(captioner="auto"), own) == ["blip"]
    with pytest.raises(UserError, match="captioner 'blip2' speaks no English .the competition scores captions against"):
        captioners_named(Recipe(captioner="blip2"), own)
    assert captioners_named(Recipe(captioner="blip2"), own, "Korean") == ["blip2"]
    alone = replace(own, captioners=["blip2"])
    with pytest.raises(UserError, match="captioner 'blip2' speaks no English .*those that do: none. Make the weights"):
        captioners_named(Recipe(), alone)
    both = {**models, "blip2": {**models["blip2"], "languages": ["English", "Korean"]}}
    assert captioners_named(Recipe(captioner="blip2"), replace(weights, models=both)) == ["blip2", "blip"]


def test_a_captioner_that_cannot_be_asked_in_korean_speaks_none_whatever_its_manifest_says(weights):
    record = {**weights.models["blip"], "languages": ["English", "Korean"]}
    classes = {name: SHIPPED_KINDS[name].class_name for name in ("smolvlm", "qwen3-vl", "blip")}
    models = {name: {**record, "class": own} for name, own in classes.items()}
    own = replace(weights, models=models, captioners=list(models))
    assert captioners_speaking("Korean", own) == ["qwen3-vl", "blip"]
    assert captioners_speaking("English", own) == list(models)
