"""The sample depends on texts and seed alone."""

import hashlib
import random

from hypothesis import given
from hypothesis import strategies as st

from kernel.publish.hub.prompts import sample

TEXTS = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("fish", "cat", "hill", "tree")]


def drawn(texts: list[str], count: int, seed: int = 0) -> list[str]:
    return sample(set(texts), count, seed)


@given(st.lists(st.text(), max_size=60), st.integers(1, 20), st.integers(0, 3))
def test_it_is_the_texts_of_the_smallest_hashes_in_their_order(texts, count, seed):
    by_hash = sorted(set(texts), key=lambda text: hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=16).digest())
    assert drawn(texts, count, seed) == by_hash[:count]


def test_order_and_repeats_change_nothing():
    shuffled = TEXTS * 3
    random.Random(1).shuffle(shuffled)
    assert drawn(shuffled, 5) == drawn(TEXTS, 5)


def test_another_seed_draws_others():
    assert set(drawn(TEXTS, 5, seed=1)) != set(drawn(TEXTS, 5, seed=2))


def test_a_smaller_sample_is_the_beginning_of_a_larger_one():
    assert drawn(TEXTS, 9)[:4] == drawn(TEXTS, 4)


def test_every_text_has_the_same_odds():
    """Of 12 texts 6 are drawn under each of 400 seeds: each text about 200 times, +-5 standard deviations of 10."""
    drawings = [set(drawn(TEXTS, 6, seed)) for seed in range(400)]
    counts = [sum(text in drawing for drawing in drawings) for text in TEXTS]
    assert 150 < min(counts) and max(counts) < 250
