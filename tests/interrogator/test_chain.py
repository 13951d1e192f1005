"""The chains of many images at once make what a plain loop over one image and whole texts makes."""

import numpy as np
import pytest

from kernel.banks.word_banks import read_phrases
from kernel.interrogator.chain import Chain, chains
from kernel.models.clip import ClipEncoder
from kernel.models.text_tower import TextTower


@pytest.fixture(scope="module")
def clip(weights, cpu):
    return ClipEncoder.load(weights, cpu)


@pytest.fixture(scope="module")
def features(clip, drawn):
    return clip.encode_images([picture for picture, _ in drawn[:5]])


@pytest.fixture(scope="module")
def terms(weights):
    return read_phrases(weights.folder / "word_banks" / "flavors.txt").phrases[:30]


def plain(clip, row, start, terms, most, least, sign):
    """clip-interrogator's rule word for word, every text encoded whole; the sign turned in every comparison."""

    def worth(text):
        return float(sign * (clip.encode_texts([text], 1)[0] @ row))

    left = list(terms)
    if not start:
        start = max(left, key=worth)
        left.remove(start)
    best = current = start
    best_worth = current_worth = worth(start)
    for number in range(most):
        if not left:
            break
        added = max(left, key=lambda term: worth(f"{current}, {term}"))
        prompt = f"{current}, {added}"
        value = worth(prompt)
        if value > best_worth:
            best, best_worth = prompt, value
        if not (value > current_worth or number < least):
            break
        current, current_worth = prompt, value
        if clip.tokenizer([current])[0][-1] != 0:
            break
        left.remove(added)
    return best, best_worth


@pytest.mark.parametrize("start, reverse", [("a woodcut of a fish", False), ("", True)])
@pytest.mark.parametrize("most, least", [(3, 1), (12, 2)])
def test_the_same_prompt_as_a_plain_loop(clip, features, terms, start, reverse, most, least):
    tower = TextTower(clip, 64)
    starts = [start] * len(features)
    worths = [float(own) for own in tower.cosines(starts, features)] if start else [0.0] * len(features)
    own_terms = [terms[number:] for number in range(len(features))]
    found = chains(tower, features, starts, worths, own_terms, most, least, reverse)
    for chain, row, own in zip(found, features, own_terms, strict=True):
        prompt, worth = plain(clip, row, start, own, most, least, -1 if reverse else 1)
        assert chain.best_prompt == prompt
        assert chain.best_worth == pytest.approx(worth, abs=2e-6)
        assert chain.best_prompt.split(", ")[-chain.best_length or 99 :] == [
            term for term, _ in chain.picked[: chain.best_length]
        ]


def test_a_reversed_chain_goes_on_where_the_original_stops(clip, terms):
    """Its forgotten sign makes the first term unbeatable where similarities are above 0."""
    rows = clip.encode_texts(terms, 64)
    row = rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))
    near = [term for term, cosine in zip(terms, rows @ row, strict=True) if cosine > 0.02]
    cosines = clip.encode_texts(near, 64) @ row
    assert len(near) > 4
    (chain,) = chains(TextTower(clip, 64), row[None], [""], [0.0], [near], 12, reverse=True)
    assert chain.best_length >= 1 and -chain.best_worth < cosines.min()


def test_the_first_terms_join_whatever_they_do_and_the_best_prompt_on_the_way_is_the_answer():
    chain = Chain("a", 0.5, ["b", "c", "d", "e"])
    chain.add("b", 0.4, must=True)
    chain.add("c", 0.6, must=True)
    chain.add("d", 0.55, must=True)
    assert (chain.prompt, chain.ended) == ("a, b, c, d", False)
    chain.add("e", 0.54, must=False)
    assert chain.ended and chain.terms == ["e"]
    assert (chain.best_prompt, chain.best_worth, chain.best_length) == ("a, b, c", 0.6, 2)


def test_a_chain_ends_when_its_terms_or_clip_s_tokens_do(clip, features):
    tower = TextTower(clip, 64)
    long = [f"{'word ' * 30}{number}" for number in "123456"]
    full, few = chains(tower, features[:2], ["a", "a"], [0.0, 0.0], [long, ["b", "c"]], 32)
    assert len(full.picked) == 3 and tower.is_full(full.prompt)
    assert len(few.picked) == 2 and not few.terms


def test_an_image_without_terms_keeps_its_start(clip, features):
    alone, none = chains(TextTower(clip, 64), features[:2], ["a fish", ""], [0.1, 0.0], [[], []], 8)
    assert (alone.best_prompt, none.best_prompt) == ("a fish", "")


def test_no_images_have_no_chains(clip):
    assert chains(TextTower(clip, 64), np.zeros((0, 128), dtype=np.float32), [], [], [], 8) == []
