import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernel.estimates.fusion import fuse, group_means
from kernel.models.vectors import unit_rows

numbers = st.floats(min_value=-1e6, max_value=1e6, width=32)
tables = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=numbers)
FALLBACK = np.array([0, 1], dtype=np.float32)


def test_a_row_of_3_and_4_has_length_5():
    assert unit_rows(np.array([[3, 4], [-4, 3]])).tolist() == np.float32([[0.6, 0.8], [-0.8, 0.6]]).tolist()


def test_a_zero_row_stays_zero():
    assert unit_rows(np.zeros((1, 3), dtype=np.float32)).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_unit_rows_are_float32_whatever_went_in(dtype):
    assert unit_rows(np.array([[3, 4]], dtype=dtype)).dtype == np.float32


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_squares_neither_underflow_nor_overflow(size):
    rows = np.array([[3 * size, 4 * size]], dtype=np.float32)
    np.testing.assert_allclose(unit_rows(rows), [[0.6, 0.8]], rtol=1e-6)


def test_unit_rows_leave_their_argument_as_it_was():
    rows = np.array([[3.0, 4.0]], dtype=np.float32)
    unit_rows(rows)
    assert rows.tolist() == [[3, 4]]


@settings(deadline=None)
@given(tables)
def test_every_row_has_length_1_or_0(rows):
    lengths = np.linalg.norm(unit_rows(rows).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, rows.any(axis=1), atol=1e-6)


@settings(deadline=None)
@given(tables, st.sampled_from([0.25, 2.0, 1024.0]))
def test_unit_rows_do_not_depend_on_length(rows, factor):
    assume(not ((rows != 0) & (np.abs(rows) < 1e-30)).any())  # a quarter of the smallest numbers is rounded
    np.testing.assert_allclose(unit_rows(rows * np.float32(factor)), unit_rows(rows), atol=1e-7)


def test_group_means_of_two_groups():
    rows = np.array([[1, 0], [0, 1], [2, 2]], dtype=np.float32)
    assert group_means(rows, [2, 1]).tolist() == [[0.5, 0.5], [2, 2]]


def test_weights_count_within_their_group_alone():
    rows = np.array([[1, 0], [0, 1], [2, 2]], dtype=np.float32)
    assert group_means(rows, [2, 1], np.array([3.0, 1.0, 5.0])).tolist() == [[0.75, 0.25], [2, 2]]


def test_group_means_of_no_group():
    assert group_means(np.empty((0, 3), dtype=np.float32), []).shape == (0, 3)


@pytest.mark.parametrize("counts", [[], [2], [1, 1], [4], [3, 1], [0, 3], [3, 0], [4, -1], [-1, 4]])
def test_counts_that_do_not_part_the_rows_are_refused(counts):
    with pytest.raises(ValueError, match="do not part 3 rows"):
        group_means(np.ones((3, 2), dtype=np.float32), counts)


@settings(deadline=None)
@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_group_means_equal_a_naive_loop(data, counts):
    rows = data.draw(hnp.arrays(np.float32, (sum(counts), 3), elements=numbers))
    remaining = iter(rows.astype(np.float64))
    naive = [np.mean([next(remaining) for _ in range(count)], axis=0) for count in counts]
    np.testing.assert_allclose(group_means(rows, counts), naive, rtol=1e-6, atol=1e-6)


def fused(row: list[float], usable: bool = True, normalise: bool = True) -> list[float]:
    rows = fuse({"a": np.array([row], np.float32)}, {"a": np.array([usable])}, {"a": 1.0}, FALLBACK, normalise)
    assert rows.shape == (1, 2) and rows.dtype == np.float32
    return rows[0].tolist()


def test_a_usable_estimate_becomes_a_unit_row():
    assert fused([3, 4]) == np.float32([0.6, 0.8]).tolist()


def test_without_normalising_a_usable_estimate_stays_as_it_is():
    assert fused([3, 4], normalise=False) == [3, 4]


@pytest.mark.parametrize("normalise", [True, False])
def test_an_unusable_estimate_becomes_the_fallback(normalise):
    assert fused([3, 4], usable=False, normalise=normalise) == [0, 1]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("row", [[0, 0], [-0.0, 0], [np.nan, 1], [1, np.nan], [np.inf, 1], [-np.inf, np.nan]])
def test_an_estimate_without_a_direction_becomes_the_fallback(row, normalise):
    assert fused(row, normalise=normalise) == [0, 1]


def test_each_image_gets_its_own_row_or_the_fallback():
    estimate = np.array([[2, 0], [5, 5], [np.nan, 0], [-3, 0]], dtype=np.float32)
    usable = {"a": np.array([True, False, True, True])}
    rows = fuse({"a": estimate}, usable, {"a": 1.0}, FALLBACK, normalise=True)
    assert rows.tolist() == [[1, 0], [0, 1], [0, 1], [-1, 0]]


def fused_two(a, b, usable_a=True, usable_b=True, normalise=False):
    estimates = {"a": np.array([a], np.float32), "b": np.array([b], np.float32)}
    usable = {"a": np.array([usable_a]), "b": np.array([usable_b])}
    return fuse(estimates, usable, {"a": 0.75, "b": 0.25}, FALLBACK, normalise)[0].tolist()


def test_several_estimates_are_summed_by_their_shares_as_unit_rows():
    assert fused_two([2, 0], [0, 3]) == [0.75, 0.25]


def test_the_sum_of_several_is_scaled_to_length_1():
    assert fused_two([2, 0], [0, 3], normalise=True) == pytest.approx(np.array([3, 1]) / 10**0.5)


def test_an_image_that_lacks_an_estimate_goes_without_it():
    assert fused_two([2, 0], [0, 3], usable_b=False, normalise=True) == [1, 0]


@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_estimate_that_is_not_finite_is_left_out_of_the_sum():
    assert fused_two([2, 0], [np.nan, 3], normalise=True) == [1, 0]


def test_without_any_usable_estimate_it_is_the_fallback():
    assert fused_two([2, 0], [0, 3], usable_a=False, usable_b=False) == [0, 1]


def test_estimates_that_cancel_become_the_fallback():
    rows = fuse(
        {"a": np.array([[1, 0]], np.float32), "b": np.array([[-1, 0]], np.float32)},
        {"a": np.array([True]), "b": np.array([True])},
        {"a": 0.5, "b": 0.5},
        FALLBACK,
        True,
    )
    assert rows.tolist() == [[0, 1]]


def test_rows_beyond_one_block_are_scaled_alike(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(7, 5))
    rows[4] = 0
    whole = unit_rows(rows)
    monkeypatch.setattr("kernel.models.vectors.BLOCK", 3)
    np.testing.assert_array_equal(unit_rows(rows), whole)
