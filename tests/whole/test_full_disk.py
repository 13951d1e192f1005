"""A disk that fills up or cannot be written, for real: small disks in memory as run folders."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernel.config import RECIPES, Paths
from kernel.errors import UserError
from kernel.models.captioners.captioner import Captioner
from kernel.models.clip import ClipEncoder
from kernel.pipeline import submission
from kernel.pipeline.preflight import check_disk, check_writable, only_run
from kernel.pipeline.run import run
from kernel.pipeline.submission import check_submission, read_submission
from tests.conftest import ROOT

IDS = list("abcdef")
FAST = replace(RECIPES["baseline"], num_beams=1, captions_per_image=1, shard_images=2)
DISK_BYTES = 2**20


@pytest.fixture
def mount(tmp_path) -> Iterator[Callable[[int], Path]]:
    """Makes a disk of so many bytes; it goes with the test."""
    folder = tmp_path / "disk"

    def mounted(size: int) -> Path:
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip(f"only root may mount a disk: {done.stderr.decode().strip()}")
        return folder

    if shutil.which("mount") is None or not sys.platform.startswith("linux"):
        pytest.skip("disks in memory are mounted as Linux does it")
    yield mounted
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(disk: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", disk], check=True)


@pytest.fixture
def disk(mount) -> Path:
    return mount(DISK_BYTES)


@pytest.fixture
def where(image_folder, weights_folder, disk) -> Paths:
    return Paths(image_folder, weights_folder, disk / "run")


@pytest.fixture(scope="module")
def undisturbed(submission_by) -> dict[str, np.ndarray]:
    return submission_by(FAST)


def fill(disk: Path) -> None:
    """Somebody else takes the last byte."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    assert shutil.disk_usage(disk).free == 0


def distance(run_folder: Path, expected: dict[str, np.ndarray]) -> float:
    """The largest difference of any value of a submission, which must be valid, from the expected one."""
    check_submission(run_folder / "submission.csv", IDS)
    found = read_submission(run_folder / "submission.csv")
    return max(float(np.abs(found[name] - expected[name]).max()) for name in IDS)


def unfinished(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name.startswith(".")]


@pytest.mark.parametrize(
    ("stage", "model", "method"),
    [("clip", ClipEncoder, "encode_images"), ("captions", Captioner, "captions")],
)
def test_a_disk_that_fills_up_before_a_shard_stops_the_run_and_a_freed_one_goes_on(
    where, disk, undisturbed, monkeypatch, capfd, stage, model, method
):
    calls = []
    really = getattr(model, method)

    def filling(self, *arguments):
        calls.append(len(arguments[0]))
        if len(calls) == 2:
            fill(disk)
        return really(self, *arguments)

    monkeypatch.setattr(model, method, filling)
    full = r"run: cannot be written \(No space left on device\); 0 MiB are free there, \d+ MiB may be needed in all"
    with pytest.raises(UserError, match=full):
        run(FAST, where, "cpu")
    assert len(calls) == 2  # it stopped there and then: no other captioner was tried
    assert distance(where.run, undisturbed) > 0.01  # an earlier answer, whole
    assert unfinished(where.run) == []
    (kept,) = (path for path in (where.run / stage).glob("00*") if path.suffix != ".sha256")
    made = kept.stat().st_mtime_ns

    monkeypatch.undo()
    (disk / "filler").unlink()
    content = run(FAST, where, "cpu")
    assert "going on with the last run" in capfd.readouterr().err
    assert kept.stat().st_mtime_ns == made
    assert content["counts"]["degraded_rows"] == 0
    assert distance(where.run, undisturbed) < 1e-4


def test_a_disk_that_fills_up_within_the_submission_leaves_the_older_one_and_a_larger_disk_goes_on(
    where, disk, undisturbed, monkeypatch
):
    really, older = submission.csv_lines, []

    def filling(ids, values):
        if any((where.run / "captions").glob("00*")):  # the last answer, whose older one has no captions
            older.append((where.run / "submission.csv").read_bytes())
            fill(disk)
        return really(ids, values)

    monkeypatch.setattr(submission, "csv_lines", filling)
    with pytest.raises(UserError, match=r"run: cannot be written \(No space left on device\).*No half-written"):
        run(FAST, where, "cpu")
    assert [(where.run / "submission.csv").read_bytes()] == older
    assert distance(where.run, undisturbed) > 0.01
    assert unfinished(where.run) == []

    monkeypatch.undo()
    remount(disk, f"size={2 * DISK_BYTES}")
    run(FAST, where, "cpu")
    assert distance(where.run, undisturbed) < 1e-4


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(mount, image_folder, weights_folder):
    folder = mount(2**17)
    with pytest.raises(UserError, match=r"0\.14 MB are free, a run over 6 images may write"):
        run(FAST, Paths(image_folder, weights_folder, folder / "run"), "cpu")
    assert list((folder / "run").iterdir()) == []
    check_disk(folder, 2, 0)  # two images would fit


def test_a_disk_that_was_remounted_read_only_is_said_and_keeps_its_submission(where, disk):
    run(FAST, where, "cpu", limit=1)
    before = (where.run / "submission.csv").read_bytes()
    (where.run / "clip" / "00000.safetensors").unlink()
    remount(disk, "ro")
    with pytest.raises(UserError, match="run: cannot be written .*Read-only file system"):
        run(FAST, where, "cpu", limit=1)
    assert (where.run / "submission.csv").read_bytes() == before
    with pytest.raises(UserError, match="run: cannot be written .*Read-only file system.*on a disk that is not"):
        check_writable(where.run)
    with pytest.raises(UserError, match="new: cannot be written .*Read-only file system"), only_run(disk / "new"):
        pass


def test_a_disk_without_a_byte_left_cannot_be_written(disk):
    check_writable(disk)
    assert list(disk.iterdir()) == []
    fill(disk)
    with pytest.raises(UserError, match=r"disk: cannot be written \(No space left on device\)"):
        check_writable(disk)
    assert [path.name for path in disk.iterdir()] == ["filler"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root has run them already, as itself")
def test_these_for_a_user_who_is_root_only_inside_a_namespace():
    inside = ["unshare", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("this system lets only root mount a disk, and makes no namespaces for other users")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    done = subprocess.run([*inside, *tests], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "6 passed, 1 skipped" in done.stdout
