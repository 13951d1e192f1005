"""What looks at a run copes with runs that were killed, came too late, or were moved since: real ones, all of them."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.__main__ import main
from kernel.errors import UserError
from kernel.evaluation.finished import finished_run, images_of
from kernel.evaluation.report_content import ablation, stages, summary
from tests import warm
from tests.conftest import ROOT
from tests.evaluation.test_report import content_of
from tests.system.test_records import JSON, places, put

# Every run is a real process, forked from one that has imported everything. Those of a stage's name kill themselves
# when this stage's first shard would be written; "late" finds that the time is over before CLIP.
HARNESS = """
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)  # threads do not live through a fork
import kernel.estimates.constant, kernel.pipeline.run
from kernel.config import RECIPES, Paths
from kernel.system.deadline import NEVER, Deadline
from kernel.pipeline.folder import results

recipe = replace(RECIPES["text"], num_beams=1, captions_per_image=1, shard_images=2)

class Over(Deadline):
    def earlier(self, seconds):
        return Deadline(time.monotonic() - 1)

def die(*more):
    os.kill(os.getpid(), signal.SIGKILL)

for name in ("whole", "late", "clip", "modifiers", "captions"):
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)  # again: why, tests/whole/test_kills.py tells
        if name not in ("whole", "late"):
            setattr(results, "write_rows" if name == "clip" else f"write_{name}", die)
        try:
            kernel.pipeline.run.run(recipe, Paths(Path("images"), Path("weights"), Path(name)), "cpu",
                                    deadline=Over() if name == "late" else NEVER)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(2)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert status == 0 if name in ("whole", "late") else killed, (name, status)
"""


@pytest.fixture(scope="module")
def away(tmp_path_factory, weights_folder, drawn) -> Path:
    """A folder that was renamed after its runs: images a to e, the weights, prompts.csv, and the runs beside them."""
    home = tmp_path_factory.mktemp("runs") / "home"
    (home / "images").mkdir(parents=True)
    for name, (picture, _) in zip("abcde", drawn, strict=False):
        picture.save(home / "images" / f"{name}.png")
    (home / "weights").symlink_to(weights_folder)
    rows = [f'{name},"{scene.prompt}"' for name, (_, scene) in zip("abcde", drawn, strict=False)]
    (home / "prompts.csv").write_text("\n".join(["imgId,prompt", *rows]) + "\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = warm.run([sys.executable, "-c", HARNESS], cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return home.rename(home.parent / "away")


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Gives a command from a folder that has nothing to do with the run: its exit code, stdout and lines on stderr."""
    monkeypatch.chdir(tmp_path)

    def given(*arguments: object) -> tuple[int, str, list[str]]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err.strip().splitlines()

    return given


@pytest.fixture
def refusal(command):
    def given(*arguments: object) -> str:
        code, out, lines = command(*arguments)
        assert (code, out, len(lines)) == (1, "", 1), lines
        return lines[0]

    return given


@pytest.fixture
def own(away, tmp_path):
    """A copy of a run that the test may change, in a folder of its own."""

    def copied(name: str) -> Path:
        return shutil.copytree(away / name, tmp_path / "own" / name, ignore=shutil.ignore_patterns("report.html"))

    return copied


@pytest.mark.parametrize("stage", ["clip", "modifiers"])
def test_a_run_killed_before_its_first_answer_is_told_to_go_on(away, refusal, stage):
    for arguments in (
        ("verify", away / stage),
        ("report", away / stage),
        ("evaluate", away / stage / "submission.csv", away / "prompts.csv", "--weights", away / "weights"),
    ):
        line = refusal(*arguments)
        assert f"error: {away / stage}: has no answer yet" in line and "'python -m kernel run' command again" in line


def test_a_folder_without_a_run_is_told_what_was_expected(away, tmp_path, refusal):
    for name in ("verify", "report"):
        assert "no finished run found; expected a folder that 'python -m kernel run' wrote" in refusal(name, tmp_path)
        assert "no finished run found" in refusal(name, away / "whole" / "submission.csv")


def test_a_run_killed_during_captions_is_shown_and_says_so(away, command):
    code, out, lines = command("report", away / "captions")
    assert (code, lines) == (0, []) and out.strip() == str(away / "captions" / "report.html")
    page = (away / "captions" / "report.html").read_text(encoding="utf-8")
    assert "the run ended before its captions were done" in page
    cards = content_of(away / "captions" / "report.html", "cards")
    assert all(card["neighbours"] and card["picture"] and card["captions"] == [] for card in cards)
    assert all("no captions: the run ended before" in card["degraded"] for card in cards)


def test_a_run_that_came_too_late_for_clip_is_shown_and_says_so(away, command):
    code, _, lines = command("report", away / "late", "--prompts", away / "prompts.csv")
    assert (code, lines) == (0, [])
    page = away / "late" / "report.html"
    assert "the time was over before CLIP had seen every image" in page.read_text(encoding="utf-8")
    assert all(card["degraded"][0].startswith("no features") for card in content_of(page, "cards"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [("captions", "the run ended before its captions were done"), ("late", "the time was over before CLIP")],
)
def test_the_score_of_a_run_that_ended_early_says_so(away, command, name, problem):
    submission = away / name / "submission.csv"
    code, out, lines = command("evaluate", submission, away / "prompts.csv", "--weights", away / "weights")
    assert code == 0 and out.startswith("mean cosine")
    assert [line for line in lines if line.startswith(f"warning: {away / name}: {problem}")]


@pytest.mark.parametrize("name", ["whole", "captions", "late"])
def test_what_the_deck_cannot_be_compared_with_is_refused(away, refusal, name):
    assert f"error: {away / name}: cannot be compared with the seed deck: " in refusal("verify", away / name)


def test_a_run_that_was_moved_with_its_images_is_shown_whole(away, command):
    code, _, lines = command("report", away / "whole", "--prompts", away / "prompts.csv")
    assert (code, lines) == (0, [])
    cards = content_of(away / "whole" / "report.html", "cards")
    assert [card["id"] for card in cards] == list("abcde")
    assert all(card["picture"] and card["neighbours"] and card["cosine"] is not None for card in cards)


def test_a_run_that_was_moved_without_its_images_says_where_they_were_looked_for(away, own, refusal):
    run = own("whole")
    line = refusal("report", run)
    assert f"error: {run}: none of its 5 images was found" in line
    assert str(run.parent) in line and "images" in line and "--images DIR" in line
    assert not (run / "report.html").exists()


def test_images_weights_and_prompts_may_be_given(away, own, command):
    run = own("whole")
    given = ("--images", away / "images", "--prompts", away / "prompts.csv", "--weights", away / "weights")
    code, _, lines = command("report", run, *given)
    assert (code, lines) == (0, [])
    assert all(card["picture"] and card["cosine"] for card in content_of(run / "report.html", "cards"))


def test_true_prompts_without_the_runs_weights_say_where_those_were_looked_for(away, own, refusal):
    line = refusal("report", own("whole"), "--images", away / "images", "--prompts", away / "prompts.csv")
    assert "no weights folder was found" in line and "--weights DIR" in line


def test_pictures_that_changed_since_are_told_and_the_rest_is_shown(away, own, command):
    """Of shards of two images, which are no longer those that the folder would give."""
    run = own("whole")
    images = shutil.copytree(away / "images", run.parent / "images")
    (images / "a.png").unlink()
    (images / "b.png").rename(images / "renamed.png")
    shutil.copy(images / "c.png", images / "added.png")
    code, _, lines = command("report", run)
    told = [
        f"2 of the run's 5 images are no longer in {images} ('a' and 1 more): shown without picture",
        f"2 images in {images} are not among the run's 5 ('added' and 1 more): not shown",
    ]
    assert code == 0 and lines == [f"warning: {run}: {line}" for line in told]
    page = (run / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    assert all(line in page for line in told)
    before, cards = (content_of(path / "report.html", "cards") for path in (away / "whole", run))
    assert [card["picture"] for card in cards] == [False, False, True, True, True]
    assert [card["captions"] for card in cards] == [card["captions"] for card in before]


def test_what_was_damaged_in_a_run_is_told_in_a_line(away, own, refusal):
    run = own("whole")
    (run / "captions" / "00001.json").write_text('{"captions": [')
    for name in ("report", "verify"):
        line = refusal(name, run)
        assert f"error: {run}: what the run left cannot be read" in line and "command again" in line


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_any_value_in_any_place_of_a_runs_record_is_read_or_one_line(away, data):
    run = away / "any"
    shutil.copytree(away / "whole", run, dirs_exist_ok=True)
    content = json.loads((run / "run.json").read_text(encoding="utf-8"))
    changed = put(content, data.draw(st.sampled_from(places(content))), data.draw(JSON))
    (run / "run.json").write_text(json.dumps(changed), encoding="utf-8")
    try:
        finished = finished_run(run)
        assert images_of(run, finished.record["images"], finished.ids, away / "images")
        assert summary(finished, []) and [*stages(finished.record), *ablation(finished.record), "read"]
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(run) in str(error)


def test_a_submission_of_other_images_beside_a_run_is_told(away, own, refusal):
    run = own("whole")
    rows = (run / "submission.csv").read_text().splitlines()
    (run / "submission.csv").write_text("\n".join(rows[: 1 + 384]) + "\n")
    for name in ("report", "verify"):
        assert "submission.csv holds 1 images, the run was over 5" in refusal(name, run)


def test_a_report_that_cannot_be_written_is_told_in_a_line(away, own, refusal):
    run = own("whole")
    (run / "report.html").mkdir()
    assert f"error: {run}: cannot be written (Is a directory); there is no report" in refusal(
        "report", run, "--images", away / "images"
    )


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("form", [(), ("--pictures-beside",)])
def test_a_report_into_a_folder_that_may_not_be_written_is_told_in_a_line(away, own, refusal, form):
    run = own("whole")
    run.chmod(0o500)
    line = refusal("report", run, "--images", away / "images", *form)
    assert f"error: {run}: cannot be written (Permission denied); there is no report" in line


def test_a_folder_is_no_image_to_explain(away, refusal):
    line = refusal("explain", away / "whole", "--weights", away / "weights")
    assert f"{away / 'whole'}: a folder; expected one image" in line


@pytest.mark.parametrize(
    ("submission", "prompts", "words"),
    [
        ("whole", "prompts.csv", "whole: a folder; expected a submission.csv. Give "),
        ("whole/submission.csv", "images", "images: a folder; expected prompts with the columns imgId,prompt"),
        ("gone.csv", "prompts.csv", "gone.csv: no such file; expected a submission.csv"),
        ("whole/submission.csv", "gone.csv", "gone.csv: no such file; expected prompts with the columns"),
        ("whole/submission.csv", "fewer.csv", "fewer.csv: 3 of 5 images have no prompt, the first is 'c'"),
        ("whole/submission.csv", "more.csv", "more.csv: 1 of 6 prompts are of no image of"),
    ],
)
def test_what_cannot_be_scored_is_told_in_a_line(away, refusal, submission, prompts, words):
    rows = (away / "prompts.csv").read_text(encoding="utf-8").splitlines()
    (away / "fewer.csv").write_text("\n".join(rows[:3]) + "\n", encoding="utf-8")
    (away / "more.csv").write_text("\n".join([*rows, "z,a fish"]) + "\n", encoding="utf-8")
    assert words in refusal("evaluate", away / submission, away / prompts, "--weights", away / "weights")
