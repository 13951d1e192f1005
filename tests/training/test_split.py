import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.banks.near_duplicates import are_near
from kernel.errors import UserError
from kernel.models.vectors import unit_rows
from kernel.pipeline.images import ImageFile
from kernel.training import split
from kernel.training.pairs import PairSet
from kernel.training.split import components, parts_of, read_split, split_of, split_pairs


def pair_set(tmp_path, prompts: list[str], clusters: list[int] | None = None) -> PairSet:
    pictures = [ImageFile(f"{index:04d}", tmp_path / "x.png") for index in range(len(prompts))]
    return PairSet(tmp_path, pictures, prompts, clusters, {})


def random_rows(count: int, seed: int = 0) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, 16)))


def naive_components(rows: np.ndarray, near: float) -> list[set[int]]:
    """By growing one component after the other from who is near to whom."""
    are, left, found = are_near(rows, rows, near), set(range(len(rows))), []
    while left:
        own, edge = set(), {min(left)}
        while edge:
            own |= edge
            edge = {other for one in edge for other in left - own if are[one, other]}
        found.append(own)
        left -= own
    return found


@settings(deadline=None)  # the first example imports scipy
@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([0.3, 0.5, 0.7]))
def test_components_are_those_of_a_naive_search(seed, count, near):
    rows = random_rows(count, seed)
    labels = components(rows, near)
    assert sorted(map(min, naive_components(rows, near))) == sorted(set(labels.tolist()))
    for own in naive_components(rows, near):
        assert {labels[place] for place in own} == {min(own)}


def test_components_are_joined_across_blocks(monkeypatch):
    monkeypatch.setattr(split, "BLOCK", 3)
    angles = np.radians(np.array([0, 90, 180, 270, 40, 80, 130, 220]))
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    # 0-40-80-90-130-180-220-270 degrees: each within 50 of the next, 90 of 270 to 360
    assert components(rows, np.cos(np.radians(51))).tolist() == [0] * 8
    assert components(rows, np.cos(np.radians(45))).tolist() == [0, 0, 2, 3, 0, 0, 0, 2]


def test_no_group_stands_on_two_sides_and_every_part_has_its_share(tmp_path):
    base = random_rows(200)
    rows = unit_rows(np.repeat(base, 5, axis=0) + np.random.default_rng(1).normal(scale=0.03, size=(1000, 16)))
    pairs = pair_set(tmp_path, [f"prompt {index}" for index in range(1000)])
    found = parts_of(pairs, split_pairs(pairs, rows, near=0.9))
    groups = components(rows, 0.9)
    sides = [set(groups[own].tolist()) for own in (found.train, found.validation, found.held_out)]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    assert 95 <= len(found.held_out) <= 120 and 45 <= len(found.validation) <= 70


def test_a_planted_twin_would_leak_through_a_random_split_and_does_not_through_this_one(tmp_path):
    """Each prompt of the held-out part has a twin. A random split has twins of most of them in training."""
    base = random_rows(500)
    rows = unit_rows(np.concatenate([base, base + np.random.default_rng(1).normal(scale=0.02, size=base.shape)]))
    pairs = pair_set(tmp_path, [f"prompt {index}" for index in range(1000)])
    found = parts_of(pairs, split_pairs(pairs, rows, near=0.95))
    assert (rows[found.held_out] @ rows[found.train].T).max() < 0.95
    at_random = np.random.default_rng(0).permutation(1000)
    leaked = (rows[at_random[:100]] @ rows[at_random[100:]].T).max(axis=1) >= 0.95
    assert leaked.mean() > 0.7


def test_the_sets_own_clusters_are_its_groups(tmp_path):
    clusters = [index % 40 for index in range(400)]
    pairs = pair_set(tmp_path, [f"prompt {index}" for index in range(400)], clusters)
    found = parts_of(pairs, split_pairs(pairs, np.ones((400, 16)) / 4))
    assert len(found.held_out) == 40 and len(found.validation) == 20
    assert {clusters[place] for place in found.held_out}.isdisjoint(clusters[place] for place in found.train)


def test_the_same_set_is_split_alike_in_any_order_of_asking(tmp_path):
    rows, prompts = random_rows(300), [f"prompt {index}" for index in range(300)]
    assert split_pairs(pair_set(tmp_path, prompts), rows) == split_pairs(pair_set(tmp_path, list(prompts)), rows)


def test_a_group_that_is_most_of_the_set_is_trained_on(tmp_path):
    rows = unit_rows(np.concatenate([np.ones((150, 16)), random_rows(150)]))
    pairs = pair_set(tmp_path, [f"prompt {index}" for index in range(300)])
    found = parts_of(pairs, split_pairs(pairs, rows, near=0.95))
    assert set(range(150)) <= set(found.train.tolist())


def test_equal_prompts_are_one_group(tmp_path):
    pairs = pair_set(tmp_path, [f"prompt {index // 10}" for index in range(300)])
    rows = random_rows(30)[np.arange(300) // 10]
    found = parts_of(pairs, split_pairs(pairs, rows, near=0.999))
    assert {pairs.prompts[own] for own in found.held_out}.isdisjoint(pairs.prompts[own] for own in found.train)


def test_a_set_of_one_group_is_refused(tmp_path):
    pairs = pair_set(tmp_path, [f"prompt {index}" for index in range(20)])
    with pytest.raises(UserError, match="20 pairs in 1 groups of near prompts, the largest of 20: too few"):
        split_pairs(pairs, np.ones((20, 16), dtype=np.float32) / 4)


def test_a_split_comes_back_from_its_file(tmp_path):
    pairs = pair_set(tmp_path, [f"prompt {index}" for index in range(100)])
    made = split_pairs(pairs, random_rows(100))
    made.write(tmp_path)
    assert read_split(tmp_path) == made


def test_a_split_that_lies_in_the_set_is_taken_and_no_other_is_made(tmp_path):
    pairs = pair_set(tmp_path, [f"prompt {number}" for number in range(40)])
    own = split.Split(1, pairs.sha256, 0.7, ["0001"], ["0002", "0003"])
    assert split_of(pairs, random_rows(40), 0.7) == split_pairs(pairs, random_rows(40), 0.7) != own
    own.write(tmp_path)
    assert split_of(pairs, random_rows(40), 0.7) == own


def test_a_split_of_other_pairs_or_at_another_cosine_than_asked_is_refused(tmp_path):
    pairs = pair_set(tmp_path, [f"prompt {number}" for number in range(40)])
    split_pairs(pairs, random_rows(40), 0.7).write(tmp_path)
    with pytest.raises(UserError, match=r"split.json: of near 0.7; expected 0.9: .* or remove this file"):
        split_of(pairs, random_rows(40), 0.9)
    with pytest.raises(UserError, match="split.json: of pairs .*; expected "):
        split_of(pair_set(tmp_path, [f"another {number}" for number in range(40)]), random_rows(40), 0.7)
