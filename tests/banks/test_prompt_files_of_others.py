"""Prompt files that nobody vouches for: whatever bytes they hold, they give prompts or one line that says why not."""

import csv
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.banks.cleaning import clean_prompts
from kernel.banks.prompt_files import SUFFIXES, count_prompts, read_prompts_from
from kernel.banks.text_lines import LONGEST
from kernel.errors import UserError

# what readers look for, so that random bytes come past the first of their checks
PIECES = [b"prompt", b"text", b"\n", b"\r", b",", b"\t", b'"', b'{"prompt": ', b"}", b"[", b"null", b"\0", b"1e999",
          b"PAR1", b"\x15\x04", b"\xff\xfe", b"a cat", b"\xef\xbb\xbf", b"\x1b[2J", "ö".encode()]  # fmt: skip


def refusal(path: Path, content: bytes, column: str | None = None) -> str:
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        count_prompts([path], column)
    assert str(refused.value).isprintable() and str(refused.value).startswith(f"{path}: ")
    return str(refused.value).removeprefix(f"{path}: ")


def kept(path: Path, content: bytes) -> tuple[list[str], dict[str, int]]:
    """What a bank takes of a file, and what it drops."""
    path.write_bytes(content)
    dropped: Counter[str] = Counter()
    return list(clean_prompts(read_prompts_from([path]), dropped)), dict(dropped)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None, max_examples=200)
@given(content=st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=12).map(b"".join))
def test_any_bytes_are_prompts_or_one_line(suffix, tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        assert all(isinstance(prompt, str) for prompt in read_prompts_from([path]))
    except UserError as error:
        assert str(error).isprintable() and str(error).startswith(f"{path}: ")


@pytest.mark.parametrize("length", [200_000, LONGEST + 1, 3 * LONGEST])
@pytest.mark.parametrize("first", [b"x", b" ", b"\xef\xbb\xbf"])
def test_a_long_line_of_text_is_dropped_and_counted_and_the_others_stay(tmp_path, length, first):
    content = b"a cat\n" + first * (length // 2) + b"x" * length + b"\na dog\n"
    assert kept(tmp_path / "a.txt", content) == (["a cat", "a dog"], {"too long": 1})


@pytest.mark.parametrize("length", [5_000, 200_000])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl"])
def test_a_long_prompt_is_dropped_and_counted_whatever_file_it_stands_in(tmp_path, suffix, length):
    prompts = ["a cat", "x" * length, "a dog"]
    lines = {".txt": prompts, ".jsonl": [json.dumps({"prompt": prompt}) for prompt in prompts]}
    content = "\n".join(lines.get(suffix, ["prompt", *prompts])).encode()
    assert kept(tmp_path / f"a{suffix}", content) == (["a cat", "a dog"], {"too long": 1})


@pytest.mark.parametrize(
    "row",
    [
        b'"' + b"x" * LONGEST + b'"',
        b'"open\n' + (b"x" * 99 + b"\n") * (LONGEST // 99),
        b'x,"' + (b"x" * 20 + b'\n",x,"') * (LONGEST // 25),
        b"," * LONGEST,
    ],
    ids=["one value", "a quote that is not closed", "values over many lines", "many values"],
)
def test_a_row_without_end_is_told_with_its_first_line_in_bounded_memory(tmp_path, row):
    (tmp_path / "a.csv").write_bytes(b"prompt\na cat\n" + row + b"\na dog\n" * 100_000)
    tracemalloc.start()
    with pytest.raises(UserError) as refused:
        count_prompts([tmp_path / "a.csv"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "a.csv: line 3: a row of more than 4,194,304 characters. Close every double quote" in str(refused.value)
    assert peak < 30 * LONGEST


def test_a_long_line_of_json_is_told_with_its_number(tmp_path):
    content = b'{"prompt": "a"}\n{"prompt": "' + b"x" * LONGEST + b'"}\n'
    assert refusal(tmp_path / "a.jsonl", content) == "line 2: more than 4,194,304 characters. Take it out"


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"prompt":' * 100_000, b'{"prompt": ' + b"9" * 5000 + b"}"])
def test_json_that_python_cannot_hold_is_told_with_its_line(tmp_path, line):
    assert refusal(tmp_path / "a.jsonl", line).startswith("line 1: not JSON (")


def test_names_of_columns_reach_no_terminal_but_as_text(tmp_path):
    names = ["a\n\x1b[2Jb", "x" * 100_000]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, ["a cat", "a dog"]])
    said = refusal(tmp_path / "a.csv", (tmp_path / "a.csv").read_bytes())
    assert said.startswith("its columns of text are a  [2Jb, xxx") and len(said) < 1000
    assert refusal(tmp_path / "a.jsonl", json.dumps(dict.fromkeys(names, 1)).encode()).startswith("its columns of text")


def test_parquet_texts_that_arrow_only_looks_at_are_texts(tmp_path):
    table = pyarrow.table({"prompt": pyarrow.array(["a cat", None, "a longer text than fits"], pyarrow.string_view())})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert list(read_prompts_from([tmp_path / "a.parquet"])) == ["a cat", "", "a longer text than fits"]


def test_of_parquet_columns_of_one_name_the_first_is_taken(tmp_path):
    table = pyarrow.table([pyarrow.array(["a cat"]), pyarrow.array(["a dog"])], names=["prompt", "prompt"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert list(read_prompts_from([tmp_path / "a.parquet"])) == ["a cat"]


def test_parquet_texts_that_are_not_utf_8_are_one_line(tmp_path):
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"),
                                                              pyarrow.py_buffer(b"\xff")])  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table({"prompt": broken}), tmp_path / "a.parquet")
    said = refusal(tmp_path / "a.parquet", (tmp_path / "a.parquet").read_bytes())
    assert said.startswith("cannot be read (") and said.endswith("Fetch it again")
