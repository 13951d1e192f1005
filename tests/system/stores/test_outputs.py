"""A folder and a real S3-speaking server: whatever ends a command, what the store has can be gone on with."""

import hashlib
import json
import shutil
import threading

import pytest

from kernel.errors import UserError
from kernel.system.stores import outputs
from kernel.system.stores.outputs import Mirror, Order, mirrored
from kernel.system.stores.seals import SEALS, Content, Seal, read_seals
from kernel.system.stores.store import Store
from kernel.system.stores.urls import Url

ORDER = Order(("first", "*", "choice-*", "record"), never=("mine/*",))


class Killed(BaseException):
    """As a process that is gone: nothing catches it."""


@pytest.fixture
def url(s3) -> Url:
    return Url("s3", f"{s3.bucket}/out")


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What was done to objects, in order."""
    done: list[str] = []
    for name in ("write", "put", "remove"):
        monkeypatch.setattr(Store, name, counted(name, getattr(Store, name), done))
    return done


def counted(name, does, done):
    def called(store, of, *more):
        if of != outputs.PROBE:
            done.append(f"{name} {of}")
        does(store, of, *more)

    return called


def write(folder, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", "-")).write_text(content)


def contents(folder) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def on_a_new_machine(url: Url, home) -> dict[str, str]:
    """What a machine that has nothing begins with."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    mirror = Mirror(Store(url), home, ORDER)
    mirror.pull()
    return contents(mirror.folder) if mirror.folder.exists() else {}


def objects(s3, url: Url) -> dict[str, bytes]:
    """All that is there but seals."""
    found = s3.files.find(url.path)
    return {path.removeprefix(f"{url.path}/"): s3.files.cat_file(path) for path in found if f"/{SEALS}" not in path}


def test_the_order_is_that_of_the_patterns():
    names = ["record", "choice-1", "rows", "first", "z"]
    assert sorted(names, key=ORDER.place) == ["first", "rows", "z", "choice-1", "record"]
    assert [name for name in ("a", ".a.tmp", "b/.a", "mine/a", "b/mine") if ORDER.holds(name)] == ["a", "b/mine"]


def test_a_file_comes_with_its_seal_before_it_and_the_record_last(url, tmp_path, said, s3):
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, record="r", choice_1="c", rows="rows")
        write(folder, first="f", **{".rows.tmp": "half"})
        write(folder / "mine", a="not for others")
    assert said == [f"{does} {seal}{name}" for name in ("first", "rows", "choice-1", "record")
                    for does, seal in (("write", SEALS), ("put", ""))]  # fmt: skip
    assert objects(s3, url) == {"first": b"f", "rows": b"rows", "choice-1": b"c", "record": b"r"}
    seal = json.loads(s3.files.cat_file(f"{url.path}/{SEALS}rows"))
    assert seal == {"object": {"sha256": hashlib.sha256(b"rows").hexdigest(), "bytes": 4}, "before": None}


def test_files_are_put_while_the_block_writes(url, tmp_path, monkeypatch, s3):
    monkeypatch.setattr(outputs, "PUT_SECONDS", 0.01)
    there = threading.Event()
    put = Store.put
    monkeypatch.setattr(Store, "put", lambda *of: (put(*of), there.set()))
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, first="f")
        assert there.wait(60)
        assert objects(s3, url) == {"first": b"f"}


def test_another_machine_goes_on_with_what_is_there(url, tmp_path, said, capsys):
    with mirrored(url, tmp_path / "a", ORDER) as folder:
        write(folder, first="f", rows="1")
    said.clear()
    with mirrored(url, tmp_path / "b", ORDER) as folder:
        assert contents(folder) == {"first": "f", "rows": "1"}
        write(folder, record="r")
    assert said == [f"write {SEALS}record", "put record"]
    assert "going on with what is there" in capsys.readouterr().err


def test_the_same_machine_puts_what_it_could_not(url, tmp_path, said):
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, first="f")
    write(folder, rows="made, and not put before the kill")
    said.clear()
    with mirrored(url, tmp_path, ORDER) as folder:
        assert contents(folder) == {"first": "f", "rows": "made, and not put before the kill"}
    assert said == [f"write {SEALS}rows", "put rows"]


def test_what_is_finished_while_the_store_is_away_is_not_given_up_for_what_the_store_has(
    url, tmp_path, said, s3, monkeypatch
):
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, **BEFORE)

    def away(*_):
        raise UserError("the store gives no answer")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="gives no answer"):
        for name in ("write", "put"):
            patch.setattr(Store, name, lambda store, of, *more: None if of == outputs.PROBE else away())
        with mirrored(url, tmp_path, ORDER) as folder:
            (folder / "gone").unlink()
            write(folder, **AFTER)
    with mirrored(url, tmp_path, ORDER) as folder:
        assert contents(folder) == AFTER
    assert objects(s3, url) == {name: content.encode() for name, content in AFTER.items()}


def test_the_object_is_the_very_file_that_its_seal_is_of(url, tmp_path, s3, monkeypatch):
    """Another file comes under its name between the two."""
    mirror, written = Mirror(Store(url), tmp_path / "a", ORDER), Store.write
    write(mirror.folder, first="f", rows="old")

    def replaced_meanwhile(store, of, content):
        written(store, of, content)
        if of == f"{SEALS}rows":
            (mirror.folder / ".next").write_text("newer")
            (mirror.folder / ".next").replace(mirror.folder / "rows")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", replaced_meanwhile)
        mirror.put()
    assert on_a_new_machine(url, tmp_path / "b") == {"first": "f", "rows": "old"}
    mirror.put()
    assert objects(s3, url) == {"first": b"f", "rows": b"newer"}


def test_what_was_being_put_when_this_machine_ended_is_put_again(url, tmp_path, said, s3, monkeypatch):
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, first="f", rows="old")
    write(folder, rows="new")
    mirror = Mirror(Store(url), tmp_path, ORDER)
    mirror.stored = stored_of(url)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", ending(Store.put, [], 0))
        with pytest.raises(Killed):
            mirror.put()
    assert objects(s3, url)["rows"] == b"old" and on_a_new_machine(url, tmp_path / "b")["rows"] == "old"
    with mirrored(url, tmp_path, ORDER) as folder:
        assert contents(folder) == {"first": "f", "rows": "new"}
    assert objects(s3, url)["rows"] == b"new"


def test_who_may_only_read_is_told_before_anything_is_made(url, tmp_path, s3, monkeypatch):
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, first="f")

    async def refuses(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr("s3fs.S3FileSystem._pipe_file", refuses)
    with pytest.raises(UserError, match="cannot be written: no right to .Access Denied"):
        with mirrored(url, tmp_path, ORDER):
            raise AssertionError


def test_where_another_machine_went_on_nothing_of_the_two_is_mixed(url, tmp_path):
    with mirrored(url, tmp_path / "a", ORDER) as ours:
        write(ours, first="f")
    with mirrored(url, tmp_path / "b", ORDER) as theirs:
        write(theirs, choice_1="theirs", rows="of theirs")
    write(ours, choice_1="ours", rows="of ours", more="of ours")
    with mirrored(url, tmp_path / "a", ORDER) as ours:
        assert contents(ours) == {"first": "f", "choice-1": "theirs", "rows": "of theirs"}


BEFORE = {"first": "f", "rows": "old", "choice-1": "old", "gone": "was there"}
AFTER = {"first": "f", "rows": "new", "choice-1": "new", "more": "m", "record": "r"}


def test_whenever_putting_ends_each_object_is_the_old_or_the_new_one_whole(url, tmp_path, said, s3, monkeypatch):
    """Ended before every single call, one after the other; then the store is put back."""
    with mirrored(url, tmp_path / "a", ORDER) as folder:
        write(folder, **BEFORE)
    kept = {path: s3.files.cat_file(path) for path in s3.files.find(url.path)}
    (folder / "gone").unlink()
    write(folder, **AFTER)
    mirror, last, ends = None, 0, 0
    while mirror is None:
        s3.files.rm(url.path, recursive=True)
        for path, content in kept.items():
            s3.files.pipe_file(path, content)
        said.clear()
        found = Mirror(Store(url), tmp_path / "a", ORDER)
        found.stored = stored_of(url)
        with monkeypatch.context() as patch:
            for name in ("write", "put", "remove"):
                patch.setattr(Store, name, ending(getattr(Store, name), said, last))
            try:
                found.put()
                mirror = found
            except Killed:
                ends += 1
        last += 1
        begun = on_a_new_machine(url, tmp_path / "b")
        for name, content in begun.items():
            assert content in (BEFORE.get(name), AFTER.get(name))
        assert begun["first"] == "f" and {"rows", "choice-1"} <= set(begun)
        assert not (begun["choice-1"] == "new" and begun["rows"] == "old")  # what hangs on rows never comes before them
        if "record" in begun:
            assert {name: begun[name] for name in AFTER} == AFTER
    assert begun == AFTER and ends > 8


def stored_of(url: Url) -> dict:
    store = Store(url)
    return {name: seal.object for name, seal in read_seals(store, store.listing()).items()}


def ending(does, done, last):
    def called(*of):
        if len(done) == last:
            raise Killed
        does(*of)

    return called


def test_what_is_gone_here_goes_there_before_anything_comes(url, tmp_path, said):
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, first="f", rows="of the old choice", choice_1="old")
    said.clear()
    with mirrored(url, tmp_path, ORDER) as folder:
        (folder / "rows").unlink()
        write(folder, choice_1="new")
    assert said == ["remove rows", f"remove {SEALS}rows", f"write {SEALS}choice-1", "put choice-1"]


def test_what_a_whole_was_made_of_goes_only_when_the_record_is_there(url, tmp_path, said, s3):
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, first="f", rows="of the whole")
    said.clear()
    with mirrored(url, tmp_path, ORDER) as folder:
        (folder / "first").unlink()
        (folder / "rows").unlink()
        write(folder, whole="w", record="r")
    assert said.index("put record") < said.index("remove first") and said.index("put whole") < said.index("put record")
    assert objects(s3, url) == {"whole": b"w", "record": b"r"}


def test_a_record_of_before_is_gone_while_what_it_tells_of_changes(url, tmp_path, said):
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, rows="old", record="old")
    said.clear()
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, rows="new", record="new")
    assert said[0] == "remove record" and said.index("put rows") < said.index("put record")


def test_what_somebody_else_put_there_stays_and_is_told(url, tmp_path, s3, capsys):
    with mirrored(url, tmp_path / "a", ORDER) as folder:
        write(folder, first="f", rows="1")
    s3.files.pipe(f"{url.path}/notes.txt", b"theirs")
    s3.files.pipe(f"{url.path}/{SEALS}odd", b"no seal")
    with mirrored(url, tmp_path / "b", ORDER) as folder:
        assert contents(folder) == {"first": "f", "rows": "1"}
        (folder / "rows").unlink()
        write(folder, record="r")
    assert objects(s3, url) == {"first": b"f", "record": b"r", "notes.txt": b"theirs"}
    assert s3.files.cat_file(f"{url.path}/{SEALS}odd") == b"no seal"
    assert "1 objects there are somebody else's and stay as they are, the first is notes.txt" in capsys.readouterr().err


def test_an_object_of_somebody_else_is_never_written_over(url, tmp_path, s3):
    with pytest.raises(UserError, match="rows there is somebody else's, as it has no seal"):
        with mirrored(url, tmp_path, ORDER) as folder:
            write(folder, first="f", rows="ours")
            s3.files.pipe(f"{url.path}/rows", b"theirs")
    assert objects(s3, url) == {"first": b"f", "rows": b"theirs"} and contents(folder)["rows"] == "ours"


def test_a_place_that_holds_only_what_others_put_there_is_refused(url, tmp_path, s3, said):
    s3.files.pipe(f"{url.path}/rows", b"theirs")
    with pytest.raises(UserError, match="holds 1 objects that no such command wrote, the first is rows"):
        with mirrored(url, tmp_path, ORDER):
            raise AssertionError
    assert objects(s3, url) == {"rows": b"theirs"} and said == []


@pytest.mark.parametrize("damage", [b"2", b"", b"longer than it was"])
def test_a_damaged_object_does_not_count_and_is_made_again(url, tmp_path, s3, damage, capsys):
    with mirrored(url, tmp_path / "a", ORDER) as folder:
        write(folder, first="f", rows="1")
    s3.files.pipe(f"{url.path}/rows", damage)
    with mirrored(url, tmp_path / "b", ORDER) as folder:
        assert contents(folder) == {"first": "f"}
        write(folder, rows="1")
    assert "rows does not fit its seal; it is made again" in capsys.readouterr().err
    assert on_a_new_machine(url, tmp_path / "c") == {"first": "f", "rows": "1"}
    s3.files.pipe(f"{url.path}/rows", damage)
    with mirrored(url, tmp_path / "b", ORDER) as folder:  # who still has it puts it again
        assert contents(folder) == {"first": "f", "rows": "1"}
    assert on_a_new_machine(url, tmp_path / "c") == {"first": "f", "rows": "1"}


def test_an_object_put_in_parts_is_read_to_be_compared(url, tmp_path, s3, monkeypatch):
    """Its tag is no md5 then."""
    rows = "1" * 12 * 2**20
    with mirrored(url, tmp_path, ORDER) as folder:
        write(folder, first="f", rows=rows)
    s3.files.put_file(str(folder / "rows"), f"{url.path}/rows", chunksize=5 * 2**20)
    assert "-" in s3.files.info(f"{url.path}/rows")["ETag"]
    read, fetch = [], Store.fetch
    monkeypatch.setattr(Store, "fetch", lambda store, name, file: (read.append(name), fetch(store, name, file)))
    mirror = Mirror(Store(url), tmp_path, ORDER)
    mirror.pull()
    assert read == ["rows"] and contents(folder) == {"first": "f", "rows": rows}
    assert mirror.stored["rows"] == Content.of(folder / "rows")


def test_a_store_that_fails_for_a_while_is_told_once_and_stops_nothing(url, tmp_path, monkeypatch, capsys, s3):
    monkeypatch.setattr(outputs, "PUT_SECONDS", 0.01)
    write_object, tries, enough = Store.write, [], threading.Event()

    def fails(store, *of):
        tries.append(of)
        if len(tries) <= 3:
            raise UserError("the store is away")
        enough.set()
        write_object(store, *of)

    with mirrored(url, tmp_path, ORDER) as folder:
        monkeypatch.setattr(Store, "write", fails)
        write(folder, first="f")
        assert enough.wait(60)
    assert capsys.readouterr().err.count("the store is away") == 1 and objects(s3, url) == {"first": b"f"}


def test_a_store_that_fails_at_the_end_is_an_error_and_all_is_kept_here(url, tmp_path, monkeypatch):
    def fails(*_):
        raise UserError("the store is away")

    with pytest.raises(UserError, match="the store is away"):
        with mirrored(url, tmp_path, ORDER) as folder:
            write(folder, first="f")
            monkeypatch.setattr(Store, "write", fails)
    assert contents(folder) == {"first": "f"}


def test_what_was_made_before_an_error_is_put(url, tmp_path, s3):
    with pytest.raises(UserError, match="the disk is full"):
        with mirrored(url, tmp_path, ORDER) as folder:
            write(folder, first="f")
            raise UserError("the disk is full")
    assert objects(s3, url) == {"first": b"f"}


def test_two_commands_of_one_machine_do_not_write_to_one_place(url, tmp_path):
    with mirrored(url, tmp_path, ORDER):
        with pytest.raises(UserError, match="another command of this machine writes there"):
            with mirrored(url, tmp_path, ORDER):
                raise AssertionError


def test_what_is_put_is_of_one_moment(url, tmp_path, monkeypatch):
    """A look during which files come may miss an earlier one."""
    mirror, looks = Mirror(Store(url), tmp_path, ORDER), [{"b": (2, 1, 2)}, {"a": (1, 1, 1), "b": (2, 1, 2)}]
    monkeypatch.setattr(mirror, "look", lambda: looks.pop(0) if len(looks) > 1 else looks[0])
    assert mirror.settled() == {"a": (1, 1, 1), "b": (2, 1, 2)}
    monkeypatch.setattr(mirror, "look", lambda: {f"{len(looks)}": looks.append({}) or (1, 1, 1)})
    with pytest.raises(UserError, match="files come and go without end"):
        mirror.settled()


def test_a_seal_that_is_there_without_its_object_is_ours(url, tmp_path, s3):
    seal = Seal(Content(hashlib.sha256(b"f").hexdigest(), 1))
    s3.files.pipe(f"{url.path}/{SEALS}first", seal.as_bytes())
    with mirrored(url, tmp_path, ORDER) as folder:
        assert not folder.exists()
        write(folder, first="f")
    assert on_a_new_machine(url, tmp_path / "b") == {"first": "f"}
