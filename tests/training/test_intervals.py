import numpy as np
import pytest

from kernel.evaluation.evaluate import bootstrap_interval
from kernel.training.intervals import interval_over_groups


def test_two_groups_of_opposite_values_say_nothing():
    assert interval_over_groups(np.array([0.0, 0, 1, 1]), ["a", "a", "b", "b"]) == (0.0, 1.0)


def test_with_a_picture_a_group_it_is_the_usual_interval():
    values = np.random.default_rng(0).normal(size=400)
    found = interval_over_groups(values, [str(index) for index in range(400)])
    assert found == pytest.approx(bootstrap_interval(values), abs=1e-9)


def test_copies_of_a_prompts_picture_do_not_narrow_it():
    values = np.random.default_rng(0).normal(size=50)
    names = [str(index) for index in range(50)]
    once = interval_over_groups(values, names)
    assert interval_over_groups(np.repeat(values, 9), [own for own in names for _ in range(9)]) == pytest.approx(once)
