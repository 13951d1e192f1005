"""The tower that shares beginnings says what open_clip's says of whole texts."""

import numpy as np
import pytest

from kernel.models import text_tower
from kernel.models.clip import ClipEncoder
from kernel.models.text_tower import TextTower, joined

TERMS = ["swirl", "by Ann Smith", "a", "trending on a very long site name of many words", "Café 日本", "fog &amp; rain",
         "it's", "don't stop...", "!", "naïve &lt;b&gt;", "<end_of_text> and more", "  two  blanks "]  # fmt: skip
STARTS = ["", "a woodcut of a red fish", "ends in dots...", "a &", "Ã©", "a <end_of_text> inside",
          "word " * 60, "word " * 100]  # fmt: skip


@pytest.fixture(scope="module")
def clip(weights, cpu):
    return ClipEncoder.load(weights, cpu)


@pytest.fixture(scope="module")
def rows(clip):
    found = np.random.default_rng(5).standard_normal((len(STARTS), 128)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def whole(clip, start, terms, row):
    return clip.encode_texts([joined(start, term) for term in terms], 64) @ row


def test_every_image_s_cosines_are_those_of_its_whole_texts(clip, rows):
    tower = TextTower(clip, 64)
    assert tower.shares_beginnings
    terms = [TERMS[: 2 + number] for number in range(len(STARTS))]  # of each another number
    found = tower.similarities(STARTS, terms, rows)
    for start, own, row, cosines in zip(STARTS, terms, rows, found, strict=True):
        np.testing.assert_allclose(cosines, whole(clip, start, own, row), atol=2e-6)


@pytest.mark.parametrize("tokens", [1, 37, 100_000])
def test_they_do_not_depend_on_how_many_go_through_at_a_time(clip, rows, monkeypatch, tokens):
    monkeypatch.setitem(text_tower.TOKENS, "cpu", tokens)
    found = TextTower(clip, 64).similarities(STARTS[:3], [TERMS] * 3, rows[:3])
    for start, row, cosines in zip(STARTS, rows, found, strict=False):
        np.testing.assert_allclose(cosines, whole(clip, start, TERMS, row), atol=2e-6)


def test_texts_that_are_not_plain_go_by_their_whole_tokens(clip):
    tower = TextTower(clip, 64)
    beginning, ends = tower.split("a fish", ["swirl", "Café"])
    tokens = clip.tokenizer(["a fish, swirl", "a fish, Café"]).tolist()
    for own, ids in zip(ends, tokens, strict=True):
        assert [*beginning, *own] == [token for token in ids if token]


def test_a_tower_that_is_not_causal_encodes_whole_texts(clip, rows, monkeypatch):
    monkeypatch.setattr(text_tower, "shares_beginnings", lambda clip: False)
    monkeypatch.setattr(text_tower, "Beginning", None)
    found = TextTower(clip, 64).similarities(["a fish"], [TERMS], rows[:1])
    np.testing.assert_allclose(found[0], whole(clip, "a fish", TERMS, rows[0]), atol=2e-6)


def test_a_text_of_77_tokens_is_full(clip):
    tower = TextTower(clip, 64)
    assert not tower.is_full("word " * 74) and tower.is_full("word " * 75)
