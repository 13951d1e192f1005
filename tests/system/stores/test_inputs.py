"""What is fetched from a real S3-speaking server, once, and again where it was written there again."""

import fcntl
import json
import os

import pytest

from kernel.errors import UserError
from kernel.system.stores import inputs
from kernel.system.stores.inputs import fetched
from kernel.system.stores.seals import SEALS, Content, Seal
from kernel.system.stores.store import Store
from kernel.system.stores.urls import Url
from tests.whole.test_full_disk import mount  # noqa: F401  # a fixture


@pytest.fixture
def put(s3):
    """Puts objects under s3://BUCKET/in."""

    def these(**objects: bytes) -> None:
        for name, content in objects.items():
            s3.files.pipe(f"{s3.bucket}/in/{name.replace('_', '/')}", content)

    return these


@pytest.fixture
def url(s3) -> Url:
    return Url("s3", f"{s3.bucket}/in")


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """The names of the objects that are fetched."""
    names: list[str] = []
    fetch = Store.fetch

    def told(store, name, file):
        names.append(name)
        fetch(store, name, file)

    monkeypatch.setattr(Store, "fetch", told)
    return names


def contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_whole_and_is_not_fetched_again(put, url, tmp_path, asked):
    put(a=b"1", b_c=b"23")
    folder = fetched(url, tmp_path)
    assert folder == tmp_path / "in" and contents(folder) == {"a": b"1", "b/c": b"23"}
    assert fetched(url, tmp_path) == folder and sorted(asked) == ["a", "b/c"]


def test_a_file_keeps_its_name(put, url, tmp_path, asked):
    put(a=b"1", b_c=b"23")
    for _ in range(2):
        file = fetched(Url("s3", f"{url.path}/b/c"), tmp_path)
    assert file == tmp_path / "c" and file.read_bytes() == b"23" and asked == [""]


def test_only_what_was_written_again_is_fetched_again_and_what_is_gone_goes(put, url, s3, tmp_path, asked):
    put(a=b"1", b=b"2", c=b"3")
    fetched(url, tmp_path)
    asked.clear()
    put(b=b"9")
    s3.files.rm_file(f"{url.path}/c")
    assert contents(fetched(url, tmp_path)) == {"a": b"1", "b": b"9"} and asked == ["b"]


def test_a_file_that_was_cut_here_is_fetched_again(put, url, tmp_path, asked):
    put(a=b"12345")
    (fetched(url, tmp_path) / "a").write_bytes(b"123")
    assert contents(fetched(url, tmp_path)) == {"a": b"12345"} and asked == ["a", "a"]


def test_a_file_where_a_folder_was_and_back(put, url, s3, tmp_path):
    put(a=b"1")
    fetched(url, tmp_path)
    s3.files.rm_file(f"{url.path}/a")
    s3.files.pipe(url.path, b"now a file")
    assert fetched(url, tmp_path).read_bytes() == b"now a file"
    s3.files.rm_file(url.path)
    put(a=b"1")
    assert contents(fetched(url, tmp_path)) == {"a": b"1"}


def test_what_a_killed_command_left_is_no_file_of_the_folder(put, url, tmp_path):
    put(a=b"1")
    (tmp_path / "fetching").mkdir()
    (tmp_path / "fetching" / "0").write_bytes(b"half")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "stale").write_bytes(b"of another time")
    assert contents(fetched(url, tmp_path)) == {"a": b"1"}
    assert not (tmp_path / "fetching").exists()


def test_nothing_there_is_said(url, tmp_path):
    with pytest.raises(
        UserError, match=r"/in: there is no such object, and none below it; expected a file or a folder"
    ):
        fetched(url, tmp_path)


def test_what_does_not_fit_its_seal_is_not_taken(put, url, s3, tmp_path):
    put(a=b"1")
    s3.files.pipe(f"{url.path}/{SEALS}a", Seal(Content("0" * 64, 1)).as_bytes())
    with pytest.raises(UserError, match="a is not what its seal in .seals/ says"):
        fetched(url, tmp_path)
    assert not (tmp_path / "in" / "a").exists()
    (tmp_path / "own").write_bytes(b"1")
    s3.files.pipe(f"{url.path}/{SEALS}a", Seal(Content.of(tmp_path / "own")).as_bytes())
    assert contents(fetched(url, tmp_path)) == {"a": b"1"}  # the seals are no part of it


def test_an_object_that_changes_while_it_is_fetched_is_not_taken(put, url, tmp_path, monkeypatch):
    put(a=b"1")
    fetch = Store.fetch

    def changed(store, name, file):
        put(a=b"longer")
        fetch(store, name, file)

    monkeypatch.setattr(Store, "fetch", changed)
    with pytest.raises(UserError, match="a came with 6 bytes, and is listed with 1"):
        fetched(url, tmp_path)
    assert not (tmp_path / "in" / "a").exists()


def test_what_the_disk_has_no_room_for_is_told_before_it_is_fetched(put, url, mount, asked):  # noqa: F811
    disk = mount(2**20)
    put(a=bytes(2**21))
    with pytest.raises(UserError, match="are free, s3://.* takes 2,097,152 bytes more"):
        fetched(url, disk)
    assert asked == []


def test_a_disk_that_fills_up_meanwhile_is_one_line_and_goes_on_afterwards(put, url, mount, monkeypatch):  # noqa: F811
    disk = mount(2**20)
    put(a=bytes(2**10), b=bytes(2**21))
    monkeypatch.setattr(inputs, "require_space", lambda *_: None)  # another takes the room after that look
    with pytest.raises(UserError, match="cannot be written .*No space left.*give --mirror another folder"):
        fetched(url, disk)
    assert not (disk / "in" / "b").exists() and not (disk / "fetching").exists()
    put(b=b"2")
    assert contents(fetched(url, disk)) == {"a": bytes(2**10), "b": b"2"}


def test_what_came_before_a_fetch_broke_off_is_not_fetched_again(put, url, tmp_path, asked, monkeypatch):
    put(**{name: name.encode() for name in "abcd"})
    monkeypatch.setattr(inputs, "AT_ONCE", 1)
    told = Store.fetch

    def broken_at_c(store, name, file):
        if name == "c":
            raise UserError("the store gives no answer")
        told(store, name, file)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="gives no answer"):
        patch.setattr(Store, "fetch", broken_at_c)
        fetched(url, tmp_path)
    asked.clear()
    assert contents(fetched(url, tmp_path)) == {name: name.encode() for name in "abcd"}
    assert asked == ["c", "d"]


def test_what_another_command_reads_is_not_changed_under_it(put, url, tmp_path):
    put(a=b"1")
    folder = fetched(url, tmp_path)
    with (tmp_path / "readers.lock").open("w") as other:
        with pytest.raises(BlockingIOError):  # as that would look here, while this process reads
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_SH)
        assert fetched(url, tmp_path) == folder
        put(a=b"2", b=b"3")
        with pytest.raises(UserError, match="another command reads it, and .* holds something else by now"):
            fetched(url, tmp_path)
        assert contents(folder) == {"a": b"1"}
    assert contents(fetched(url, tmp_path)) == {"a": b"2", "b": b"3"}


def test_who_could_not_fetch_reads_nothing(put, url, tmp_path):
    put(a=b"1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inputs, "require_space", lambda *_: (_ for _ in ()).throw(UserError("full")))
        with pytest.raises(UserError, match="full"):
            fetched(url, tmp_path)
    with (tmp_path / "readers.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert contents(fetched(url, tmp_path)) == {"a": b"1"}


def test_no_more_is_begun_after_an_error():
    begun = []

    def fails(number: int) -> None:
        begun.append(number)
        raise UserError("no")

    with pytest.raises(UserError):
        list(inputs.at_once(fails, range(1000)))
    assert len(begun) < 1000


def test_a_record_of_what_was_fetched_that_is_none_is_one_line(put, url, tmp_path):
    put(a=b"1")
    fetched(url, tmp_path)
    (tmp_path / "origin.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="not what was fetched.*it is fetched anew"):
        fetched(url, tmp_path)
    os.remove(tmp_path / "origin.json")
    assert contents(fetched(url, tmp_path)) == {"a": b"1"}
