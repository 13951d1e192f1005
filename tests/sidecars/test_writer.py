"""Which captions are made, each once, whatever happens between: of the writer with its journal, without models."""

import json
import os
from collections import Counter
from contextlib import suppress
from io import FileIO

import pytest

from kernel.errors import UserError
from kernel.sidecars.asked import Sidecars
from kernel.sidecars.journal import NAME
from kernel.sidecars.tables import FEWEST
from kernel.sidecars.txt import read_txt, txt_path
from kernel.sidecars.writer import Writer, home_of
from tests.sidecars.records import killed, pictures, record_of, writer_on

NEW = "a fox, fog, ink"


def write_all(writer):
    for image in writer.left:
        writer.tell(record_of(image))
    return writer.finish()


@pytest.mark.parametrize(
    "existing, old, said",
    [
        ("skip", ["old"], "2 captions written, 1 kept as they were"),
        ("overwrite", [NEW], "3 captions written, 0 kept as they were"),
        ("append", [f"old, {NEW}"], "3 captions written, 0 kept as they were"),
        ("prepend", [f"{NEW}, old"], "3 captions written, 0 kept as they were"),
    ],
)
def test_what_becomes_of_a_caption_that_is_there(tmp_path, existing, old, said):
    images = pictures(tmp_path)
    txt_path(images[1]).write_text("old\n")
    txt_path(images[2]).write_text("\n")  # no caption
    writer = writer_on(tmp_path, images, existing=existing)
    assert writer.left == [image for image in images if existing != "skip" or image != images[1]]
    assert write_all(writer) == said
    assert [read_txt(txt_path(image)) for image in images] == [[NEW], old, [NEW]]
    assert not (tmp_path / NAME).exists()


def test_a_picture_without_description_gets_no_file_and_is_counted(tmp_path):
    images = pictures(tmp_path, "ab")
    writer = writer_on(tmp_path, images, form="tags")
    writer.tell({"image": str(images[0]), "mode": "fast", "error": "no image"})
    empty = record_of(images[1], terms=())
    writer.tell(empty)
    assert empty["error"] == "no term was chosen, of which --form tags makes a caption"
    assert writer.finish() == "0 captions written, 0 kept as they were, 2 images without one"
    assert not list(tmp_path.glob("*.txt"))


def test_a_picture_given_twice_is_described_once(tmp_path, monkeypatch):
    (image,) = pictures(tmp_path, "a")
    monkeypatch.chdir(tmp_path)
    writer = writer_on(tmp_path, [image, image.relative_to(tmp_path), tmp_path / "." / "a.png"], existing="append")
    assert len(writer.left) == 1
    writer.finish()


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
@pytest.mark.parametrize("existing", ["skip", "overwrite", "append", "prepend"])
def test_after_a_kill_the_same_command_does_the_rest_and_nothing_twice(tmp_path, kind, existing):
    images = pictures(tmp_path, "abcdef")
    settings = {"existing": existing, **({"out": str(tmp_path / "batch.csv")} if kind == "csv" else {})}
    first = writer_on(tmp_path, images[:3], kind, **settings)
    for image in images[:3]:
        first.tell(record_of(image, "old", ()))
    first.finish()
    described = Counter()
    for _ in range(3):
        writer = writer_on(tmp_path, images, kind, **settings)
        for image in writer.left[:2]:
            writer.tell(record_of(image))
            described[image.name] += 1
        killed(writer)
    writer = writer_on(tmp_path, images, kind, **settings)
    assert writer.left == []
    writer.finish()
    old = {"skip": ["old"], "overwrite": [NEW], "append": [f"old, {NEW}"], "prepend": [f"{NEW}, old"]}[existing]
    after = writer_on(tmp_path, images, kind, **settings)
    assert list(after.before.values()) == [old] * 3 + [[NEW]] * 3
    after.finish()
    assert set(described.values()) == {1} and len(described) == (3 if existing == "skip" else 6)


def test_what_was_made_but_not_written_when_the_kill_came_is_written(tmp_path, monkeypatch):
    (image,) = pictures(tmp_path, "a")
    txt_path(image).write_text("old\n")
    writer = writer_on(tmp_path, [image], existing="append")
    monkeypatch.setattr(writer, "flush", lambda: None)
    writer.tell(record_of(image))
    killed(writer)
    assert read_txt(txt_path(image)) == ["old"]
    writer = writer_on(tmp_path, [image], existing="append")
    assert writer.left == [] and read_txt(txt_path(image)) == [f"old, {NEW}"]
    writer.finish()


def test_what_was_written_but_not_noted_when_the_kill_came_is_not_written_again(tmp_path, monkeypatch):
    (image,) = pictures(tmp_path, "a")
    txt_path(image).write_text("old\n")
    writer = writer_on(tmp_path, [image], existing="append")
    monkeypatch.setattr(writer.journal, "written", lambda: None)
    writer.tell(record_of(image))
    killed(writer)
    writer = writer_on(tmp_path, [image], existing="append")
    writer.finish()
    assert read_txt(txt_path(image)) == [f"old, {NEW}"]


@pytest.mark.parametrize("existing", ["skip", "overwrite", "append", "prepend"])
def test_a_caption_that_was_corrected_after_the_kill_stays(tmp_path, existing):
    images = pictures(tmp_path, "ab")
    writer = writer_on(tmp_path, images, existing=existing)
    writer.tell(record_of(images[0]))
    killed(writer)
    for image in images:  # one was written before, the other was to come
        txt_path(image).write_text("by hand\n")
    writer = writer_on(tmp_path, images, existing=existing)
    assert images[0] not in writer.left
    write_all(writer)
    assert read_txt(txt_path(images[0])) == ["by hand"]
    (second,) = read_txt(txt_path(images[1]))
    assert second == {"append": f"by hand, {NEW}", "prepend": f"{NEW}, by hand"}.get(existing, "by hand")
    assert writer.changed == ([images[1]] if existing == "overwrite" else [])


def test_a_caption_that_was_corrected_after_the_kill_stays_though_the_next_command_ended_early_too(tmp_path):
    (image,) = pictures(tmp_path, "a")
    txt_path(image).write_text("old\n")
    killed(writer_on(tmp_path, [image], existing="overwrite"))
    txt_path(image).write_text("by hand\n")
    for _ in range(2):
        writer = writer_on(tmp_path, [image], existing="overwrite")
        writer.stop()  # before its first record
    writer = writer_on(tmp_path, [image], existing="overwrite")
    write_all(writer)
    assert read_txt(txt_path(image)) == ["by hand"] and writer.changed == [image]


def test_a_caption_that_was_set_back_after_the_kill_stays(tmp_path):
    (image,) = pictures(tmp_path, "a")
    txt_path(image).write_text("old\n")
    writer = writer_on(tmp_path, [image], existing="append")
    writer.tell(record_of(image))
    killed(writer)
    txt_path(image).write_text("old\n")
    write_all(writer_on(tmp_path, [image], existing="append"))
    assert read_txt(txt_path(image)) == ["old"]


@pytest.mark.parametrize("existing", ["skip", "overwrite", "append"])
def test_a_txt_that_somebody_writes_meanwhile_stays(tmp_path, existing):
    images = pictures(tmp_path, "ab")
    writer = writer_on(tmp_path, images, existing=existing)
    txt_path(images[0]).write_text("by hand\n")
    assert write_all(writer) == "1 captions written, 0 kept as they were"
    assert [read_txt(txt_path(image)) for image in images] == [["by hand"], [NEW]] and writer.changed == [images[0]]


@pytest.mark.parametrize("existing", ["skip", "overwrite", "append"])
def test_a_row_that_somebody_writes_meanwhile_stays(tmp_path, existing):
    images = pictures(tmp_path, "ab")
    writer = writer_on(tmp_path, images, "jsonl", existing=existing)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "by hand"}\n{"file_name": "z.png"}\n')
    said = write_all(writer)
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert rows == [
        {"file_name": "a.png", "text": "by hand"}, {"file_name": "z.png"}, {"file_name": "b.png", "text": NEW}
    ]  # fmt: skip
    assert writer.changed == [images[0]] and said == "1 captions written, 0 kept as they were"


def test_a_line_of_the_journal_that_the_kill_cut_off_is_no_line(tmp_path):
    images = pictures(tmp_path, "ab")
    writer = writer_on(tmp_path, images)
    writer.tell(record_of(images[0]))
    killed(writer)
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'{"image": "b.png", "before": [], "aft')
    writer = writer_on(tmp_path, images)
    assert writer.left == [images[1]]
    writer.tell(record_of(images[1]))
    killed(writer)
    assert write_all(writer_on(tmp_path, images)) == "2 captions written, 0 kept as they were"
    assert [read_txt(txt_path(image)) for image in images] == [[NEW], [NEW]]


def test_a_command_with_other_options_is_refused_until_the_interrupted_one_is_done_or_given_up(tmp_path):
    images = pictures(tmp_path)
    killed(writer_on(tmp_path, images, existing="append", prefix="sks"))
    for settings, said in (
        ({"existing": "prepend", "prefix": "sks"}, "existing was 'append', is 'prepend'"),
        ({"existing": "append", "prefix": "sks", "max_tokens": 75}, "max_tokens was None, is 75"),
    ):
        with pytest.raises(UserError) as refused:
            writer_on(tmp_path, images, **settings)
        assert f"interrupted here ({said})" in str(refused.value)
        assert f"remove {tmp_path / NAME} to give it up, and {NAME} in each other folder" in str(refused.value)
    (tmp_path / NAME).unlink()
    write_all(writer_on(tmp_path, images, existing="prepend"))


def test_a_command_on_a_folder_inside_is_refused_too(tmp_path):
    images = pictures(tmp_path / "x") + pictures(tmp_path / "x" / "y", "d")
    killed(writer_on(tmp_path / "x", images, existing="append"))
    with pytest.raises(UserError, match=rf"y/\{NAME}: .*its journal lies in {tmp_path / 'x'}\)"):
        writer_on(tmp_path / "x" / "y", images[3:], existing="append")
    assert len(writer_on(tmp_path / "x", images, existing="append").left) == 4


def test_two_commands_at_once_are_refused(tmp_path):
    images = pictures(tmp_path)
    writer = writer_on(tmp_path, images, existing="append")
    with pytest.raises(UserError, match="another describe --write is at work here"):
        writer_on(tmp_path, images, existing="append")
    write_all(writer)


def test_where_what_was_made_cannot_be_written_another_command_can_begin_in_this_process(tmp_path, monkeypatch):
    images = pictures(tmp_path)
    killed(writer_on(tmp_path, images))

    def refused(files, changes):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("kernel.sidecars.txt.TextFiles.write", refused)
        with pytest.raises(UserError, match="No space left on device") as kept:
            writer_on(tmp_path, images)
    assert write_all(writer_on(tmp_path, images)) == "3 captions written, 0 kept as they were"
    assert kept.tb is not None  # as a notebook keeps it, and with it all that the command held


def test_a_picture_in_a_folder_that_is_not_there_is_one_without_a_caption(tmp_path):
    images = [*pictures(tmp_path / "x", "a"), tmp_path / "z" / "b.png"]
    writer = Writer(Sidecars("txt"), [str(image) for image in images[::-1]], images[::-1], {})
    writer.tell({"image": str(images[1]), "mode": "fast", "error": "no such file"})
    writer.tell(record_of(images[0]))
    assert writer.finish() == "1 captions written, 0 kept as they were, 1 images without one"
    assert read_txt(txt_path(images[0])) == [NEW] and not list(tmp_path.rglob(NAME))
    with pytest.raises(UserError, match="z: no such folder"):
        Writer(Sidecars("txt"), [str(images[1])], images[1:], {})


def test_where_one_folder_cannot_be_written_it_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    images = pictures(tmp_path / "x") + pictures(tmp_path / "x" / "y", "d") + pictures(tmp_path / "x" / "z", "e")

    def write(path, data):
        if path.parent.name == "z":
            raise OSError(13, "Permission denied")
        path.write_bytes(data)

    monkeypatch.setattr("kernel.sidecars.journal.write_whole", write)
    with pytest.raises(UserError, match=r"cannot be written \(.*/x/z: Permission denied\)"):
        writer_on(tmp_path / "x", images)
    assert not list(tmp_path.rglob(NAME))


def test_a_command_with_other_options_is_not_told_to_remove_the_journal_of_one_at_work(tmp_path):
    images = pictures(tmp_path / "x") + pictures(tmp_path / "x" / "y", "d")
    writer = writer_on(tmp_path / "x", images, existing="append")
    for folder, own in ((tmp_path / "x", images), (tmp_path / "x" / "y", images[3:])):
        with pytest.raises(UserError, match="x/.describe.jsonl: another describe --write is at work here"):
            writer_on(folder, own)
    assert [write_all(writer), *tmp_path.rglob(NAME)] == ["4 captions written, 0 kept as they were"]


@pytest.mark.parametrize("content", [b"", b"[]\n", b"no json\n", b'{"format": 1}\n', b'{"asked": 1, "home": 2}\n'])
def test_a_file_of_that_name_that_is_no_journal_is_told(tmp_path, content):
    images = pictures(tmp_path)
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(UserError, match="expected what an interrupted describe --write left"):
        writer_on(tmp_path, images)
    assert (tmp_path / NAME).read_bytes() == content


def test_a_line_that_the_disk_refuses_halfway_is_none(tmp_path):
    images = pictures(tmp_path)
    writer = writer_on(tmp_path, images)
    writer.tell(record_of(images[0]))

    class Full(FileIO):
        def write(self, data):
            if len(data) < 20:
                raise OSError(28, "No space left on device")
            return super().write(data[:-10])

    whole, file = writer.journal.file, Full(tmp_path / NAME, "r+")
    file.seek(0, 2)
    writer.journal.file = file
    with pytest.raises(UserError, match="cannot be written .No space left on device.; free space"):
        writer.tell(record_of(images[1]))
    whole.seek(0, 2)
    writer.journal.file = whole  # there is room again
    writer.tell(record_of(images[1]))
    killed(writer)
    writer = writer_on(tmp_path, images)
    assert writer.left == images[2:]
    killed(writer)


@pytest.mark.parametrize("noted", [False, True])
def test_a_command_that_is_stopped_at_a_picture_writes_it_once(tmp_path, noted, monkeypatch):
    images = pictures(tmp_path, "ab")
    writer = writer_on(tmp_path, images, "jsonl", existing="append")
    writer.tell(record_of(images[0]))
    if noted:  # between the line of the journal and its being known
        monkeypatch.setattr(writer.journal, "unwritten", None)
    with suppress(AttributeError):
        writer.tell(record_of(images[1]))
    writer.journal.unwritten = writer.journal.unwritten or []
    writer.stop()
    assert noted or len((tmp_path / "metadata.jsonl").read_text().splitlines()) == 2
    killed(writer)
    writer = writer_on(tmp_path, images, "jsonl", existing="append")
    assert writer.left == []
    writer.finish()
    rows = [json.loads(line)["text"] for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert rows == [NEW, NEW]


@pytest.mark.parametrize("line", [b'{"picture": "a.png"}', b'{"image": "a.png", "before": [], "after": [1]}', b"3",
                                  b'{"begun": 1}', b'{"begun": "0"}'])  # fmt: skip
def test_a_spoilt_line_of_a_journal_is_told(tmp_path, line):
    images = pictures(tmp_path)
    killed(writer_on(tmp_path, images))
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole + line + b"\n")
    with pytest.raises(UserError, match="expected what an interrupted describe --write left") as kept:
        writer_on(tmp_path, images)
    (tmp_path / NAME).write_bytes(whole)
    assert write_all(writer_on(tmp_path, images)).startswith("3 captions written") and kept.tb is not None


def test_after_a_kill_while_the_journal_was_removed_nothing_is_left_to_do(tmp_path, monkeypatch):
    images = pictures(tmp_path / "x") + pictures(tmp_path / "x" / "y", "d")
    writer = writer_on(tmp_path / "x", images, existing="append")
    for image in images:
        writer.tell(record_of(image))
    (tmp_path / "x" / "y" / NAME).unlink()  # the first step of `remove`
    killed(writer)
    writer = writer_on(tmp_path / "x", images, existing="append")
    assert writer.left == []
    writer.finish()
    assert not list(tmp_path.rglob(NAME)) and read_txt(txt_path(images[3])) == [NEW]


def test_a_folder_that_was_moved_after_the_kill_goes_on(tmp_path):
    images = pictures(tmp_path / "x")
    writer = writer_on(tmp_path / "x", images, existing="append")
    writer.tell(record_of(images[0]))
    killed(writer)
    (tmp_path / "x").rename(tmp_path / "z")
    images = [tmp_path / "z" / image.name for image in images]
    writer = writer_on(tmp_path / "z", images, existing="append")
    assert writer.left == images[1:]
    killed(writer)


def test_tables_are_written_now_and_then_and_not_for_every_picture(tmp_path, monkeypatch):
    images = pictures(tmp_path, [f"{number:04d}" for number in range(12 * FEWEST)])
    writer = writer_on(tmp_path, images, "jsonl")
    sizes, write = [], writer.files.write
    monkeypatch.setattr(writer.files, "write", lambda changes: sizes.append(len(changes)) or write(changes))
    write_all(writer)
    assert sizes[0] == FEWEST and sizes[-2] > FEWEST and sum(sizes) == len(images)
    assert len((tmp_path / "metadata.jsonl").read_text().splitlines()) == len(images)


def test_a_name_that_is_not_utf_8_has_a_txt_and_no_row(tmp_path):
    image = tmp_path / os.fsdecode(b"f\xfc.png")
    image.touch()
    with pytest.raises(UserError, match="the name is not UTF-8, and a jsonl file is"):
        writer_on(tmp_path, [image], "jsonl")
    write_all(writer_on(tmp_path, [image]))
    assert read_txt(txt_path(image)) == [NEW]


@pytest.mark.parametrize(
    "given, home",
    [("x", "x"), ("x/a.png", "x"), ("x/*.png", "x"), ("x/**/*.png", "x"), ("*/a.png", "."), ("no.png", ".")],
)
def test_where_the_journal_lies(tmp_path, monkeypatch, given, home):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "x")
    assert str(home_of(given)) == home
