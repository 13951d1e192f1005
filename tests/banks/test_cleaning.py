import tracemalloc
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.banks.cleaning import MAX_CHARACTERS, Reason, clean, clean_prompts


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a cat", "a cat"),
        ("a\tcat \n on  a mat ", "a cat on a mat"),
        ("a\x00cat\x1b[0m\x7f\x85mat", "a cat [0m mat"),
        ("\u2028a\u00a0cat\u3000on\u2029mat", "a cat on mat"),
        ("fjo\u0308rd", "fj\u00f6rd"),
        ("\u212bngstrom", "\u00c5ngstrom"),
        ("A Cat, (anime:1.5)", "A Cat, (anime:1.5)"),
        ("猫", "猫"),
        ("\U0001f408 cat", "\U0001f408 cat"),
        ("'a' “b”", "'a' “b”"),
    ],
)
def test_a_prompt_is_cleaned_to(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.EMPTY),
        (" \t\r\n\x00\u3000", Reason.EMPTY),
        ("1 + 1 = 2", Reason.NO_LETTER),
        ("\U0001f408!", Reason.NO_LETTER),
        ("a c\ufffdt", Reason.UNDECODABLE),
        ("a c\ud800t", Reason.UNDECODABLE),
        ("a c\udffft", Reason.UNDECODABLE),
        ("\ufffd", Reason.UNDECODABLE),
    ],
)
def test_a_prompt_is_dropped_for(text, reason):
    assert clean(text) is reason


@pytest.mark.parametrize("letter", ["a", "\u00f6", "o\u0308", "\u1f82", "\u03b1\u0313\u0300\u0345", "각"])
def test_the_longest_prompt_is_counted_in_composed_characters(letter):
    assert clean(letter * MAX_CHARACTERS) == unicodedata.normalize("NFC", letter) * MAX_CHARACTERS


@pytest.mark.parametrize("letter", ["a", "\u00f6", "o\u0308", "\u03b1\u0313\u0300\u0345"])
def test_one_character_more_than_the_longest_is_too_long(letter):
    assert clean(letter * (MAX_CHARACTERS + 1)) is Reason.TOO_LONG


def test_blanks_do_not_make_a_prompt_too_long():
    assert clean("a" + " " * 5 * MAX_CHARACTERS + "cat") == "a cat"


def test_a_million_combining_marks_are_too_long_without_being_sorted():
    # two marks that canonical order must swap all along: minutes of composing
    assert clean("a" + "\u0301\u0327" * 500_000) is Reason.TOO_LONG


@given(st.text(st.characters(codec=None), max_size=60))
def test_what_is_clean_stays_as_it_is(text):
    cleaned = clean(text)
    assert isinstance(cleaned, Reason) or clean(cleaned) == cleaned


@given(st.text(st.characters(codec=None), max_size=60))
def test_a_clean_prompt_is_one_composed_line_with_a_letter(text):
    cleaned = clean(text)
    if isinstance(cleaned, str):
        assert unicodedata.is_normalized("NFC", cleaned)
        assert cleaned == " ".join(cleaned.split())
        assert any(character.isalpha() for character in cleaned)
        assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in cleaned)


def test_every_text_comes_once_at_its_first_place():
    prompts = ["a cat", "a dog", " a  cat", "A cat", "fjo\u0308rd", "fj\u00f6rd", "a dog"]
    assert list(clean_prompts(prompts, Counter())) == ["a cat", "a dog", "A cat", "fj\u00f6rd"]


def test_what_is_dropped_is_counted_by_reason():
    dropped: Counter[str] = Counter()
    list(clean_prompts(["a cat", "", " ", "7", "\ufffd", "a" * 1001, "a cat", "a  cat", "a dog"], dropped))
    assert dropped == {"empty": 2, "no letter": 1, "undecodable": 1, "too long": 1, "duplicate": 2}


def test_a_repeated_prompt_that_is_dropped_for_another_reason_is_no_duplicate():
    dropped: Counter[str] = Counter()
    list(clean_prompts(["7", "7"], dropped))
    assert dropped == {"no letter": 2}


def test_prompts_are_cleaned_as_they_are_asked_for():
    asked = iter(["a cat", "7", "a dog"])
    assert (next(clean_prompts(asked, Counter())), list(asked)) == ("a cat", ["7", "a dog"])


def test_the_memory_of_a_prompt_does_not_grow_with_its_length():
    def peak(words: str) -> int:
        tracemalloc.start()
        assert sum(1 for _ in clean_prompts((f"{n} {words}" for n in range(3000)), Counter())) == 3000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak("cat " * 240) - peak("cat") < 3000 * 10
