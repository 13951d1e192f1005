import json
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.publish.kaggle import submit as submitting
from tests.publish.kaggle.kaggle_client import ctrl_c_at, make_project
from tests.publish.kaggle.kaggle_server import CUT, KERNEL, answered, refused

PUSHED = {"kernel": KERNEL, "version": 3, "before": 2, "url": f"https://service/code/{KERNEL}", "code_sha256": "0" * 64,
          "content_sha256": "1" * 64, "recipe": "text", "commit": "abc", "status": "COMPLETE"}  # fmt: skip


@pytest.fixture
def kaggle(kaggle):
    """The service where version 3 has run to its end."""
    kaggle.kernel_version, kaggle.kernel_statuses = 3, ["COMPLETE"]
    return kaggle


@pytest.fixture
def project(tmp_path) -> Path:
    """A project whose version 3 was pushed last."""
    project = make_project(tmp_path / "project")
    (project / "build/kaggle").mkdir(parents=True)
    (project / "build/kaggle/push.json").write_text(json.dumps(PUSHED))
    return project


def quick_submit(project: Path, version: int | None = None, limit: float = 60.0) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submitting, "LIMIT", limit)
        return submitting.submit(project, "a message", version)


def refusal(project: Path, version: int | None = None, limit: float = 60.0) -> str:
    with pytest.raises(UserError) as refused_:
        quick_submit(project, version, limit)
    return str(refused_.value)


def lines(project: Path) -> list[dict]:
    return [json.loads(line) for line in (project / "submissions.jsonl").read_text().splitlines()]


# a submission that is scored


def test_the_last_pushed_version_is_handed_in(kaggle, project):
    quick_submit(project)
    assert kaggle.calls("CreateCodeSubmission")[0].body == {
        "competitionName": "stable-diffusion-image-to-prompts",
        "kernelOwner": "tester",
        "kernelSlug": "image-to-prompts",
        "kernelVersion": 3,
        "fileName": "submission.csv",
        "submissionDescription": "a message",
    }


def test_the_score_is_waited_for_and_appended(kaggle, project):
    quick_submit(project)
    [line] = lines(project)
    assert {key: line[key] for key in line if key != "time"} == {
        "recipe": "text",
        "commit": "abc",
        "kernel": KERNEL,
        "version": 3,
        "ref": 77,
        "public": 0.5331,
        "private": 0.5312,
        "late": True,
    }


def test_lines_of_earlier_submissions_stay(kaggle, project):
    (project / "submissions.jsonl").write_text('{"ref": 1}\n')
    quick_submit(project)
    assert [line["ref"] for line in lines(project)] == [1, 77]


def test_both_scores_and_what_is_left_for_the_day_are_printed(kaggle, project, capsys):
    quick_submit(project)
    printed = capsys.readouterr().out
    assert f"{KERNEL}: version 3 scored 0.5331 public, 0.5312 private (late submission)\n" in printed
    assert "2 handed in today, 3 left\n" in printed


def test_it_is_told_that_the_submission_is_a_late_one(kaggle, project, capsys):
    quick_submit(project)
    assert "handed in as 77, a late submission: the competition is closed" in capsys.readouterr().out


def test_limits_that_cannot_be_had_do_not_hide_the_score(kaggle, project):
    kaggle.script("GetSubmissionLimits", refused(500))
    assert quick_submit(project)["public"] == 0.5331


def test_a_score_that_is_missing_is_none(kaggle, project):
    kaggle.submission_statuses = [{"status": "COMPLETE", "publicScore": "0.5", "privateScore": ""}]
    assert (quick_submit(project)["public"], lines(project)[0]["private"]) == (0.5, None)


def test_a_version_that_was_not_pushed_here_has_no_recipe(kaggle, project):
    (project / "build/kaggle/push.json").unlink()
    assert quick_submit(project, version=3)["recipe"] is None


def test_a_scored_version_can_be_handed_in_again(kaggle, project):
    quick_submit(project)
    quick_submit(project)
    assert len(kaggle.calls("CreateCodeSubmission")) == 2
    assert len(lines(project)) == 2


# what is not handed in


def test_without_a_pushed_version_nothing_is_handed_in(kaggle, project):
    (project / "build/kaggle/push.json").unlink()
    assert "no pushed version is on record here. Run 'python -m kernel publish push --wait'" in refusal(project)


def test_a_version_that_is_not_the_latest_is_not_handed_in(kaggle, project):
    said = refusal(project, version=2)
    assert "version 2 is not the latest, which is 3" in said
    assert "Give --version 3, or push again" in said
    assert kaggle.calls("CreateCodeSubmission") == []


def test_a_service_that_names_no_latest_version_does_not_stop_it(kaggle, project):
    kaggle.script("GetKernel", answered(metadata={}, blob={}))
    assert quick_submit(project)["version"] == 3


@pytest.mark.parametrize("status", ["QUEUED", "RUNNING", "ERROR", "CANCEL_ACKNOWLEDGED"])
def test_a_version_that_is_not_complete_is_not_handed_in(kaggle, project, status):
    kaggle.kernel_statuses = [status]
    said = refusal(project)
    assert (
        f"version 3 is {status}, not COMPLETE, so nothing was handed in. 'python -m kernel publish push --wait'" in said
    )
    assert kaggle.calls("CreateCodeSubmission") == []


def test_a_version_without_a_submission_csv_is_not_handed_in(kaggle, project):
    kaggle.outputs = {"run/submission.csv": b"", "a.txt": b"", "submission.csv.txt": b""}
    assert "the output of version 3 holds no submission.csv, so nothing was handed in" in refusal(project)
    assert kaggle.calls("CreateCodeSubmission") == []


def test_a_submission_csv_on_the_last_page_is_found(kaggle, project):
    kaggle.outputs = {f"file-{number}": b"" for number in range(5)} | {"submission.csv": b""}
    quick_submit(project)
    assert len(kaggle.calls("ListKernelFiles")) == 6


def test_placeholder_metadata_is_refused_with_init(kaggle, project):
    path = project / "kernel-metadata.json"
    path.write_text(path.read_text().replace("tester/", "your-kaggle-name/"))
    assert "publish init --user NAME" in refusal(project)


# what the service answers


def test_a_403_names_what_people_forget(kaggle, project):
    kaggle.script("CreateCodeSubmission", refused(403))
    said = refusal(project)
    for words in ("join it (Late Submission)", "accept its rules in the browser", "verify your phone"):
        assert words in said


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (401, "Make a new API token on https://www.kaggle.com/settings"),
        (429, "wait 60 seconds, then run the same command again"),
        (500, "the same command looks for it among your submissions"),
    ],
)
def test_an_error_names_the_next_step(kaggle, project, status, step):
    kaggle.script("CreateCodeSubmission", refused(status, Retry_After="60"))
    assert step in refusal(project)


def test_a_cut_connection_says_that_it_may_have_been_handed_in(kaggle, project):
    kaggle.script("CreateCodeSubmission", CUT)
    assert "it may have been handed in all the same" in refusal(project)


# answers that nobody can read

ODD = [b"null", b"12", b'"text"', b"[]", b"{}", b"", b"<html>", b"[" * 100_000, b'{"code": null}', b'{"code": "500"}',
       b'{"ref": "seven", "message": 5}', b'{"ref": null}', b'{"ref": -3}', b'{"ref": 7.5}']  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:20].decode())
def test_an_odd_answer_to_handing_in_never_hands_in_twice(kaggle, project, odd):
    """The service has taken it, and says so in no way that can be read: the same command finds it there."""
    kaggle.script("CreateCodeSubmission", (200, odd, {}))
    assert "handing in" in (said := refusal(project)) or "was not taken" in said
    kaggle.hand_in("a message")
    assert quick_submit(project)["ref"] == 77
    assert len(kaggle.calls("CreateCodeSubmission")) == 1


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd[:20].decode())
@pytest.mark.parametrize("call", ["GetKernel", "GetKernelSessionStatus", "ListKernelFiles", "GetSubmission",
                                  "GetSubmissionLimits", "ListSubmissions"])  # fmt: skip
def test_an_odd_answer_is_one_line_or_borne(kaggle, project, call, odd, monkeypatch):
    monkeypatch.setattr("kernel.publish.kaggle.client.sleep", lambda seconds: None)
    if call == "ListSubmissions":
        kaggle.script("CreateCodeSubmission", CUT)
        refusal(project)
    kaggle.script(call, *[(200, odd, {})] * 9)
    try:
        line = quick_submit(project, limit=0.5)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert line["ref"] == 77
    assert len(kaggle.submissions) <= 1


def test_what_was_not_taken_is_handed_in_by_the_same_command(kaggle, project):
    kaggle.script("CreateCodeSubmission", CUT)
    refusal(project)
    assert quick_submit(project)["ref"] == 77 and len(kaggle.calls("CreateCodeSubmission")) == 2


def test_what_was_handed_in_earlier_is_not_taken_for_it(kaggle, project):
    quick_submit(project)
    kaggle.script("CreateCodeSubmission", CUT)
    refusal(project)
    assert quick_submit(project)["ref"] == 78 and len(kaggle.calls("CreateCodeSubmission")) == 3


DAMAGED = [b"", b"[", b"null", b'{"ref": "seven"}', b"\xff"]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_record_is_set_aside_and_what_the_service_has_is_taken_up(kaggle, project, damaged, capsys):
    quick_submit(project)
    path = project / "build/kaggle/submission.json"
    path.write_bytes(damaged)
    assert quick_submit(project)["ref"] == 77 and len(kaggle.calls("CreateCodeSubmission")) == 1
    assert path.with_name("submission.json.damaged").read_bytes() == damaged
    assert "submission.json.damaged, and the service is asked what there is" in capsys.readouterr().err
    assert quick_submit(project)["ref"] == 78  # from here on as ever


def test_a_service_in_trouble_after_a_damaged_record_hands_nothing_in_twice(kaggle, project):
    quick_submit(project)
    (project / "build/kaggle/submission.json").write_bytes(b"[")
    kaggle.script("ListSubmissions", CUT)
    assert "no answer from the service" in refusal(project)
    assert quick_submit(project)["ref"] == 77 and len(kaggle.calls("CreateCodeSubmission")) == 1


def test_a_damaged_record_of_a_push_is_left_to_the_next_push(kaggle, project):
    path = project / "build/kaggle/push.json"
    path.write_bytes(b"[")
    quick_submit(project)
    assert path.read_bytes() == b"["


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_record_of_what_the_service_does_not_have_stops_nothing(kaggle, project, damaged):
    (project / "build/kaggle/submission.json").write_bytes(damaged)
    (project / "build/kaggle/push.json").write_bytes(damaged)
    line = quick_submit(project)
    assert (line["ref"], line["version"], line["recipe"]) == (77, 3, None)


def test_an_answer_without_a_reference_is_told_with_its_words(kaggle, project):
    kaggle.script("CreateCodeSubmission", answered(message="Daily limit reached"))
    assert "version 3 was not taken: Daily limit reached" in refusal(project)


@pytest.mark.parametrize(
    ("description", "cause"),
    [
        ("Row 17 has an imgId_eId that the solution lacks", "memory or time on the 16,000 hidden images"),
        ("Notebook Threw Exception", "Rehearse it with 'python -m kernel publish rehearse'"),
        ("Exceeded Allowed Compute", "memory or time ran out"),
        ("Submission CSV Not Found", "was not in /kaggle/working at the end"),
        ("Scoring Error", "rows, columns, empty values or number format"),
        (None, "memory or time on the 16,000 hidden images"),
    ],
)
def test_a_submission_in_error_is_told_with_its_usual_cause(kaggle, project, description, cause):
    error = {"status": "ERROR"} | ({"errorDescription": description} if description else {})
    kaggle.submission_statuses = [{"status": "PENDING"}, error]
    said = refusal(project)
    assert f"ended in ERROR: {description or 'no reason given'}. The usual cause: " in said
    assert cause in said


def test_a_submission_in_error_is_not_waited_for_again(kaggle, project):
    kaggle.submission_statuses = [{"status": "ERROR"}]
    refusal(project)
    kaggle.submission_statuses = [{"status": "COMPLETE", "publicScore": "0.5", "privateScore": "0.5"}]
    quick_submit(project)
    assert len(kaggle.calls("CreateCodeSubmission")) == 2


# waiting


def test_a_score_that_never_comes_is_told_with_how_to_go_on(kaggle, project):
    kaggle.submission_statuses = [{"status": "PENDING"}]
    said = refusal(project, limit=0)
    assert "no score after 0.0 hours" in said
    assert "the same command waits for its score and hands nothing in again" in said


def test_ctrl_c_while_waiting_ends_with_how_to_go_on(kaggle, project):
    kaggle.submission_statuses = [{"status": "PENDING"}]
    code, errors = ctrl_c_at("GetSubmission", kaggle, project, "submit", "''")
    assert code == 1
    assert "interrupted before its score came. It goes on there; the same command waits" in errors
    assert "Traceback" not in errors


def test_the_same_command_after_ctrl_c_picks_up_by_reference(kaggle, project):
    kaggle.submission_statuses = [{"status": "PENDING"}]
    ctrl_c_at("GetSubmission", kaggle, project, "submit", "''")
    kaggle.submission_statuses = [{"status": "COMPLETE", "publicScore": "0.5", "privateScore": "0.4"}]
    quick_submit(project)
    assert len(kaggle.calls("CreateCodeSubmission")) == 1
    assert kaggle.calls("GetSubmission")[-1].body == {"ref": 77}
    assert [line["ref"] for line in lines(project)] == [77]


def test_picking_up_is_told(kaggle, project, capsys):
    kaggle.submission_statuses = [{"status": "PENDING"}]
    refusal(project, limit=0)
    kaggle.submission_statuses = [{"status": "COMPLETE", "publicScore": "0.5", "privateScore": "0.4"}]
    quick_submit(project)
    assert "version 3 was handed in before as 77; its score is waited for\n" in capsys.readouterr().out


def test_another_version_is_handed_in_though_one_is_pending(kaggle, project):
    kaggle.submission_statuses = [{"status": "PENDING"}]
    refusal(project, limit=0)
    kaggle.kernel_version = 4
    kaggle.submission_statuses = [{"status": "COMPLETE", "publicScore": "0.5", "privateScore": "0.4"}]
    quick_submit(project, version=4)
    assert [request.body["kernelVersion"] for request in kaggle.calls("CreateCodeSubmission")] == [3, 4]
