"""Our `describe` beside clip-interrogator 0.6.0 from its own package: the same models, phrases, features, pictures."""

import numpy as np
import pytest

from tests.bench.describing import WHOS, contend
from tests.bench.material import prepare, prepare_miniature
from tests.bench.parity import ROUNDING, compare, similarities

pytestmark = pytest.mark.usefixtures("warm_processes")


@pytest.fixture(scope="module")
def few(tmp_path_factory, weights_folder):
    """Miniature models, every 40th flavor and artist, 16 pictures; `make parity` takes 200 and all words."""
    return prepare_miniature(tmp_path_factory.mktemp("few"), weights_folder, 16, every=40)


@pytest.fixture(scope="module")
def random_models(tmp_path_factory, weights_folder):
    """Tiny random models of the true classes, random features, the whole lists."""
    return prepare(tmp_path_factory.mktemp("random"), weights_folder, 8, small=True)


def both(material, mode, images, top=None):
    return [contend(material, who, mode, images, top)["prompts"] for who in WHOS]


@pytest.mark.parametrize("mode", ["classic", "fast"])
@pytest.mark.parametrize("kind, images", [("few", 16), pytest.param("random_models", 8, marks=pytest.mark.slow)])
def test_the_identical_string(request, kind, images, mode):
    own, theirs = both(request.getfixturevalue(kind), mode, images)
    assert len(own) == images and own == theirs


@pytest.mark.slow
def test_best_is_identical_or_nearer_never_farther(few):
    found = compare(few, "best", 3, top=5)
    assert found["identical"] >= 2 and found["farther"] == 0


@pytest.mark.slow
def test_the_originals_negative_is_not_nearer_to_opposite_than_ours(few):
    own, theirs = both(few, "negative", 2, top=5)
    assert np.all(similarities(few, own) <= similarities(few, theirs) + ROUNDING)
