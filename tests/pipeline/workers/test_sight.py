"""What a machine of a cluster must find as the command does: each difference is one line, before anything is made."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kernel.pipeline.workers.sight import Sight, seen_by_command
from kernel.publish.hub.pairs.pieces import Resizing
from kernel.system import files
from kernel.system.files import write_while, write_whole


@pytest.fixture
def work(tmp_path) -> Resizing:
    (tmp_path / "pieces").mkdir()
    (tmp_path / "source.tar").write_bytes(b"pictures" * 9)
    return Resizing(tmp_path / "pieces", tmp_path / "source.tar")


@pytest.fixture(autouse=True)
def unfenced(monkeypatch):
    monkeypatch.setattr(files, "fence", None)


def test_this_very_machine_differs_in_nothing_and_nothing_is_left_behind(work):
    with seen_by_command(work, ["cpu"]) as sight:
        assert Sight(**asdict(sight)).differs("cpu") is None
        assert len(list(work.folder.iterdir())) == 1
    assert list(work.folder.iterdir()) == []


def test_relative_paths_mean_what_they_mean_to_the_command(work, monkeypatch):
    monkeypatch.chdir(work.folder.parent)
    with seen_by_command(Resizing(Path("pieces"), Path("source.tar")), []) as sight:
        monkeypatch.chdir("/")
        assert sight.differs("cpu") is None
        assert Path.cwd() == work.folder.parent


def test_a_folder_of_the_same_name_that_is_another_one_is_not_seen(work):
    with seen_by_command(work, []) as sight:
        for path in work.folder.iterdir():
            path.unlink()
        said = sight.differs("cpu")
    assert f"does not see {work.folder} as the command does" in str(said)


@pytest.mark.parametrize("content", [None, b"others", b"PICTURES" * 9])
def test_an_input_that_is_not_there_or_another_one_is_not_seen(work, content):
    with seen_by_command(work, []) as sight:
        work.source.unlink()
        if content:
            work.source.write_bytes(content)
        said = sight.differs("cpu")
    assert f"does not see {work.source} as the command does" in str(said)


def test_what_the_command_cannot_read_either_is_nobodys_fault(work):
    work.source.unlink()
    with seen_by_command(work, []) as sight:
        assert sight.differs("cpu") is None


def test_a_folder_that_may_not_be_written_is_told(work, as_a_user):
    with seen_by_command(work, []) as sight:
        work.folder.chmod(0o500)
        said = sight.differs("cpu")
        work.folder.chmod(0o700)
    assert f"sees {work.folder} and cannot write there (Permission denied)" in str(said)


def test_another_package_another_torch_or_another_device_is_told(work):
    with seen_by_command(work, ["Tesla T4"]) as sight:
        assert "another version of this package" in str(replace(sight, code="0").differs("Tesla T4"))
        older = replace(sight, versions={**sight.versions, "torch": "1.0"})
        assert "the command 1.0. Install the same everywhere" in str(older.differs("Tesla T4"))
        assert "computes on A100, the work began on Tesla T4" in str(sight.differs("A100"))


def test_who_works_for_a_command_that_was_followed_by_another_writes_nothing_more(work):
    out = work.folder / "00000.tar"
    with seen_by_command(work, []) as sight:
        write_while(Path(sight.marks[0]))
        write_whole(out, b"first")
        with seen_by_command(work, []), pytest.raises(OSError, match="the command for which it was made has ended"):
            write_whole(out, b"later")
    assert out.read_bytes() == b"first"
    assert list(work.folder.iterdir()) == [out]
