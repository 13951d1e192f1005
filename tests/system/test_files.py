"""Files that stand whole or not at all, and the room they need."""

import hashlib
import os
import shutil

import pytest

from kernel.errors import UserError
from kernel.system import files
from kernel.system.files import (
    LONGEST_NAME,
    file_sha256,
    hashing,
    require_space,
    unfinished_path,
    whole_file,
    write_whole,
)


def test_a_file_that_could_not_be_finished_leaves_the_older_one_and_nothing_else(tmp_path):
    path = tmp_path / "answer.csv"
    path.write_text("older")
    with pytest.raises(ValueError, match="half"), whole_file(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "older"
        raise ValueError("half")
    assert [own.name for own in tmp_path.iterdir()] == ["answer.csv"] and path.read_text() == "older"
    with whole_file(path) as unfinished:
        unfinished.write_text("new")
    assert [own.name for own in tmp_path.iterdir()] == ["answer.csv"] and path.read_text() == "new"


def test_a_disk_that_is_too_small_by_a_byte_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 2 * 10**9))
    require_space(tmp_path, 2 * 10**9, "a run may write 2.00 GB", "give --out another disk")
    expected = r": 2.00 GB are free, a run may write 2.00 GB: the disk would be full. Free 0.01 MB there, or give --out"
    with pytest.raises(UserError, match=expected):
        require_space(tmp_path, 2 * 10**9 + 1, "a run may write 2.00 GB", "give --out another disk")


def test_a_file_of_the_longest_name_there_is_is_written_whole(tmp_path):
    names = ["가" * 83 + "ab.txt", "가" * 83 + "ac.txt"]
    for name in names:
        assert len(os.fsencode(name)) == LONGEST_NAME
        write_whole(tmp_path / name, name.encode())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict(zip(names, names, strict=True))
    assert unfinished_path(tmp_path / names[0]) != unfinished_path(tmp_path / names[1])


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 1000])
def test_a_file_hashed_block_by_block_has_the_sha256_of_its_bytes(tmp_path, monkeypatch, size):
    monkeypatch.setattr(files, "HASHED_BYTES", 64)
    data = bytes(index % 251 for index in range(size))
    (tmp_path / "file").write_bytes(data)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_files_hashed_in_threads_have_each_its_own_sha256(tmp_path):
    data = {tmp_path / f"{index}": os.urandom(index * 1000) for index in range(20)}
    for path, content in data.items():
        path.write_bytes(content)
    with hashing(data) as sha256_of:
        found = {path: sha256_of(path) for path in data}
    assert found == {path: hashlib.sha256(content).hexdigest() for path, content in data.items()}


def test_a_file_that_cannot_be_read_is_told_to_who_asks_for_it(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / name).touch()

    def broken(path):
        if path.name == "b":
            raise OSError(5, "Input/output error")
        return path.name

    monkeypatch.setattr(files, "file_sha256", broken)
    with hashing([tmp_path / "a", tmp_path / "b"]) as sha256_of:
        assert sha256_of(tmp_path / "a") == "a"
        with pytest.raises(OSError, match="Input/output error"):
            sha256_of(tmp_path / "b")
