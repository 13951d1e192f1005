import csv
import json
import re
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from kernel.banks.prompt_files import BATCH_ROWS, count_prompts, read_prompts_from
from kernel.errors import UserError

# what a reader can trip over: quotes, separators of every format, letters beyond ASCII, blanks at the ends
PROMPTS = ["a red fish", 'a "blue" hill, swirl', "a\tcat", "  fjörd by Zdzisław ", "{braces}", "猫, 水彩"]


def write_csv(path: Path, columns: dict[str, list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, csv.excel_tab if path.suffix == ".tsv" else csv.excel)
        writer.writerows([list(columns), *zip(*columns.values(), strict=True)])


def write_jsonl(path: Path, columns: dict[str, list]) -> None:
    records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_parquet(path: Path, columns: dict[str, list]) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)


WRITERS = {".csv": write_csv, ".tsv": write_csv, ".jsonl": write_jsonl, ".parquet": write_parquet}
TABLES = pytest.mark.parametrize("suffix", list(WRITERS))


@pytest.fixture
def table(tmp_path):
    """Writes a table of the given columns in the format of a suffix."""

    def write(suffix: str, columns: dict[str, list]) -> Path:
        path = tmp_path / f"prompts{suffix}"
        WRITERS[suffix](path, columns)
        return path

    return write


@pytest.fixture
def file(tmp_path):
    """Writes bytes under a name."""

    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def read(*paths: Path, column: str | None = None) -> list[str]:
    return list(read_prompts_from(list(paths), column))


def refusal(*paths: Path, column: str | None = None) -> str:
    """What is said when the files are read to their end."""
    with pytest.raises(UserError) as refused:
        count_prompts(list(paths), column)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def early_refusal(*paths: Path, column: str | None = None) -> str:
    """What is said before the first prompt is asked for."""
    with pytest.raises(UserError) as refused:
        read_prompts_from(list(paths), column)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# reading


@TABLES
def test_a_table_gives_its_prompts_as_they_stand_there(table, suffix):
    assert read(table(suffix, {"id": list("abcdef"), "prompt": PROMPTS})) == PROMPTS


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_file_gives_a_prompt_a_line(file, end):
    assert read(file("a.txt", end.join(PROMPTS).encode())) == PROMPTS


def test_a_text_files_last_line_end_makes_no_prompt(file):
    assert read(file("a.txt", b"a cat\n\na dog\n")) == ["a cat", "", "a dog"]


def test_files_follow_one_another_in_the_order_given(file):
    first, second = file("b.txt", b"one\ntwo"), file("a.jsonl", b'{"prompt": "three"}')
    assert read(first, second, first) == ["one", "two", "three", "one", "two"]


@pytest.mark.parametrize("name", ["a.CSV", "a.Csv"])
def test_a_suffix_may_be_written_in_capitals(file, name):
    assert read(file(name, b"prompt\na cat\n")) == ["a cat"]


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", "a cat"), ("a.csv", "prompt\na cat"), ("a.jsonl", '{"prompt": "a cat"}')]
)
def test_a_byte_order_mark_is_no_part_of_a_file(file, name, content):
    assert read(file(name, b"\xef\xbb\xbf" + content.encode())) == ["a cat"]


def test_a_byte_order_mark_at_any_line_is_no_part_of_a_prompt(file):
    """Two before one file, and one where another file was put behind it."""
    path = file("prompts.txt", "\ufeff\ufeffa cat\n\ufeffa dog\n".encode())
    assert read(path) == ["a cat", "a dog"]


def test_a_carriage_return_alone_ends_a_line_of_text(file):
    assert read(file("prompts.txt", b"a cat\ra dog\r")) == ["a cat", "a dog"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_quoted_line_break_stays_inside_its_prompt(table, suffix):
    assert read(table(suffix, {"prompt": ["a cat\non a mat", "a dog"]})) == ["a cat\non a mat", "a dog"]


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", b"id,prompt\n\n1,a cat\n\n"), ("a.jsonl", b'\n{"prompt": "a cat"}\n \n')]
)
def test_blank_lines_of_a_table_are_no_rows(file, name, content):
    assert read(file(name, content)) == ["a cat"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_null_is_an_empty_prompt(table, suffix, place):
    prompts: list = ["a cat", "a cat", "a cat"]
    prompts[place] = None
    assert read(table(suffix, {"id": [1, 2, 3], "prompt": prompts}))[place] == ""


@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())])
def test_every_kind_of_parquet_text_is_read(tmp_path, kind):
    write_parquet(tmp_path / "a.parquet", {"prompt": pyarrow.array(PROMPTS, kind)})
    assert read(tmp_path / "a.parquet") == PROMPTS


@pytest.mark.parametrize(("name", "content"), [("a.txt", b""), ("a.csv", b"id,prompt\n"), ("a.tsv", b"prompt\n")])
def test_a_file_without_a_prompt_gives_none(file, name, content):
    assert read(file(name, content)) == []


def test_prompts_are_counted_over_all_files(file):
    assert count_prompts([file("a.txt", b"a\nb\n"), file("b.csv", b'prompt\n"c\nd"\n')]) == 3


# memory


def test_a_large_csv_is_read_in_the_memory_of_a_small_one(table):
    path = table(".csv", {"id": [str(n) for n in range(20000)], "prompt": ["a red fish on a hill " * 5] * 20000})
    tracemalloc.start()
    count = count_prompts([path])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (count, path.stat().st_size > 2_000_000, peak < 300_000) == (20000, True, True)


def test_a_parquet_file_is_read_a_row_group_at_a_time(tmp_path):
    groups, text = 8, "".join(chr(97 + (n * n * 31 + n // 7) % 26) for n in range(BATCH_ROWS * 100))
    texts = [text[start : start + 100] for start in range(0, len(text), 100)] * groups
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"prompt": texts})
    pyarrow.parquet.write_table(table, path, row_group_size=BATCH_ROWS, compression="none", use_dictionary=False)
    before = pyarrow.total_allocated_bytes()
    held = [pyarrow.total_allocated_bytes() - before for _ in read_prompts_from([path])]
    # one group as it lies in the file and one as it is given
    assert (len(held), len(text) < max(held) < 3 * len(text)) == (groups * BATCH_ROWS, True)


# columns


@TABLES
@pytest.mark.parametrize("name", ["prompt", "Prompt", "text", "caption"])
def test_a_column_of_a_usual_name_is_found_among_others(table, suffix, name):
    assert read(table(suffix, {"id": ["a"], name: ["a cat"], "artist": ["b"]})) == ["a cat"]


@TABLES
def test_of_several_usual_names_prompt_comes_first(table, suffix):
    assert read(table(suffix, {"caption": ["no"], "text": ["no"], "prompt": ["a cat"]})) == ["a cat"]


@TABLES
def test_the_only_column_of_words_needs_no_name(table, suffix):
    number = "7" if suffix in (".csv", ".tsv") else 7
    assert read(table(suffix, {"seed": [number], "description": ["a cat"]})) == ["a cat"]


@TABLES
def test_a_named_column_is_taken_even_beside_one_called_prompt(table, suffix):
    path = table(suffix, {"prompt": ["no"], "description": ["a cat"]})
    assert read(path, column="description") == ["a cat"]


def test_a_named_column_is_not_asked_of_a_text_file(file):
    files = [file("a.txt", b"a cat"), file("a.csv", b"title,prompt\na dog,no\n")]
    assert read(*files, column="title") == ["a cat", "a dog"]


@TABLES
def test_two_columns_of_words_without_a_usual_name_are_refused_with_both(table, suffix):
    said = "its columns of text are title, words; expected prompt or Prompt or text or caption: which one holds"
    assert said in early_refusal(table(suffix, {"title": ["a cat"], "words": ["a dog"]}))


@TABLES
def test_a_missing_named_column_is_refused_with_those_that_are_there(table, suffix):
    refused = early_refusal(table(suffix, {"title": ["a cat"], "words": ["a dog"]}), column="prompt")
    assert "its columns of text are title, words; expected prompt: " in refused


@TABLES
def test_a_missing_named_column_is_not_replaced_by_the_only_one(table, suffix):
    assert "expected prompt: which" in early_refusal(table(suffix, {"title": ["a cat"]}), column="prompt")


def test_a_parquet_column_of_numbers_is_no_column_of_prompts(table):
    refused = early_refusal(table(".parquet", {"prompt": [1], "words": ["a dog"]}), column="prompt")
    assert "its columns of text are words; expected prompt" in refused


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_table_of_zero_bytes_is_refused(file, name):
    said = early_refusal(file(name, b""))
    assert f"{name}: empty, or its first row is; expected rows of prompts. Fetch it again or leave it out" in said


# files that cannot be read


@pytest.mark.parametrize("name", ["a.json", "a.csv.gz", "a.xlsx", "a"])
def test_another_kind_of_file_is_refused_with_the_kinds_that_are_read(file, name):
    said = rf"{name}: cannot read .*; expected prompts in a file that ends in \.txt, \.csv, \.tsv, \.jsonl, \.parquet"
    assert re.search(said, early_refusal(file(name, b"a cat")))


@pytest.mark.parametrize("suffix", [".txt", *WRITERS])
def test_a_missing_file_is_refused_before_those_in_front_of_it_are_read(tmp_path, file, suffix):
    refused = early_refusal(file("a.txt", b"a cat"), tmp_path / f"gone{suffix}")
    assert f"gone{suffix}: no such file; expected a file of prompts" in refused


def test_a_folder_is_refused_as_one(tmp_path):
    assert f"{tmp_path}: a folder; expected a file of prompts" in early_refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "before"), [("a.txt", b"a cat\n"), ("a.csv", b"prompt\n"), ("a.jsonl", b'{"prompt": "a"}\n')]
)
def test_bytes_that_are_not_utf8_are_refused_with_their_line(file, name, before):
    assert f"{name}: line 3: not UTF-8 (" in refusal(file(name, before + before + b"fj\xf6rd\n"))


def test_utf16_is_refused_with_how_to_save_it(file):
    assert "line 1: not UTF-8" in early_refusal(file("a.csv", "prompt\na cat\n".encode("utf-16")))


@pytest.mark.parametrize(("row", "values"), [(b"a cat, a dog", 3), (b"a cat", 1)])
def test_a_row_of_another_length_than_the_header_is_refused_with_its_line(file, row, values):
    row = b"1," + row if values == 3 else row
    said = f"a.csv: line 3: {values} values under 2 columns. Put values that hold separators"
    assert said in refusal(file("a.csv", b"id,prompt\n0,a fish\n" + row + b"\n"))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_an_open_quote_is_refused_instead_of_swallowing_the_next_prompts(file, name):
    assert f"{name}: line 4: not a row of a table" in refusal(
        file(name, b'prompt\na fish\n"a dinosaur market\na cat\n')
    )


@pytest.mark.parametrize("line", [b"{", b"a cat", b'{"prompt": "a" "b"}', b"[" * 100_000])
def test_a_line_that_is_not_json_is_refused_with_its_number(file, line):
    assert "a.jsonl: line 2: not JSON (" in refusal(file("a.jsonl", b'{"prompt": "a"}\n' + line + b"\n"))


@pytest.mark.parametrize("line", [b'["a cat"]', b'"a cat"', b"3", b"null"])
def test_json_that_is_no_object_is_refused(file, line):
    assert "a.jsonl: line 1: JSON but no object" in early_refusal(file("a.jsonl", line))


def test_an_object_without_the_column_is_refused_with_its_names(file):
    refused = refusal(file("a.jsonl", b'{"prompt": "a"}\n{"id": 1, "words": "b"}\n'))
    assert "a.jsonl: line 2: no prompt among id, words" in refused


@pytest.mark.parametrize(("value", "shown"), [(b"7", "7"), (b'["a"]', "['a']"), (b"false", "False"), (b"0", "0")])
def test_a_json_value_that_is_no_text_is_refused(file, value, shown):
    assert f"a.jsonl: line 1: prompt is no text but {shown}" in refusal(file("a.jsonl", b'{"prompt": ' + value + b"}"))


@pytest.mark.parametrize("content", [b"", b"a cat\n", b"PAR1" + bytes(40) + b"PAR1"])
def test_what_is_no_parquet_file_is_refused_before_reading(file, content):
    assert "a.parquet: " in early_refusal(file("a.parquet", content))


def test_a_damaged_parquet_file_is_refused_when_it_is_counted(table):
    path = table(".parquet", {"prompt": [f"a cat on mat {n}" for n in range(3000)]})
    data = bytearray(path.read_bytes())
    data[4000:4200] = bytes(200)
    path.write_bytes(data)
    assert "prompts.parquet: cannot be read (" in refusal(path)
