"""Lines of any length and end, read in bounded memory, and what only has the name of a text."""

import gzip
import io
import lzma
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from kernel.banks.text_lines import LONGEST, text_lines

TEXT = "prompt\na painting of a cat\nein Bild von größe\n"


def lines(tmp_path: Path, content: bytes) -> list[tuple[int, str]]:
    (tmp_path / "a.txt").write_bytes(content)
    return list(text_lines(tmp_path / "a.txt"))


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("prompts.csv", TEXT)
    return content.getvalue()


def parquet() -> bytes:
    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a cat"]}), content)
    return content.getvalue()


def test_every_kind_of_line_end_ends_a_line_and_stays(tmp_path):
    assert lines(tmp_path, b"a\nb\r\nc\rd") == [(1, "a\n"), (2, "b\r\n"), (3, "c\r"), (4, "d")]


def test_byte_order_marks_before_lines_are_no_part_of_them(tmp_path):
    assert lines(tmp_path, "\ufeff\ufeffa\n\ufeffb".encode()) == [(1, "a\n"), (2, "b")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (TEXT.encode("utf-16-le"), "UTF-16"),
        (TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.encode("utf-16"), "UTF-16"),
        ("猫".encode("utf-16"), "UTF-16"),
        ("a".encode("utf-16-le"), "UTF-16"),
        (gzip.compress(TEXT.encode(), mtime=0), "gzip. Unpack it"),
        (lzma.compress(TEXT.encode()), "xz. Unpack it"),
        (zipped(), "a zip archive, or a sheet of Excel. Unpack or convert it"),
        (parquet(), "parquet. Give it the suffix .parquet"),
    ],
)
def test_what_is_no_text_is_told_by_its_first_bytes(tmp_path, content, what):
    with pytest.raises(ValueError, match=f"line 1: not UTF-8 but {what}"):
        lines(tmp_path, content)


@pytest.mark.parametrize("content", [b"a\0cat\n", b"\0\0\0\0", b"PAR1 and BZh are words too\n", "größe".encode(), b""])
def test_a_text_with_odd_bytes_is_a_text(tmp_path, content):
    assert "".join(line for _, line in lines(tmp_path, content)) == content.decode()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b""])
def test_of_a_long_line_the_beginning_is_given_and_the_next_line_is_whole(tmp_path, end):
    (_, long), *rest = lines(tmp_path, b"x" * 3 * LONGEST + end + b"a cat" * bool(end))
    assert (long, rest) == ("x" * (LONGEST + 1), [(2, "a cat")] if end else [])


@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST])
def test_a_line_of_the_longest_kind_is_whole(tmp_path, length):
    assert lines(tmp_path, b"x" * length + b"\na") == [(1, "x" * length + "\n"), (2, "a")]


def test_a_line_of_any_length_takes_bounded_memory(tmp_path):
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(20 * LONGEST)  # takes no place on the disk
    tracemalloc.start()
    found = sum(1 for _ in text_lines(tmp_path / "a.txt"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found, peak < 10 * LONGEST) == (1, True)


@pytest.mark.parametrize("broken", [b"fj\xf6rd", b"\xc3", b"\xed\xa0\x80"])
def test_a_line_that_is_not_utf_8_is_told_with_its_number(tmp_path, broken):
    with pytest.raises(ValueError, match=r"line 3: not UTF-8 \(.+\). Save the file as UTF-8"):
        lines(tmp_path, b"a\rb\n" + broken + b"\nc")
