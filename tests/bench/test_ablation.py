"""The ablation's path on a few pictures; its figures come from `make ablation`."""

import csv
import json

import numpy as np
import pytest

from kernel.config import ESTIMATES
from tests.bench.ablation import Draw, ablation, seconds_of

SMALL = {"scored": 12, "fitted": 12, "bank_prompts": 300, "bank_least": 100}


@pytest.fixture(scope="module")
def made(tmp_path_factory, weights_folder):
    out = tmp_path_factory.mktemp("ablation")
    return out, ablation(out, weights_folder, **SMALL)


@pytest.mark.slow
def test_every_split_has_every_way_to_answer_with_its_interval_and_seconds(made):
    _, content = made
    assert [split["seed"] for split in content["splits"]] == [0, 1, 2]
    for split in content["splits"]:
        ways = {"prior", "baseline", "baseline, shrunk", "text", "text, published shares"}
        assert ways | {f"text without {name}" for name in ESTIMATES} <= set(split["estimates"])
        for own in split["estimates"].values():
            assert own["ci95"][0] <= own["mean"] <= own["ci95"][1]
            assert own["seconds_per_image"] >= 0
        assert {"mean", "ci95"} == set(split["text_minus_baseline"]) == set(split["text_minus_shrunk_baseline"])
        assert sum(split["shares"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_json_and_chart_lie_in_the_folder(made):
    out, content = made
    assert json.loads((out / "ablation.json").read_text()) == content
    assert (out / "ablation.svg").read_text().lstrip().startswith("<?xml")


@pytest.mark.slow
def test_no_scored_or_fitted_prompt_is_in_the_bank(made):
    import pyarrow.parquet

    out, _ = made
    held = set(pyarrow.parquet.read_table(out / "bank" / "prompts.parquet")["prompt"].to_pylist())
    for path in out.glob("*/prompts.csv"):
        with path.open(newline="") as file:
            assert not held & {row["prompt"] for row in csv.DictReader(file)}


def test_a_stage_that_estimates_share_is_counted_once():
    seconds = {"clip": 1.0, "captions": 10.0, "estimate captions": 0.1, "estimate prompts": 0.2, "estimate constant": 0}
    draw = Draw(["captions", "prompts", "constant"], np.zeros((3, 1, 384)), np.zeros((1, 384)), seconds)
    assert seconds_of(["captions", "prompts"], np.array([0.5, 0.5]), draw) == pytest.approx(11.3)
    assert seconds_of(["captions", "prompts"], np.array([1.0, 0]), draw) == pytest.approx(11.1)
    assert seconds_of(["constant"], np.ones(1), draw) == 0
