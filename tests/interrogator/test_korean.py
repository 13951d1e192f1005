"""What is asked of the weights for a description in Korean, and how one of English partners is said in it."""

from dataclasses import replace

import pytest

from kernel.config import Recipe
from kernel.errors import UserError
from kernel.interrogator.korean import (
    by_partners,
    captioners_for,
    clip_name,
    in_korean,
    korean_banks,
    korean_of,
    notes,
)
from kernel.interrogator.request import Request
from kernel.models.weights_folder import Weights

KOREAN = Request(language="ko")


def speaking(weights: Weights, **languages: list[str]) -> Weights:
    models = {name: {**own, "languages": languages.get(name, ["English"])} for name, own in weights.models.items()}
    return replace(weights, models=models)


def with_korean_clip(weights: Weights) -> Weights:
    return replace(weights, models={**weights.models, "clip_ko": {"class": "CLIPModel", "sha256": "0" * 64}})


def test_the_korean_clip_ranks_where_there_is_one_and_english_stays_with_the_english_one(weights):
    both = with_korean_clip(weights)
    assert (clip_name(KOREAN, both), by_partners(KOREAN, both)) == ("clip_ko", False)
    assert (clip_name(KOREAN, weights), by_partners(KOREAN, weights)) == ("clip", True)
    assert (clip_name(Request(), both), by_partners(Request(), both)) == ("clip", False)


def test_the_same_rows_are_korean_for_a_korean_clip_and_english_for_another(weights):
    korean, english = korean_banks(KOREAN, with_korean_clip(weights)), korean_banks(KOREAN, weights)
    said = korean_of(KOREAN)
    assert [own.name for own in korean] == ["flavors", "mediums", "movements"]
    for ours, partners in zip(korean, english, strict=True):
        assert ours.phrases == [said[partner] for partner in partners.phrases]
    assert korean[1].phrases[0] == "유화" and english[1].phrases[0] == "an oil painting"


def test_mode_negative_takes_flavors_and_the_users_own_banks(weights, tmp_path):
    (tmp_path / "own.txt").write_text("안개\tfog\n")
    own = {"날씨": str(tmp_path / "own.txt")}
    banks = korean_banks(Request("negative", language="ko", own=own), weights)
    assert [bank.name for bank in banks] == ["flavors", "날씨"] and banks[1].phrases == ["fog"]


def test_a_users_phrase_needs_a_partner_for_an_english_clip_alone(weights, tmp_path):
    (tmp_path / "own.txt").write_text("안개\tfog\n해 질 녘\n")
    request = Request(language="ko", own={"날씨": str(tmp_path / "own.txt")})
    with pytest.raises(UserError, match="own.txt: '해 질 녘' has no English partner.*Write a tab.*clip_ko"):
        korean_banks(request, weights)
    assert korean_banks(request, with_korean_clip(weights))[-1].phrases == ["안개", "해 질 녘"]


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"without": ("flavor",)}, "no word bank 'flavor' to leave out .did you mean 'flavors'"),
        ({"without": ("flavors", "mediums", "movements")}, "no word bank is left"),
        ({"own": {"artists": "x.txt"}}, "--words artists: not in Korean"),
    ],
)
def test_banks_that_are_none_are_refused(weights, asked, said):
    with pytest.raises(UserError, match=said):
        korean_banks(replace(KOREAN, **asked), weights)


def test_an_unknown_language_is_refused_with_the_valid_ones():
    with pytest.raises(UserError, match="--language kr: unknown. Valid: en, ko"):
        Request(language="kr")


def test_the_caption_is_of_a_captioner_that_speaks_the_language(weights):
    both = speaking(weights, blip=["Korean"])
    assert captioners_for(KOREAN, Recipe(captioner="auto"), both) == ["blip"]
    assert captioners_for(Request(), Recipe(captioner="auto"), both) == ["blip2"]
    assert captioners_for(Request(), Recipe(captioner="auto"), weights) == ["blip2", "blip"]
    assert captioners_for(Request("negative"), Recipe(captioner="auto"), weights) == []


def test_without_one_that_speaks_korean_there_is_no_caption_and_one_that_does_not_is_refused_by_name(weights):
    assert captioners_for(KOREAN, Recipe(captioner="auto"), weights) == []
    with pytest.raises(UserError, match="captioner 'blip' speaks no Korean .*those that do: none"):
        captioners_for(KOREAN, Recipe(captioner="blip"), weights)
    with pytest.raises(UserError, match="holds no captioner 'git'"):
        captioners_for(KOREAN, Recipe(captioner="git"), weights)


def test_what_is_lacking_is_told(weights):
    clip, captions = notes(KOREAN, weights, [])
    assert "no Korean CLIP (clip_ko)" in clip and "English partners" in clip
    assert "no captioner that speaks Korean" in captions
    assert notes(KOREAN, with_korean_clip(weights), ["blip"]) == notes(Request(), weights, []) == []


def test_a_description_of_partners_is_said_in_korean_behind_the_caption():
    korean = {"fog": "안개", "at dusk": "해 질 녘"}
    part = {"term": "fog", "bank": "flavors", "similarity": 0.2}
    own = {"prompt": "fog, at dusk", "similarity": 0.3, "parts": [part]}
    description = {**own, "candidates": {"fast": {"prompt": "at dusk", "similarity": 0.1}}}
    assert in_korean(description, korean, "붉은 성") == {
        "prompt": "붉은 성, 안개, 해 질 녘",
        "similarity": 0.3,
        "parts": [{"term": "안개", "english": "fog", "bank": "flavors", "similarity": 0.2}],
        "candidates": {"fast": {"prompt": "붉은 성, 해 질 녘", "similarity": 0.1}},
    }
    assert in_korean(own, korean, "")["prompt"] == "안개, 해 질 녘"
