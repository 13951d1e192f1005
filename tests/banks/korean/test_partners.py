"""The Korean banks, and files of a user's beside them."""

import re
from collections import Counter

import pytest

from kernel.banks.korean.partners import BANKS, FOLDER, read_partners
from kernel.errors import UserError

HANGUL = re.compile("[가-힣]")


@pytest.fixture(scope="module")
def lines():
    return {name: (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines() for name in BANKS}


@pytest.mark.parametrize("name, least", [("mediums", 80), ("movements", 100), ("flavors", 300)])
def test_each_bank_has_its_many_phrases_and_none_is_dropped(lines, name, least):
    assert len(read_partners(name).english) == len(lines[name]) >= least


def test_every_phrase_is_korean_and_its_partner_is_not(lines):
    for line in sum(lines.values(), []):
        korean, english = line.split("\t")
        assert HANGUL.search(korean) and english and not HANGUL.search(english), line
        assert korean == korean.strip() and english == english.strip() and "," not in line, line


@pytest.mark.parametrize("column", [0, 1])
def test_no_phrase_and_no_partner_stands_in_the_banks_twice(lines, column):
    counts = Counter(line.split("\t")[column].lower() for line in sum(lines.values(), []))
    assert [phrase for phrase, count in counts.items() if count > 1] == []


def test_a_line_of_a_user_may_lack_its_partner_and_the_first_of_two_equal_phrases_counts(tmp_path):
    (tmp_path / "own.txt").write_text("안개\tfog\n해 질 녘\n안개\tmist\n")
    assert read_partners("own", tmp_path / "own.txt").english == {"안개": "fog", "해 질 녘": None}


@pytest.mark.parametrize("line", ["안개\tfog\tmist", "안개, 비", "안개\tfog, rain"])
def test_a_line_that_would_be_told_as_several_terms_is_refused(tmp_path, line):
    (tmp_path / "own.txt").write_text(f"비\train\n{line}\n")
    with pytest.raises(UserError, match="expected a phrase without commas"):
        read_partners("own", tmp_path / "own.txt")


def test_no_phrase_alone_means_something_else_as_well():
    """Such as 기사, which is also an article and a driver, or 말, which is also speech."""
    flavors = read_partners("flavors").english
    assert not {"전선", "기사", "말", "절", "사과", "공작", "성", "황금빛 시간", "푸른 시간"} & set(flavors)
    assert flavors["대성당"] == "a cathedral" and flavors["노인"] == "an elderly person"
