"""Libraries' warnings: in run.json with their number, and not on the terminal."""

import logging
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import transformers.utils.logging  # noqa: F401 - sets up its logger, which a test changes
from PIL import Image

from kernel.config import RECIPES, Paths
from kernel.pipeline.folder.run_folder import read_run
from kernel.pipeline.run import run
from kernel.system.terminal.library_warnings import MOST_TEXTS, OTHERS, counted_warnings
from tests import warm
from tests.conftest import ROOT

EXIF = "UserWarning: Corrupt EXIF data.  Expecting to read 12 bytes but only got 4."
RECIPE = replace(RECIPES["baseline"], num_beams=1, captions_per_image=1)


@pytest.fixture
def warning_images(tmp_path, drawn) -> Path:
    """Two pictures whose EXIF ends too early."""
    exif = Image.Exif()
    exif[0x010E] = "a description"
    folder = tmp_path / "images"
    folder.mkdir()
    for name, (picture, _) in zip("ab", drawn, strict=False):
        picture.save(folder / f"{name}.png", exif=exif.tobytes()[:20])
    return folder


@pytest.mark.parametrize("propagates", [False, True])
def test_warnings_and_log_lines_are_counted_once_from_any_thread_and_shown_nowhere(propagates, capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", propagates)
    before = warnings.showwarning, logging.getLogger().handlers[:], logging.getLogger("transformers").handlers
    with counted_warnings() as counted:
        thread = threading.Thread(target=lambda: [warnings.warn("look\nout", stacklevel=1) for _ in range(3)])
        thread.start()
        thread.join()
        logging.getLogger("transformers.tokenization").warning("slow")
        logging.warning("from %s", "open_clip")
        logging.info("no warning")
    assert counted == {"UserWarning: look": 3, "transformers.tokenization: slow": 1, "root: from open_clip": 1}
    assert (warnings.showwarning, logging.getLogger().handlers, logging.getLogger("transformers").handlers) == before
    assert logging.getLogger("transformers").propagate == propagates
    assert capfd.readouterr().err == ""


def test_what_is_so_on_purpose_is_no_warning():
    own = logging.getLogger("transformers.modeling_utils")
    with counted_warnings() as counted:
        own.warning("The tied weights mapping and config for this model specifies to tie a to b, but both are present")
        own.warning("The tied weights are gone")
    assert counted == {"transformers.modeling_utils: The tied weights are gone": 1}


def test_texts_that_are_all_different_do_not_fill_the_record():
    with counted_warnings() as counted:
        for number in range(MOST_TEXTS + 7):
            warnings.warn(f"image {number}", stacklevel=1)
    assert len(counted) == MOST_TEXTS + 1 and counted[OTHERS] == 7


def test_a_run_in_this_process_counts_them(warning_images, weights_folder, tmp_path, capfd):
    content = run(RECIPE, Paths(warning_images, weights_folder, tmp_path / "run"), "cpu")
    err = capfd.readouterr().err
    assert "Warning" not in err and "deprecated" not in err
    assert content["library_warnings"][EXIF] == 4  # for CLIP and for the captioner


def test_a_run_with_workers_counts_theirs(warning_images, weights_folder, tmp_path):
    command = [sys.executable, "-c", warm.WITH_WORKERS, "run", str(warning_images), "--weights", str(weights_folder),
               "--out", str(tmp_path / "run"), "--device", "cpu,cpu", "--set", "num_beams=1",
               "--set", "captions_per_image=1", "--set", "shard_images=1"]  # fmt: skip
    done = warm.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "deprecated" not in done.stderr
    content = read_run(tmp_path / "run")
    assert content is not None and content["library_warnings"][EXIF] == 4  # of pictures that only workers read
