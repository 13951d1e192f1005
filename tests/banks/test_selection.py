"""The choice of prompts, round by round, beside one that compares every row with all before it."""

from itertools import pairwise

import numpy as np
import pytest

from kernel.banks import selection
from kernel.banks.encoding import SENTENCES, read_choice, rows_path, write_prompts, write_rows
from kernel.banks.near_duplicates import NearDuplicates
from kernel.banks.selection import Round, select_shards
from kernel.config import BankSettings
from kernel.errors import UserError
from kernel.system.work import packed, unpacked
from tests.engines import HERE

SIZES = (7, 5, 1, 6, 4)  # prompts of each shard
NEAR = 0.9


@pytest.fixture
def rows() -> np.ndarray:
    """Unit rows of which many are near to others: on a circle, at whole degrees, 26 of which are a cosine of 0.9."""
    angles = np.radians(np.random.default_rng(3).integers(0, 360, sum(SIZES)))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.fixture
def building(tmp_path, rows):
    (tmp_path / "identity.json").write_text("{}")
    ends = np.cumsum((0, *SIZES)).tolist()
    for shard, (start, end) in enumerate(pairwise(ends)):
        write_prompts(tmp_path, shard, [f"prompt {number}" for number in range(start, end)])
        write_rows(rows_path(tmp_path, SENTENCES, shard), rows[start:end])
    return tmp_path


def chosen(building, settings=None, engine=HERE) -> list[bool]:
    settings = settings or BankSettings([], near=NEAR)
    select_shards(settings, building, building / "identity.json", range(len(SIZES)), None, engine)
    stays = []
    for shard, size in enumerate(SIZES):
        own = set(read_choice(building, shard).stays)
        stays += [place in own for place in range(size)]
    return stays


@pytest.mark.parametrize("size", [1, 2, 3, 32])
def test_rounds_of_any_size_keep_what_one_pass_keeps(building, rows, monkeypatch, size):
    monkeypatch.setattr(selection, "ROUND", size)
    expected = NearDuplicates(NEAR).keep(rows).tolist()
    assert 0 < sum(expected) < len(rows)
    assert chosen(building) == expected


def test_what_an_earlier_round_dropped_drops_nothing(building, monkeypatch):
    """0, 20 and 40 degrees: the second is near to the first, the third to the second alone, which did not stay."""
    monkeypatch.setattr(selection, "ROUND", 1)
    angles = np.radians([0, 20, 40] + [180] * (sum(SIZES) - 3))
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ends = np.cumsum((0, *SIZES)).tolist()
    for shard, (start, end) in enumerate(pairwise(ends)):
        write_rows(rows_path(building, SENTENCES, shard), rows[start:end])
    assert [place for place, stays in enumerate(chosen(building)) if stays] == [0, 2, 3]


class Counted:
    """An engine that counts the items of each round."""

    title = "here"

    def __init__(self) -> None:
        self.items: list[tuple[int, list[int]]] = []

    def work(self, work, items, ends, outcome):
        if items:
            self.items.append((work.number, list(items)))
        yield from HERE.work(unpacked(packed(work)), items, ends, outcome)


def test_a_round_is_compared_with_each_before_it_and_then_with_itself(building, monkeypatch):
    monkeypatch.setattr(selection, "ROUND", 2)
    engine = Counted()
    chosen(building, engine=engine)
    assert engine.items == [(0, [0]), (1, [0]), (1, [1]), (2, [0, 1]), (2, [2])]


def test_answers_that_are_there_are_not_made_again_and_those_of_other_rows_are(building, rows, monkeypatch):
    monkeypatch.setattr(selection, "ROUND", 2)
    first = chosen(building)
    (building / "choice-00004.json").unlink()
    engine = Counted()
    assert chosen(building, engine=engine) == first and engine.items == []
    write_rows(rows_path(building, SENTENCES, 2), -rows[12:13])
    chosen(building, engine=engine)
    assert engine.items == [(1, [0]), (1, [1]), (2, [0, 1]), (2, [2])]


def test_when_no_worker_can_compare_it_says_so(building, monkeypatch):
    monkeypatch.setattr(Round, "load", lambda self, device: 1 / 0)
    with pytest.raises(
        UserError, match="near duplicates of shards 0 to 4 could not be found .*division by zero.*again"
    ):
        chosen(building)
