from importlib.metadata import distribution

import numpy as np
import pytest

from kernel.evaluation.evaluate import pairwise_cosine
from kernel.miniature.world import grammar
from kernel.miniature.world.folders import HELD_OUT_SEED, TRAIN_SEED, scenes
from kernel.models.sentences import SentenceEncoder


@pytest.mark.parametrize("name", ["mediums", "movements", "flavors"])
def test_every_phrase_stands_word_for_word_in_clip_interrogators_list(name):
    path = distribution("clip-interrogator").locate_file(f"clip_interrogator/data/{name}.txt")
    real = set(path.read_text(encoding="utf-8").splitlines())
    assert set(getattr(grammar, name.upper())) <= real


def test_the_world_is_as_large_as_promised():
    assert len(set(grammar.SUBJECTS)) >= 16 and len(set(grammar.COLORS)) == 8
    assert len(set(grammar.MEDIUMS)) == 8 and len(set(grammar.MOVEMENTS)) == 8 and len(set(grammar.FLAVORS)) == 12


def test_a_caption_takes_the_right_article():
    scene = grammar.Scene("fish", "orange", "on a hill", "a woodcut", "op art", ("snow", "fog"), grammar.TEMPLATES[1])
    assert scene.caption == "an orange fish on a hill"
    assert scene.prompt == "a woodcut of an orange fish on a hill, op art, snow, fog"


def test_a_longer_stream_begins_with_the_shorter_one():
    assert scenes(9, 30)[:7] == scenes(9, 7)


def test_held_out_scenes_are_drawn_from_another_seed():
    assert TRAIN_SEED != HELD_OUT_SEED
    assert scenes(TRAIN_SEED, 50) != scenes(HELD_OUT_SEED, 50)


def test_a_constant_answer_scores_at_most_0_62(weights, cpu):
    """The bound that keeps scores of the miniature world from being high for nothing."""
    encoder = SentenceEncoder.load(weights, cpu)
    constant = encoder.encode([scene.prompt for scene in scenes(10, 1000)], 256).mean(axis=0)
    truth = encoder.encode([scene.prompt for scene in scenes(11, 1000)], 256)
    assert pairwise_cosine(np.broadcast_to(constant, truth.shape), truth).mean() <= 0.62
