import shutil
import subprocess
import sys
from collections import namedtuple

import pytest

from kernel.errors import UserError
from kernel.preflight import check_disk, only_run
from tests.conftest import ROOT

HOLDS = """
import sys
from pathlib import Path
from kernel.preflight import only_run
with only_run(Path(sys.argv[1])):
    print("holding", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_on_one_folder_is_refused_until_the_first_has_ended(tmp_path):
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "holding\n"
    with pytest.raises(UserError, match="run: another run is writing into it"), only_run(tmp_path / "run"):
        pass
    process.kill()  # the lock goes with the process, whatever ended it
    process.communicate()
    with only_run(tmp_path / "run"):
        assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_ends_with_its_block_even_by_an_error(tmp_path):
    with pytest.raises(ValueError, match="inside"), only_run(tmp_path):
        raise ValueError("inside")
    with only_run(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), only_run(tmp_path / "file" / "run"):
        pass


def test_a_disk_that_cannot_hold_the_run_is_refused(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2e9, 1e9, 1e9))
    check_disk(tmp_path, 16_000, 1_000)
    with pytest.raises(UserError, match=r"1.00 GB are free, a run over 16,000 images may write 1.32 GB"):
        check_disk(tmp_path, 16_000, 100_000)


def test_what_a_run_writes_stays_below_what_is_asked_for(tmp_path, image_folder, weights_folder):
    from kernel.config import RECIPES, Paths
    from kernel.pipeline import run
    from kernel.preflight import IMAGE_BYTES

    run(RECIPES["text"], Paths(image_folder, weights_folder, tmp_path / "run"), "cpu")
    parts = [tmp_path / "run" / name for name in ("clip", "captions", "estimates", "submission.csv")]
    files = [path for part in parts for path in ([part] if part.is_file() else part.rglob("*")) if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6 * IMAGE_BYTES
