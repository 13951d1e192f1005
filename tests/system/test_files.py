"""Files that stand whole or not at all, and the room they need."""

import os
import shutil

import pytest

from kernel.errors import UserError
from kernel.system.files import LONGEST_NAME, require_space, unfinished_path, whole_file, write_whole


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
