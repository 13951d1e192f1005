"""What a bank of miniature prompts says of features."""

from dataclasses import replace

import numpy as np
import pytest

from kernel.banks.prompt_bank import PromptBank
from kernel.config import Recipe
from kernel.estimates import estimate
from kernel.estimates.known import Known
from kernel.models.sentences import SentenceEncoder
from kernel.models.vectors import unit_rows


@pytest.fixture(scope="module")
def known_of(bank_folder, weights, cpu):
    """What is known of images of these features, with the bank."""
    bank = PromptBank.open(bank_folder, weights.sha256("clip"), weights.sha256("sentences"))
    encoder = SentenceEncoder.load(weights, cpu)

    def known(features: np.ndarray, **settings) -> Known:
        return Known(replace(Recipe(), **settings), cpu, encoder, bank, features, [], [])

    return known


@pytest.fixture(scope="module")
def features(bank_folder, weights) -> np.ndarray:
    """The bank's own first ten."""
    bank = PromptBank.open(bank_folder, weights.sha256("clip"), weights.sha256("sentences"))
    return unit_rows(np.array(bank.features[:10], dtype=np.float32))


def test_the_head_says_nothing_of_a_single_image(known_of, features):
    features = features[:2].copy()
    features[1] = 0
    assert estimate("head", known_of(features))[1].tolist() == [False, False]


@pytest.mark.parametrize("name", ["neighbours", "head", "constant"])
def test_a_bank_says_nothing_of_a_bad_image(name, known_of, features):
    features = features[:3].copy()
    features[1] = 0
    rows, usable = estimate(name, known_of(features, neighbours=5))
    assert usable.tolist() == [True, False, True]
    assert rows.shape == (3, 384)


def test_the_neighbours_of_a_banks_own_prompt_say_that_prompt_and_are_told(known_of, features):
    known = known_of(features, neighbours=1)
    told = []
    rows, _ = estimate("neighbours", replace(known, found=lambda indices, cosines: told.append(indices)))
    assert (rows * np.array(known.bank.embeddings[:10], dtype=np.float32)).sum(axis=1).min() > 0.999
    assert [own[:, 0].tolist() for own in told] == [list(range(10))]


def test_the_constant_estimate_is_the_banks_mean(known_of, features):
    known = known_of(features[:2])
    mean = np.array(known.bank.embeddings, dtype=np.float32).mean(axis=0)
    np.testing.assert_allclose(estimate("constant", known)[0], np.tile(unit_rows(mean[None]), (2, 1)), atol=1e-3)
