"""What takes minutes: memory over many images, and the line with the real word lists."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import distribution

import pytest

from kernel.checkpoints import write_manifest
from kernel.miniature.drawing import draw
from kernel.miniature.grammar import scene_stream
from tests.conftest import ROOT, TEST_SEED

pytestmark = pytest.mark.slow


def run_in_its_own_process(images, weights, out, *more) -> dict:
    command = [sys.executable, "-m", "kernel", "run", str(images), "--weights", str(weights), "--out", str(out), *more]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return json.loads((out / "run.json").read_text())


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, weights_folder):
    images = tmp_path / "images"
    images.mkdir()
    for index, (scene, rng) in enumerate(scene_stream(TEST_SEED, 2000)):
        draw(scene, rng).save(images / f"{index:06d}.png", compress_level=1)
    few = run_in_its_own_process(images, weights_folder, tmp_path / "few", "--limit", "200")
    many = run_in_its_own_process(images, weights_folder, tmp_path / "many")
    assert (few["counts"]["images"], many["counts"]["images"]) == (200, 2000)
    grown = many["peak_memory_bytes"]["host"] - few["peak_memory_bytes"]["host"]
    print(f"peak {few['peak_memory_bytes']['host'] / 1e6:.0f} MB at 200, grown by {grown / 1e6:.0f} MB at 2,000")
    assert grown < 300 * 10**6


def test_the_line_runs_with_the_real_word_lists(image_folder, tmp_path, weights, weights_folder):
    """101,250 phrases through the miniature text tower: the path and the sizes, not the quality."""
    own = tmp_path / "weights"
    shutil.copytree(weights_folder, own)
    data = distribution("clip-interrogator").locate_file("clip_interrogator/data")
    for name in ("mediums", "movements", "flavors"):
        shutil.copy(data / f"{name}.txt", own / "word_banks" / f"{name}.txt")
    write_manifest(own, weights.models, weights.captioners)
    content = run_in_its_own_process(image_folder, own, tmp_path / "run")
    assert content["dropped_phrases"]["flavors"]["undecodable"] == 2
    modifiers = json.loads((tmp_path / "run" / "clip" / "modifiers.json").read_text())
    real = {
        name: set((data / f"{name}.txt").read_text(encoding="utf-8").splitlines())
        for name in ("mediums", "movements", "flavors")
    }
    for phrases in modifiers:
        assert phrases[0] in real["mediums"] and phrases[1] in real["movements"]
        assert len(phrases) == 5 and set(phrases[2:]) <= real["flavors"]
