"""Which prompts pass, and why others do not."""

import pytest

from kernel.banks.cleaning import Reason
from kernel.errors import UserError
from kernel.publish.hub.prompt_filters import PromptSettings, Why, passed, seems_english

ENGLISH = [
    "a red cat on a hill",
    "cyberpunk samurai, octane render, artstation",
    "portrait by greg rutkowski, alphonse mucha, 8k",
    "Leonardo da Vinci and Vincent van Gogh in Los Angeles",
    "Salvador Dalí café in São Paulo",
    "la la land poster",
    "a cat at the beach, un chien",
]
FOREIGN = {
    "Spanish": "un gato en la playa, al atardecer",
    "Spanish with accents": "retrato de una mujer con sombrero, montañas",
    "French": "un chat noir sur la table",
    "German": "eine Katze auf dem Dach",
    "German with umlauts": "ein alter mann mit bart, ölgemälde",
    "Italian": "un gatto nero sul tetto della casa",
    "Portuguese": "uma mulher na praia ao pôr do sol",
    "Dutch": "een kat op het dak",
    "Polish": "kobieta w lesie, obraz olejny",
    "Turkish": "bir kedi evin önünde",
    "Vietnamese": "một con mèo màu đỏ",
    "Russian": "красный кот на холме",
    "Korean": "언덕 위의 빨간 고양이",
    "Japanese with some English": "赤い猫が丘の上に on a hill",
    "Arabic": "قطة حمراء على تل",
}


@pytest.mark.parametrize("prompt", ENGLISH)
def test_english_and_lists_of_names_pass(prompt):
    assert seems_english(prompt)


@pytest.mark.parametrize("language", FOREIGN)
def test_other_languages_do_not(language):
    assert not seems_english(FOREIGN[language])


@pytest.mark.parametrize("prompt", ["röda katten på taket", "akai neko no e"])
def test_what_it_lets_through_as_its_docstring_says(prompt):
    assert seems_english(prompt)


def test_one_foreign_word_in_a_long_list_of_tags_is_no_language():
    tags = "uno card, 8k, octane render, artstation, highly detailed, sharp focus, volumetric light, una"
    assert seems_english(tags) and not seems_english("una card")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a  red\tcat ", "a red cat"),
        ("a cat", Why.TOO_FEW_WORDS),
        ("red cat " * 31, Why.TOO_MANY_WORDS),
        ("red cat " * 30, ("red cat " * 30).strip()),
        ("un gato en la playa", Why.LANGUAGE),
        ("", Reason.EMPTY),
        ("1 2 3", Reason.NO_LETTER),
        ("a red \ufffd cat", Reason.UNDECODABLE),
        ("x" * 1001, Reason.TOO_LONG),
    ],
)
def test_one_prompt(text, expected):
    assert passed(text, None, False, PromptSettings()) == expected


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.5, "a red cat"),
        (0.51, Why.NSFW),
        (2.0, Why.NSFW),
        (None, Why.NO_SCORE),
        (float("nan"), Why.NO_SCORE),
    ],
)
def test_nsfw_scores(score, expected):
    assert passed("a red cat", score, True, PromptSettings()) == expected


def test_a_source_without_scores_is_not_asked_for_them():
    assert passed("a red cat", None, False, PromptSettings(max_nsfw=0)) == "a red cat"


def test_any_language_passes_when_asked():
    assert passed("een kat op het dak", None, False, PromptSettings(language="any")) == "een kat op het dak"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 0}, "--count 0: expected 1 or more"),
        ({"min_words": 5, "max_words": 4}, "--min-words 5 and --max-words 4"),
        ({"min_words": -1}, "--min-words -1"),
        ({"language": "de"}, "--language 'de': unknown. Valid: en, any"),
        ({"max_nsfw": 1.5}, "--max-nsfw 1.5: expected 0 to 1"),
        ({"max_nsfw": float("nan")}, "--max-nsfw nan: expected 0 to 1"),
    ],
)
def test_settings_that_let_nothing_through_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        PromptSettings(**changes)
