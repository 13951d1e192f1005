import json
from dataclasses import replace
from pathlib import Path

import pytest

from kernel.errors import UserError
from kernel.publish.kaggle.client import connect
from kernel.publish.kaggle.datasets import held_code, publish_dataset, wait_ready
from tests.publish.kaggle.kaggle_client import publish, refusal
from tests.publish.kaggle.kaggle_server import WEIGHTS, Dataset, answered, refused

LARGE = bytes(range(256)) * 1024
FILES = {"large.safetensors": LARGE, "manifest.json": b"{}", "wheels/a.txt": b"a wheel"}


# what goes up


def test_a_new_dataset_is_created_private(kaggle, folder):
    publish(folder)
    assert kaggle.calls("CreateDataset")[0].body["isPrivate"] is True


def test_a_new_dataset_holds_every_file_and_folder(kaggle, folder):
    publish(folder)
    assert kaggle.datasets[WEIGHTS].files == FILES


def test_a_known_dataset_gets_a_new_version_with_its_notes(kaggle, folder):
    kaggle.datasets[WEIGHTS] = Dataset(4, {})
    publish(folder)
    assert kaggle.calls("CreateDatasetVersion")[0].body["body"]["versionNotes"] == "a note"


def test_a_new_version_holds_every_file_and_folder(kaggle, folder):
    kaggle.datasets[WEIGHTS] = Dataset(4, {})
    publish(folder)
    assert kaggle.datasets[WEIGHTS].files == FILES


def test_a_zero_byte_file_goes_up(kaggle, folder):
    (folder.folder / "empty.txt").write_bytes(b"")
    publish(folder)
    assert kaggle.datasets[WEIGHTS].files["empty.txt"] == b""


def test_a_dataset_that_is_denied_as_unknown_ones_are_is_created(kaggle, folder):
    kaggle.script("GetDatasetStatus", refused(403), refused(403))
    publish(folder)
    assert kaggle.datasets[WEIGHTS].version == 1


def test_the_same_content_is_not_sent_twice(kaggle, folder):
    publish(folder)
    publish(folder)
    assert len(kaggle.calls("CreateDataset") + kaggle.calls("CreateDatasetVersion")) == 1


def test_the_same_content_is_sent_again_over_a_version_made_elsewhere(kaggle, folder):
    publish(folder)
    kaggle.datasets[WEIGHTS] = Dataset(2, {"other": b""})
    publish(folder)
    assert kaggle.datasets[WEIGHTS].files == FILES


def test_changed_content_is_sent(kaggle, folder):
    publish(folder)
    (folder.folder / "manifest.json").write_text("[]")
    publish(replace(folder, sha256="b" * 64))
    assert kaggle.datasets[WEIGHTS].files["manifest.json"] == b"[]"


def test_content_that_the_marker_there_names_is_not_sent(kaggle, folder):
    marker = json.dumps({"sha256": folder.sha256}).encode()
    kaggle.datasets[WEIGHTS] = Dataset(3, {"image-to-prompts.json": marker})
    publish(folder)
    assert kaggle.calls("StartBlobUpload") == []


def test_the_clients_chatter_stays_off_stdout(kaggle, folder, capsys):
    publish(folder)
    said = f"{WEIGHTS}: sending {sum(size for _, size in folder.entries) // 1024} kB as a new dataset\n"
    assert capsys.readouterr().out == said


# the marker


def test_the_held_code_is_the_markers_sha256(kaggle):
    kaggle.datasets[WEIGHTS] = Dataset(1, {"image-to-prompts.json": b'{"sha256": "abc"}'})
    assert held_code(connect(), WEIGHTS) == "abc"


def test_only_the_marker_is_downloaded(kaggle):
    kaggle.datasets[WEIGHTS] = Dataset(1, {"image-to-prompts.json": b'{"sha256": "abc"}', "large": LARGE})
    held_code(connect(), WEIGHTS)
    assert [request.path for request in kaggle.calls("GET")] == [f"/files/{WEIGHTS}/image-to-prompts.json"]


def test_no_dataset_holds_no_code(kaggle):
    assert held_code(connect(), WEIGHTS) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"<html>", b"\xff", b"[" * 100_000])
def test_a_marker_that_cannot_be_read_holds_no_code(kaggle, content):
    kaggle.datasets[WEIGHTS] = Dataset(1, {"image-to-prompts.json": content})
    assert held_code(connect(), WEIGHTS) is None


# uploads that break off


def test_a_cut_upload_publishes_nothing(kaggle, folder):
    kaggle.cut_uploads = 99
    refusal(folder)
    assert kaggle.calls("CreateDataset") == []


def test_a_cut_upload_is_refused_with_the_file_and_how_to_go_on(kaggle, folder):
    kaggle.cut_uploads = 99
    said = refusal(folder)
    assert "could not be sent whole, so nothing was published. Run the same command again" in said


def test_the_same_command_after_a_cut_publishes_every_file(kaggle, folder):
    kaggle.cut_uploads = 99
    refusal(folder)
    kaggle.cut_uploads = 0
    publish(folder)
    assert kaggle.datasets[WEIGHTS].files == FILES


def test_the_same_command_after_a_cut_sends_only_the_rest_of_a_large_file(kaggle, folder):
    for name in ("manifest.json", "wheels/a.txt"):
        (folder.folder / name).unlink()
    (folder.folder / "wheels").rmdir()
    kaggle.cut_uploads = 2
    refusal(folder)
    received = len(kaggle.blobs["token-0"].data)
    assert 0 < received < len(LARGE)
    before = kaggle.uploaded()["large.safetensors"]
    publish(folder)
    assert kaggle.uploaded()["large.safetensors"] - before == len(LARGE) - received


def test_a_refused_upload_is_begun_anew_once(kaggle, folder):
    kaggle.refused_uploads = 1
    publish(folder)
    assert kaggle.datasets[WEIGHTS].files == FILES


def test_a_file_whose_upload_stays_refused_is_not_left_out(kaggle, folder):
    kaggle.refused_uploads = 2
    assert "could not be sent whole" in refusal(folder)
    assert kaggle.calls("CreateDataset") == []


def test_the_same_command_after_refused_uploads_begins_them_anew(kaggle, folder):
    kaggle.refused_uploads = 2
    refusal(folder)
    publish(folder)
    assert kaggle.datasets[WEIGHTS].files == FILES


def test_an_interrupted_upload_that_has_expired_is_begun_anew(kaggle, folder):
    kaggle.cut_uploads = 99
    refusal(folder)
    kaggle.cut_uploads = 0
    kaggle.gone.update(kaggle.blobs)
    publish(folder)
    assert kaggle.datasets[WEIGHTS].files == FILES


def test_ctrl_c_while_sending_says_how_to_go_on(kaggle, folder, monkeypatch):
    client = connect()

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "upload_files", interrupted)
    with pytest.raises(UserError, match="interrupted while sending; nothing was published.*The same command goes on"):
        publish_dataset(client, folder, "", folder.folder.parent / "kaggle")


# what the service answers


def test_a_refused_creation_that_http_calls_fine_is_refused_with_its_words(kaggle, folder):
    kaggle.script("CreateDataset", answered(status="error", error="the title is taken"))
    assert "the service refused it: the title is taken. Nothing was published. Mend what it names" in refusal(folder)


def test_a_refused_version_that_http_calls_fine_is_refused_with_its_words(kaggle, folder):
    kaggle.datasets[WEIGHTS] = Dataset(1, {})
    kaggle.script("CreateDatasetVersion", answered(status="error", error="too many versions"))
    assert "the service refused it: too many versions. Nothing was published" in refusal(folder)


# ready


def test_a_dataset_that_is_late_is_waited_for(kaggle, folder):
    kaggle.dataset_statuses[WEIGHTS] = ["NOT_YET_PERSISTED", "BLOBS_RECEIVED", "READY"]
    publish(folder)
    assert len(kaggle.calls("GetDatasetStatus")) == 2 + 3  # before: ours and the client's own


def test_ready_of_the_version_before_is_not_taken_for_the_new_one(kaggle, folder):
    kaggle.datasets[WEIGHTS] = Dataset(4, {})
    kaggle.script("GetDataset", *[answered(currentVersionNumber=4)] * 3)
    publish(folder)
    assert len(kaggle.calls("GetDataset")) == 4


def test_a_service_that_names_no_version_is_believed_when_it_says_ready(kaggle, folder):
    kaggle.script("GetDataset", *[answered()] * 9)
    publish(folder)
    assert kaggle.datasets[WEIGHTS].files == FILES


def test_a_dataset_that_fails_is_told_with_where_the_reason_stands(kaggle, folder):
    kaggle.dataset_statuses[WEIGHTS] = ["BLOBS_RECEIVED", "FAILED"]
    said = refusal(folder)
    assert f"reason stands on https://www.kaggle.com/datasets/{WEIGHTS}; the same command sends it again" in said


def test_the_same_command_after_a_failure_sends_again(kaggle, folder):
    kaggle.dataset_statuses[WEIGHTS] = ["FAILED"]
    refusal(folder)
    kaggle.dataset_statuses[WEIGHTS] = ["FAILED", "READY"]
    publish(folder)
    assert kaggle.datasets[WEIGHTS].version == 2


def test_a_dataset_that_never_gets_ready_is_told_with_how_to_go_on(kaggle, folder):
    kaggle.dataset_statuses[WEIGHTS] = ["BLOBS_RECEIVED"]
    said = refusal(folder, limit=0)
    assert "not ready after 0 minutes" in said
    assert "the same command sends nothing and looks again" in said


def test_the_same_command_after_that_sends_nothing_and_looks_again(kaggle, folder):
    kaggle.dataset_statuses[WEIGHTS] = ["BLOBS_RECEIVED"]
    refusal(folder, limit=0)
    sent = len(kaggle.calls("PUT"))
    kaggle.dataset_statuses[WEIGHTS] = ["READY"]
    publish(folder)
    assert len(kaggle.calls("PUT")) == sent


def test_a_wait_for_a_dataset_that_nobody_made_says_what_makes_it(kaggle):
    with pytest.raises(UserError, match="no such dataset.*Run 'python -m kernel publish dataset' first"):
        wait_ready(connect(), WEIGHTS)


def test_the_record_of_what_was_sent_names_the_version(kaggle, folder, tmp_path: Path):
    publish(folder)
    record = json.loads((tmp_path / "kaggle/image-to-prompts-weights.json").read_text())
    assert record == {"dataset": WEIGHTS, "sha256": folder.sha256, "after": 0, "version": 1}
