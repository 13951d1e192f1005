import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.errors import UserError
from kernel.evaluation.evaluate import pairwise_cosine
from kernel.models.vectors import unit_rows
from kernel.training.shares import best_shares, cosines, fit_shares, products


def random_estimates(seed, count, images, dimensions=8):
    rng = np.random.default_rng(seed)
    truth = unit_rows(rng.normal(size=(images, dimensions)))
    estimates = np.stack(
        [unit_rows(truth + rng.normal(size=truth.shape) * noise) for noise in np.linspace(0.5, 2, count)]
    )
    return estimates, truth


def test_two_estimates_at_right_angles_of_which_the_first_is_right():
    known = products(np.array([[[1.0, 0]], [[0.0, 1]]]), np.array([[1.0, 0]]))
    assert cosines(np.array([0.5, 0.5]), known) == pytest.approx([0.7071], abs=1e-4)
    assert cosines(np.array([1.0, 0]), known) == pytest.approx([1])


def test_estimates_that_cancel_have_cosine_0():
    known = products(np.array([[[1.0, 0]], [[-1.0, 0]]]), np.array([[1.0, 0]]))
    assert cosines(np.array([0.5, 0.5]), known) == [0]


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_cosines_equal_those_of_the_fused_vectors(seed, count):
    estimates, truth = random_estimates(seed, count, 6)
    shares = np.random.default_rng(seed).dirichlet(np.ones(count))
    fused = np.einsum("m,mnd->nd", shares, estimates)
    np.testing.assert_allclose(cosines(shares, products(estimates, truth)), pairwise_cosine(fused, truth), atol=1e-6)


def test_a_right_estimate_gets_everything():
    estimates, truth = random_estimates(0, 3, 50)
    known = products(np.concatenate([estimates, truth[None]]), truth)
    np.testing.assert_allclose(best_shares(known), [0, 0, 0, 1], atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_shares_beat_a_fine_grid(seed):
    known = products(*random_estimates(seed, 3, 40))
    steps = np.linspace(0, 1, 41)
    grid = [np.array([a, b, 1 - a - b]) for a in steps for b in steps if a + b <= 1]
    best = cosines(best_shares(known), known).mean()
    assert best >= max(cosines(shares, known).mean() for shares in grid) - 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_on_the_simplex(seed):
    shares = best_shares(products(*random_estimates(seed, 5, 30)))
    assert shares.min() >= 0 and shares.sum() == pytest.approx(1)


def test_an_estimate_that_says_nothing_changes_no_cosine():
    estimates, truth = random_estimates(1, 2, 30)
    known = products(np.concatenate([estimates, np.zeros_like(truth)[None]]), truth)
    plain = products(estimates, truth)
    best = cosines(best_shares(known), known).mean()
    assert best == pytest.approx(cosines(best_shares(plain), plain).mean(), abs=1e-6)


def test_the_fit_names_its_shares_and_they_sum_to_1():
    fit = fit_shares(["a", "b", "c"], products(*random_estimates(2, 3, 60)))
    assert list(fit.shares) == ["a", "b", "c"]
    assert sum(fit.shares.values()) == pytest.approx(1, abs=1e-9)
    assert fit.shares["a"] > fit.shares["b"] > fit.shares["c"]
    assert fit.ci95[0] < fit.held_out < fit.ci95[1]


def test_no_image_is_judged_by_shares_that_were_fitted_on_it():
    """Estimates of noise: fitted on itself noise looks better than held out, so held out must not exceed it."""
    rng = np.random.default_rng(3)
    truth = unit_rows(rng.normal(size=(20, 30)))
    known = products(np.stack([unit_rows(rng.normal(size=(20, 30))) for _ in range(12)]), truth)
    fit = fit_shares([str(k) for k in range(12)], known)
    fitted = cosines(np.array(list(fit.shares.values())), known).mean()
    assert fit.held_out < fitted - 0.02


def test_the_same_images_give_the_same_fit():
    known = products(*random_estimates(4, 3, 40))
    assert fit_shares(["a", "b", "c"], known) == fit_shares(["a", "b", "c"], known)


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="9 images with known prompts; expected 10 or more"):
        fit_shares(["a", "b"], products(*random_estimates(0, 2, 9)))
