"""report.html of real runs: what it tells, and that nothing it is told can get out of its place."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernel.__main__ import main
from kernel.config import RECIPES, Paths
from kernel.errors import UserError
from kernel.evaluation.evaluate import pairwise_cosine, score
from kernel.evaluation.finished import finished_run
from kernel.evaluation.report import json_in_page, write_report
from kernel.evaluation.report_content import Truth, disagreement, histogram, stages, truth_of
from kernel.evaluation.thumbnails import SIZES, fitting_size, thumbnails
from kernel.models.weights_folder import MANIFEST
from kernel.pipeline.folder import results
from kernel.pipeline.images import list_images
from kernel.pipeline.run import run

RECIPE = replace(RECIPES["text"], num_beams=1, captions_per_image=1)
HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)> <!-- "quoted" ' + "long " * 2000 + "مرحبا 🐟"


def content_of(page: Path, element: str):
    found = re.search(f'id="{element}">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights_folder, drawn):
    """A run over six pictures and a broken one, and the true prompts of all."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "images").mkdir()
    for name, (picture, _) in zip("abcdef", drawn, strict=False):
        picture.save(folder / "images" / f"{name}.png")
    (folder / "images" / "<b>bold & broken.png").write_bytes(b"")
    run(RECIPE, Paths(folder / "images", weights_folder, folder / "run"), "cpu")
    prompts = {name: scene.prompt for name, (_, scene) in zip("abcdef", drawn, strict=False)}
    prompts["<b>bold & broken"] = HOSTILE
    rows = [f'"{name}","{prompt.replace(chr(34), chr(34) * 2)}"' for name, prompt in prompts.items()]
    (folder / "prompts.csv").write_text("\n".join(["imgId,prompt", *rows]) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cards(finished):
    page = write_report(finished / "run", finished / "prompts.csv")
    return {card["id"]: card for card in content_of(page, "cards")}


def test_every_image_has_a_card_and_a_picture_but_the_bad_one(finished, cards):
    assert sorted(cards) == ["<b>bold & broken", *"abcdef"]
    assert [name for name, card in cards.items() if not card["picture"]] == ["<b>bold & broken"]
    page = (finished / "run" / "report.html").read_text(encoding="utf-8")
    (pictures,) = re.findall(r'<script type="text/plain" id="pictures-\d+">\n(.*?)\n</script>', page, re.DOTALL)
    assert [line == "-" for line in pictures.split("\n")] == [True, *[False] * 6]


def test_a_card_holds_what_the_run_left_of_its_image(finished, cards, drawn):
    folder = finished_run(finished / "run").folder
    captions, modifiers = results.read_captions(folder)[0], results.read_modifiers(folder)
    for index, name in enumerate("abcdef", 1):
        assert cards[name]["captions"] == captions[index] and len(captions[index]) == 1
        assert cards[name]["modifiers"] == modifiers[index] and len(modifiers[index]) == 5
        assert cards[name]["prompt"] == drawn[index - 1][1].prompt
        distances = [distance for _, distance in cards[name]["neighbours"]]
        assert len(distances) == 5 and distances == sorted(distances)
        assert cards[name]["nearest"]
    assert cards["<b>bold & broken"]["neighbours"] == []
    assert cards["<b>bold & broken"]["degraded"][0].startswith("bad image: ")


def test_cosines_are_those_of_the_submission_to_the_true_prompts(finished, cards, weights_folder):
    own = finished_run(finished / "run")
    truth = truth_of(own, finished / "prompts.csv", weights_folder)
    expected = pairwise_cosine(own.answer, truth.rows)
    assert [cards[name]["cosine"] for name in own.ids] == pytest.approx(expected.tolist(), abs=1e-4)
    assert f"{expected.mean():.3f}" in (finished / "run" / "report.html").read_text(encoding="utf-8")


def test_disagreement_is_one_minus_the_mean_cosine_of_pairs(finished):
    own = finished_run(finished / "run")
    rows = {name: np.zeros((7, 384), dtype=np.float32) for name in ("prompts", "head", "neighbours")}
    rows["prompts"][:, 0] = rows["head"][:, 0] = rows["neighbours"][:, 1] = 1
    usable = np.array([True] * 6 + [False])
    made = {name: (row, usable) for name, row in rows.items()} | {"constant": (rows["head"], usable)}
    # equal, at right angles, at right angles
    assert disagreement(replace(own, estimates=made)) == [round(2 / 3, 4)] * 6 + [None]


def test_a_part_of_the_time_that_no_image_passes_has_no_images_a_second(finished):
    own = {stage["name"]: stage for stage in stages(finished_run(finished / "run").record)}
    assert {name for name, stage in own.items() if not stage["rate"]} == {"start", "loading MiniLM"}
    assert float(own["start"]["seconds"]) > 0


def test_without_prompts_there_is_no_score(finished):
    page = write_report(finished / "run")
    assert "true prompts are not known" in page.read_text(encoding="utf-8")
    assert all(card["cosine"] is None and card["prompt"] is None for card in content_of(page, "cards"))


def test_no_text_leaves_the_script_element_that_it_travels_in(finished, cards):
    page = (finished / "run" / "report.html").read_text(encoding="utf-8")
    assert cards["<b>bold & broken"]["prompt"] == HOSTILE
    assert "<script>alert" not in page and "<b>bold" not in page and "<img src=x" not in page
    assert json.loads(json_in_page({"a": "</script><!--"})) == {"a": "</script><!--"}
    assert "<" not in json_in_page(["</script>", "<!--", "<script"])


def test_nothing_is_fetched_from_elsewhere(finished, cards):
    page = (finished / "run" / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"https?:", page)
    assert "default-src 'none'" in page


def test_pictures_may_lie_in_a_folder_beside_the_page(finished):
    page = write_report(finished / "run", pictures_beside=True)
    assert content_of(page, "settings")["folder"] == "report_pictures"
    assert 'type="text/plain"' not in page.read_text(encoding="utf-8")
    assert sorted(path.name for path in (finished / "run" / "report_pictures").iterdir()) == [
        f"{index:06d}.jpg" for index in range(1, 7)
    ]


def test_the_command_takes_prompts_and_says_where_the_page_is(finished, capsys):
    assert main(["report", str(finished / "run"), "--prompts", str(finished / "prompts.csv")]) == 0
    assert capsys.readouterr().out.strip() == str(finished / "run" / "report.html")


def test_neighbours_of_a_bank_that_was_built_anew_are_not_shown(finished, weights_folder, tmp_path):
    run_folder = shutil.copytree(finished / "run", tmp_path / "run")
    record = json.loads((run_folder / "run.json").read_text())
    record["bank"]["folder"] = str(shutil.copytree(weights_folder / "prompt_bank", tmp_path / "bank"))
    (run_folder / "run.json").write_text(json.dumps(record))
    assert any(card["neighbours"] for card in content_of(write_report(run_folder), "cards"))
    (tmp_path / "bank" / "bank.json").write_text((tmp_path / "bank" / "bank.json").read_text() + " ")
    page = write_report(run_folder)
    assert all(not card["neighbours"] and card["nearest"] is None for card in content_of(page, "cards"))
    assert "was built anew, so neighbours are not shown" in page.read_text(encoding="utf-8")


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished run found"):
        write_report(tmp_path)


def test_a_weights_folder_with_another_minilm_is_refused(finished, own_copy):
    other = own_copy("sentences").folder
    manifest = json.loads((other / MANIFEST).read_text())
    manifest["models"]["sentences"]["sha256"] = "0" * 64
    (other / MANIFEST).unlink()  # a link to the shared one
    (other / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="its MiniLM is not the one that .* was run with"):
        write_report(finished / "run", finished / "prompts.csv", weights=other)


def of_cosines(*cosines: float) -> Truth:
    names = [str(image) for image in range(len(cosines))]
    rows = np.tile(np.eye(1, 384, dtype=np.float32), (len(cosines), 1))
    return Truth({}, rows, replace(score(names, rows, rows), per_image=dict(zip(names, cosines, strict=True))))


@pytest.mark.parametrize("perfect", [1.0, 1.0000001])
@pytest.mark.parametrize("others", [[], [0.5, -0.3, 0.5]])
def test_the_histogram_counts_every_image_a_perfect_one_too(perfect, others):
    """Rounding takes the cosine of a row with itself a little beyond 1."""
    drawn = histogram(of_cosines(perfect, *others))
    assert [bar["title"].split()[0] for bar in drawn["bars"] if bar["height"] != "0.0"][-1] == "1"
    assert sum(int(bar["title"].split()[0]) for bar in drawn["bars"]) == 1 + len(others)
    assert all(0 <= float(bar["height"]) <= 145 for bar in drawn["bars"])


def test_prompts_that_lack_an_image_are_refused(finished, tmp_path):
    (tmp_path / "prompts.csv").write_text("imgId,prompt\na,fish\n")
    with pytest.raises(UserError, match="6 of 7 images have no prompt"):
        write_report(finished / "run", tmp_path / "prompts.csv")


def test_pictures_get_smaller_until_all_fit(finished):
    files = list_images(finished / "images")
    sizes = [sum(len(picture or b"") for picture in thumbnails(files, budget)) for budget in (10**9, 20_000, 1)]
    assert sizes[0] > sizes[1] > sizes[2] and sizes[1] <= 20_000
    assert fitting_size(files, 10**9) == SIZES[0] and fitting_size(files, 1) == SIZES[-1]
