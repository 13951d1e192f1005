import numpy as np
import pytest
import torch

from kernel.models.vectors import unit_rows
from kernel.training import heads
from kernel.training.heads import Rows, fit_ridge, fit_two_layers, folded, mean_cosine


def linear_rows(count: int, seed: int, noise: float = 0.0) -> Rows:
    """Truth that is linear in the features, plus noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 12)).astype(np.float32) * 3 + 5
    turn = np.random.default_rng(99).normal(size=(12, 384))
    return Rows(features, unit_rows(features @ turn + rng.normal(scale=noise, size=(count, 384)) if noise else
                                    features @ turn))  # fmt: skip


def bent_rows(count: int, seed: int) -> Rows:
    """Truth that is one of two vectors, by whether the features' signs agree: no linear map says it."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 2)).astype(np.float32)
    corners = np.random.default_rng(98).normal(size=(2, 384))
    return Rows(features, unit_rows(corners[((features[:, 0] > 0) ^ (features[:, 1] > 0)).astype(int)]))


def test_ridge_finds_a_linear_map():
    found = fit_ridge(linear_rows(300, 0), linear_rows(50, 1))
    assert found.validation > 0.99 and mean_cosine(found.head, linear_rows(50, 2)) > 0.99


def test_two_layers_find_what_no_linear_map_says():
    train, validation = bent_rows(800, 0), bent_rows(100, 1)
    floor, found = fit_ridge(train, validation), fit_two_layers(train, validation, hidden=64)
    assert floor.validation < 0.75 < 0.9 < found.validation
    assert mean_cosine(found.head, bent_rows(100, 2)) == pytest.approx(found.validation, abs=0.05)


def test_nobody_fits_on_the_validation_pairs():
    """On noise alone, what is fitted on them would look good on them."""
    train, validation = linear_rows(30, 0, noise=200), linear_rows(30, 1, noise=200)
    found = fit_ridge(train, validation)
    assert found.validation == mean_cosine(found.head, validation)
    assert mean_cosine(found.head, train) > found.validation + 0.02


def test_folding_keeps_what_the_layers_say():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(12, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 384)
    )
    rows = linear_rows(64, 0)
    mean, spread = rows.features.mean(axis=0), rows.features.std(axis=0)
    inputs = torch.from_numpy((rows.features - mean) / spread)
    for _ in range(5):
        model(inputs * 2 + 1)  # moves the running statistics off 0 and 1
    model.eval()
    expected = unit_rows(model(inputs).detach().numpy())
    np.testing.assert_allclose(folded(model, mean, spread).apply(rows.features), expected, atol=1e-5)


def test_the_same_pairs_give_the_same_head(monkeypatch):
    monkeypatch.setattr(heads, "STEPS", 10)
    first, second = (fit_two_layers(bent_rows(200, 0), bent_rows(50, 1), hidden=16) for _ in range(2))
    assert first.validation == second.validation
    assert all(np.array_equal(a, b) for one, two in zip(first.head.layers, second.head.layers, strict=True)
               for a, b in zip(one, two, strict=True))  # fmt: skip


def test_the_best_epoch_is_kept_not_the_last(monkeypatch):
    """Noise alone: what is learned later fits the training pairs and spoils the rest."""
    monkeypatch.setattr(heads, "STEPS", 200)
    seen = []
    monkeypatch.setattr(heads, "mean_cosine", lambda head, rows: seen.append(mean_cosine(head, rows)) or seen[-1])
    found = fit_two_layers(linear_rows(100, 0, noise=500), linear_rows(100, 1, noise=500), hidden=64)
    assert found.validation == max(seen) > seen[-1]
