import gzip

import pytest

from kernel.models.weights_folder import open_weights
from kernel.notebook.inputs import COMPETITION, find_inputs, restore_weights
from kernel.publish.kaggle.staging import stage_dataset
from kernel.publish.rehearsal.mounts import mount, snapshot, upload_and_unpack


def arrived(tmp_path, files):
    for name, data in files.items():
        path = tmp_path / "staged" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    upload_and_unpack(tmp_path / "staged", tmp_path / "arrived")
    return {
        path.relative_to(tmp_path / "arrived").as_posix(): path.read_bytes()
        for path in (tmp_path / "arrived").rglob("*")
        if path.is_file()
    }


def test_files_and_folders_arrive(tmp_path):
    assert arrived(tmp_path, {"a.txt": b"a", "folder/b.txt": b"b", "folder/inner/c.txt": b"c"}) == {
        "a.txt": b"a",
        "folder/b.txt": b"b",
        "folder/inner/c.txt": b"c",
    }


def test_the_metadata_stays_behind(tmp_path):
    assert arrived(tmp_path, {"dataset-metadata.json": b"{}", "a.txt": b""}) == {"a.txt": b""}


def test_a_single_top_folder_is_dropped(tmp_path):
    assert arrived(tmp_path, {"captioners/blip2/config.json": b"{}"}) == {"captioners/config.json": b"{}"}


def test_a_single_file_keeps_its_folder(tmp_path):
    assert arrived(tmp_path, {"sentences--1_Pooling/config.json": b"{}"}) == {"sentences--1_Pooling/config.json": b"{}"}


def test_gzip_is_unpacked_even_inside_folders(tmp_path):
    packed = gzip.compress(b"source")
    assert arrived(tmp_path, {"wheels/ftfy.tar.gz": packed, "wheels/b.txt": b""}) == {
        "wheels/ftfy.tar": b"source",
        "wheels/b.txt": b"",
    }


@pytest.mark.parametrize(
    ("name", "stripped"), [("a+b.whl", "ab.whl"), ("f/é~a.txt", "f/a.txt"), ("d+e/a.txt", "de/a.txt")]
)
def test_names_lose_what_kaggle_strips(tmp_path, name, stripped):
    assert stripped in arrived(tmp_path, {name: b"", "f/other.txt": b"", "d+e/other.txt": b""})


@pytest.mark.parametrize("layout", ["old", "new"])
def test_a_staged_dataset_comes_back_as_the_weights_folder(tmp_path, project, weights_folder, layout):
    staged = stage_dataset(project, weights_folder, project / "wheels", tmp_path / "staged")
    upload_and_unpack(staged.folder, tmp_path / "unpacked")
    (tmp_path / "competition" / "images").mkdir(parents=True)
    folders = {
        ("dataset", "some-weights"): tmp_path / "unpacked",
        ("competition", COMPETITION): tmp_path / "competition",
    }
    mount(layout, tmp_path / "input", "someone", folders)
    found = find_inputs(tmp_path / "input")
    restored = open_weights(restore_weights(found.weights, tmp_path / "weights"))
    assert restored.models == open_weights(weights_folder).models
    assert found.wheels is not None


def test_a_snapshot_notices_a_new_a_changed_and_a_removed_file(tmp_path):
    for name in ("kept", "changed", "removed"):
        (tmp_path / name).write_text("before")
    before = snapshot(tmp_path)
    assert snapshot(tmp_path) == before
    for change in (
        lambda: (tmp_path / "new").touch(),
        lambda: (tmp_path / "changed").write_text("afterwards"),
        lambda: (tmp_path / "removed").unlink(),
    ):
        change()
        assert snapshot(tmp_path) != before
        before = snapshot(tmp_path)
