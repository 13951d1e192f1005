"""What plans know of published models without counting them."""

import subprocess
import sys
from dataclasses import replace
from inspect import unwrap

import pytest

from kernel.pipeline.planning import model_costs
from kernel.pipeline.planning.model_costs import captioner_costs, key_of, published_content, published_costs
from kernel.pipeline.planning.models import CAPTIONERS
from kernel.pipeline.planning.published import countings

WRITE = "run: python -m kernel.pipeline.planning.published"


def test_the_data_has_what_plans_ask_and_no_more():
    expected = {own.key: own.name for own in countings()}
    assert {key: content["name"] for key, content in published_content().items()} == expected, WRITE


@pytest.mark.parametrize("own", list(countings()), ids=lambda own: own.name)
def test_the_data_is_what_counting_gives(own):
    assert published_costs(unwrap(own.costs), own.key) == own.counted(), WRITE


def test_a_changed_record_is_not_taken_for_the_published_one():
    name, published = next(iter(CAPTIONERS.items()))
    key = key_of(unwrap(captioner_costs), published, True)
    assert key in published_content() and key == key_of(unwrap(captioner_costs), published=published, half=True)
    for changed in (replace(published, config={**published.config, "more": 1}), replace(published, name="another")):
        assert key_of(unwrap(captioner_costs), changed, True) not in published_content()
    assert key_of(unwrap(captioner_costs), published, False) != key


def test_what_is_not_published_is_counted(monkeypatch):
    counted = []

    @model_costs.counted_once
    def costs(name: str) -> model_costs.Work:
        counted.append(name)
        return model_costs.Work(1)

    assert [costs("a"), costs("a"), costs(name="b")] == [model_costs.Work(1)] * 3
    assert counted == ["a", "b"]


def test_a_plan_of_published_models_imports_no_torch():
    code = "import sys; from kernel.__main__ import main; main(['plan']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
