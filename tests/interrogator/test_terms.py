import numpy as np
import pytest

from kernel.banks.word_banks import Phrases, rank
from kernel.errors import UserError
from kernel.interrogator import terms
from kernel.interrogator.bans import allowed
from kernel.interrogator.request import Request
from kernel.interrogator.terms import TermTable, chosen_banks


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "pets.txt"
    path.write_text("a cat\na dog\n")
    return path


def names(banks):
    return [own.name for own in banks]


def test_the_weights_banks_in_the_original_s_order(weights):
    assert names(chosen_banks(Request("fast"), weights)) == ["flavors", "mediums", "movements"]


def test_banks_are_left_out_added_and_replaced(weights, words):
    assert names(chosen_banks(Request("fast", without=("mediums",)), weights)) == ["flavors", "movements"]
    added = chosen_banks(Request("fast", own={"pets": str(words)}), weights)
    assert names(added) == ["flavors", "mediums", "movements", "pets"]
    (replaced,) = chosen_banks(Request("fast", without=("mediums", "movements"), own={"flavors": str(words)}), weights)
    assert replaced.phrases == ["a cat", "a dog"]


@pytest.mark.parametrize(
    "banned, kept",
    [
        ([], [0, 1, 2, 3, 4]),
        (["art"], [1, 3, 4]),
        (["Art Deco"], [1, 2, 3, 4]),
        (["by ann (b.)", "c++"], [0, 1, 2]),
        (["a|b", ".*"], [0, 1, 2, 3, 4]),
    ],
)
def test_terms_with_a_banned_word_in_any_case_are_none(banned, kept):
    phrases = ["art deco", "a party", "Pop ART, loud", "By Ann (B.)", "C++ code"]
    assert allowed(phrases, banned) == kept


def test_artists_are_said_both_ways_unless_they_are_already(weights, tmp_path):
    (tmp_path / "artists.txt").write_text("Ann\nby Bob\n")
    request = Request("fast", own={"artists": str(tmp_path / "artists.txt")})
    assert chosen_banks(request, weights)[0].phrases == ["by Ann", "by Bob", "inspired by Ann"]


def test_negative_takes_flavors_what_was_added_and_the_negative_bank(weights, words):
    request = Request("negative", own={"negative": str(words)})
    assert names(chosen_banks(request, weights)) == ["flavors", "negative"]
    assert names(chosen_banks(Request("fast", own=request.own), weights)) == ["flavors", "mediums", "movements"]
    added = Request("negative", own={"pets": str(words)})
    assert names(chosen_banks(added, weights)) == ["flavors", "pets"]
    assert names(chosen_banks(Request("negative", without=("flavors",), own=request.own), weights)) == ["negative"]


@pytest.mark.parametrize(
    "request_, said",
    [
        (Request("fast", without=("artist",)), "no word bank 'artist' to leave out"),
        (Request("fast", without=("flavors", "mediums", "movements")), "no word bank is left"),
        (Request("negative", without=("flavors",)), "no word bank is left"),
        (Request("fast", own={"x": "nowhere.txt"}), "nowhere.txt: no such word list"),
    ],
)
def test_what_cannot_be_chosen_is_told(weights, request_, said):
    with pytest.raises(UserError, match=said):
        chosen_banks(request_, weights)


def test_an_unknown_mode_is_told_with_the_nearest():
    with pytest.raises(UserError, match="unknown mode 'clasic' .did you mean 'classic'.*classic, fast, best, negative"):
        Request("clasic")


def unit(rng, rows):
    found = rng.standard_normal((rows, 16)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture
def table(monkeypatch):
    """Banks of 70 and 30 phrases, and one of 5 negative ones."""
    rng = np.random.default_rng(5)
    banks = [Phrases(name, [f"{name} {number}" for number in range(count)], {})
             for name, count in (("flavors", 70), ("mediums", 30), ("negative", 5))]  # fmt: skip
    table = TermTable.__new__(TermTable)
    table.phrases = [phrase for own in banks for phrase in own.phrases]
    table.rows = {"flavors": (0, 70), "mediums": (70, 100), "negative": (100, 105)}
    table.features = unit(rng, 105)
    return table


def test_the_best_of_a_part_are_its_own_rows(table):
    images = unit(np.random.default_rng(6), 3)
    assert table.positive == (0, 100)
    indices, cosines = rank(images, table.features[70:100], 4)
    found = table.best(images, (70, 100), 4)
    assert [[row for row, _ in own] for own in found] == (indices + 70).tolist()
    assert found[0][0][1] == pytest.approx(float(cosines[0, 0])) and table.bank_of(found[0][0][0]) == "mediums"


def test_close_terms_come_in_the_order_of_the_original(table, monkeypatch):
    """By LabelTable of its own package, over several chunks, with rows that are equal."""
    from clip_interrogator import Config, LabelTable

    monkeypatch.setattr(terms, "CHUNK", 40)
    table.features[60:66] = table.features[4]
    table.features[80:100] = table.features[4]
    theirs = LabelTable.__new__(LabelTable)
    theirs.config, theirs.chunk_size, theirs.device = Config(quiet=True), 40, "cpu"
    theirs.labels, theirs.embeds = table.phrases[:100], list(table.features[:100])
    images = np.stack([table.features[4], *unit(np.random.default_rng(6), 3)])
    for row, found in zip(images, table.best(images, (0, 100), 8), strict=True):
        import torch

        assert [table.phrases[index] for index, _ in found] == theirs.rank(torch.from_numpy(row[None]), 8)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_shortlist_takes_as_many_of_each_chunk(table, monkeypatch, reverse):
    monkeypatch.setattr(terms, "CHUNK", 40)
    monkeypatch.setattr(terms, "SHORTLIST", 20)
    images = unit(np.random.default_rng(6), 2)
    for row, found in zip(images, table.shortlist(images, (0, 100), reverse), strict=True):
        cosines = table.features[:100] @ row * (-1 if reverse else 1)
        expected = [first + int(index) for first in (0, 40, 80)
                    for index in np.argsort(-cosines[first : first + 40][: 100 - first])[:6]]  # fmt: skip
        assert sorted(found) == sorted(expected)
        assert found == sorted(found, key=lambda own: -cosines[own])


def test_a_short_table_is_all_on_the_shortlist(table):
    images = unit(np.random.default_rng(6), 1)
    assert sorted(table.shortlist(images, (0, 100))[0]) == list(range(100))
