from dataclasses import replace

import numpy as np
import pytest

from kernel.config import Recipe
from kernel.estimates import estimate
from kernel.estimates.known import Known
from kernel.models.vectors import unit_rows


def known(encoded: dict[str, np.ndarray], **settings) -> Known:
    count = len(next(iter(encoded.values())))
    return Known(replace(Recipe(), **settings), None, None, None, np.ones((count, 4)), [], [], encoded)


@pytest.fixture
def encoded() -> dict[str, np.ndarray]:
    """Two encoders of three images; the second has not come to the third, and nobody to the first's last."""
    axes = np.eye(384, dtype=np.float32)
    return {"a": axes[[0, 0, 0]], "b": np.stack([axes[1], axes[1], axes[0] * 0])}


def test_every_encoder_counts_alike(encoded):
    rows, usable = estimate("encoder", known(encoded))
    assert usable.all()
    assert unit_rows(rows)[:2, :2] == pytest.approx(np.full((2, 2), 0.5**0.5))


def test_of_an_image_that_one_has_not_come_to_the_others_answer(encoded):
    rows, _ = estimate("encoder", known(encoded))
    assert rows[2, :2].tolist() == [1, 0]


def test_shares_among_them_are_the_recipes(encoded):
    rows, usable = estimate("encoder", known(encoded, encoders={"a": 0.25, "b": 0.75}))
    assert rows[0, :2].tolist() == [0.25, 0.75]
    rows, usable = estimate("encoder", known(encoded, encoders={"b": 1.0}))
    assert usable.tolist() == [True, True, False]


def test_where_none_has_said_anything_nothing_is_said(encoded):
    rows, usable = estimate("encoder", known({"b": encoded["b"]}))
    assert usable.tolist() == [True, True, False] and not rows[2].any()
