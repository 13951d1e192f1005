"""The ablation's path on a few pictures; its figures come from `make ablation`."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from kernel.config import ESTIMATES, RECIPES, Paths
from kernel.errors import UserError
from kernel.models.image_text_matching import Matcher
from tests.bench.ablation import FOLDS, Draw, cross_fitted, main, seconds_of, weighed
from tests.models.test_linear_head import linear_rows, naive_ridge

SMALL = "--scored 12 --fitted 12 --bank-prompts 300 --bank-least 100"


@pytest.fixture(scope="module")
def made(tmp_path_factory, weights_folder):
    out = tmp_path_factory.mktemp("ablation")
    main([*SMALL.split(), "--out", str(out), "--weights", str(weights_folder)])
    return out, json.loads((out / "ablation.json").read_text())


@pytest.mark.slow
def test_every_split_has_every_way_to_answer_with_its_interval_and_seconds(made):
    _, content = made
    assert [split["seed"] for split in content["splits"]] == [0, 1, 2]
    for split in content["splits"]:
        ways = {"prior", "baseline", "baseline, shrunk", "text", "text, published shares"}
        ways |= {f"captions by {way}" for way in ("consensus", "clip", "itc", "itm")}
        ways |= {"captions of blip", "captions of blip2 and blip"}
        assert ways | {f"text without {name}" for name in ESTIMATES} <= set(split["estimates"])
        assert set(split["weighted_minus_captions"]) == {way for way in ways if way.startswith("captions by")}
        assert set(split["captioners_minus_captions"]) == {way for way in ways if way.startswith("captions of")}
        for own in split["estimates"].values():
            assert own["ci95"][0] <= own["mean"] <= own["ci95"][1]
            assert own["seconds_per_image"] >= 0
        assert {"mean", "ci95"} == set(split["text_minus_baseline"]) == set(split["text_minus_shrunk_baseline"])
        assert sum(split["shares"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_a_chart_lies_in_the_folder(made):
    out, _ = made
    assert (out / "ablation.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.slow
def test_no_scored_or_fitted_prompt_is_in_the_bank(made):
    import pyarrow.parquet

    out, _ = made
    held = set(pyarrow.parquet.read_table(out / "bank" / "prompts.parquet")["prompt"].to_pylist())
    for path in out.glob("*/prompts.csv"):
        with path.open(newline="") as file:
            assert not held & {row["prompt"] for row in csv.DictReader(file)}


def test_a_weighting_that_was_given_up_is_no_row_of_the_table(image_folder, weights_folder, tmp_path, monkeypatch):
    def refuse(cls, *given):
        raise UserError("no such model today")

    monkeypatch.setattr(Matcher, "load", classmethod(refuse))
    with pytest.raises(ValueError, match="image-text matching was given up .*no such model today"):
        weighed(
            replace(RECIPES["text"], caption_weighting="itm"), Paths(image_folder, weights_folder, tmp_path / "run")
        )


def test_seconds_of_a_weighting_are_those_of_its_scores_alone(image_folder, weights_folder, tmp_path):
    where = Paths(image_folder, weights_folder, tmp_path / "run")
    spent = weighed(replace(RECIPES["text"], caption_weighting="itm"), where)
    assert spent == json.loads((where.run / "run.json").read_text())["seconds"]["image-text matching"]
    assert weighed(replace(RECIPES["text"], caption_weighting="consensus"), where) == 0


def test_a_stage_that_estimates_share_is_counted_once():
    seconds = {"clip": 1.0, "captions": 10.0, "estimate captions": 0.1, "estimate prompts": 0.2, "estimate constant": 0}
    draw = Draw(["captions", "prompts", "constant"], np.zeros((3, 1, 384)), np.zeros((1, 384)), seconds)
    assert seconds_of(["captions", "prompts"], np.array([0.5, 0.5]), draw) == pytest.approx(11.3)
    assert seconds_of(["captions", "prompts"], np.array([1.0, 0]), draw) == pytest.approx(11.1)
    assert seconds_of(["constant"], np.ones(1), draw) == 0


def test_a_regressions_held_out_rows_come_from_heads_that_never_saw_the_image():
    x, y = linear_rows(50, 6, 4, seed=8, noise=0.5)
    _, rows = cross_fitted(x, y)
    changed = y.copy()
    changed[10::FOLDS] += 5  # the first fold, from its third image on
    _, after = cross_fitted(x, changed)
    np.testing.assert_array_equal(after[0::FOLDS], rows[0::FOLDS])
    assert np.abs(after[1::FOLDS] - rows[1::FOLDS]).max() > 0.1


def test_a_regression_is_ridge_over_all_its_images():
    x, y = linear_rows(50, 6, 4, seed=9, noise=0.5)
    head, rows = cross_fitted(x, y)
    weights, mean_x, mean_y = naive_ridge(x, y, head.regularisation)
    np.testing.assert_allclose(head.weights, weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.feature_mean, mean_x, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
