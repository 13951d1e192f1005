"""A submission is written and checked block by block: the same answers in any order of rows, in constant memory."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas  # noqa: F401  (its own memory is not a submission's)
import pytest

from kernel.errors import UserError
from kernel.pipeline import submission
from kernel.pipeline.images import list_images
from kernel.pipeline.submission import check_submission, read_submission, write_submission
from tests.conftest import ROOT
from tests.pipeline.test_submission import csv, row_names, rows_of

BYTES_AN_ID = 600  # its name and path, an entry of a dictionary, 49 bytes of what was seen; its rows would be 1,536


def in_disorder(rows: list[str]) -> list[str]:
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


@pytest.fixture
def one_by_one(monkeypatch):
    """Every row name taken apart, as if no block stood as it is written."""
    monkeypatch.setattr(submission, "whole_images", lambda names: [])


def test_a_file_as_it_is_written_needs_no_name_taken_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "BLOCK", 2)
    monkeypatch.setattr(submission, "split_names", None)
    path = csv(tmp_path, rows_of("a_b", "c", "d_1"))
    check_submission(path, ["a_b", "c", "d_1"])
    assert list(read_submission(path)) == ["a_b", "c", "d_1"]


@pytest.mark.parametrize("block", [1, 2, 3])
def test_rows_in_and_out_of_order_in_one_file_are_read_as_one_by_one(tmp_path, monkeypatch, block):
    monkeypatch.setattr(submission, "BLOCK", block)
    rows = rows_of("a", "b", "c", "d", "e")
    path = csv(tmp_path, rows[:768] + in_disorder(rows[768:1536]) + rows[1536:])
    found = read_submission(path)
    check_submission(path, list("edcba"))
    monkeypatch.setattr(submission, "whole_images", lambda names: [])
    expected = read_submission(path)
    assert list(found) == list(expected)
    assert all(found[name].tolist() == expected[name].tolist() for name in "abcde")


@pytest.mark.parametrize("block", [1, 2, 256])
def test_a_whole_image_that_comes_twice_is_refused(tmp_path, monkeypatch, block):
    monkeypatch.setattr(submission, "BLOCK", block)
    with pytest.raises(UserError, match="row 'a_0' is repeated"):
        check_submission(csv(tmp_path, rows_of("a", "a", "b")), ["a", "b"])


def test_a_whole_image_after_one_of_its_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "BLOCK", 1)
    rows = rows_of("b", "a")
    with pytest.raises(UserError, match="row 'a_5' is repeated"):
        check_submission(csv(tmp_path, ["a_5,1", *rows[:383], *rows[384:]]), ["a", "b"])


@pytest.mark.parametrize("wrong", ["a_383", "a_0", "b_1", "a_01", "_1"])
def test_one_wrong_name_among_whole_images_is_found(tmp_path, wrong):
    """In place of a_1: repeated twice, of another image, no dimension, of an image without a name."""
    rows = rows_of("a")
    rows[1] = f"{wrong},0.5"
    with pytest.raises(UserError, match=f"{wrong}' is repeated|image 'a' has 383 rows|does not end in _0"):
        check_submission(csv(tmp_path, rows), ["a"])


@pytest.mark.usefixtures("one_by_one")
def test_the_dimensions_seen_are_counted_bit_by_bit(tmp_path):
    rows = in_disorder(rows_of("a", "b"))[:-5]
    counts = {name: sum(row.startswith(f"{name}_") for row in rows) for name in "ab"}
    first = next(name for name in dict.fromkeys(row[0] for row in rows) if counts[name] < 384)
    with pytest.raises(UserError, match=f"image '{first}' has {counts[first]} rows, expected 384"):
        check_submission(csv(tmp_path, rows), ["a", "b"])


def test_an_image_with_only_zeros_is_found_among_whole_ones(tmp_path):
    rows = [*rows_of("a"), *(f"{name},0.0" for name in row_names("z")), *rows_of("b")]
    with pytest.raises(UserError, match="1 images have only zeros, the first is 'z'"):
        check_submission(csv(tmp_path, rows), ["a", "b", "z"])


@pytest.mark.parametrize("block", [2, 256])
def test_one_row_for_all_is_written_as_its_copies_are(tmp_path, monkeypatch, block):
    monkeypatch.setattr(submission, "BLOCK", block)
    row, ids = np.random.default_rng(0).standard_normal(384).astype(np.float32), list("abcde")
    write_submission(tmp_path / "one.csv", ids, np.broadcast_to(row, (5, 384)))
    write_submission(tmp_path / "copies.csv", ids, np.tile(row, (5, 1)))
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "copies.csv").read_bytes()


def test_a_value_that_is_not_finite_in_a_later_block_leaves_the_older_submission(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "BLOCK", 1)
    (tmp_path / "submission.csv").write_text("older")
    rows = np.ones((3, 384))
    rows[2, 383] = np.nan
    with pytest.raises(ValueError, match="expected finite rows"):
        write_submission(tmp_path / "submission.csv", ["a", "b", "c"], rows)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"submission.csv": "older"}


# memory


def empty_images(folder: Path, number: int) -> Path:
    folder.mkdir()
    for index in range(number):
        (folder / f"{index:09x}.png").touch()
    return folder


def peak_bytes(images: Path, path: Path) -> int:
    """Most bytes held at a time while a constant submission for these images is written and checked."""
    tracemalloc.start()
    try:
        ids = [image.id for image in list_images(images)]
        write_submission(path, ids, np.broadcast_to(np.float32(0.5), (len(ids), 384)))
        check_submission(path, ids)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_grows_by_the_names_and_not_by_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(submission, "BLOCK", 8)
    folders = {number: empty_images(tmp_path / str(number), number) for number in (8, 160, 1000)}
    peaks = {number: peak_bytes(folder, tmp_path / "submission.csv") for number, folder in folders.items()}
    # the first one also loads what pandas loads late
    assert peaks[1000] - peaks[160] < 840 * BYTES_AN_ID


IN_ITS_OWN_PROCESS = """
import sys
from pathlib import Path
import numpy as np
from kernel.pipeline.images import list_images
from kernel.pipeline.submission import check_submission, write_submission
ids = [image.id for image in list_images(Path(sys.argv[1]))]
write_submission(Path(sys.argv[2]), ids, np.broadcast_to(np.float32(0.5), (len(ids), 384)))
check_submission(Path(sys.argv[2]), ids)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(len(ids), int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, which Linux has")
def test_a_hundred_thousand_images_are_written_and_checked_in_the_memory_of_their_names(tmp_path):
    peaks = []
    for number in (10_000, 100_000):
        images = empty_images(tmp_path / str(number), number)
        command = [sys.executable, "-c", IN_ITS_OWN_PROCESS, str(images), str(tmp_path / "submission.csv")]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        count, peak = map(int, done.stdout.split())
        assert count == number
        peaks.append(peak)
    (tmp_path / "submission.csv").unlink()  # 700 MB
    print(f"peak {peaks[0] / 1e6:.0f} MB at 10,000 images, {(peaks[1] - peaks[0]) / 90_000:.0f} bytes for each more")
    assert peaks[1] - peaks[0] < 90_000 * BYTES_AN_ID
