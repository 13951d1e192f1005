import os
import subprocess
import sys
from collections.abc import Iterable
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.banks import near_duplicates
from kernel.banks.near_duplicates import NearDuplicates, drop_scored
from kernel.errors import UserError
from kernel.models.vectors import unit_rows
from tests.conftest import ROOT

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def row_at(cosine: float) -> list[float]:
    """A unit row with this cosine to EAST."""
    return [cosine, np.sqrt(1 - cosine**2)]


def kept(rows: Iterable, threshold: float = 0.9) -> list[bool]:
    return NearDuplicates(threshold).keep(np.array(list(rows), dtype=np.float32)).tolist()


def is_near(a: np.ndarray, b: np.ndarray, threshold: float) -> bool:
    """The definition in float64, where rounding to float16 is all that is lost."""
    a, b = a.astype(np.float16).astype(np.float64), b.astype(np.float16).astype(np.float64)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= threshold - near_duplicates.ROUNDING


def naively_kept(rows: np.ndarray, threshold: float) -> list[bool]:
    """Every row against every row kept before it, one by one."""
    stored: list[np.ndarray] = []
    answers = []
    for row in rows:
        answers.append(not any(is_near(row, other, threshold) for other in stored))
        if answers[-1]:
            stored.append(row)
    return answers


def clustered_rows(seed: int, n: int, dimensions: int, spread: float) -> np.ndarray:
    """Unit rows around a few centres, so that many of their cosines lie near the threshold."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(n // 5, 1), dimensions))
    return unit_rows(centres[rng.integers(0, len(centres), n)] + spread * rng.standard_normal((n, dimensions)))


# keeping


def test_a_row_seen_before_is_dropped():
    assert kept([EAST, NORTH, EAST]) == [True, True, False]


def test_opposite_rows_are_not_near():
    assert kept([EAST, WEST]) == [True, True]


@pytest.mark.parametrize(("cosine", "keeps"), [(0.95, False), (0.91, False), (0.89, True), (0.0, True)])
def test_a_row_is_dropped_above_the_threshold_and_kept_below(cosine, keeps):
    assert kept([EAST, row_at(cosine)]) == [True, keeps]


def test_rows_of_exactly_the_threshold_are_near():
    # 0.5 and three times 0.5 are float16 numbers, so this cosine is 0.5 without any rounding
    rows = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
    assert NearDuplicates(0.5).keep(rows).tolist() == [True, False]


def test_rows_just_below_the_threshold_are_kept():
    rows = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
    assert NearDuplicates(0.5 + 1e-5).keep(rows).tolist() == [True, True]


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize(("below", "keeps"), [(0, False), (1, True)])
def test_the_edge_is_the_same_in_one_call_and_across_two(calls, below, keeps):
    rows = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
    near = NearDuplicates(0.5 + 1e-5 if below else 0.5)
    answers = np.concatenate([near.keep(part) for part in np.array_split(rows, calls)])
    assert answers.tolist() == [True, keeps]


def test_a_threshold_of_one_drops_only_equal_rows():
    rows = clustered_rows(0, 5, 384, 0.01)
    answers = NearDuplicates(1.0).keep(np.concatenate([rows, rows]))
    assert answers.tolist() == [True] * 5 + [False] * 5


def test_a_row_near_only_to_a_dropped_row_is_kept():
    # 20 degrees apart each: the second is near the first, the third near the second alone
    turned = [[np.cos(angle), np.sin(angle)] for angle in np.radians([0, 20, 40])]
    assert kept(turned) == [True, False, True]


def test_the_first_of_near_rows_is_the_one_kept():
    assert kept([row_at(0.95), EAST]) == [True, False]


def test_a_row_near_to_one_of_an_earlier_call_is_dropped():
    near = NearDuplicates()
    near.keep(np.array([EAST, NORTH]))
    assert near.keep(np.array([WEST, row_at(0.95)])).tolist() == [True, False]


def test_no_rows_keep_none():
    assert NearDuplicates().keep(np.empty((0, 2), dtype=np.float32)).shape == (0,)


def test_the_rows_given_are_left_as_they_were():
    rows = clustered_rows(0, 20, 3, 0.2)
    before = rows.copy()
    NearDuplicates().keep(rows)
    np.testing.assert_array_equal(rows, before)


@pytest.fixture
def small_batches(monkeypatch):
    """Batches so small that a few rows fill several."""
    monkeypatch.setattr(near_duplicates, "BATCH_ROWS", 5)


CLUSTERS = {
    "seed": st.integers(0, 2**32 - 1),
    "n": st.integers(1, 40),
    "dimensions": st.sampled_from([2, 3, 16]),
    "spread": st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    "threshold": st.sampled_from([0.5, 0.9, 0.99, 0.999, 1.0]),
}


@given(**CLUSTERS)
@settings(max_examples=60, deadline=None)
def test_what_is_kept_is_what_comparing_every_pair_keeps(seed, n, dimensions, spread, threshold):
    rows = clustered_rows(seed, n, dimensions, spread)
    assert NearDuplicates(threshold).keep(rows).tolist() == naively_kept(rows, threshold)


def test_what_is_kept_across_blocks_is_what_comparing_every_pair_keeps(small_batches):
    rows = clustered_rows(1, 60, 16, 0.3)
    assert NearDuplicates().keep(rows).tolist() == naively_kept(rows, 0.9)


def test_more_rows_than_a_batch_are_all_compared():
    rows = clustered_rows(2, 2 * near_duplicates.BATCH_ROWS + 1, 384, 1.0)
    near = NearDuplicates(1.0)
    assert (near.keep(rows).all(), near.keep(rows).any()) == (True, False)


@pytest.mark.parametrize("threshold", [0.9, 0.98])
@pytest.mark.parametrize("size", [1, 2, 3, 19, 59])
def test_any_split_into_batches_keeps_the_same_rows(small_batches, size, threshold):
    rows = clustered_rows(3, 60, 16, 0.1)
    near = NearDuplicates(threshold)
    parts = [near.keep(rows[start : start + size]) for start in range(0, len(rows), size)]
    assert np.concatenate(parts).tolist() == NearDuplicates(threshold).keep(rows).tolist()


def test_rows_kept_together_are_all_kept_when_read_back_from_float16():
    rows = clustered_rows(5, 200, 16, 0.2)
    survivors = rows[NearDuplicates().keep(rows)].astype(np.float16)
    assert NearDuplicates().keep(survivors.astype(np.float32)).all()


@pytest.mark.parametrize("border", [0, 1, 30, 59, 60])
def test_after_an_interruption_the_rest_is_decided_as_without_one(small_batches, border):
    rows = clustered_rows(6, 60, 16, 0.2)
    expected = NearDuplicates().keep(rows)
    resumed = NearDuplicates()
    resumed.add(rows[:border][expected[:border]].astype(np.float16))
    assert resumed.keep(rows[border:]).tolist() == expected[border:].tolist()


def test_a_kept_row_takes_two_bytes_a_dimension_and_one_an_axis():
    near = NearDuplicates()
    kept = near.keep(clustered_rows(7, 300, 384, 0.5))
    assert sum(block.rows.nbytes for block in near.blocks) == kept.sum() * 384 * 2
    assert sum(block.heads.nbytes for block in near.blocks) == kept.sum() * (near_duplicates.AXES + near_duplicates.CUT)


# the bound by fewer axes

THRESHOLDS = [0.3, 0.7, 0.9, 0.99, 1.0]


def rows_at_the_edge(seed: int, n: int, dimensions: int) -> np.ndarray:
    """Unit rows in pairs at a threshold, and 1e-7 to 1e-3 beside it before they are float16, some of them twice."""
    rng = np.random.default_rng(seed)
    first = unit_rows(rng.standard_normal((n, dimensions))).astype(np.float64)
    across = rng.standard_normal((n, dimensions))
    across -= (across * first).sum(axis=1, keepdims=True) * first
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    thresholds = rng.choice(THRESHOLDS, (n, 1))
    cosines = np.minimum(thresholds + rng.choice([-1e-3, -1e-6, -1e-7, 0, 1e-7, 1e-3], (n, 1)), 1)
    rows = np.concatenate([first, cosines * first + np.sqrt(1 - cosines**2) * across])
    return unit_rows(rows[rng.integers(0, len(rows), 2 * len(rows))])


def decided(rows: np.ndarray, threshold: float) -> np.ndarray:
    """Without rows that are nearer to the edge than float64 sums are exact, which decides them either way."""
    stored = rows.astype(np.float16).astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    return rows[~(np.abs(stored @ stored.T - (threshold - near_duplicates.ROUNDING)) < 1e-12).any(axis=1)]


def orthogonal_rows(seed: int, n: int, dimensions: int) -> np.ndarray:
    """Axes in both directions, in any order, some of them twice and more."""
    rng = np.random.default_rng(seed)
    return np.eye(dimensions)[rng.integers(0, dimensions, n)] * rng.choice([-1, 1], (n, 1))


def rows_of_low_rank(seed: int, n: int, dimensions: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return unit_rows(rng.standard_normal((n, 3)) @ rng.standard_normal((3, dimensions)))


def rows_with_a_common_head(seed: int, n: int, dimensions: int) -> np.ndarray:
    """All of them of a cosine of about 0.95 along one direction, so that no few axes tell them apart."""
    rng = np.random.default_rng(seed)
    return unit_rows(4 * np.eye(dimensions)[0] + rng.standard_normal((n, dimensions)) / np.sqrt(dimensions) * 1.3)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    dimensions=st.sampled_from([2, 43, 44, 45, 384, 500]),
    threshold=st.sampled_from(THRESHOLDS),
    kind=st.sampled_from([rows_at_the_edge, orthogonal_rows, rows_of_low_rank, rows_with_a_common_head]),
    sizes=st.sampled_from([(1024, 256), (7, 3)]),
    room=st.sampled_from([near_duplicates.ROOM, 0.1]),
    int8=st.sampled_from([near_duplicates.products_of_int8, lambda: False]),
)
@settings(max_examples=200, deadline=None)
def test_no_near_row_is_missed_whatever_the_rows_are_like(seed, n, dimensions, threshold, kind, sizes, room, int8):
    """Nor where most numbers are too large for 8 bits, or a CPU does not add up their products."""
    rows = decided(kind(seed, n, dimensions), threshold)
    with mock.patch.multiple(
        near_duplicates, BATCH_ROWS=sizes[0], TILE_ROWS=sizes[1], ROOM=room, products_of_int8=int8
    ):
        assert NearDuplicates(threshold).keep(rows).tolist() == naively_kept(rows, threshold)


def test_products_that_are_not_exact_are_not_taken():
    """As oneDNN's are where a CPU has no VNNI, which it is told here."""
    asked = "from kernel.banks.near_duplicates import products_of_int8; print(products_of_int8())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, cwd=ROOT,
                          env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"})  # fmt: skip
    assert done.stdout == "False\n", done.stderr


@given(seed=st.integers(0, 2**32 - 1), threshold=st.sampled_from(THRESHOLDS))
@settings(max_examples=30, deadline=None)
def test_axes_of_other_rows_give_the_same_answers(seed, threshold):
    """Those of the first call, of three rows, meet rows that lie across them."""
    rows = decided(rows_at_the_edge(seed, 30, 384), threshold)
    near = NearDuplicates(threshold)
    with mock.patch.object(near_duplicates, "SAMPLE_ROWS", 3):
        answers = [*near.keep(rows[:3]), *near.keep(rows[3:])]
    assert near.axes_of == 3 and answers == naively_kept(rows, threshold)


def test_few_pairs_are_compared_whole(monkeypatch):
    """Of rows that, as sentences do, differ most along few axes."""
    far = np.random.default_rng(8).standard_normal((500, 384)) / np.arange(1, 385)
    rows, whole, compare = unit_rows(np.concatenate([far, far[:5]])), [], near_duplicates.are_near
    monkeypatch.setattr(
        near_duplicates, "are_near", lambda a, b, at: whole.append(len(a) * len(b)) or compare(a, b, at)
    )
    answers = NearDuplicates().keep(rows).tolist()
    assert answers == naively_kept(rows, 0.9) and not any(answers[500:])
    assert 0 < sum(whole) < 505**2 / 5


# refusals


def refusal(rows: list, threshold: float = 0.9) -> str:
    with pytest.raises(UserError) as refused:
        NearDuplicates(threshold).keep(np.array(rows, dtype=np.float32))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("row", "length"),
    [
        ([0, 0], "0"),
        ([np.nan, 1], "nan"),
        ([np.inf, 0], "inf"),
        ([3, 4], "5"),
        ([0.5, 0.75], "0.901"),
        ([1e5, 0], "1e+05"),
    ],
)
def test_what_is_no_unit_row_is_refused_with_its_place_and_length(row, length):
    said = f"sentence row 1 of 3 has length {length}; expected 1 (1 such rows)"
    assert said in refusal([EAST, row, NORTH])


def test_a_refused_call_keeps_nothing():
    near = NearDuplicates()
    with pytest.raises(UserError):
        near.keep(np.array([EAST, [0, 0]]))
    assert near.keep(np.array([EAST])).tolist() == [True]


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, 90, float("nan")])
def test_what_is_no_threshold_is_refused(threshold):
    said = f"a cosine threshold of {threshold}: expected more than 0 and at most 1"
    assert said in refusal([EAST], threshold)


# the leak guard

PROMPTS = ["a red fish", "fish, red", "a blue hill", "a hill in blue", "a cat"]
ROWS = np.array([EAST, row_at(0.96), NORTH, [np.sqrt(1 - 0.94**2), 0.94], WEST], dtype=np.float32)
SCORED = {"a red fish", "a blue hill"}
SCORED_ROWS = np.array([EAST, NORTH], dtype=np.float32)


def test_the_leak_guard_drops_equal_and_near_prompts_and_no_others():
    stays, _ = drop_scored(PROMPTS, ROWS, SCORED, SCORED_ROWS)
    assert stays.tolist() == [False, False, False, True, True]


def test_the_leak_guard_counts_each_dropped_prompt_once_equal_before_near():
    assert drop_scored(PROMPTS, ROWS, SCORED, SCORED_ROWS)[1] == {"equal": 2, "near": 1}


def test_an_equal_text_is_dropped_whatever_its_row():
    stays, dropped = drop_scored(["a cat"], np.array([WEST]), {"a cat"}, np.array([EAST]))
    assert (stays.tolist(), dropped) == ([False], {"equal": 1, "near": 0})


def test_prompts_near_each_other_but_to_no_scored_one_all_stay():
    stays, _ = drop_scored(["a", "b"], np.array([WEST, WEST]), SCORED, SCORED_ROWS)
    assert stays.tolist() == [True, True]


@pytest.mark.parametrize(("threshold", "stays"), [(0.5, False), (0.5 + 1e-5, True)])
def test_the_leak_guards_threshold_itself_is_near(threshold, stays):
    rows, scored_rows = np.array([[0.5, 0.5, 0.5, 0.5]]), np.array([[1.0, 0, 0, 0]])
    assert drop_scored(["a"], rows, {"b"}, scored_rows, threshold)[0].tolist() == [stays]


def test_without_scored_prompts_everything_stays():
    stays, dropped = drop_scored(PROMPTS, ROWS, set(), np.empty((0, 2)))
    assert (stays.all(), dropped) == (True, {"equal": 0, "near": 0})


def test_without_prompts_nothing_is_dropped():
    stays, dropped = drop_scored([], np.empty((0, 2)), SCORED, SCORED_ROWS)
    assert (len(stays), dropped) == (0, {"equal": 0, "near": 0})


@given(**CLUSTERS, scored=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_the_leak_guard_drops_what_comparing_every_pair_drops(seed, n, dimensions, spread, threshold, scored):
    rows = clustered_rows(seed, n + scored, dimensions, spread).astype(np.float16)
    expected = [not any(is_near(row, other, threshold) for other in rows[n:]) for row in rows[:n]]
    stays, _ = drop_scored(["a"] * n, rows[:n], set(), rows[n:], threshold)
    assert stays.tolist() == expected


def test_a_leak_is_found_in_every_block_of_scored_rows(small_batches):
    rows = clustered_rows(12, 60, 16, 1.0)
    stays, dropped = drop_scored(["a"] * 60, rows, set(), rows, 1.0)
    assert (stays.any(), dropped["near"]) == (False, 60)


@pytest.mark.parametrize("spoilt", ["rows", "scored_rows"])
def test_the_leak_guard_refuses_nan_on_either_side(spoilt):
    rows = {"rows": ROWS.copy(), "scored_rows": SCORED_ROWS.copy()}
    rows[spoilt][1] = np.nan
    with pytest.raises(UserError, match="row 1 of . has length nan"):
        drop_scored(PROMPTS, rows["rows"], SCORED, rows["scored_rows"])


@pytest.mark.parametrize("threshold", [0, 1.01])
def test_the_leak_guard_refuses_what_is_no_threshold(threshold):
    with pytest.raises(UserError, match=f"a cosine threshold of {threshold}"):
        drop_scored(PROMPTS, ROWS, SCORED, SCORED_ROWS, threshold)
