import ast
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import kernel.models.linear_head
from kernel.errors import UserError
from kernel.models.linear_head import (
    IMAGE_NOISE,
    REGULARISATIONS,
    Gram,
    Head,
    fit_head,
    held_out_errors,
    load_head,
    mean_feature,
    stream_grams,
)
from kernel.models.vectors import unit_rows


def gram_of(x: np.ndarray, y: np.ndarray) -> Gram:
    gram = Gram(x.shape[1], y.shape[1])
    gram.add(x, y)
    return gram


def linear_rows(n: int, d: int, e: int, seed: int, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows x far from their mean 0, and y = x A + b + noise."""
    rng = np.random.default_rng(seed)
    world = np.random.default_rng(99)
    slope, offset = world.normal(size=(d, e)), world.normal(size=e)
    x = unit_rows(rng.normal(size=(n, d)) + 1)
    return x, (x @ slope + offset + noise * rng.normal(size=(n, e))).astype(np.float32)


def naive_ridge(x: np.ndarray, y: np.ndarray, regularisation: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ridge as a least-squares problem with penalty rows under the centred data: no normal equations."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    d = x.shape[1]
    penalty = regularisation * (x**2).mean() * len(x)
    rows = np.vstack([x - x.mean(axis=0), np.sqrt(penalty) * np.eye(d)])
    targets = np.vstack([y - y.mean(axis=0), np.zeros((d, y.shape[1]))])
    return np.linalg.lstsq(rows, targets)[0], x.mean(axis=0), y.mean(axis=0)


# Gram matrices


def test_a_gram_holds_the_sums_of_its_rows():
    gram = gram_of(np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]]))
    assert gram.sums.tolist() == [[2, 3, 8], [3, 5, 13], [8, 13, 34]]


def test_moments_are_taken_about_the_given_means():
    gram = gram_of(np.array([[1.0], [2.0]]), np.array([[3.0], [5.0]]))
    xx, xy, yy = gram.moments(np.array([1.0]), np.array([4.0]))
    assert (xx.tolist(), xy.tolist(), yy) == ([[0.5]], [[0.5]], 1.0)


def test_moments_about_other_means_equal_the_naive_ones():
    (x, y), means = linear_rows(50, 4, 3, seed=1), (np.arange(4.0), np.arange(3.0))
    xx, xy, yy = gram_of(x, y).moments(*means)
    away_x, away_y = x - means[0], y - means[1]
    np.testing.assert_allclose(xx, away_x.T @ away_x / 50)
    np.testing.assert_allclose(xy, away_x.T @ away_y / 50)
    np.testing.assert_allclose(yy, (away_y**2).sum() / 50)


def test_half_precision_rows_are_summed_in_float64():
    gram = gram_of(np.full((70_000, 1), 1, dtype=np.float16), np.full((70_000, 1), 1, dtype=np.float16))
    assert gram.sums.tolist() == np.full((3, 3), 70_000).tolist()


def test_two_grams_add_up_to_the_gram_of_all_rows():
    x, y = linear_rows(30, 4, 3, seed=1)
    both, whole = gram_of(x[:11], y[:11]) + gram_of(x[11:], y[11:]), gram_of(x, y)
    np.testing.assert_allclose(both.sums, whole.sums)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["feature", "embedding"])
def test_a_number_that_is_not_finite_is_refused_with_its_row(bad, side):
    x, y = linear_rows(5, 4, 3, seed=1)
    (x if side == "feature" else y)[3, 1] = bad
    with pytest.raises(UserError, match=f"{side} row 3 of 5 holds a number that is not finite"):
        Gram(4, 3).add(x, y)


def test_refused_rows_leave_the_sums_as_they_were():
    gram = gram_of(*linear_rows(5, 4, 3, seed=1))
    before = gram.sums.copy()
    with pytest.raises(UserError):
        gram.add(np.ones((1, 4)), np.full((1, 3), np.nan))
    assert (gram.sums == before).all()


@pytest.mark.parametrize(("x", "y"), [((5, 3), (5, 3)), ((5, 4), (4, 3)), ((5, 4), (5, 2))])
def test_rows_of_another_shape_are_refused(x, y):
    with pytest.raises(ValueError, match="expected n rows"):
        Gram(4, 3).add(np.ones(x), np.ones(y))


# streaming


def test_every_tenth_row_is_held_out():
    x = np.arange(25.0)[:, None]
    train, held_out = stream_grams([(x, x)], 1, 1)
    assert (train.n, held_out.n, held_out.sums[0, 1:2].tolist()) == (23, 2, [9 + 19])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 40), max_size=4))
def test_the_head_does_not_depend_on_the_batches_borders(cuts):
    x, y = linear_rows(40, 4, 3, seed=2, noise=0.1)
    borders = [0, *sorted(cuts), 40]
    batches = [(x[a:b], y[a:b]) for a, b in zip(borders, borders[1:], strict=False)]
    parted, whole = fit_head(*stream_grams(batches, 4, 3), noise=0), fit_head(*stream_grams([(x, y)], 4, 3), noise=0)
    assert parted.regularisation == whole.regularisation
    np.testing.assert_allclose(parted.weights, whole.weights, rtol=1e-5, atol=1e-6)


# fitting


def test_a_worked_example():
    # centred x is -1, 0, 1 and y is -2, 0, 2: covariance 4/3 over variance 2/3 plus 1e-6 of the mean square 14/3
    x, y = np.array([[1.0], [2.0], [3.0]]), np.array([[10.0], [12.0], [14.0]])
    head = fit_head(gram_of(x, y), gram_of(x, y), noise=0)
    assert head.regularisation == 1e-6
    np.testing.assert_allclose(head.weights, [[(4 / 3) / (2 / 3 + 1e-6 * 14 / 3)]], rtol=1e-6)
    assert (head.feature_mean.tolist(), head.embedding_mean.tolist()) == ([2], [12])


@pytest.mark.parametrize("noise", [0.0, 0.3, 30.0])
def test_the_head_equals_naive_ridge_over_all_rows(noise):
    x, y = linear_rows(200, 6, 4, seed=3, noise=noise)
    head = fit_head(*stream_grams([(x, y)], 6, 4), noise=0)
    weights, feature_mean, embedding_mean = naive_ridge(x, y, head.regularisation)
    np.testing.assert_allclose(head.weights, weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.feature_mean, feature_mean, rtol=1e-6)
    np.testing.assert_allclose(head.embedding_mean, embedding_mean, rtol=1e-5)


def test_held_out_errors_equal_those_of_naive_predictions():
    (x, y), (held_x, held_y) = linear_rows(60, 6, 4, seed=4, noise=1), linear_rows(25, 6, 4, seed=5, noise=1)
    held_x = 2 * held_x  # so that means and scales of the two sides differ
    expected = []
    for regularisation in REGULARISATIONS:
        weights, mean_x, mean_y = naive_ridge(x, y, regularisation)
        expected.append((((held_x - mean_x) @ weights + mean_y - held_y) ** 2).sum(axis=1).mean())
    found = held_out_errors(gram_of(x, y), gram_of(held_x, held_y), REGULARISATIONS, noise=0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_noise_counts_as_if_it_were_added_to_the_held_out_rows():
    (x, y), (held_x, held_y) = linear_rows(60, 6, 4, seed=4, noise=1), linear_rows(50, 6, 4, seed=5, noise=1)
    noise = 3.0
    # added along each axis both ways, the noise has no mean, no tie to the rows, and this squared length
    steps = np.concatenate([np.eye(6), -np.eye(6)]) * noise**0.5
    blurred_x, blurred_y = (held_x[:, None] + steps).reshape(-1, 6), np.repeat(held_y, 12, axis=0)
    found = held_out_errors(gram_of(x, y), gram_of(held_x, held_y), REGULARISATIONS, noise)
    expected = held_out_errors(gram_of(x, y), gram_of(blurred_x, blurred_y), REGULARISATIONS, noise=0)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_head_meant_for_noisy_images_beats_one_meant_for_prompts_on_them():
    x, y = linear_rows(400, 20, 4, seed=6, noise=0.05)
    x = unit_rows(x)
    grams = stream_grams([(x, y)], 20, 4)
    blur = np.random.default_rng(7).normal(size=x.shape) * (IMAGE_NOISE / 20) ** 0.5
    images = (x + blur).astype(np.float32)
    found = {}
    for noise in (0, IMAGE_NOISE):
        found[noise] = (fit_head(*grams, noise).apply(images, mean_feature(images)) * unit_rows(y)).sum(axis=1).mean()
    assert found[IMAGE_NOISE] > found[0] + 0.01


@pytest.mark.parametrize(("noise", "chosen"), [(0.0, 1e-6), (100.0, 10.0)])
def test_rows_without_noise_take_the_least_regularisation_and_noise_the_most(noise, chosen):
    x, y = linear_rows(100, 6, 4, seed=6, noise=noise)
    assert fit_head(*stream_grams([(x, y)], 6, 4), noise=0).regularisation == chosen


def test_of_equal_errors_the_largest_regularisation_is_taken():
    x = np.tile(np.eye(2), (10, 1))
    assert fit_head(*stream_grams([(x, np.zeros((20, 3)))], 2, 3), noise=0).regularisation == max(REGULARISATIONS)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_too_few_prompts_to_hold_any_out_take_the_largest_regularisation(n):
    assert fit_head(*stream_grams([linear_rows(n, 6, 4, seed=7)], 6, 4), noise=0).regularisation == max(REGULARISATIONS)


def test_of_one_prompt_every_image_gets_that_prompts_embedding():
    x, y = linear_rows(1, 6, 4, seed=8)
    head = fit_head(*stream_grams([(x, y)], 6, 4), noise=0)
    images = unit_rows(np.random.default_rng(1).normal(size=(3, 6)))
    np.testing.assert_allclose(head.apply(images, mean_feature(images)), np.repeat(unit_rows(y), 3, axis=0), atol=1e-6)


def test_of_fewer_prompts_than_dimensions_the_head_equals_naive_ridge():
    x, y = linear_rows(20, 300, 4, seed=9, noise=0.1)
    head = fit_head(*stream_grams([(x, y)], 300, 4), noise=0)
    weights, _, _ = naive_ridge(x, y, head.regularisation)
    np.testing.assert_allclose(head.weights, weights, rtol=1e-3, atol=1e-4)


def test_features_that_are_all_zero_give_the_mean_embedding():
    head = fit_head(gram_of(np.zeros((4, 2)), np.eye(4)), Gram(2, 4), noise=0)
    assert head.apply(np.ones((1, 2)), np.zeros(2)).tolist() == [[0.5, 0.5, 0.5, 0.5]]


def test_no_prompt_at_all_is_refused():
    with pytest.raises(UserError, match="no prompts to fit the text-only head on.*python -m kernel bank"):
        fit_head(Gram(2, 2), Gram(2, 2), noise=0)


def test_a_head_is_float32():
    head = fit_head(*stream_grams([linear_rows(20, 4, 3, seed=1)], 4, 3), noise=0)
    assert {head.weights.dtype, head.feature_mean.dtype, head.embedding_mean.dtype} == {np.dtype(np.float32)}


# applying

HEAD = Head(np.float32([[2, 0], [0, 1]]), np.float32([9, 9]), np.float32([0, 3]), 0.01)


def test_applying_centres_maps_adds_the_mean_and_normalises():
    # ([3, 2] - [1, 1]) = [2, 1] -> [4, 1] -> [4, 4]
    np.testing.assert_allclose(HEAD.apply(np.float32([[3, 2]]), np.float32([1, 1])), [[0.5**0.5, 0.5**0.5]])


def test_a_shift_of_all_images_changes_nothing():
    images = np.random.default_rng(2).normal(size=(20, 2)).astype(np.float32)
    gap = np.float32([5, -3])
    moved = HEAD.apply(images + gap, mean_feature(images + gap))
    np.testing.assert_allclose(moved, HEAD.apply(images, mean_feature(images)), atol=1e-5)


def test_images_across_the_modality_gap_get_their_prompts_embeddings():
    x, y = linear_rows(500, 6, 4, seed=10)
    head = fit_head(*stream_grams([(x, y)], 6, 4), noise=0)
    images = x + np.linspace(-1, 1, 6, dtype=np.float32)
    found = head.apply(images, mean_feature(images))
    assert (found * unit_rows(y)).sum(axis=1).min() > 0.999


def test_an_images_row_does_not_depend_on_the_images_beside_it():
    images, mean = np.float32([[3, 2], [1, 5], [0, 1]]), np.float32([1, 1])
    one_by_one = np.concatenate([HEAD.apply(row[None], mean) for row in images])
    np.testing.assert_allclose(HEAD.apply(images, mean), one_by_one, atol=1e-6)


def test_applied_rows_are_float32_unit_rows():
    rows = HEAD.apply(np.float32([[3, 2], [1, 5]]), np.float32([1, 1]))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_an_image_of_nan_is_refused():
    with pytest.raises(UserError, match="image feature row 1 of 2 holds a number that is not finite"):
        HEAD.apply(np.float32([[3, 2], [np.nan, 5]]), np.float32([1, 1]))


def test_a_mean_of_nan_is_refused():
    with pytest.raises(UserError, match="image mean row 0 of 1 holds a number that is not finite"):
        HEAD.apply(np.float32([[3, 2]]), np.float32([1, np.nan]))


def test_a_bad_images_zero_row_does_not_count_in_the_mean():
    assert mean_feature(np.float32([[1, 2], [0, 0], [3, 4]])).tolist() == [2, 3]


@pytest.mark.parametrize("n", [0, 2])
def test_without_a_good_image_the_mean_is_zero(n):
    assert mean_feature(np.zeros((n, 2), dtype=np.float32)).tolist() == [0, 0]


# files


def test_a_saved_head_is_the_same_when_loaded(tmp_path):
    HEAD.save(tmp_path / "head.safetensors")
    found = load_head(tmp_path / "head.safetensors")
    for name in ("weights", "feature_mean", "embedding_mean"):
        np.testing.assert_array_equal(getattr(found, name), getattr(HEAD, name), err_msg=name)
    assert found.regularisation == HEAD.regularisation


def test_saving_leaves_no_other_file(tmp_path):
    HEAD.save(tmp_path / "head.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


def head_file(tmp_path: Path, regularisation: str | None = "0.01", **changes: np.ndarray | None) -> Path:
    tensors = {"weights": HEAD.weights, "feature_mean": HEAD.feature_mean, "embedding_mean": HEAD.embedding_mean}
    tensors = {name: value for name, value in {**tensors, **changes}.items() if value is not None}
    metadata = None if regularisation is None else {"regularisation": regularisation}
    save_file(tensors, tmp_path / "head.safetensors", metadata=metadata)
    return tmp_path / "head.safetensors"


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": None},
        {"feature_mean": None},
        {"embedding_mean": None},
        {"regularisation": None},
        {"regularisation": "strong"},
    ],
)
def test_a_head_that_lacks_a_part_is_refused(tmp_path, changes):
    with pytest.raises(UserError, match="head.safetensors: not a text-only head .*python -m kernel bank"):
        load_head(head_file(tmp_path, **changes))


def test_a_head_whose_header_names_a_tensor_twice_is_refused(tmp_path):
    path = head_file(tmp_path)
    content = path.read_bytes()
    assert content.count(b'"feature_mean"') == 1
    path.write_bytes(content.replace(b'"feature_mean":', b'"weights"     :'))
    with pytest.raises(UserError, match="not a text-only head .*a name stands twice"):
        load_head(path)


@pytest.mark.parametrize("content", [b"", b"{", bytes(100), json.dumps({"weights": []}).encode()])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, content):
    (tmp_path / "head.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="head.safetensors: not a text-only head"):
        load_head(tmp_path / "head.safetensors")


def test_a_missing_head_is_refused(tmp_path):
    with pytest.raises(UserError, match="head.safetensors: not a text-only head"):
        load_head(tmp_path / "head.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": np.ones(2, dtype=np.float32)},
        {"weights": np.ones((3, 2), dtype=np.float32)},
        {"weights": np.ones((2, 3), dtype=np.float32)},
        {"feature_mean": np.ones((1, 2), dtype=np.float32)},
        {"embedding_mean": np.ones(3, dtype=np.float32)},
    ],
)
def test_shapes_that_do_not_fit_are_refused(tmp_path, changes):
    with pytest.raises(UserError, match=r"head.safetensors: shapes .*; expected \(d, e\), \(d,\), \(e,\)"):
        load_head(head_file(tmp_path, **changes))


@pytest.mark.parametrize("name", ["weights", "feature_mean", "embedding_mean"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_head_that_is_not_finite_is_refused(tmp_path, name, bad):
    with pytest.raises(UserError, match="not finite float32: the file is damaged"):
        load_head(head_file(tmp_path, **{name: np.full_like(getattr(HEAD, name), bad)}))


def test_a_head_of_another_precision_is_refused(tmp_path):
    with pytest.raises(UserError, match="not finite float32"):
        load_head(head_file(tmp_path, weights=HEAD.weights.astype(np.float64)))


def test_the_module_needs_no_torch():
    tree = ast.parse(Path(kernel.models.linear_head.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not any(name and name.startswith(("torch", "safetensors.torch")) for name in imported)
