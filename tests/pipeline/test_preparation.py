from pathlib import Path

import numpy as np
import pytest

from kernel.errors import UserError
from kernel.pipeline.folder import results
from kernel.pipeline.preparation import open_run
from tests.pipeline.folders import FEWER_BEAMS, IDENTITY, captioned, image_files, opened

ON_CUDA = {**IDENTITY, "clip": {**IDENTITY["clip"], "device": "cuda"}}


def said(folder: Path, identity: dict = IDENTITY) -> str:
    return open_run(folder, image_files("a"), 1, identity)[1]


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["run", "deep/er/run"])
def test_a_new_folder_is_made_with_its_stages_and_its_record(tmp_path, name):
    opened(tmp_path / name)
    assert tree(tmp_path / name) == {"clip", "encoders", "captions", "cosines", "matching", "estimates", "run.json"}


def test_an_empty_folder_is_a_new_run(tmp_path):
    assert said(tmp_path) == f"{tmp_path}: new run"


def test_the_same_run_goes_on(tmp_path):
    opened(tmp_path)
    assert said(tmp_path) == f"{tmp_path}: going on with the last run"


def test_a_run_killed_while_it_wrote_its_first_record_is_a_new_run(tmp_path):
    (tmp_path / ".run.json.tmp").write_text('{"ident')
    assert said(tmp_path) == f"{tmp_path}: new run"
    assert "run.json" in tree(tmp_path) and ".run.json.tmp" not in tree(tmp_path)


def test_a_run_that_goes_on_keeps_what_was_written(tmp_path):
    run = opened(tmp_path)
    results.write_captions(run, 0, captioned([["a"]]))
    run.write_run({"identity": IDENTITY, "counts": {"images": 5}})
    (tmp_path / "submission.csv").write_text("older")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    opened(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_changed_run_says_what_changed_and_which_stages_that_takes(tmp_path):
    opened(tmp_path)
    expected = f"{tmp_path}: num_beams, recipe changed since the last run: captions, estimates made again"
    assert said(tmp_path, FEWER_BEAMS) == expected


def test_something_new_in_the_identity_is_a_change(tmp_path):
    opened(tmp_path)
    more = {**IDENTITY, "estimates": {**IDENTITY["estimates"], "bank": "5e1f"}}
    assert said(tmp_path, more) == f"{tmp_path}: bank changed since the last run: estimates made again"


def test_a_changed_run_removes_the_outputs_of_the_changed_stages_alone(tmp_path):
    run = opened(tmp_path)
    results.write_captions(run, 0, captioned([["a"]]))
    results.write_rows(run, results.CLIP, 0, np.zeros((2, 3), dtype=np.float32), {}, [])
    results.write_estimate(run, "prompts", np.zeros((5, 384), dtype=np.float32), np.ones(5, dtype=bool))
    (tmp_path / "submission.csv").write_text("older")
    again = opened(tmp_path, FEWER_BEAMS)
    kept = {"clip/00000.safetensors", "clip/00000.safetensors.sha256"}
    assert tree(tmp_path) == {"clip", *kept, "encoders", "captions", "cosines", "matching", "estimates", "run.json"}
    assert again.has_shard(results.CLIP, 0)


def test_a_changed_run_goes_on_the_next_time(tmp_path):
    opened(tmp_path)
    opened(tmp_path, ON_CUDA)
    assert said(tmp_path, ON_CUDA) == f"{tmp_path}: going on with the last run"


def test_a_run_that_ended_before_its_stages_were_made_goes_on(tmp_path, monkeypatch):
    really_make = Path.mkdir

    def make(path, *arguments, **options):
        if path.name == "captions":
            raise OSError(28, "No space left on device")
        really_make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", make)
    with pytest.raises(UserError, match="No space left"):
        opened(tmp_path / "run")
    monkeypatch.undo()
    assert said(tmp_path / "run") == f"{tmp_path / 'run'}: going on with the last run"


def test_a_run_whose_record_could_not_be_written_can_start_again(tmp_path, monkeypatch):
    def fail(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(UserError, match="No space left"):
        opened(tmp_path / "run")
    monkeypatch.undo()
    assert said(tmp_path / "run") == f"{tmp_path / 'run'}: new run"


def test_a_folder_that_no_run_wrote_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds files but no run\.json.*Give --out an empty or a new folder"):
        opened(tmp_path)


def test_a_refused_folder_stays_as_it_was(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError):
        opened(tmp_path)
    assert tree(tmp_path) == {"thesis.txt"}


@pytest.mark.parametrize("name", ["in_the_way", "in_the_way/run", "in_the_way/deep/run"])
def test_a_file_in_the_way_is_refused(tmp_path, name):
    (tmp_path / "in_the_way").touch()
    with pytest.raises(UserError, match=f"{name}: cannot be written .* give --out a folder that may be written into"):
        opened(tmp_path / name)


def test_a_failure_that_is_none_of_space_names_none(tmp_path):
    opened(tmp_path)
    (tmp_path / "clip").rmdir()
    (tmp_path / "clip").touch()
    with pytest.raises(UserError, match=r"cannot be written \(File exists\)\. .* give --out a folder that may be"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", "null", "{}", '{"identity": 3}', '{"identity": null}', '"identity"', "\xff"]
)
def test_a_record_that_no_run_wrote_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"run\.json: not a run's record .*Give --out an empty or a new folder"):
        opened(tmp_path)


def test_a_record_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "run.json").mkdir()
    with pytest.raises(UserError, match=r"run\.json: cannot be read \(Is a directory\)"):
        opened(tmp_path)
