"""What a weights folder says of its models' costs: the same as counting them does, by the code that counts now."""

import json
from dataclasses import replace

import pytest

from kernel.config import RECIPES
from kernel.errors import UserError
from kernel.models.weights_folder import Weights
from kernel.pipeline.planning import model_costs
from kernel.pipeline.planning.models import COSTS, Models, counting_sha256, keep_costs, models_of

RECIPE = replace(RECIPES["baseline"], caption_weighting="itm")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(model_costs, "counted", {})
    monkeypatch.setattr(model_costs, "brought", {})


@pytest.fixture
def own(own_copy) -> Weights:
    """A folder without what its models take."""
    own = own_copy("sentences")
    (own.folder / COSTS).unlink(missing_ok=True)
    return own


def of_every_captioner(weights: Weights, half: bool) -> list[Models]:
    return [models_of(weights, replace(RECIPE, captioner=name), half) for name in weights.captioners]


@pytest.mark.parametrize("half", [True, False])
def test_what_is_kept_is_what_counting_gives_and_nothing_is_counted_again(own, monkeypatch, half):
    plain = of_every_captioner(own, half)
    keep_costs(own)
    model_costs.counted.clear()
    monkeypatch.setattr(model_costs, "count", lambda *given, **named: pytest.fail("counted"))
    assert of_every_captioner(own, half) == plain


def test_what_other_code_counted_is_counted_anew(own, monkeypatch):
    keep_costs(own)
    content = json.loads((own.folder / COSTS).read_text())
    (own.folder / COSTS).write_text(json.dumps({**content, "code": "0" * 64}))
    model_costs.counted.clear()
    counted, really = [], model_costs.count

    def count(*given, **named):
        counted.append(given)
        return really(*given, **named)

    monkeypatch.setattr(model_costs, "count", count)
    models_of(own, RECIPE, half=False)
    assert counted


def test_what_was_counted_of_another_folder_stays_known_and_is_not_kept_here(own):
    of_another = model_costs.counted["another"] = object()
    keep_costs(own)
    assert model_costs.counted["another"] is of_another
    assert "another" not in json.loads((own.folder / COSTS).read_text())["costs"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"code": 3, "costs": {}}', '{"code": "", "costs": []}'])
def test_what_is_no_such_file_is_told(own, content):
    (own.folder / COSTS).write_text(content)
    with pytest.raises(UserError, match=f"{COSTS}: not what the models of a weights folder take"):
        models_of(own, RECIPE, half=False)


def test_the_miniature_folder_brings_what_its_models_take(weights):
    kept = json.loads((weights.folder / COSTS).read_text())
    assert len(kept["costs"]) > 2 * len(weights.captioners) and kept["code"] == counting_sha256()
