import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernel.errors import UserError
from kernel.evaluation.evaluate import bootstrap_interval, pairwise_cosine, read_prompts, score
from kernel.models.vectors import unit_rows

numbers = st.floats(min_value=-1000, max_value=1000, width=16)
cosines = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1, 1))


@st.composite
def pairs_of_rows(draw) -> tuple[np.ndarray, np.ndarray]:
    """Two float32 tables of one shape without zero rows."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    a, b = (draw(hnp.arrays(np.float32, shape, elements=numbers)) for _ in range(2))
    assume(a.any(axis=1).all() and b.any(axis=1).all())
    return a, b


@pytest.mark.parametrize(
    ("a", "b", "cosine"),
    [
        ([1, 0], [1, 1], math.sqrt(0.5)),
        ([3, 4], [1, 0], 0.6),
        ([3, 4], [4, 3], 0.96),
        ([1, 2], [2, 4], 1),
        ([1, 2], [-1, -2], -1),
        ([1, 2], [-2, 1], 0),
        ([0, 0], [1, 0], 0),
    ],
)
def test_cosine_of_one_pair(a, b, cosine):
    assert pairwise_cosine(np.array([a]), np.array([b])) == pytest.approx([cosine], abs=1e-7)


def test_cosines_are_row_by_row():
    a, b = np.array([[1, 0], [0, 1], [1, 1]]), np.array([[1, 0], [1, 0], [0, 2]])
    assert pairwise_cosine(a, b) == pytest.approx([1, 0, math.sqrt(0.5)], abs=1e-7)


@pytest.mark.parametrize(("a", "b"), [((2, 3), (3, 3)), ((2, 3), (2, 4)), ((1, 3), (2, 3))])
def test_cosines_of_different_shapes_are_refused(a, b):
    with pytest.raises(ValueError, match="differ"):
        pairwise_cosine(np.ones(a), np.ones(b))


@settings(deadline=None)
@given(pairs_of_rows())
def test_cosines_equal_a_naive_loop(pair):
    naive = [
        sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
        for a, b in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(pairwise_cosine(*pair), naive, atol=1e-6)


# predicted (3, 4), (0, 10) and true (1, 0), (0, 1): the cosines are 3/5 and 1; as one vector of four numbers
# the dot product is 3 + 10 and the lengths are sqrt(125) and sqrt(2)
PREDICTED, TRUTH = np.array([[3, 4], [0, 10]]), np.array([[1, 0], [0, 1]])


def test_the_score_is_the_mean_over_images():
    assert score(["a", "b"], PREDICTED, TRUTH).mean == pytest.approx(0.8)


def test_the_flattened_score_weighs_long_rows_more():
    assert score(["a", "b"], PREDICTED, TRUTH).flattened == pytest.approx(13 / math.sqrt(250))


def test_the_score_names_each_images_cosine():
    assert score(["a", "b"], PREDICTED, TRUTH).per_image == pytest.approx({"a": 0.6, "b": 1})


def test_the_score_counts_its_images():
    assert score(["a", "b"], PREDICTED, TRUTH).n == 2


def test_the_scores_interval_is_the_cosines_bootstrap():
    assert score(["a", "b"], PREDICTED, TRUTH).ci95 == bootstrap_interval(pairwise_cosine(PREDICTED, TRUTH))


def test_a_score_with_ids_for_other_rows_is_refused():
    with pytest.raises(ValueError, match="zip"):
        score(["a"], PREDICTED, TRUTH)


@settings(deadline=None, max_examples=50)
@given(pairs_of_rows())
def test_on_unit_rows_the_flattened_score_is_the_mean(pair):
    found = score([str(i) for i in range(len(pair[0]))], unit_rows(pair[0]), unit_rows(pair[1]))
    assert found.flattened == pytest.approx(found.mean, abs=1e-6)


def test_the_interval_of_two_values_is_known():
    # the mean of two draws from 0 and 1 is 0, 0.5 or 1 with chances of 25, 50 and 25 %
    assert bootstrap_interval(np.array([0.0, 1.0])) == (0, 1)


def test_the_interval_of_many_values_is_near_the_normal_one():
    # 10,000 zeros and ones in equal parts: 0.5 +- 1.96 * 0.5 / 100
    low, high = bootstrap_interval(np.tile([0.0, 1.0], 5_000), resamples=1000)
    assert (low, high) == pytest.approx((0.4902, 0.5098), abs=0.001)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_interval_of_equal_values_is_a_point(n):
    assert bootstrap_interval(np.full(n, 0.25)) == (0.25, 0.25)


@settings(deadline=None, max_examples=50)
@given(cosines)
def test_the_interval_contains_the_mean(values):
    low, high = bootstrap_interval(values)
    assert low - 1e-12 <= values.mean() <= high + 1e-12


@settings(deadline=None, max_examples=20)
@given(cosines)
def test_the_interval_is_the_same_every_time(values):
    assert bootstrap_interval(values) == bootstrap_interval(values)


def prompts_in(tmp_path, content: bytes) -> dict[str, str]:
    (tmp_path / "prompts.csv").write_bytes(content)
    return read_prompts(tmp_path / "prompts.csv")


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        (b"imgId,prompt\nb,a cat\na,a dog\n", {"b": "a cat", "a": "a dog"}),
        (b"imgId,prompt\r\na,a cat\r\n", {"a": "a cat"}),
        (b"\xef\xbb\xbfimgId,prompt\na,a cat", {"a": "a cat"}),
        (b'imgId,prompt\na,"a cat, sitting"\n', {"a": "a cat, sitting"}),
        (b'imgId,prompt\na,"a cat\nand a dog"\nb,x\n', {"a": "a cat\nand a dog", "b": "x"}),
        (b'imgId,prompt\na,"a ""fat"" cat"\n', {"a": 'a "fat" cat'}),
        ("imgId,prompt\nä,größe 猫\n".encode(), {"ä": "größe 猫"}),
        (
            b"imgId,prompt\na,NA\nb,\nc,nan\nd,1.50\ne,None\n",
            {"a": "NA", "b": "", "c": "nan", "d": "1.50", "e": "None"},
        ),
        (b"imgId,prompt\n007,1.50\n1e5,b\n", {"007": "1.50", "1e5": "b"}),
    ],
)
def test_prompts_are_read_as_they_are_written(tmp_path, content, prompts):
    assert prompts_in(tmp_path, content) == prompts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a CSV table .*expected the columns imgId,prompt"),
        (b"\xff\xfe\x00\x80\n", "not a CSV table .*expected the columns imgId,prompt"),
        (b'imgId,prompt\na,"unclosed\n', "not a CSV table .*expected the columns imgId,prompt"),
        (b"imgId,prompt\na,b\nc,d,e\n", "not a CSV table .*expected the columns imgId,prompt"),
        (b"imgId,prompt\n", "no prompts; expected one row an image"),
        (b"imgId,prompt\na,x\nb,y\na,z\na,x\n", "2 ids are repeated, the first is 'a'"),
        (b"imgId,prompt\na,a cat, sitting\n", "put prompts that contain commas in double quotes"),
        (b"id,prompt\na,x\n", "columns id,prompt; expected exactly imgId,prompt"),
        (b"prompt,imgId\nx,a\n", "columns prompt,imgId; expected exactly imgId,prompt"),
        (b"imgId,prompt,more\na,x,y\n", "columns imgId,prompt,more; expected exactly imgId,prompt"),
        (b"imgId\na\n", "columns imgId; expected exactly imgId,prompt"),
    ],
)
def test_what_is_no_prompts_file_is_refused_with_what_is_wrong(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        prompts_in(tmp_path, content)


def test_a_missing_prompts_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone\.csv: no such file; expected prompts with the columns imgId,prompt"):
        read_prompts(tmp_path / "gone.csv")


def test_a_folder_is_no_prompts_file(tmp_path):
    with pytest.raises(UserError, match="a folder; expected prompts"):
        read_prompts(tmp_path)
