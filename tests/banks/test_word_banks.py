import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from kernel.banks.word_banks import (
    Phrases,
    encode_missing,
    features_file,
    features_key,
    rank,
    read_features,
    read_phrases,
)
from kernel.errors import UserError
from kernel.models.vectors import unit_rows

WORDS = Phrases("mediums", ["a woodcut", "größe 猫", "swirl"], {"blank": 0, "duplicate": 0, "undecodable": 0})
FEATURES = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
NOTHING = {"blank": 0, "duplicate": 0, "undecodable": 0, "too long": 0}


def phrases_in(tmp_path: Path, content: bytes) -> Phrases:
    (tmp_path / "mediums.txt").write_bytes(content)
    return read_phrases(tmp_path / "mediums.txt")


# reading


@pytest.mark.parametrize(
    ("content", "phrases"),
    [
        (b"a woodcut\nswirl\n", ["a woodcut", "swirl"]),
        (b"a woodcut\nswirl", ["a woodcut", "swirl"]),
        (b"a woodcut\r\nswirl\r\n", ["a woodcut", "swirl"]),
        (b"a woodcut\rswirl\r", ["a woodcut", "swirl"]),
        (b"\xef\xbb\xbfa woodcut\nswirl\n", ["a woodcut", "swirl"]),
        (b"  a woodcut\t\n\tswirl \n", ["a woodcut", "swirl"]),
        (b'swirl, whorl\n"quoted\n#5\n', ["swirl, whorl", '"quoted', "#5"]),
        ("größe\n猫 🐈\n".encode(), ["größe", "猫 🐈"]),
        # these end a line for str.splitlines, but not in a text file
        ("a\u2028b\nc\x85d\ne\x0bf\n".encode(), ["a\u2028b", "c\x85d", "e\x0bf"]),
    ],
)
def test_each_line_is_a_phrase(tmp_path, content, phrases):
    assert phrases_in(tmp_path, content) == Phrases("mediums", phrases, NOTHING)


@pytest.mark.parametrize(
    ("content", "phrases", "reason", "count"),
    [
        (b"\na\n \n\t\nb\n\n", ["a", "b"], "blank", 4),
        (b"b\na\nb\nb \n", ["b", "a"], "duplicate", 2),
        (b"a\nlatin-1 \xe9t\xe9\nb\n\xc3\n", ["a", "b"], "undecodable", 2),
        ("a\nMe\ufffdbius\nb\n".encode(), ["a", "b"], "undecodable", 1),
        # an undecodable line is not also a duplicate
        (b"\xe9\na\n\xe9\n", ["a"], "undecodable", 2),
    ],
)
def test_unusable_lines_are_dropped_and_counted(tmp_path, content, phrases, reason, count):
    found = phrases_in(tmp_path, content)
    assert (found.phrases, found.dropped) == (phrases, {**NOTHING, reason: count})


def test_phrases_that_differ_in_case_are_two(tmp_path):
    assert phrases_in(tmp_path, b"Swirl\nswirl\n").phrases == ["Swirl", "swirl"]


def test_a_list_is_named_by_its_file(tmp_path):
    (tmp_path / "my words.v2.txt").write_text("a")
    assert read_phrases(tmp_path / "my words.v2.txt").name == "my words.v2"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xe9\n"])
def test_a_list_without_a_phrase_is_refused(tmp_path, content):
    with pytest.raises(UserError, match="no phrase left .*; expected one phrase a line"):
        phrases_in(tmp_path, content)


@pytest.mark.parametrize(("name", "why"), [("gone.txt", "no such word list"), ("folder", "cannot be read .+")])
def test_a_missing_list_is_refused(tmp_path, name, why):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{name}: {why}; expected a text file with one phrase a line"):
        read_phrases(tmp_path / name)


@settings(deadline=None)
@given(lines=st.lists(st.sampled_from([b"", b" ", b"a", b"b", b" a", "ä".encode(), b"\xff", "\ufffd".encode()])))
def test_every_line_is_kept_or_counted_once(tmp_path_factory, lines):
    path = tmp_path_factory.getbasetemp() / "every_line.txt"
    path.write_bytes(b"".join(line + b"\n" for line in [*lines, b"last"]))
    found = read_phrases(path)
    assert len(found.phrases) + sum(found.dropped.values()) == len(lines) + 1


@pytest.fixture(scope="session")
def real_lists() -> Path:
    """clip-interrogator's own word lists, read as data; the package is never imported."""
    return Path(str(importlib.metadata.distribution("clip-interrogator").locate_file("clip_interrogator/data")))


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("mediums", 95, NOTHING),
        ("movements", 200, NOTHING),
        ("artists", 5_265, NOTHING),
        # 100,970 lines, 100,955 of them different: an empty one and two with U+FFFD are no phrases either
        ("flavors", 100_952, {**NOTHING, "blank": 1, "duplicate": 15, "undecodable": 2}),
    ],
)
def test_the_real_lists_have_these_phrases(real_lists, name, kept, dropped):
    found = read_phrases(real_lists / f"{name}.txt")
    assert (len(found.phrases), found.dropped) == (kept, dropped)


@pytest.mark.parametrize(
    ("name", "phrases"),
    [
        ("mediums", {"a woodcut", "a digital painting", "a screenprint", "a detailed painting"}),
        ("movements", {"art nouveau", "context art", "conceptual art", "lowbrow", "magic realism"}),
        ("flavors", {"whorl", "planet arrakis", "robot!", "“a dinosaur market", "thomas blackshear and moebius"}),
    ],
)
def test_the_real_lists_hold_what_the_deck_printed(real_lists, name, phrases):
    assert phrases <= set(read_phrases(real_lists / f"{name}.txt").phrases)


# features


class Counting:
    """Stands for a ClipEncoder: gives FEATURES and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], int]] = []

    def encode_texts(self, texts: list[str], batch: int) -> np.ndarray:
        self.asked.append((texts, batch))
        return FEATURES


@pytest.fixture
def shipped(tmp_path) -> Path:
    return tmp_path / "weights" / "features"


@pytest.fixture
def computed(tmp_path) -> Path:
    return tmp_path / "run" / "features"


def keep(folder: Path, features: np.ndarray) -> None:
    folder.mkdir(parents=True)
    save_file({"features": features}, folder / f"{features_key('3f2a', WORDS.phrases)}.safetensors")


def banked(clip: Counting, shipped: Path, computed: Path, words: Phrases = WORDS, sha256: str = "3f2a") -> np.ndarray:
    encode_missing(words, clip, sha256, [shipped, computed], batch=7)
    path = features_file(words, sha256, [shipped, computed])
    assert path is not None
    return read_features(words, path)


def test_a_features_key_stays_what_it_is():
    # printf '["3f2a", ["a woodcut", "größe"]]' | sha256sum
    expected = "67e768d91d8f58a93e24a8cf133089c61329e3cefbe2f6087a673303b54aa402"
    assert features_key("3f2a", ["a woodcut", "größe"]) == expected


@pytest.mark.parametrize(
    ("sha256", "phrases"),
    [
        ("91c0", ["a", "b"]),
        ("3f2a", ["b", "a"]),
        ("3f2a", ["a"]),
        ("3f2a", ["a", "b", "c"]),
        ("3f2a", ["a", "B"]),
        ("3f2a", ["a, b"]),
        ("3f2a", ['a", "b']),
    ],
)
def test_another_model_or_other_phrases_have_another_key(sha256, phrases):
    assert features_key(sha256, phrases) != features_key("3f2a", ["a", "b"])


def test_missing_features_are_encoded_in_batches_of_the_recipe(shipped, computed):
    clip = Counting()
    banked(clip, shipped, computed)
    assert clip.asked == [(WORDS.phrases, 7)]


def test_a_bank_has_its_phrases_and_their_features(shipped, computed):
    bank = banked(Counting(), shipped, computed)
    assert bank.tolist() == FEATURES.tolist()


def test_encoded_features_are_kept_beside_the_run_alone(shipped, computed):
    banked(Counting(), shipped, computed)
    [kept] = computed.iterdir()
    assert load_file(kept)["features"].tolist() == FEATURES.tolist() and not shipped.exists()


def test_kept_features_are_not_encoded_again(shipped, computed):
    banked(Counting(), shipped, computed)
    clip = Counting()
    bank = banked(clip, shipped, computed)
    assert clip.asked == [] and bank.tolist() == FEATURES.tolist()


def test_another_models_features_are_not_taken(shipped, computed):
    banked(Counting(), shipped, computed)
    clip = Counting()
    banked(clip, shipped, computed, sha256="91c0")
    assert len(clip.asked) == 1


def test_other_phrases_features_are_not_taken(shipped, computed):
    banked(Counting(), shipped, computed)
    clip = Counting()
    banked(clip, shipped, computed, Phrases("mediums", ["a woodcut", "a print", "swirl"], NOTHING))
    assert len(clip.asked) == 1


def test_shipped_features_are_taken_before_computed_ones(shipped, computed):
    keep(shipped, FEATURES)
    keep(computed, FEATURES[::-1].copy())
    assert banked(Counting(), shipped, computed).tolist() == FEATURES.tolist()


def test_shipped_half_precision_is_read_as_float32(shipped, computed):
    keep(shipped, FEATURES.astype(np.float16))
    assert banked(Counting(), shipped, computed).dtype == np.float32


@pytest.mark.parametrize("rows", [2, 4])
def test_features_of_another_number_of_phrases_are_refused(shipped, computed, rows):
    keep(computed, np.ones((rows, 2), dtype=np.float32))
    said = (
        rf"holds \[\('features', \({rows}, 2\)\)\]; expected rows for the 3 phrases of mediums.*Remove it and run again"
    )
    with pytest.raises(UserError, match=said):
        banked(Counting(), shipped, computed)


@pytest.mark.parametrize("tensors", [{"rows": FEATURES}, {"features": FEATURES, "more": FEATURES}, {}, {
    "features": FEATURES.astype(np.int64)}, {"features": FEATURES[:, 0]}, {"features": FEATURES[None]}])  # fmt: skip
def test_a_file_that_holds_other_than_the_phrases_features_is_refused(shipped, computed, tensors):
    keep(computed, FEATURES)
    save_file({name: np.ascontiguousarray(rows) for name, rows in tensors.items()}, next(computed.iterdir()))
    with pytest.raises(UserError, match="expected rows for the 3 phrases of mediums"):
        banked(Counting(), shipped, computed)


def test_features_that_cannot_be_kept_leave_nothing_behind(shipped, computed, monkeypatch):
    def fail(path, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        banked(Counting(), shipped, computed)
    assert list(computed.iterdir()) == []


# ranking


def naive_rank(images: np.ndarray, bank: np.ndarray, top_k: int) -> tuple[list, list]:
    """One image after the other, all phrases sorted; equal cosines stay in the order of the bank."""
    indices, cosines = [], []
    for image in images.astype(np.float64):
        similarity = bank.astype(np.float64) @ image
        best = np.argsort(-similarity, kind="stable")[:top_k]
        indices.append(best.tolist())
        cosines.append(similarity[best].tolist())
    return indices, cosines


def ranked(images: list, bank: list, top_k: int) -> list:
    return rank(np.array(images, dtype=np.float32), np.array(bank, dtype=np.float32), top_k)[0].tolist()


def test_the_best_phrase_comes_first():
    assert ranked([[1, 0]], [[0, 1], [0.6, 0.8], [1, 0]], 3) == [[2, 1, 0]]


def test_cosines_come_with_their_phrases():
    _, cosines = rank(np.float32([[1, 0]]), np.float32([[0, 1], [0.5, 0], [1, 0], [-1, 0]]), 4)
    assert cosines.tolist() == [[1, 0.5, 0, -1]]


def test_indices_are_int64_and_cosines_float32():
    indices, cosines = rank(FEATURES, FEATURES, 2)
    assert (indices.dtype, cosines.dtype) == (np.int64, np.float32)


def test_ties_inside_the_best_are_in_the_order_of_the_bank():
    assert ranked([[1, 0]], [[0, 1], [1, 0], [0.5, 0], [1, 0], [1, 0]], 4) == [[1, 3, 4, 2]]


@pytest.mark.parametrize("top_k", [1, 2, 3, 50])
def test_of_ties_across_the_border_the_first_in_the_bank_are_kept(top_k):
    assert ranked([[1, 0]], [[1, 0]] * 100, top_k) == [list(range(top_k))]


def test_a_tie_across_the_border_below_a_better_phrase_keeps_the_first_in_the_bank():
    assert ranked([[1, 0]], [[0.5, 0]] * 50 + [[1, 0]] + [[0.5, 0]] * 50, 3) == [[50, 0, 1]]


def test_a_tie_of_one_image_leaves_the_others_as_they_were():
    bank = [[0.25, 1], [1, 0.5], [1, 0]]
    assert ranked([[0, 1], [1, 0], [1, 1]], bank, 2) == [[0, 1], [1, 2], [1, 0]]


@pytest.mark.parametrize("top_k", [3, 4, 1000])
def test_of_a_small_bank_every_phrase_is_ranked(top_k):
    assert ranked([[1, 0], [0, 1]], FEATURES.tolist(), top_k) == [[0, 2, 1], [1, 2, 0]]


def test_no_phrase_of_a_bank_is_ranked_when_none_is_asked():
    assert rank(FEATURES, FEATURES, 0)[0].shape == (3, 0)


def test_a_bad_images_zero_row_is_ranked_like_any_other():
    assert ranked([[0, 0]], FEATURES.tolist(), 2) == [[0, 1]]


whole_numbers = st.integers(-2, 2).map(np.float32)  # their products are exact, so equal ones tie exactly


@settings(deadline=None)
@given(st.data(), st.integers(0, 6), st.integers(1, 12), st.integers(1, 14), st.integers(1, 4))
def test_rank_equals_the_naive_loop_with_ties(data, n, phrases, top_k, chunk):
    images = data.draw(hnp.arrays(np.float32, (n, 3), elements=whole_numbers))
    bank = data.draw(hnp.arrays(np.float32, (phrases, 3), elements=whole_numbers))
    indices, cosines = rank(images, bank, top_k, chunk)
    assert (indices.tolist(), cosines.tolist()) == naive_rank(images, bank, top_k)


def random_unit_rows(n: int, dimensions: int, seed: int) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, dimensions)))


@pytest.mark.parametrize("chunk", [1, 2, 7, 29, 30, 512])
def test_rank_equals_the_naive_loop_for_every_chunk_size(chunk):
    images, bank = random_unit_rows(30, 16, seed=0), random_unit_rows(200, 16, seed=1)
    indices, cosines = rank(images, bank, 5, chunk)
    naive_indices, naive_cosines = naive_rank(images, bank, 5)
    assert indices.tolist() == naive_indices
    np.testing.assert_allclose(cosines, naive_cosines, atol=1e-6)


def test_rank_equals_the_naive_loop_over_the_real_flavors(real_lists):
    flavors = read_phrases(real_lists / "flavors.txt").phrases
    images, bank = random_unit_rows(20, 64, seed=0), random_unit_rows(len(flavors), 64, seed=1)
    assert rank(images, bank, 3)[0].tolist() == naive_rank(images, bank, 3)[0]
