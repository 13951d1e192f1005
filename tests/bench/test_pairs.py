"""The path of `make pairs` on a few pictures; its figures come from the command."""

import json

import pytest

from kernel.training.pairs import open_pairs
from tests.bench import pairs
from tests.bench.pairs import draw_tars, pairs_report, table


def test_equal_prompts_are_of_one_cluster_and_a_set_that_is_there_is_not_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "A_TAR", 30)
    found = open_pairs(draw_tars(tmp_path / "set", 5, 70))
    assert len(found.pictures) == 70 and len(list((tmp_path / "set").iterdir())) == 3
    clusters: dict[str, set[int]] = {}
    for prompt, cluster in zip(found.prompts, found.clusters, strict=True):
        clusters.setdefault(prompt, set()).add(cluster)
    assert all(len(own) == 1 for own in clusters.values()) and len(set(found.clusters)) > 20
    monkeypatch.setattr(pairs, "scene_stream", None)
    assert draw_tars(tmp_path / "set", 5, 70) == tmp_path / "set"


@pytest.mark.slow
def test_every_tier_and_both_recipes_are_judged_on_every_split(tmp_path, weights_folder, monkeypatch):
    monkeypatch.setattr(pairs, "SPLITS", 1)
    monkeypatch.setattr(pairs, "CURVE", (40, 80))
    content = pairs_report(tmp_path / "out", weights_folder, 150, 12, 8, 300)
    assert json.loads((tmp_path / "out" / "pairs.json").read_text()) == json.loads(json.dumps(content))
    (split,) = content["splits"]
    assert split["n"] == 8 and set(split["tiers"]) == {"ridge", "head", "blocks", "full", "text", "pairs"}
    difference = split["tiers"]["pairs"]["mean"] - split["tiers"]["text"]["mean"]
    assert split["pairs_minus_text"]["mean"] == pytest.approx(difference)
    assert [own["pairs"] for own in content["curve"]] == [40, 80, pytest.approx(128, abs=12)]
    assert "pairs trained on" in (tmp_path / "out" / "pairs.svg").read_text()
    assert "| pairs minus text |" in table(content) and "| full | " in table(content)
