import pytest

from kernel.errors import UserError
from kernel.sidecars.txt import read_txt, txt_bytes, txt_path
from tests.sidecars.records import pictures, record_of, writer_on
from tests.sidecars.trainers import sd_scripts_captions


def test_a_caption_is_what_sd_scripts_reads(tmp_path):
    images = pictures(tmp_path, ["a", "b.c", "d e"])
    writer = writer_on(tmp_path, images, prefix="sks \u72d0")
    assert writer.left == images
    for image in images:
        writer.tell(record_of(image, f"a\nfox {image.stem}"))
    assert writer.finish() == "3 captions written, 0 kept as they were"
    for image in images:
        assert sd_scripts_captions(image) == [f"sks \u72d0, a fox {image.stem}, fog, ink"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".png") == ["a.txt", "b.c.txt", "d e.txt"]


def test_lines_are_captions_whatever_ends_them(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\r\n  two \rthree\u2028still".encode())
    assert read_txt(path) == ["one", "two", "three\u2028still"]
    path.write_bytes(b" \n\t\n")
    assert read_txt(path) == [] and read_txt(tmp_path / "none.txt") == []
    assert txt_bytes(["one", "two"]) == b"one\ntwo\n"


@pytest.mark.parametrize(
    "existing, first", [("append", "old one, a fox, fog, ink"), ("prepend", "a fox, fog, ink, old one")]
)
def test_no_line_of_a_file_with_several_captions_is_lost(tmp_path, existing, first):
    (image,) = pictures(tmp_path, "a")
    txt_path(image).write_text("old one\n\nold two\n")
    writer = writer_on(tmp_path, [image], existing=existing)
    writer.tell(record_of(image))
    writer.finish()
    assert sd_scripts_captions(image) == [first, first.replace("one", "two")]


def test_bytes_of_another_encoding_are_kept_by_skip_and_refused_where_they_would_be_joined(tmp_path):
    (image,) = pictures(tmp_path, "a")
    txt_path(image).write_bytes("ein F\u00fcchslein".encode("latin-1"))
    writer = writer_on(tmp_path, [image])
    assert writer.left == []
    writer.finish()
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8, and what would be joined to it is"):
        writer_on(tmp_path, [image], existing="append")
    assert txt_path(image).read_bytes() == "ein F\u00fcchslein".encode("latin-1")


def test_what_is_no_file_is_told_before_anything_is_written(tmp_path):
    (image,) = pictures(tmp_path, "a")
    txt_path(image).mkdir()
    with pytest.raises(UserError, match=r"a\.txt: cannot be read \(Is a directory\)"):
        writer_on(tmp_path, [image])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.txt"]
