from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.banks import near_duplicates
from kernel.banks.near_duplicates import NearDuplicates, cosines, drop_scored
from kernel.errors import UserError
from kernel.models.vectors import unit_rows

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def row_at(cosine: float) -> list[float]:
    """A unit row with this cosine to EAST."""
    return [cosine, np.sqrt(1 - cosine**2)]


def kept(rows: Iterable, threshold: float = 0.9) -> list[bool]:
    return NearDuplicates(2, threshold).keep(np.array(list(rows), dtype=np.float32)).tolist()


def exact_cosine_is_at_least(a: np.ndarray, b: np.ndarray, threshold: float) -> bool:
    """The definition in whole fractions of the float16 numbers, where nothing is ever rounded. threshold > 0."""
    a, b = [Fraction(float(x)) for x in a], [Fraction(float(x)) for x in b]
    product = sum(x * y for x, y in zip(a, b, strict=True))
    lengths = sum(x * x for x in a) * sum(y * y for y in b)
    return product > 0 and product * product >= Fraction(threshold) ** 2 * lengths


def naively_kept(rows: np.ndarray, threshold: float) -> list[bool]:
    """Every row against every row kept before it, one by one."""
    stored: list[np.ndarray] = []
    answers = []
    for row in rows.astype(np.float16):
        answers.append(not any(exact_cosine_is_at_least(row, other, threshold) for other in stored))
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
    assert NearDuplicates(4, 0.5).keep(rows).tolist() == [True, False]


def test_rows_just_below_the_threshold_are_kept():
    rows = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
    assert NearDuplicates(4, np.nextafter(0.5, 1)).keep(rows).tolist() == [True, True]


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize(("below", "keeps"), [(0, False), (1, True)])
def test_the_edge_is_the_same_in_one_call_and_across_two(calls, below, keeps):
    rows = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
    near = NearDuplicates(4, np.nextafter(0.5, 1) if below else 0.5)
    answers = np.concatenate([near.keep(part) for part in np.array_split(rows, calls)])
    assert answers.tolist() == [True, keeps]


def test_a_threshold_of_one_drops_only_equal_rows():
    rows = clustered_rows(0, 5, 384, 0.001)
    answers = NearDuplicates(384, 1.0).keep(np.concatenate([rows, rows]))
    assert answers.tolist() == [True] * 5 + [False] * 5


def test_a_row_near_only_to_a_dropped_row_is_kept():
    # 20 degrees apart each: the second is near the first, the third near the second alone
    turned = [[np.cos(angle), np.sin(angle)] for angle in np.radians([0, 20, 40])]
    assert kept(turned) == [True, False, True]


def test_the_first_of_near_rows_is_the_one_kept():
    assert kept([row_at(0.95), EAST]) == [True, False]


def test_a_row_near_to_one_of_an_earlier_call_is_dropped():
    near = NearDuplicates(2)
    near.keep(np.array([EAST, NORTH]))
    assert near.keep(np.array([WEST, row_at(0.95)])).tolist() == [True, False]


def test_no_rows_keep_none():
    assert NearDuplicates(2).keep(np.empty((0, 2), dtype=np.float32)).shape == (0,)


def test_the_rows_given_are_left_as_they_were():
    rows = clustered_rows(0, 20, 3, 0.2)
    before = rows.copy()
    NearDuplicates(3).keep(rows)
    np.testing.assert_array_equal(rows, before)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks and batches so small that a few rows fill several of both."""
    monkeypatch.setattr(near_duplicates, "BLOCK_ROWS", 7)
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
    assert NearDuplicates(dimensions, threshold).keep(rows).tolist() == naively_kept(rows, threshold)


def test_what_is_kept_across_blocks_is_what_comparing_every_pair_keeps(small_blocks):
    rows = clustered_rows(1, 60, 16, 0.3)
    assert NearDuplicates(16).keep(rows).tolist() == naively_kept(rows, 0.9)


def test_more_rows_than_a_block_and_a_batch_are_all_compared():
    rows = clustered_rows(2, near_duplicates.BLOCK_ROWS + near_duplicates.BATCH_ROWS, 8, 1.0)
    near = NearDuplicates(8, 1.0)
    first = near.keep(rows)
    assert (first.all(), near.keep(rows).any(), near.count) == (True, False, len(rows))


@pytest.mark.parametrize("threshold", [0.9, 0.98])
@pytest.mark.parametrize("size", [1, 2, 3, 19, 59])
def test_any_split_into_batches_keeps_the_same_rows(small_blocks, size, threshold):
    rows = clustered_rows(3, 60, 16, 0.1)
    near = NearDuplicates(16, threshold)
    parts = [near.keep(rows[start : start + size]) for start in range(0, len(rows), size)]
    assert np.concatenate(parts).tolist() == NearDuplicates(16, threshold).keep(rows).tolist()


def test_a_border_case_of_many_dimensions_is_decided_alike_in_every_batch_size():
    # the threshold is a cosine that occurs, so a sum rounded in another order would fall on its other side
    rows = clustered_rows(4, 16, 384, 0.3)
    threshold = float(np.sort(cosines(rows[:1].astype(np.float16), rows.astype(np.float16))[0])[-2])
    whole = NearDuplicates(384, threshold).keep(rows).tolist()
    alone = NearDuplicates(384, threshold)
    assert [bool(alone.keep(row[None])[0]) for row in rows] == whole == naively_kept(rows, threshold)


def test_rows_kept_together_are_all_kept_when_read_back_from_float16():
    rows = clustered_rows(5, 200, 16, 0.2)
    survivors = rows[NearDuplicates(16).keep(rows)].astype(np.float16)
    assert NearDuplicates(16).keep(survivors.astype(np.float32)).all()


@pytest.mark.parametrize("border", [0, 1, 30, 59, 60])
def test_after_an_interruption_the_rest_is_decided_as_without_one(small_blocks, border):
    rows = clustered_rows(6, 60, 16, 0.2)
    expected = NearDuplicates(16).keep(rows)
    resumed = NearDuplicates(16)
    resumed.add(rows[:border][expected[:border]].astype(np.float16))
    assert resumed.keep(rows[border:]).tolist() == expected[border:].tolist()


def test_a_kept_row_takes_two_bytes_a_dimension():
    near = NearDuplicates(384)
    near.keep(clustered_rows(7, 300, 384, 0.5))
    assert {block.nbytes for block in near.blocks} == {near_duplicates.BLOCK_ROWS * 384 * 2}


# cosines


def test_cosines_are_those_of_a_naive_product():
    a, b = (clustered_rows(seed, 6, 384, 0.3).astype(np.float16) for seed in (8, 9))
    expected = [
        [np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y) for y in b.astype(float)] for x in a.astype(float)
    ]
    np.testing.assert_allclose(cosines(a, b), expected, rtol=0, atol=1e-14)


def test_cosines_are_the_same_bits_in_any_order_of_dimensions():
    rows = clustered_rows(10, 30, 384, 0.3).astype(np.float16)
    order = np.random.default_rng(0).permutation(384)
    np.testing.assert_array_equal(cosines(rows, rows), cosines(rows[:, order], rows[:, order]))


def test_the_cosine_of_equal_rows_is_exactly_one():
    rows = clustered_rows(11, 200, 384, 1.0).astype(np.float16)
    assert set(np.diagonal(cosines(rows, rows)).tolist()) == {1.0}


# refusals


def refusal(rows: list, threshold: float = 0.9) -> str:
    with pytest.raises(UserError) as refused:
        NearDuplicates(2, threshold).keep(np.array(rows, dtype=np.float32))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("row", "length"),
    [
        ([0, 0], "0"),
        ([np.nan, 1], "nan"),
        ([np.inf, 0], "inf"),
        ([3, 4], "5"),
        ([0.5, 0.75], "0.9014"),
        ([1e5, 0], "inf"),
    ],
)
def test_what_is_no_unit_row_is_refused_with_its_place_and_length(row, length):
    said = f"1 of 3 rows are no unit rows: row 1 has length {length}; expected 1"
    assert said in refusal([EAST, row, NORTH])


def test_a_refused_call_keeps_nothing():
    near = NearDuplicates(2)
    with pytest.raises(UserError):
        near.keep(np.array([EAST, [0, 0]]))
    assert near.keep(np.array([EAST])).tolist() == [True]


@pytest.mark.parametrize("shape", [(2,), (1, 3), (1, 1), (1, 2, 1)])
def test_rows_of_another_shape_are_refused_with_it(shape):
    with pytest.raises(ValueError, match=rf"rows of shape \({str(shape)[1:-1]}\); expected \(n, 2\)"):
        NearDuplicates(2).keep(np.ones(shape, dtype=np.float32))


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


@pytest.mark.parametrize(("threshold", "stays"), [(0.5, False), (np.nextafter(0.5, 1), True)])
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
    expected = [not any(exact_cosine_is_at_least(row, other, threshold) for other in rows[n:]) for row in rows[:n]]
    stays, _ = drop_scored(["a"] * n, rows[:n], set(), rows[n:], threshold)
    assert stays.tolist() == expected


def test_a_leak_is_found_in_every_block_of_scored_rows(small_blocks):
    rows = clustered_rows(12, 60, 16, 1.0)
    stays, dropped = drop_scored(["a"] * 60, rows, set(), rows, 1.0)
    assert (stays.any(), dropped["near"]) == (False, 60)


def test_prompts_and_rows_of_different_numbers_are_refused():
    with pytest.raises(ValueError, match="4 prompts and 5 rows"):
        drop_scored(PROMPTS[1:], ROWS, SCORED, SCORED_ROWS)


@pytest.mark.parametrize("spoilt", ["rows", "scored_rows"])
def test_the_leak_guard_refuses_nan_on_either_side(spoilt):
    rows = {"rows": ROWS.copy(), "scored_rows": SCORED_ROWS.copy()}
    rows[spoilt][1] = np.nan
    with pytest.raises(UserError, match="row 1 has length nan"):
        drop_scored(PROMPTS, rows["rows"], SCORED, rows["scored_rows"])


@pytest.mark.parametrize("threshold", [0, 1.01])
def test_the_leak_guard_refuses_what_is_no_threshold(threshold):
    with pytest.raises(UserError, match=f"a cosine threshold of {threshold}"):
        drop_scored(PROMPTS, ROWS, SCORED, SCORED_ROWS, threshold)
