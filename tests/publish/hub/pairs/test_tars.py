"""Tars of a set: pictures resized, and gone on with where a kill cut them."""

from collections import Counter

from PIL import Image

from kernel.pipeline.images import ImageFile
from kernel.publish.hub.pairs import tars
from kernel.publish.hub.pairs.stored import Stored
from kernel.publish.hub.pairs.tars import fill_tar, resized
from tests.publish.hub.pairs.source_files import (
    PROMPTS,
    encoded,
    picture,
)


def test_a_small_picture_is_not_enlarged_and_a_large_one_keeps_its_shape():
    assert resized(Image.new("RGB", (40, 90)), 48).size == (40, 90)
    assert resized(Image.new("RGB", (768, 1152)), 336).size == (336, 504)


def test_a_tar_that_was_cut_anywhere_is_gone_on_with_to_the_same_bytes(tmp_path):
    paths = []
    for number in range(6):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encoded(picture(number), "PNG") if number not in (0, 3) else b"bad")
    pairs = [
        (Stored(ImageFile(path.stem, path), path.stem, "", number), PROMPTS[number])
        for number, path in enumerate(paths)
    ]
    left_out: Counter[str] = Counter()
    assert fill_tar(tmp_path / "whole.tar", pairs, 16, 99, left_out) == 4 and left_out.total() == 2
    whole = (tmp_path / "whole.tar").read_bytes()
    for end in [*range(0, len(whole), 512), *range(10, len(whole), 512), len(whole)]:
        (tmp_path / "cut.tar").write_bytes(whole[:end])
        left_out.clear()
        assert fill_tar(tmp_path / "cut.tar", pairs, 16, 99, left_out) == 4 and left_out.total() == 2
        assert (tmp_path / "cut.tar").read_bytes() == whole


def test_what_is_in_a_tar_that_was_cut_is_not_decoded_again(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(picture(1), "PNG"))
    pairs = [(Stored(ImageFile("a", tmp_path / "a.png"), "a", ""), prompt) for prompt in PROMPTS[:4]]
    fill_tar(tmp_path / "own.tar", pairs, 16, 3, Counter())
    decoded = []
    monkeypatch.setattr(tars, "decoded_batches", lambda files, _: decoded.extend(files) or [])
    fill_tar(tmp_path / "own.tar", pairs, 16, 4, Counter())
    assert len(decoded) == 1
