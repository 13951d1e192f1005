import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import kernel.banks.nearest
from kernel.banks.nearest import nearest, neighbour_estimate, neighbour_weights
from kernel.errors import UserError
from kernel.models.vectors import unit_rows
from kernel.system.devices import Device
from tests.banks.test_prompt_bank import EMBEDDINGS, FEATURES, D, N, opened, random_unit_rows, write

CPU = Device("cpu")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write(tmp_path / "bank")


def naive_nearest(images: np.ndarray, bank: np.ndarray, top_k: int) -> tuple[list, list]:
    """One image after the other, all prompts sorted; equal cosines stay in the order of the bank."""
    cosines = images.astype(np.float64) @ bank.astype(np.float64).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :top_k]
    return order.tolist(), np.take_along_axis(cosines, order, axis=1).tolist()


def test_the_nearest_prompts_come_best_first_with_their_cosines():
    indices, cosines = nearest(np.float32([[1, 0]]), np.float16([[0, 1], [0.5, 0], [1, 0], [-1, 0]]), 3, CPU)
    assert (indices.tolist(), cosines.tolist()) == ([[2, 1, 0]], [[1, 0.5, 0]])


def test_indices_are_int64_and_cosines_float32():
    indices, cosines = nearest(FEATURES, FEATURES.astype(np.float16), 2, CPU)
    assert (indices.dtype, cosines.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 50, 100, 1000])
@pytest.mark.parametrize("top_k", [1, 2, 49, 100])
def test_of_equal_cosines_the_lower_indices_are_kept_in_order(top_k, block):
    indices, _ = nearest(np.float32([[1, 0]]), np.float16([[1, 0]] * 100), top_k, CPU, block)
    assert indices.tolist() == [list(range(top_k))]


@pytest.mark.parametrize("block", [1, 4, 51, 1000])
def test_a_better_prompt_of_a_later_block_comes_before_earlier_ties(block):
    bank = np.float16([[0.5, 0]] * 50 + [[1, 0]] + [[0.5, 0]] * 50)
    assert nearest(np.float32([[1, 0]]), bank, 3, CPU, block)[0].tolist() == [[50, 0, 1]]


whole_numbers = st.integers(-2, 2)  # their products are exact in any precision, so equal ones tie exactly


@settings(deadline=None)
@given(st.data(), st.integers(0, 6), st.integers(1, 20), st.integers(1, 22), st.integers(1, 4))
def test_nearest_equals_the_naive_loop_with_ties(data, n, prompts, block, image_chunk):
    images = data.draw(hnp.arrays(np.float32, (n, 3), elements=whole_numbers))
    bank = data.draw(hnp.arrays(np.float16, (prompts, 3), elements=whole_numbers))
    top_k = data.draw(st.integers(1, prompts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel.banks.nearest, "IMAGES", image_chunk)
        indices, cosines = nearest(images, bank, top_k, CPU, block)
    assert (indices.tolist(), cosines.tolist()) == naive_nearest(images, bank, top_k)


@pytest.mark.parametrize("block", [1, 7, 99, 100, 499, 500, 32_768])
def test_nearest_equals_the_naive_loop_over_unit_rows_for_every_block(block):
    images, bank = random_unit_rows(30, 16, seed=0), random_unit_rows(500, 16, seed=1).astype(np.float16)
    indices, cosines = nearest(images, bank, 100, CPU, block)
    naive_indices, naive_cosines = naive_nearest(images, bank, 100)
    assert indices.tolist() == naive_indices
    np.testing.assert_allclose(cosines, naive_cosines, atol=1e-6)


def test_a_banks_memory_map_gives_what_its_rows_give(folder):
    bank = opened(folder)
    for part in (bank.features, bank.features[2:]):
        found = nearest(FEATURES, part, 3, CPU, block=2)[0]
        assert found.tolist() == naive_nearest(FEATURES, np.array(part), 3)[0]


def resident_kilobytes(path: Path) -> int:
    """How much of a mapped file counts as this process's memory, as Linux tells it."""
    sections = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    own = [section for section in sections if str(path) in section]
    assert own, "the file is not mapped"
    return sum(int(re.search(r"^Rss: +(\d+) kB", section, re.MULTILINE).group(1)) for section in own)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what of a map is in memory")
def test_what_was_read_of_a_memory_map_is_given_back(folder):
    bank = opened(folder)
    nearest(FEATURES, bank.features, 3, CPU, block=2)
    assert resident_kilobytes(folder / "clip.safetensors") == 0


def test_a_bad_images_zero_row_gets_the_first_prompts():
    indices, cosines = nearest(np.zeros((1, D), np.float32), FEATURES.astype(np.float16), 3, CPU)
    assert (indices.tolist(), cosines.tolist()) == ([[0, 1, 2]], [[0, 0, 0]])


def test_one_prompt_is_everyones_nearest():
    assert nearest(FEATURES, FEATURES[:1].astype(np.float16), 1, CPU)[0].tolist() == [[0]] * N


@pytest.mark.parametrize("top_k", [0, -1, N + 1, 1000])
def test_more_neighbours_than_prompts_or_none_are_refused(top_k):
    with pytest.raises(UserError, match=f"^{top_k} neighbours an image asked for, the prompt bank holds {N} prompts"):
        nearest(FEATURES, FEATURES.astype(np.float16), top_k, CPU)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_refused(bad):
    images = FEATURES.copy()
    images[2, 1] = bad
    with pytest.raises(UserError, match="image feature row 2 of 5 holds a number that is not finite"):
        nearest(images, FEATURES.astype(np.float16), 2, CPU)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bank_that_is_not_finite_is_refused_naming_the_rows(bad):
    bank = FEATURES.astype(np.float16)
    bank[3, 1] = bad
    with pytest.raises(UserError, match="features 2 to 3 are not all finite.*python -m kernel bank"):
        nearest(FEATURES, bank, 2, CPU, block=2)


# weighting


def test_published_weights_are_of_one_minus_the_cosine():
    # distances 0 and 1: 1 / 1e-4 against 1 / (1 + 1e-4)
    near, far = 1e4, 1 / 1.0001
    found = neighbour_weights(np.float32([[1, 0]]), "published", 1.0)
    np.testing.assert_allclose(found, [[near / (near + far), far / (near + far)]])


def test_the_squared_l2_distance_would_weigh_the_same_far_from_zero():
    cosines = np.float32([[0.35, 0.3, 0.25]])
    squared = 1 / ((2 - 2 * cosines) ** 6 + 64e-4)
    np.testing.assert_allclose(neighbour_weights(cosines, "published", 1.0), squared / squared.sum(), rtol=1e-5)


def test_softmax_weights_are_exponential_in_the_cosine():
    found = neighbour_weights(np.float32([[0.5, 0.25]]), "softmax", 0.25)
    np.testing.assert_allclose(found, [[np.e / (np.e + 1), 1 / (np.e + 1)]])


@pytest.mark.parametrize("temperature", [1e-6, 1e-4])
def test_a_cold_softmax_takes_the_nearest_alone_and_stays_finite(temperature):
    assert neighbour_weights(np.float32([[0.9, 0.2]]), "softmax", temperature).tolist() == [[1, 0]]


@pytest.mark.parametrize("weighting", ["published", "softmax"])
def test_weights_sum_to_one_and_equal_cosines_weigh_the_same(weighting):
    found = neighbour_weights(np.float32([[0.3] * 4, [1] * 4, [0] * 4, [-1] * 4]), weighting, 0.05)
    np.testing.assert_allclose(found, np.full((4, 4), 0.25))


@pytest.mark.parametrize(
    ("weighting", "temperature"),
    [
        ("plain", 1.0),
        ("", 1.0),
        ("softmax", 0.0),
        ("softmax", -1.0),
        ("softmax", np.nan),
    ],
)
def test_an_unknown_weighting_is_refused_with_the_valid_ones(weighting, temperature):
    with pytest.raises(UserError, match="expected 'published', or 'softmax' with a temperature above 0"):
        neighbour_weights(np.float32([[1, 0]]), weighting, temperature)


AXES = np.float16([[1, 0], [0, 1], [-1, 0]])


def test_an_estimate_is_the_weighted_sum_of_the_neighbours_embeddings():
    found = neighbour_estimate(np.array([[1, 0]]), np.float32([[0.5, 0.25]]), AXES, "softmax", 0.25)
    np.testing.assert_allclose(found, unit_rows(np.array([[1, np.e]])), rtol=1e-6)


def test_of_one_neighbour_the_estimate_is_its_embedding():
    assert neighbour_estimate(np.array([[2]]), np.float32([[0.1]]), AXES, "published", 1.0).tolist() == [[-1, 0]]


def test_opposite_neighbours_cancel_to_a_zero_row():
    assert neighbour_estimate(np.array([[0, 2]]), np.float32([[0.1, 0.1]]), AXES, "published", 1.0).tolist() == [[0, 0]]


@pytest.mark.parametrize("rows", [1, 2, 7, 36, 100])
def test_estimates_do_not_depend_on_how_many_rows_are_gathered_at_a_time(monkeypatch, rows):
    monkeypatch.setattr(kernel.banks.nearest, "GATHERED", rows)
    rng = np.random.default_rng(0)
    indices, cosines = rng.integers(0, N, size=(9, 4)), rng.uniform(0.2, 0.4, size=(9, 4)).astype(np.float32)
    found = neighbour_estimate(indices, cosines, EMBEDDINGS.astype(np.float16), "published", 1.0)
    weights = 1 / ((1 - cosines.astype(np.float64)) ** 6 + 1e-4)
    naive = [sum(weights[i, j] * EMBEDDINGS[indices[i, j]].astype(np.float16) for j in range(4)) for i in range(9)]
    np.testing.assert_allclose(found, unit_rows(np.array(naive)), atol=1e-6)


class Watched(np.ndarray):
    """A matrix that tells which of its rows were asked for, in what order."""

    def __getitem__(self, places):
        self.asked.extend(places.tolist())
        return np.asarray(self)[places]


def test_embeddings_are_read_once_through_as_they_lie_on_the_disk(monkeypatch):
    monkeypatch.setattr(kernel.banks.nearest, "GATHERED", 3)
    matrix = EMBEDDINGS.astype(np.float16).view(Watched)
    matrix.asked = []
    neighbour_estimate(np.array([[4, 0], [1, 3], [2, 0]]), np.float32([[0.4, 0.2]] * 3), matrix, "published", 1.0)
    assert matrix.asked == [0, 0, 1, 2, 3, 4]


def test_no_image_has_no_estimate():
    found = neighbour_estimate(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.float32), AXES, "published", 1.0)
    assert (found.shape, found.dtype) == ((0, 2), np.float32)


def test_an_estimate_leaves_unit_rows_in_float32():
    found = neighbour_estimate(np.array([[0, 1], [1, 2]]), np.float32([[0.4, 0.2]] * 2), AXES, "published", 1.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_a_cosine_of_nan_is_refused():
    with pytest.raises(UserError, match="neighbour cosine row 0 of 1 holds a number that is not finite"):
        neighbour_estimate(np.array([[0, 1]]), np.float32([[0.4, np.nan]]), AXES, "published", 1.0)


def test_an_embedding_of_nan_is_refused():
    with pytest.raises(UserError, match="an embedding is not finite: it is damaged"):
        neighbour_estimate(np.array([[0]]), np.float32([[0.4]]), AXES * np.float16(np.nan), "published", 1.0)
