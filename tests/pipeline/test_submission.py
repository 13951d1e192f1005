import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernel.errors import UserError
from kernel.pipeline import submission
from kernel.pipeline.submission import check_submission, read_submission, write_submission

HEADER = "imgId_eId,val"
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
# whatever a file may be called: no NUL, no slash, and no line breaks, which list_images refuses
names = st.text(st.characters(exclude_characters="\0/\r\n", codec="utf-8"), min_size=1, max_size=12)


def rows_of(*ids: str) -> list[str]:
    """CSV rows of valid images: the value of image i (from 1) and dimension d is i + d / 1000."""
    return [f"{name},{i + d / 1000}" for i, image in enumerate(ids, 1) for d, name in enumerate(row_names(image))]


def row_names(image: str) -> list[str]:
    return [f"{image}_{dimension}" for dimension in range(384)]


def expected_row(i: int) -> list[float]:
    return [float(np.float32(f"{i + d / 1000}")) for d in range(384)]


def csv(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    path = folder / "submission.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def written_and_read(ids: list[str], rows: np.ndarray) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        write_submission(Path(folder, "submission.csv"), ids, rows)
        return read_submission(Path(folder, "submission.csv"))


# writing


def test_a_submission_has_the_competitions_header_and_rows(tmp_path):
    rows = np.zeros((2, 384), dtype=np.float32)
    rows[0, 0], rows[0, 383], rows[1, 1] = 0.1, -1.5, 1e-8
    write_submission(tmp_path / "submission.csv", ["20057f34d", "a_b"], rows)
    lines = (tmp_path / "submission.csv").read_text(encoding="utf-8").split("\n")
    assert (len(lines), lines[-1]) == (1 + 2 * 384 + 1, "")
    assert [lines[i] for i in (0, 1, 2, 384, 385, 386)] == [
        HEADER,
        "20057f34d_0,0.1",
        "20057f34d_1,0",
        "20057f34d_383,-1.5",
        "a_b_0,0",
        "a_b_1,1e-8",
    ]


@pytest.mark.parametrize("block", [1, 2, 3, 256])
def test_row_names_are_the_same_for_every_block_size(tmp_path, monkeypatch, block):
    monkeypatch.setattr(submission, "BLOCK", block)
    ids = ["a", "b", "c", "d", "e"]
    write_submission(tmp_path / "submission.csv", ids, np.ones((5, 384)))
    written = [line.partition(",")[0] for line in (tmp_path / "submission.csv").read_text().splitlines()]
    assert written == ["imgId_eId", *(name for image in ids for name in row_names(image))]


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.just(384)), elements=floats))
def test_every_bit_of_every_value_is_kept(rows):
    rows[~rows.any(axis=1), 0] = 1  # zeros alone are no valid row
    ids = [str(i) for i in range(len(rows))]
    found = np.stack(list(written_and_read(ids, rows).values()))
    assert found.dtype == np.float32 and found.tobytes() == rows.tobytes()


def test_float32_bit_patterns_from_smallest_to_largest_are_kept():
    patterns = np.linspace(0, 0x7F7FFFFF, 384 * 20).astype(np.uint32).view(np.float32).reshape(20, 384)
    rows = np.concatenate([patterns, -patterns])
    found = np.stack(list(written_and_read([str(i) for i in range(40)], rows).values()))
    assert found.tobytes() == rows.tobytes()


@settings(deadline=None, max_examples=50)
@given(st.lists(names, min_size=1, max_size=4, unique=True))
def test_every_file_name_can_be_an_id(ids):
    assert list(written_and_read(ids, np.ones((len(ids), 384)))) == ids


@pytest.mark.parametrize(
    "image", ["a_b", "a_1", "_", "two words", " ", "größe 猫", 'say "hi"', "one, two", '",', "#1", "NA", "1e5", "007"]
)
def test_an_unusual_id_comes_back_as_it_was(image):
    assert list(written_and_read([image], np.ones((1, 384)))) == [image]


@pytest.mark.parametrize("shape", [(1, 384), (3, 384), (2, 383), (2, 385), (768,)])
def test_rows_of_a_wrong_shape_are_not_written(tmp_path, shape):
    with pytest.raises(ValueError, match=r"expected finite rows of shape \(2, 384\), found \("):
        write_submission(tmp_path / "submission.csv", ["a", "b"], np.ones(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_values_that_are_not_finite_in_float32_are_not_written(tmp_path, value):
    rows = np.ones((2, 384))
    rows[1, 7] = value
    with pytest.raises(ValueError, match="expected finite rows"):
        write_submission(tmp_path / "submission.csv", ["a", "b"], rows)


@pytest.fixture
def disk_full_at_the_second_block(monkeypatch):
    monkeypatch.setattr(submission, "BLOCK", 1)
    really_made = submission.csv_lines

    def full_after_a(ids, values):
        if ids != ["a"]:
            raise OSError(28, "No space left on device")
        return really_made(ids, values)

    monkeypatch.setattr(submission, "csv_lines", full_after_a)


def test_a_write_that_fails_halfway_leaves_nothing(tmp_path, disk_full_at_the_second_block):
    with pytest.raises(OSError, match="No space left"):
        write_submission(tmp_path / "submission.csv", ["a", "b"], np.ones((2, 384)))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_halfway_keeps_the_older_submission(tmp_path, disk_full_at_the_second_block):
    (tmp_path / "submission.csv").write_text("older")
    with pytest.raises(OSError, match="No space left"):
        write_submission(tmp_path / "submission.csv", ["a", "b"], np.ones((2, 384)))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"submission.csv": "older"}


def test_what_does_not_read_back_as_valid_never_replaces_the_older_one(tmp_path, monkeypatch):
    (tmp_path / "submission.csv").write_text("older")
    rows = np.ones((2, 384))
    rows[1] = 0
    with pytest.raises(UserError, match="1 images have only zeros, the first is 'b'"):
        write_submission(tmp_path / "submission.csv", ["a", "b"], rows)
    really_made = submission.csv_lines
    monkeypatch.setattr(
        submission, "csv_lines", lambda ids, values: bytes(really_made(ids, values)).replace(b"a_7,", b"a_8,")
    )
    with pytest.raises(UserError, match="row 'a_8' is repeated"):
        write_submission(tmp_path / "submission.csv", ["a", "b"], np.ones((2, 384)))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"submission.csv": "older"}


def test_a_new_submission_replaces_the_older_one_and_leaves_nothing_else(tmp_path):
    (tmp_path / "submission.csv").write_text("older")
    write_submission(tmp_path / "submission.csv", ["a"], np.ones((1, 384)))
    assert list(tmp_path.iterdir()) == [tmp_path / "submission.csv"]
    assert list(read_submission(tmp_path / "submission.csv")) == ["a"]


# reading


def test_values_are_read_to_their_image_and_dimension(tmp_path):
    found = read_submission(csv(tmp_path, rows_of("b", "a")))
    assert {image: row.tolist() for image, row in found.items()} == {"b": expected_row(1), "a": expected_row(2)}


def test_images_are_read_in_the_order_of_their_first_rows(tmp_path):
    assert list(read_submission(csv(tmp_path, rows_of("b", "a", "c")))) == ["b", "a", "c"]


@pytest.mark.parametrize("block", [1, 2, 256])
def test_rows_may_stand_in_any_order_and_straddle_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(submission, "BLOCK", block)
    rows = rows_of("a", "b", "c")
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    found = read_submission(csv(tmp_path, shuffled))
    assert {image: row.tolist() for image, row in found.items()} == {
        "a": expected_row(1),
        "b": expected_row(2),
        "c": expected_row(3),
    }


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    path = csv(tmp_path, rows_of("a"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_submission(path)["a"].tolist() == expected_row(1)


@pytest.mark.parametrize("block", [1, 256])
@pytest.mark.parametrize("position", [1, 384, 3 * 384])
def test_a_repeated_row_is_refused_wherever_it_stands(tmp_path, monkeypatch, block, position):
    monkeypatch.setattr(submission, "BLOCK", block)
    rows = rows_of("a", "b", "c")
    rows.insert(position, rows[0])
    with pytest.raises(UserError, match="row 'a_0' is repeated; expected each image and dimension once"):
        read_submission(csv(tmp_path, rows))


@pytest.mark.parametrize("gone", [0, 200, 383])
def test_a_missing_row_is_refused_with_its_image(tmp_path, gone):
    rows = rows_of("a", "b")
    del rows[384 + gone]
    with pytest.raises(UserError, match="image 'b' has 383 rows, expected 384; 1 such images"):
        read_submission(csv(tmp_path, rows))


@pytest.mark.parametrize("block", [1, 256])
def test_all_images_with_missing_rows_are_counted(tmp_path, monkeypatch, block):
    monkeypatch.setattr(submission, "BLOCK", block)
    rows = rows_of("a", "b", "c")
    with pytest.raises(UserError, match="image 'b' has 10 rows, expected 384; 2 such images"):
        read_submission(csv(tmp_path, rows[: 384 + 10] + rows[-20:]))


@pytest.mark.parametrize(
    "value", ["nan", "NaN", "inf", "-inf", "Infinity", "", "NA", "cat", "0x10", "1_000", "1j", "True", "1e39", "1e400"]
)
def test_a_value_that_is_no_finite_number_is_refused_with_its_row(tmp_path, value):
    rows = rows_of("a", "b")
    rows[384 + 5] = f"b_5,{value}"
    with pytest.raises(UserError, match=rf"the value of 'b_5' is '{value}', expected a finite number.*\(1 such rows"):
        read_submission(csv(tmp_path, rows))


def test_a_row_without_a_value_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a CSV table .*columns, got 1: a_7.*expected the columns imgId_eId,val"):
        read_submission(csv(tmp_path, ["a_7" if row.startswith("a_7,") else row for row in rows_of("a")]))


@pytest.mark.parametrize("ending", ["_384", "_-1", "_01", "_007", "_x", "_", "", "_1.0", "_+1", "_ 1", "_²", "_٣"])
def test_a_row_that_does_not_end_in_a_dimension_is_refused(tmp_path, ending):
    rows = rows_of("a")
    rows[7] = f"a{ending},0.5"
    with pytest.raises(UserError, match="does not end in _0 to _383") as refused:
        read_submission(csv(tmp_path, rows))
    assert repr(f"a{ending}") in str(refused.value)


@pytest.mark.parametrize(
    "header", ["imgId_eId,value", "val,imgId_eId", "imgId,val", "imgId_eId", "imgId_eId,val,more", "a_0,0.5"]
)
def test_wrong_columns_are_refused_with_the_right_ones(tmp_path, header):
    rows = [",".join(f"{row},0".split(",")[: len(header.split(","))]) for row in rows_of("a")]
    with pytest.raises(UserError, match=f"columns {header}; expected exactly imgId_eId,val"):
        read_submission(csv(tmp_path, rows, header))


def test_a_third_value_in_every_row_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a CSV table .*got 3: one, two_0,1.0.*expected the columns imgId_eId,val"):
        read_submission(csv(tmp_path, [f"one, {row}" for row in rows_of("two")]))


def test_a_third_value_in_one_row_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a CSV table .*expected the columns imgId_eId,val"):
        read_submission(csv(tmp_path, [*rows_of("a"), "b_0,0.5,0.5"]))


def test_a_header_without_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="no rows; expected 384 for each image"):
        read_submission(csv(tmp_path, []))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00\x80\n", b"PK\x03\x04\x00\xe9\xe9\n"])
def test_what_is_no_table_is_refused_with_the_expected_columns(tmp_path, content):
    (tmp_path / "submission.csv").write_bytes(content)
    with pytest.raises(UserError, match="expected .*imgId_eId,val"):
        read_submission(tmp_path / "submission.csv")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv: no such file; expected a submission\.csv"):
        read_submission(tmp_path / "gone.csv")


def test_a_refusal_is_one_line(tmp_path):
    (tmp_path / "submission.csv").write_bytes(b"")
    with pytest.raises(UserError) as refused:
        read_submission(tmp_path / "submission.csv")
    assert "\n" not in str(refused.value)


# checking


def checked(folder: Path, rows: list[str], ids: list[str]) -> str:
    """What check_submission says, "valid" when it says nothing."""
    try:
        check_submission(csv(folder, rows), ids)
    except UserError as error:
        return str(error)
    return "valid"


def test_exactly_the_images_in_any_order_are_valid(tmp_path):
    assert checked(tmp_path, rows_of("b", "a"), ["a", "b"]) == "valid"


def test_missing_images_are_counted_and_the_first_is_named(tmp_path):
    said = checked(tmp_path, rows_of("b"), ["d", "c", "b"])
    assert "2 of 3 images are missing, the first is 'c'; expected exactly the images of the folder" in said


def test_images_that_are_not_in_the_folder_are_counted_and_the_first_is_named(tmp_path):
    said = checked(tmp_path, rows_of("a", "c", "b"), ["a"])
    assert "2 of 1 images are not among the images, the first is 'b'" in said


def test_rows_of_zeros_are_refused_with_their_image(tmp_path):
    rows = rows_of("a") + [f"b_{d},0.0" for d in range(384)] + [f"c_{d},-0" for d in range(384)]
    assert "2 images have only zeros, the first is 'b'" in checked(tmp_path, rows, ["a", "b", "c"])


def test_one_value_beside_zeros_is_valid(tmp_path):
    rows = [f"b_{d},{1e-9 if d == 383 else 0}" for d in range(384)]
    assert checked(tmp_path, rows, ["b"]) == "valid"
