"""SIGKILL in the middle of `describe --write` where some pictures have captions already; the same command again."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest

import kernel
from kernel.miniature.world.folders import TEST_SEED, draw_folder
from kernel.sidecars.txt import read_txt, txt_path
from tests import warm
from tests.conftest import ROOT

PICTURES, WITH_TEXT = 200, 30
# kills itself at its n-th step: before or after a line of the journal, or a file in its place
HARNESS = """
import os, signal, sys
from pathlib import Path
from kernel.__main__ import main
from kernel.sidecars.journal import Journal

left = int(sys.argv[1])

def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def stepping(owner, name):
    real = getattr(owner, name)
    def stepped(*arguments):
        step()
        real(*arguments)
        step()
    setattr(owner, name, stepped)

stepping(Journal, "write")
stepping(Path, "replace")
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory, weights_folder) -> dict[str, str]:
    """Of each of the drawn pictures, undisturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "images"
    draw_folder(folder, TEST_SEED, PICTURES, "{:03d}".format)
    records = kernel.describe(folder, weights=weights_folder, features=folder.parent / "features", device="cpu")
    return {Path(record["image"]).name: record["prompt"] for record in records}


def expected(existing: str, old: list[str], prompt: str) -> list[str]:
    ways = {"skip": old, "overwrite": [prompt], "append": [f"{text}, {prompt}" for text in old],
            "prepend": [f"{prompt}, {text}" for text in old]}  # fmt: skip
    return ways[existing] if old else [prompt]


@pytest.mark.parametrize(
    "existing, kills",
    [("skip", (303, 12)),
     *(pytest.param(*own, marks=pytest.mark.slow)
       for own in (("overwrite", (104, 704, 2)), ("append", (505, 13)), ("prepend", (606, 5))))],
)  # fmt: skip
def test_every_caption_is_written_once_and_none_by_hand_is_lost(tmp_path, weights_folder, prompts, existing, kills):
    folder = tmp_path / "images"
    draw_folder(folder, TEST_SEED, PICTURES, "{:03d}".format)
    images = sorted(folder.iterdir())
    old = {image: ["one", "two"][: 1 + number // 6 % 2] for number, image in enumerate(images) if number % 6 == 0}
    old = dict(list(old.items())[:WITH_TEXT])
    assert len(old) == WITH_TEXT
    for image, texts in old.items():
        txt_path(image).write_text("\n\n".join(texts))
    command = ["describe", folder, "--weights", weights_folder, "--features", tmp_path / "features", "--device", "cpu",
               "--write", "txt", "--existing", existing]  # fmt: skip
    corrected: dict[Path, list[str]] = {}
    for at in (*kills, 0):
        done = warm.run(
            [sys.executable, "-c", HARNESS, str(at), *map(str, command)], cwd=ROOT, capture_output=True, text=True
        )
        if at:
            assert done.returncode == -signal.SIGKILL, done.stderr
            finished = [image for image in images if read_txt(txt_path(image)) == expected(
                existing, old.get(image, []), prompts[image.name]) and image not in old]  # fmt: skip
            if not finished:  # killed while it kept what it had found
                continue
            image = finished[len(corrected)]
            corrected[image] = [f"by hand {at}"]
            txt_path(image).write_text(corrected[image][0])
    assert done.returncode == 0 and corrected, done.stderr
    assert re.fullmatch(r"\d+ captions written, \d+ kept as they were\n", done.stdout)
    found = {image: read_txt(txt_path(image)) for image in images}
    assert found == {
        image: corrected.get(image) or expected(existing, old.get(image, []), prompts[image.name]) for image in images
    }
    assert sorted(os.listdir(folder)) == sorted(name.name for image in images for name in (image, txt_path(image)))
