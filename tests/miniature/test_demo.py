import csv
import json
import re

import pytest

from kernel.__main__ import main
from kernel.errors import UserError
from kernel.miniature.demo import demo
from kernel.pipeline.submission import check_submission


def test_a_small_demo_leaves_a_competition_a_run_and_a_report(tmp_path, weights_folder, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--images", "5", "--seed", "7", "--weights", str(weights_folder)]) == 0
    with (out / "competition" / "prompts.csv").open(newline="") as file:
        ids = [row["imgId"] for row in csv.DictReader(file)]
    assert sorted(p.stem for p in (out / "competition" / "images").iterdir()) == ids and len(ids) == 5
    check_submission(out / "competition" / "sample_submission.csv", ids)
    check_submission(out / "submission.csv", ids)
    scores = json.loads((out / "run.json").read_text())["scores"]
    assert set(scores) == {"prior", "captions", "modifiers", "baseline", "text"}
    printed, noted = capsys.readouterr()
    bars = [line.partition(":")[0] for line in noted.splitlines() if "%|" in line]
    assert "\r" not in noted and len(bars) == len(set(bars)) > 5  # one a stage, in lines where no terminal draws them
    assert all(f"{value:.3f}" in printed for value in scores.values())
    for line, command in zip(printed.splitlines()[-3:], ("describe", "serve", "publish init"), strict=True):
        assert f"python -m kernel {command}" in line
    page = (out / "report.html").read_text()
    cards = json.loads(re.search(r'id="cards">(.*?)</script>', page, re.DOTALL)[1])
    with (out / "competition" / "prompts.csv").open(newline="") as file:
        assert {card["id"]: card["prompt"] for card in cards} == {
            row["imgId"]: row["prompt"] for row in csv.DictReader(file)
        }
    assert all(f'<th scope="row">{name}</th>' in page for name in scores)


def test_a_demo_does_not_clear_a_folder_it_did_not_make(tmp_path, weights_folder):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no demo made"):
        demo(tmp_path, weights_folder, 1, 0)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_the_whole_line_beats_a_constant_and_each_of_its_parts(tmp_path, weights_folder):
    scores = demo(tmp_path / "demo", weights_folder, 64, 0)
    assert scores["baseline"] >= scores["prior"] + 0.20
    assert scores["baseline"] > max(scores["captions"], scores["modifiers"])
    assert scores["text"] > scores["baseline"]
