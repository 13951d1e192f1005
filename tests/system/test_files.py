"""Files that stand whole or not at all, and the room they need."""

import shutil

import pytest

from kernel.errors import UserError
from kernel.system.files import require_space, whole_file


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
