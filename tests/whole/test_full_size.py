"""What takes minutes: memory over many images, and over large ones. Real word lists: tests/publish/test_prepare.py."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from kernel.miniature.world.folders import TEST_SEED, draw_folder
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def run_in_its_own_process(images, weights, out, *more) -> dict:
    command = [sys.executable, "-m", "kernel", "run", str(images), "--weights", str(weights), "--out", str(out), *more]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return json.loads((out / "run.json").read_text())


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, weights_folder):
    images = tmp_path / "images"
    draw_folder(images, TEST_SEED, 2000)
    few = run_in_its_own_process(images, weights_folder, tmp_path / "few", "--limit", "200")
    many = run_in_its_own_process(images, weights_folder, tmp_path / "many")
    assert (few["counts"]["images"], many["counts"]["images"]) == (200, 2000)
    peaks = [max(stage["host"] for stage in content["memory"].values()) for content in (few, many)]
    print(f"peak {peaks[0] / 1e6:.0f} MB at 200 images, {peaks[1] / 1e6:.0f} MB at 2,000")
    assert peaks[1] <= 1.25 * peaks[0]


def test_the_largest_pictures_that_pillow_opens_run_inside_4_gb(tmp_path, weights_folder):
    """258 kB each on the disk, 265 MB as pixels: two batches of these would take 12 GB."""
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (9400, 9400)).save(images / "0.png")
    for number in range(1, 24):
        (images / f"{number}.png").hardlink_to(images / "0.png")
    content = run_in_its_own_process(images, weights_folder, tmp_path / "run")
    assert content["problems"] == [] and content["counts"]["degraded_rows"] == 0
    peak = max(stage["host"] for stage in content["memory"].values())
    print(f"peak {peak / 1e6:.0f} MB over 24 pictures of 88 million pixels")
    assert peak < 4 * 10**9
