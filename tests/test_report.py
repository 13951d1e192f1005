import json
from dataclasses import replace

import pytest

from kernel.config import RECIPES, Paths
from kernel.pipeline import run
from kernel.report import write_report


@pytest.fixture
def finished(image_folder, tmp_path, weights_folder):
    (image_folder / "<b>bold & broken.png").write_bytes(b"")
    recipe = replace(RECIPES["baseline"], num_beams=1, captions_per_image=1)
    run(recipe, Paths(image_folder, weights_folder, tmp_path / "run"))
    return tmp_path / "run"


def rewrite(run_folder, **changes):
    path = run_folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_every_image_has_a_card_and_a_picture_but_the_bad_one(finished):
    page = write_report(finished).read_text(encoding="utf-8")
    assert page.count("<article") == 7
    assert page.count("data:image/jpeg;base64,") == 6
    assert page.count("no picture") == 1


def test_names_reasons_and_prompts_cannot_inject_markup(finished):
    rewrite(finished, prompts={"a": "<script>alert(1)</script>"}, per_image={"a": 0.5})
    page = write_report(finished).read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "<b>bold" not in page and "&lt;b&gt;bold &amp; broken" in page


def test_the_worst_scores_come_first(finished):
    rewrite(
        finished, per_image={name: score for name, score in zip("abcdef", (0.9, 0.2, 0.5, 0.6, 0.7, 0.8), strict=True)}
    )
    page = write_report(finished).read_text(encoding="utf-8")
    shown = [page.index(f"<span>{name}</span>") for name in "bcdefa"]
    assert shown == sorted(shown)


def test_nothing_is_fetched_from_elsewhere(finished):
    page = write_report(finished).read_text(encoding="utf-8")
    assert "http:" not in page and "https:" not in page and "<script" not in page
