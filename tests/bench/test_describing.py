"""Our `describe` beside clip-interrogator 0.6.0 from its own package: the same models, phrases, features, pictures."""

import numpy as np
import pytest

from kernel.models.clip import ClipEncoder
from kernel.models.weights_folder import open_weights
from kernel.system.devices import Device
from tests.bench.describing import WHOS, contend
from tests.bench.material import prepare, prepare_few_words, prepare_miniature, text_features
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


def both(material, mode, images, top=None, captioned=False):
    return [contend(material, who, mode, images, top, captioned)["prompts"] for who in WHOS]


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


@pytest.mark.slow
def test_best_with_captions_given_is_the_original_s_and_what_it_is_without(random_models, tmp_path):
    """As the bench takes it of models of true shape."""
    few_words = prepare_few_words(tmp_path, random_models, every=5000)
    given, theirs = both(few_words, "best", 2, top=2, captioned=True)
    assert given == theirs == contend(few_words, "ours", "best", 2, top=2)["prompts"]


def test_features_of_words_without_padding_are_those_of_clip(weights_folder):
    clip = ClipEncoder.load(open_weights(weights_folder), Device("cpu"))
    words = ["fog", "by Émile Zola", "black & white", "", "a very long name " * 30, "at dusk, from afar"]
    np.testing.assert_allclose(text_features(clip, words), clip.encode_texts(words, 8), atol=1e-5)
