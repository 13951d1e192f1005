"""What a bank costs: hand-worked numbers."""

import pytest

from kernel.banks.cost import bank_bytes, cost_lines, near_duplicate_hours, petaflops, span, text_tower_cost


def test_a_million_prompts_are_47_petaflop():
    assert petaflops(1_000_000) == pytest.approx(47)
    assert text_tower_cost(1_000_000) == (
        "1,000,000 prompts through CLIP's text tower at 47.00 GFLOPs each: 47.000 PFLOP"
    )


def test_the_texts_cost_is_the_towers_own_when_it_is_given():
    assert text_tower_cost(2000, 0.5).endswith("at 0.50 GFLOPs each: 0.001 PFLOP")


def test_a_prompt_is_1024_and_384_numbers_of_2_bytes():
    assert bank_bytes(10) == 28_160
    assert bank_bytes(10, text_bytes=500) == 28_660


def test_a_million_prompts_are_compared_in_7_to_16_core_minutes():
    assert near_duplicate_hours(1_000_000) == pytest.approx((7 / 60, 16 / 60), abs=0.01)


@pytest.mark.parametrize(
    ("hours", "said"),
    [
        ((0.65, 0.93), "39-56 min"),
        ((43.5, 130.6), "1.8-5.4 days"),
        ((1.4, 3.0), "1.4-3.0 h"),
        ((0.0005, 0.001), "1.8-3.6 s"),
    ],
)
def test_times_are_said_in_the_unit_that_fits(hours, said):
    assert span(hours) == said


def test_the_lines_of_a_million_say_time_and_size():
    said = " ".join(cost_lines(1_000_000, text_bytes=100_000_000))
    assert "39-56 min on a T4" in said and "days on a laptop's CPU" in said and "2.92 GB" in said
