import errno
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple

import pytest

from kernel.errors import UserError
from kernel.pipeline.preflight import check_clock, check_disk, check_writable, only_run, preflight
from kernel.system.deadline import Deadline
from tests.conftest import ROOT

HOLDS = """
import sys
from pathlib import Path
from kernel.pipeline.preflight import only_run
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
    with pytest.raises(UserError, match=r"1.00 GB are free, a run over 16,000 images may write 1.33 GB"):
        check_disk(tmp_path, 16_000, 100_000)


def test_what_a_run_writes_stays_below_what_is_asked_for(tmp_path, image_folder, weights_folder):
    from kernel.config import RECIPES, Paths
    from kernel.pipeline.preflight import IMAGE_BYTES
    from kernel.pipeline.run import run

    run(RECIPES["text"], Paths(image_folder, weights_folder, tmp_path / "run"), "cpu")
    parts = [tmp_path / "run" / name for name in ("clip", "captions", "estimates", "submission.csv")]
    files = [path for part in parts for path in ([part] if part.is_file() else part.rglob("*")) if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6 * IMAGE_BYTES


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_a_file_but_does_not_keep_it_is_refused(tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError, match=r"cannot be written \(Input/output error\).*Nothing was begun; give --out"):
        check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def now(monkeypatch) -> float:
    """The clock stands at 1e9, ten days after the machine was started."""
    monkeypatch.setattr(time, "time", lambda: 1e9)
    monkeypatch.setattr("kernel.system.deadline.machine_seconds", lambda: 10 * 86_400.0)
    return 1e9


@pytest.mark.parametrize("ago", [None, 0, 1, 30_000, 86_400])
def test_a_start_within_the_last_day_is_not_doubted(now, ago):
    assert check_clock(None if ago is None else now - ago) is None


@pytest.mark.parametrize(
    ("started", "said"),
    [
        (1e9 + 7200, "--started 1000007200 is 2.0 hours in the future by this machine's clock"),
        (1e9 - 90_000, "--started 999910000 is 25.0 hours ago by this machine's clock"),
        (0, "--started 0 is 277777.8 hours ago"),
        (float("nan"), "--started nan is "),
        (float("inf"), "--started inf is inf hours in the future"),
    ],
)
def test_a_start_that_cannot_be_true_is_said_in_one_line_and_stops_nothing(now, started, said):
    warning = check_clock(started)
    assert warning is not None and warning.startswith(said) and "\n" not in warning
    assert "The deadline counts from the start of this process instead" in warning


def test_preflight_returns_what_is_doubted(tmp_path, now):
    assert preflight(tmp_path, 6, 10) == []
    assert preflight(tmp_path, 6, 10, Deadline.after(100, now - 50)) == []
    (warning,) = preflight(tmp_path, 6, 10, Deadline.after(100, now + 50))
    assert "in the future" in warning
    assert preflight(tmp_path, 6, 10, Deadline.after(None, now + 50)) == []  # nothing counts from it


@pytest.mark.parametrize("check", ["check_disk", "check_writable"])
def test_preflight_refuses_a_folder_that_one_of_its_checks_refuses(tmp_path, monkeypatch, check):
    def refuse(*arguments):
        raise UserError("refused")

    monkeypatch.setattr(f"kernel.pipeline.preflight.{check}", refuse)
    with pytest.raises(UserError, match="refused"):
        preflight(tmp_path, 6, 10)
