"""What is asked of the weights for a description in Korean, and how one of English partners is said in it."""

from dataclasses import replace
from pathlib import Path

import pytest

from kernel.banks.korean.partners import read_partners
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
from kernel.interrogator.request import MODES, Request
from kernel.interrogator.terms import chosen_banks
from kernel.models.weights_folder import Weights

KOREAN = Request(language="ko")


def speaking(weights: Weights, **languages: list[str]) -> Weights:
    models = {name: {**own, "languages": languages.get(name, ["English"])} for name, own in weights.models.items()}
    return replace(weights, models=models)


def with_korean_clip(weights: Weights) -> Weights:
    return replace(weights, models={**weights.models, "clip_ko": {"class": "CLIPModel", "sha256": "0" * 64}})


def own_words(folder: Path, *lines: str) -> str:
    path = folder / f"{len(list(folder.iterdir()))}.txt"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


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


def test_a_users_negative_terms_are_of_mode_negative_alone_and_stand_last(weights, tmp_path):
    own = {"negative": own_words(tmp_path, "흐릿한 사진\ta blurry photo"), "날씨": own_words(tmp_path, "안개\tfog")}
    negative, *others = (korean_banks(Request(mode, language="ko", own=own), weights) for mode in MODES[::-1])
    assert [bank.name for bank in negative] == ["flavors", "날씨", "negative"]
    assert all([bank.name for bank in banks] == ["flavors", "mediums", "movements", "날씨"] for banks in others)


@pytest.mark.parametrize("korean_clip", [False, True])
def test_a_bank_of_which_every_term_is_banned_is_left_out(weights, tmp_path, korean_clip):
    own = {"날씨": own_words(tmp_path, "안개\tfog", "짙은 안개\tdense fog")}
    request, weights = Request(language="ko", own=own), with_korean_clip(weights) if korean_clip else weights
    assert [bank.name for bank in korean_banks(request, weights)] == ["flavors", "mediums", "movements", "날씨"]
    banned = replace(request, banned=("안개",))
    assert [bank.name for bank in korean_banks(banned, weights)] == ["flavors", "mediums", "movements"]
    with pytest.raises(UserError, match="mode fast: every term holds a banned word"):
        chosen_banks(replace(banned, without=("flavors", "mediums", "movements")), weights)


def test_a_users_own_phrase_is_said_and_not_the_packages_with_the_same_partner(weights, tmp_path):
    assert read_partners("flavors").english["중세 기사"] == "a medieval knight"
    request = Request(language="ko", own={"기사": own_words(tmp_path, "철갑을 두른 기사\ta medieval knight")})
    banks = {bank.name: bank.phrases for bank in korean_banks(request, weights)}
    assert "a medieval knight" not in banks["flavors"] and banks["기사"] == ["a medieval knight"]
    assert korean_of(request)["a medieval knight"] == "철갑을 두른 기사"
    phrases = sum(banks.values(), [])
    assert len(set(phrases)) == len(phrases) == len(korean_of(request))


def test_a_phrase_of_the_packages_is_not_said_a_second_time_by_its_own_partner(weights, tmp_path):
    assert read_partners("flavors").english["고성"] == "an old castle"
    request = Request(language="ko", own={"성": own_words(tmp_path, "고성\ta castle")})
    assert [partner for partner, phrase in korean_of(request).items() if phrase == "고성"] == ["a castle"]
    assert "an old castle" not in sum((bank.phrases for bank in korean_banks(request, weights)), [])


def test_two_phrases_of_a_users_with_one_partner_are_refused_where_partners_rank(weights, tmp_path):
    request = Request(language="ko", own={"날씨": own_words(tmp_path, "안개\tfog", "는개\tfog")})
    with pytest.raises(UserError, match="'안개' and '는개' share the English partner 'fog'.*Give each its own"):
        korean_banks(request, weights)
    assert korean_banks(request, with_korean_clip(weights))[-1].phrases == ["안개", "는개"]


@pytest.mark.parametrize("name", ["artists", "trendings", "negative"])
def test_a_bank_that_korean_lacks_may_be_left_out(weights, name):
    assert korean_banks(replace(KOREAN, without=(name,)), weights) == korean_banks(KOREAN, weights)


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


def test_several_captioners_take_a_clip_that_reads_what_they_say(weights):
    both, recipe = speaking(weights, blip=["Korean"], blip2=["Korean"]), Recipe(captioner="blip2,blip")
    with pytest.raises(UserError, match="captioner=blip2,blip: .*none that reads Korean: the first one's would always"):
        captioners_for(KOREAN, recipe, both)
    assert captioners_for(KOREAN, recipe, with_korean_clip(both)) == ["blip2", "blip"]


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
