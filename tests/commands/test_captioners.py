"""`python -m kernel captioners`."""

import json

from kernel.__main__ import main
from kernel.models.captioners.loading import SHIPPED


def test_the_list_is_read_by_machines(capsys):
    assert main(["captioners", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in rows] == list(SHIPPED)
    assert rows[0] == {
        "kind": "blip2", "class": "Blip2ForConditionalGeneration", "licence": "MIT", "gigabytes": 9.1,
        "languages": ["English"], "prompt": "none", "source": "Salesforce/blip2-flan-t5-xl",
    }  # fmt: skip


def test_the_list_is_read_by_people(capsys):
    assert main(["captioners"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(SHIPPED)
    assert "licences as remembered" in lines[0]
    assert lines[2].split() == ["blip2", "9.10", "none", "MIT", "English", "Salesforce/blip2-flan-t5-xl"]
