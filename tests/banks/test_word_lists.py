"""Word lists that nobody vouches for: phrases, or one line that says why there are none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.banks.cleaning import MAX_CHARACTERS
from kernel.banks.word_banks import read_phrases
from kernel.errors import UserError


@settings(deadline=None)
@given(content=st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\0", b"\xff\xfe", "ä".encode()]) | st.binary()))
def test_any_bytes_are_phrases_or_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any_words.txt"
    path.write_bytes(b"".join(content))
    try:
        assert read_phrases(path).phrases
    except UserError as error:
        assert str(error).isprintable() and str(error).startswith(f"{path}: ")


def test_longer_phrases_than_any_model_reads_are_dropped_and_counted(tmp_path):
    longest = "ä" * MAX_CHARACTERS
    (tmp_path / "a.txt").write_text(f"a\n{longest}\n{longest}b\n{'c' * 1_000_000}\n", encoding="utf-8")
    found = read_phrases(tmp_path / "a.txt")
    assert (found.phrases, found.dropped["too long"]) == (["a", longest], 2)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_told_as_that(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("a cat\na dog\n", encoding=encoding)
    with pytest.raises(UserError, match="a.txt: not UTF-8 but UTF-16. Save the file as UTF-8"):
        read_phrases(tmp_path / "a.txt")


def test_byte_order_marks_before_lines_are_no_part_of_a_phrase(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeff\ufeffa cat\n\ufeffa dog\n".encode())
    assert read_phrases(tmp_path / "a.txt").phrases == ["a cat", "a dog"]


def test_a_list_of_any_size_is_not_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\n" * 2**19 + b"b\n")
    with pytest.raises(UserError, match=r"a.txt: cannot be read \(more than 1 MiB\); expected a text file"):
        read_phrases(tmp_path / "a.txt", 2**20)
