"""A tenth of the images cannot be read, each for another reason: every one has its row, and every one is counted."""

import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernel.config import RECIPES, Paths
from kernel.pipeline.run import run
from kernel.pipeline.submission import check_submission, read_submission

FAST = replace(RECIPES["baseline"], num_beams=1, captions_per_image=1, shard_images=16, clip_batch=16, caption_batch=16)
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
REASONS = {
    "cut": "Error: ",
    "empty": "UnidentifiedImageError: ",
    "folder": "IsADirectoryError: ",
    "huge": "100000 x 1000 pixels, over Pillow's limit",
    "link": "FileNotFoundError: ",
    "text": "UnidentifiedImageError: ",
}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(width: int, height: int) -> bytes:
    """A few bytes that say they are so many pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, weights_folder, drawn) -> tuple[Path, dict]:
    """The run folder and the record of one run over 54 pictures and 6 files that are none."""
    base = tmp_path_factory.mktemp("unreadable")
    images = base / "images"
    images.mkdir()
    for index in range(54):
        drawn[index % len(drawn)][0].resize((48, 48)).save(images / f"{index:02d}.png")
    whole = (images / "00.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "empty.png").touch()
    (images / "folder.png").mkdir()
    (images / "huge.png").write_bytes(huge_png(100_000, 1_000))
    (images / "link.png").symlink_to(images / "gone.png")
    (images / "text.png").write_text("a shopping list\n")
    return base / "run", run(FAST, Paths(images, weights_folder, base / "run"), "cpu")


def test_every_image_has_a_row(finished):
    check_submission(finished[0] / "submission.csv", [*(f"{index:02d}" for index in range(54)), *REASONS])


def test_exactly_the_unreadable_ones_are_counted_and_listed_with_their_reasons(finished):
    _, content = finished
    counts = {name: count for name, count in content["counts"].items() if count}
    assert counts == {"images": 60, "bad_images": 6, "degraded_rows": 6}
    assert sorted(content["bad_images"]) == sorted(REASONS)
    assert {name: text for name, text in REASONS.items() if text not in content["bad_images"][name]} == {}


def test_the_unreadable_ones_share_one_row_that_no_other_has(finished):
    rows = read_submission(finished[0] / "submission.csv")
    fallback = rows["cut"]
    alike = {name for name, row in rows.items() if np.abs(row - fallback).max() < 1e-6}
    assert alike == set(REASONS)
