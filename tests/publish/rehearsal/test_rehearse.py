"""The rehearsal in the ordinary environment; only `make rehearse` builds the image's."""

import json

import pytest

from kernel.errors import UserError
from kernel.publish.kaggle.notebooks import build_notebooks
from kernel.publish.rehearsal.rehearse import rehearse


@pytest.fixture
def rehearsal(project, tmp_path, weights_folder, capfd):
    """Rehearses the copied project on this Python: (exit code, what it printed, rehearsal.json)."""

    def run(variants, layouts):
        out = tmp_path / "rehearsal"
        code = rehearse(project, weights_folder, out, 8, variants, layouts, this_python=True)
        return code, capfd.readouterr().out, json.loads((out / "rehearsal.json").read_text())

    return run


@pytest.fixture
def with_cell(project):
    """Puts a line before the notebook's last cell and builds it again."""

    def change(line):
        source = project / "notebooks" / "image_to_prompts.py"
        source.write_text(source.read_text().replace("session = kernel", f"{line}\nsession = kernel"))
        build_notebooks(project)

    return change


def test_a_killed_child_and_other_prompts_leave_a_valid_submission(rehearsal):
    code, said, content = rehearsal(["rerun-with-other-prompts", "rerun-killed"], ["new"])
    assert [variant["name"] for variant in content["variants"]] == ["rerun-with-other-prompts", "rerun-killed"]
    assert all(variant["submission_ok"] and variant["problem"] is None for variant in content["variants"])
    assert code == 0
    assert said.splitlines()[-1].startswith("rehearsed: 2 executions in")


@pytest.mark.slow
def test_a_training_that_was_cut_goes_on_and_its_encoder_is_asked_by_the_main_notebook(rehearsal):
    code, _, content = rehearsal(["trained"], ["old"])
    assert [session["name"] for session in content["training"]] == ["train-killed", "train"]
    assert [own["problem"] for own in [*content["training"], *content["variants"]]] == [None, None, None]
    assert code == 0 and content["variants"][0]["submission_ok"]


def test_the_committed_run_passes_in_the_old_layout(rehearsal):
    code, _, content = rehearsal(["visible"], ["old"])
    (variant,) = content["variants"]
    assert code == 0
    assert (variant["name"], variant["layout"], variant["images"]) == ("visible", "old", 7)
    assert variant["seconds"] > 0
    assert variant["peak_bytes"] > 500 * 2**20  # torch and the models, not only the notebook
    assert {"torch", "transformers"} <= set(content["versions"])


@pytest.mark.slow
def test_it_fails_when_a_wheel_is_taken_away(project, rehearsal):
    next((project / "wheels").glob("ftfy*.whl")).unlink()
    code, said, content = rehearsal(["visible"], ["new"])
    assert code == 1
    assert "installing the wheels failed" in content["variants"][0]["problem"]
    assert "FAILED" in said


def test_it_fails_when_the_notebook_opens_a_socket(rehearsal, with_cell):
    with_cell("import socket; socket.socket().connect(('192.0.2.1', 80))")
    code, _, content = rehearsal(["visible"], ["new"])
    assert code == 1
    assert "192.0.2.1 refused" in content["variants"][0]["problem"]


@pytest.mark.slow
def test_it_fails_when_the_notebook_hides_that_it_opened_a_socket(rehearsal, with_cell):
    with_cell(
        "import contextlib, socket\nwith contextlib.suppress(OSError): socket.socket().connect(('192.0.2.1', 80))"
    )
    code, _, content = rehearsal(["rerun-without-prompts"], ["new"])
    assert code == 1
    assert "the network was tried" in content["variants"][0]["problem"]


def test_it_fails_when_the_dataset_folder_is_written_to(rehearsal, with_cell):
    with_cell("open(CODE + '/left-behind.txt', 'w').close()")
    code, _, content = rehearsal(["visible"], ["new"])
    assert code == 1
    problem = content["variants"][0]["problem"]
    assert "Read-only file system" in problem or "written into the mounted folders" in problem


def test_an_unknown_variant_is_refused_with_the_valid_ones(rehearsal):
    with pytest.raises(UserError, match="unknown variant 'visble'. Valid: interactive, visible"):
        rehearsal(["visble"], None)
