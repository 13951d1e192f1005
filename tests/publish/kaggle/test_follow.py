import json
from pathlib import Path

import pytest

from kernel.publish.kaggle.notebooks import build_notebooks
from tests.publish.kaggle.kaggle_client import change_kernel, ctrl_c_at, make_project, quick_push, record, refused_push
from tests.publish.kaggle.kaggle_server import IMAGE, KERNEL, WEIGHTS, Dataset, answered, refused, run_json


@pytest.fixture
def kaggle(kaggle):
    """The service with the weights dataset in place."""
    kaggle.datasets[WEIGHTS] = Dataset(1, {"manifest.json": b"{}"})
    return kaggle


@pytest.fixture
def project(tmp_path) -> Path:
    return make_project(tmp_path / "project")


# following the run


def test_a_run_is_followed_to_its_end(kaggle, project):
    assert quick_push(project, wait=True)["status"] == "COMPLETE"
    assert len(kaggle.calls("GetKernelSessionStatus")) == 3


def test_the_image_of_a_run_that_worked_is_recorded(kaggle, project):
    quick_push(project, wait=True)
    assert record(project, "image.json") == {"docker_image": IMAGE, "kernel": KERNEL, "version": 1}


def test_only_the_runs_record_is_downloaded(kaggle, project):
    kaggle.outputs["run/clip/00000.safetensors"] = bytes(1000)
    kaggle.outputs["other/run/run.json"] = b"{}"
    quick_push(project, wait=True)
    outputs = [request.path for request in kaggle.calls("GET") if request.path.startswith("/output")]
    assert outputs == ["/output/run/run.json"]


def test_the_recipe_that_ran_is_recorded(kaggle, project):
    kaggle.outputs["run/run.json"] = run_json(recipe={"name": "text"})
    quick_push(project, wait=True)
    assert record(project, "push.json")["recipe"] == "text"


@pytest.mark.parametrize("content", [b"", b"<Error>", b"{}", b"[]"])
def test_a_run_whose_record_cannot_be_read_leaves_the_image_alone(kaggle, project, content):
    kaggle.outputs["run/run.json"] = content
    assert quick_push(project, wait=True)["status"] == "COMPLETE"
    assert not (project / "build/kaggle/image.json").exists()


def test_a_pinned_push_asks_for_the_image_that_worked(kaggle, project):
    quick_push(project, wait=True)
    quick_push(project, pin=True)
    sent = kaggle.calls("SaveKernel")[1].body
    assert (sent["dockerImage"], sent["dockerImagePinningType"]) == (IMAGE, "original")


def test_pinning_leaves_the_top_level_metadata_alone(kaggle, project):
    before = (project / "kernel-metadata.json").read_bytes()
    quick_push(project, wait=True)
    quick_push(project, pin=True)
    assert (project / "kernel-metadata.json").read_bytes() == before


def test_an_ordinary_push_names_no_image(kaggle, project):
    quick_push(project)
    assert "dockerImage" not in kaggle.calls("SaveKernel")[0].body


def test_pinning_without_a_run_that_worked_says_how_to_get_one(kaggle, project):
    assert "Run 'python -m kernel publish push --wait' once without --pin" in refused_push(project, pin=True)


LINES = [f"line {number}" for number in range(40)]
JSON_LOG = json.dumps([{"stream_name": "stdout", "time": 0.1, "data": f"{line}\n"} for line in LINES])


@pytest.mark.parametrize("log", [JSON_LOG, "\n".join(LINES)])
def test_a_run_that_fails_is_told_with_the_last_lines_of_its_log(kaggle, project, log):
    kaggle.kernel_statuses, kaggle.failure_message, kaggle.log = ["RUNNING", "ERROR"], "Your notebook died", log
    said = refused_push(project, wait=True)
    assert "version 1 ended in ERROR: Your notebook died. Mend it and push again; the end of its log:" in said
    assert said.splitlines()[1:] == LINES[-30:]


def test_a_log_that_no_json_reader_can_hold_is_told_as_it_stands(kaggle, project):
    kaggle.kernel_statuses, kaggle.log = ["ERROR"], "[" * 100_000
    assert refused_push(project, wait=True).splitlines()[1:] == ["[" * 100_000]


def test_a_cancelled_run_is_told(kaggle, project):
    kaggle.kernel_statuses = ["CANCEL_REQUESTED", "CANCEL_ACKNOWLEDGED"]
    assert "version 1 ended in CANCEL_ACKNOWLEDGED" in refused_push(project, wait=True)


def test_a_failed_run_whose_log_cannot_be_had_is_still_told(kaggle, project):
    kaggle.kernel_statuses, kaggle.failure_message = ["ERROR"], "Your notebook died"
    kaggle.script("ListKernelSessionOutput", refused(500))
    assert "ended in ERROR: Your notebook died" in refused_push(project, wait=True)


def test_the_end_of_the_version_before_is_not_taken_for_this_ones(kaggle, project):
    kaggle.kernel_version = 6
    kaggle.script("GetKernel", *[answered(metadata={"currentVersionNumber": 6}, blob={})] * 3)
    kaggle.kernel_statuses = ["COMPLETE", "COMPLETE", "ERROR"]
    assert "version 7 ended in ERROR" in refused_push(project, wait=True)


def test_a_version_pushed_elsewhere_ends_the_wait(kaggle, project):
    kaggle.script("GetKernel", refused(404), answered(metadata={"currentVersionNumber": 2}, blob={}))
    assert "version 2 was pushed since version 1" in refused_push(project, wait=True)


def test_a_run_that_never_ends_is_told_with_how_to_go_on(kaggle, project):
    kaggle.kernel_statuses = ["RUNNING"]
    said = refused_push(project, limit=0, wait=True)
    assert "has not ended after 0.0 hours" in said
    assert "'python -m kernel publish push --wait' follows it again without another push" in said


def test_denied_statuses_are_told_as_the_service_words_them(kaggle, project):
    kaggle.script("GetKernelSessionStatus", refused(403, "no right to look"))
    assert "answered 403 (no right to look)" in refused_push(project, wait=True)


# going on after a wait that was interrupted


def test_ctrl_c_while_waiting_ends_with_how_to_go_on(kaggle, project):
    kaggle.kernel_statuses = ["RUNNING"]
    code, errors = ctrl_c_at("GetKernelSessionStatus", kaggle, project, "push", "wait=True")
    assert code == 1
    assert (
        "interrupted while version 1 runs. It goes on there; 'python -m kernel publish push --wait' follows" in errors
    )
    assert "Traceback" not in errors


def test_the_same_command_after_ctrl_c_follows_instead_of_pushing_again(kaggle, project):
    kaggle.kernel_statuses = ["RUNNING"]
    ctrl_c_at("GetKernelSessionStatus", kaggle, project, "push", "wait=True")
    kaggle.kernel_statuses = ["COMPLETE"]
    assert quick_push(project, wait=True)["version"] == 1
    assert len(kaggle.calls("SaveKernel")) == 1


def test_following_instead_of_pushing_is_told(kaggle, project, capsys):
    quick_push(project)
    quick_push(project, wait=True)
    said = f"{KERNEL}: version 1 is this very content, so it is followed, not pushed\n"
    assert said in capsys.readouterr().out


def test_a_version_that_was_followed_to_its_end_is_pushed_anew(kaggle, project):
    quick_push(project, wait=True)
    quick_push(project, wait=True)
    assert len(kaggle.calls("SaveKernel")) == 2


@pytest.mark.parametrize("name", ["kernel/__init__.py", "notebooks/image_to_prompts.py", "kernel-metadata.json"])
def test_changed_content_is_pushed_though_the_version_before_was_not_followed(kaggle, project, name):
    quick_push(project)
    if name.endswith(".json"):
        change_kernel(project, keywords=["gpu"])
    else:
        (project / name).write_text("# %%\nprint(2)\n")
        build_notebooks(project)
    quick_push(project, wait=True)
    assert len(kaggle.calls("SaveKernel")) == 2
