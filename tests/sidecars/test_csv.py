import csv

import pytest

from kernel.errors import UserError
from kernel.sidecars.csv import csv_bytes
from tests.sidecars.records import pictures, record_of, writer_on


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_every_picture_has_one_row_relative_to_the_file(tmp_path):
    images = pictures(tmp_path / "x") + pictures(tmp_path / "x" / "y", "d")
    out = tmp_path / "x" / "batch.csv"
    for turn in range(2):
        writer = writer_on(tmp_path / "x", images, "csv", out=str(out), existing="overwrite")
        assert writer.left == images
        for image in images:
            writer.tell(record_of(image, f'a "{image.stem}" \u72d0 {turn}'))
        writer.finish()
    names = ["a.png", "b.png", "c.png", "y/d.png"]
    assert rows_of(out)[0] == ["filename", "prompt"]
    assert rows_of(out)[1:] == [[name, f'a "{name[-5]}" \u72d0 1, fog, ink'] for name in names]


def test_other_columns_and_rows_stay_and_a_row_written_twice_counts_once(tmp_path):
    images, out = pictures(tmp_path, "ab"), tmp_path / "batch.csv"
    out.write_text("\ufeffprompt,filename,note\r\nold,a.png,1\r\nold,a.png,1\r\nother,z.png\r\n", encoding="utf-8")
    writer = writer_on(tmp_path, images, "csv", out=str(out), existing="append")
    for image in images:
        writer.tell(record_of(image, "a fox", ()))
    writer.finish()
    assert rows_of(out) == [
        ["prompt", "filename", "note"], ["old, a fox", "a.png", "1"], ["other", "z.png", ""], ["a fox", "b.png", ""],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content, said",
    [
        (b"imgId,prompt\na,x\n", "no column filename; its first line is imgId,prompt. Expected filename,prompt"),
        (b'filename,prompt\na.png,"x', "not a CSV"),
        (b"filename,prompt\na.png,\xff\n", "not UTF-8"),
    ],
)
def test_a_file_whose_rows_would_be_lost_is_refused(tmp_path, content, said):
    images, out = pictures(tmp_path, "a"), tmp_path / "batch.csv"
    out.write_bytes(content)
    with pytest.raises(UserError, match=said):
        writer_on(tmp_path, images, "csv", out=str(out))
    assert out.read_bytes() == content


def test_names_and_prompts_alone_become_rows():
    assert csv_bytes([("a.png", "a fox, fog")]) == b'filename,prompt\na.png,"a fox, fog"\n'


def test_a_cell_with_a_lone_carriage_return_stays_one(tmp_path):
    images, out = pictures(tmp_path, "ab"), tmp_path / "batch.csv"
    out.write_bytes(b'filename,prompt\nz.png,"one\rtwo"\na.png,"old\r"\n')
    for _ in range(2):  # what is written is read again
        writer = writer_on(tmp_path, images, "csv", out=str(out))
        for image in writer.left:
            writer.tell(record_of(image, "a fox", ()))
        writer.finish()
    rows = [["filename", "prompt"], ["z.png", "one\rtwo"], ["a.png", "old\r"], ["b.png", "a fox"]]
    assert rows_of(out) == rows
