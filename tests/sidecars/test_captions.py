import pytest

from kernel.errors import UserError
from kernel.sidecars.asked import Sidecars
from kernel.sidecars.captions import framed, joined, new_captions, one_line, terms_of
from tests.sidecars.records import record_of


@pytest.mark.parametrize(
    "form, terms",
    [("prompt", ["a fox", "fog", "ink"]), ("tags", ["fog", "ink"]), ("sentence", ["a fox"])],
)
def test_a_description_as_prompt_tags_or_sentence(tmp_path, form, terms):
    assert terms_of(record_of(tmp_path / "a.png"), form) == terms


def test_a_caption_with_line_breaks_of_any_kind_is_one_line(tmp_path):
    assert one_line(" a fox\r\nby a\u2028hill\x0b\x85 ") == "a fox by a hill"
    assert terms_of(record_of(tmp_path / "a.png", "a\nfox", ("ink\rwash",)), "prompt") == ["a fox", "ink wash"]
    assert framed("a fox", "two\nlines", "") == "two lines, a fox"


@pytest.mark.parametrize(
    "prefix, suffix, made",
    [
        ("", "", "a fox"),
        ("sks", "masterpiece", "sks, a fox, masterpiece"),
        ("sks,", ",masterpiece", "sks, a fox, masterpiece"),
        ("photo of ", " at dusk", "photo of a fox at dusk"),
    ],
)
def test_what_stands_round_a_caption(prefix, suffix, made):
    assert framed("a fox", prefix, suffix) == made


def test_two_captions_become_one():
    assert joined("a fox", "fog") == "a fox, fog"
    assert joined("a fox, ", "fog") == "a fox, fog"
    assert joined("A fox sits.", "fog") == "A fox sits. fog"
    assert joined("", "fog") == "fog" and joined("a fox", "") == "a fox"


@pytest.mark.parametrize(
    "existing, made",
    [
        ("skip", ["sks, fog, ink"]),
        ("overwrite", ["sks, fog, ink"]),
        ("append", ["one, sks, fog, ink", "two, sks, fog, ink"]),
        ("prepend", ["sks, fog, ink, one", "sks, fog, ink, two"]),
    ],
)
def test_every_caption_that_was_there_gets_what_is_new(existing, made):
    assert new_captions(["one", "two"], ["fog", "ink"], Sidecars("txt", existing, prefix="sks")) == made
    assert new_captions([], ["fog", "ink"], Sidecars("txt", existing, prefix="sks")) == ["sks, fog, ink"]


def words(text: str) -> int:
    return len(text.replace(",", " , ").split())


def test_terms_are_dropped_from_the_end_until_the_whole_caption_fits():
    terms = ["a fox", "fog", "ink", "dusk"]
    made = new_captions([], terms, Sidecars("txt", suffix="old", max_tokens=7), words)
    assert made == ["a fox, fog, old"]
    assert words(made[0]) <= 7 < words("a fox, fog, ink, old")
    asked = Sidecars("txt", "append", max_tokens=8)
    assert new_captions(["a long one", "short"], terms, asked, words) == [
        "a long one, a fox, fog",
        "short, a fox, fog, ink",
    ]


def test_the_first_of_the_terms_stays_however_few_tokens_there_are():
    assert new_captions([], ["a red fox", "fog"], Sidecars("txt", max_tokens=1), words) == ["a red fox"]


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"kind": "text"}, "unknown --write 'text' (did you mean 'txt'?). Valid: txt, jsonl, csv"),
        ({"existing": "apend"}, "unknown --existing 'apend' (did you mean 'append'?)"),
        ({"form": "tag"}, "unknown --form 'tag' (did you mean 'tags'?)"),
        ({"keys": ("image_path", "caption")}, "--keys are those of --write jsonl, and --write is txt"),
        ({"kind": "jsonl", "keys": ("text",)}, "--keys text: expected two names"),
        ({"out": "a.csv"}, "--out a.csv is the file of --write csv"),
        ({"max_tokens": 0}, "--max-tokens 0: expected 1 or more"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_can(settings, said):
    with pytest.raises(UserError) as refused:
        Sidecars(**{"kind": "txt", **settings})
    assert str(refused.value).startswith(said)
