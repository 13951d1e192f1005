import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.system.deadline import NEVER, PROCESS_START, Deadline, Effort, OutOfTime, machine_seconds
from tests.conftest import ROOT


class Left(Deadline):
    """A deadline with so many seconds left."""

    def __init__(self, seconds: float) -> None:
        super().__init__(None)
        object.__setattr__(self, "seconds", seconds)

    def left(self) -> float:
        return self.seconds


def test_without_a_deadline_there_is_always_time():
    assert Deadline.after(None).left() == float("inf")
    assert NEVER.earlier(1e9).left() == float("inf")


@pytest.fixture
def clocks(monkeypatch):
    """A wall clock at 1e9, a steady one at 50,000 since the machine's start, of which this process has had 100 s."""

    class Clocks:
        wall, steady = 1e9, 50_000.0

    monkeypatch.setattr(time, "time", lambda: Clocks.wall)
    monkeypatch.setattr(time, "monotonic", lambda: Clocks.steady)
    monkeypatch.setattr("kernel.system.deadline.machine_seconds", lambda: Clocks.steady)
    monkeypatch.setattr("kernel.system.deadline.PROCESS_START", Clocks.steady - 100)
    return Clocks


@pytest.mark.parametrize(
    ("ago", "left"),
    [
        (None, 3500),
        (1000, 2600),
        (50, 3500),  # the process has had more than that
        (3600, 0),
        (5000, -1400),
        (-1, 3500),  # in the future: the clock was set back
        (-9000, 3500),
        (50_001, 3500),  # before the machine's own start: the clock was set forward
        (1e9, 3500),  # started at 0
        (float("nan"), 3500),
        (float("inf"), 3500),
        (float("-inf"), 3500),
    ],
)
def test_a_deadline_counts_from_the_given_start_where_that_can_be_true_or_from_the_processs(clocks, ago, left):
    assert Deadline.after(3600, None if ago is None else clocks.wall - ago).left() == left


@pytest.mark.parametrize(("ago", "left"), [(86_400, 13_600), (86_401, 99_900)])
def test_a_start_more_than_a_day_ago_cannot_be_true(clocks, monkeypatch, ago, left):
    monkeypatch.setattr("kernel.system.deadline.machine_seconds", lambda: 1e7)
    assert Deadline.after(100_000, clocks.wall - ago).left() == left


@pytest.mark.parametrize("jump", [-1e6, -3600, 3600, 1e6])
def test_a_clock_that_is_set_later_changes_nothing(clocks, jump):
    deadline = Deadline.after(3600, clocks.wall - 1000)
    clocks.wall += jump
    clocks.steady += 10
    assert (deadline.left(), deadline.earlier(90).left()) == (2590, 2500)


def test_a_machine_is_older_than_its_process():
    assert machine_seconds() >= time.monotonic() - PROCESS_START > 0


def test_an_earlier_deadline_leaves_less():
    assert Deadline(time.monotonic() + 100).earlier(30).left() == pytest.approx(70, abs=5)


def effort(left: float, image_seconds: float | None, images: int = 100, most: int = 5) -> Effort:
    own = Effort(most, images, Left(left))
    own.image_seconds = image_seconds
    return own


def test_before_anything_was_measured_the_effort_is_what_was_asked():
    assert effort(left=0.1, image_seconds=None).next(16) == 5


def test_no_time_at_all_is_out_of_time():
    with pytest.raises(OutOfTime):
        effort(left=0, image_seconds=None).next(16)


@pytest.mark.parametrize(
    ("left", "given"), [(float("inf"), 5), (1000, 5), (500, 5), (499, 4), (200, 2), (99, 1), (16, 1)]
)
def test_effort_falls_until_all_images_fit(left, given):
    """100 images of 5 s with 5 beams: 1 s a beam."""
    assert effort(left, image_seconds=5.0).next(16) == given


def test_a_batch_that_does_not_fit_with_the_least_effort_is_not_begun():
    with pytest.raises(OutOfTime):
        effort(left=15.9, image_seconds=5.0).next(16)


def test_what_a_batch_took_counts_for_full_effort():
    own = effort(left=1000, image_seconds=None)
    own.took(10, 2, 4.0)
    assert (own.images, own.image_seconds) == (90, pytest.approx(1.0))


@given(st.floats(0.01, 1e4), st.floats(1e-3, 1e3), st.integers(1, 1000), st.integers(1, 20), st.integers(1, 64))
def test_what_is_given_fits_into_the_time_left(left, image_seconds, images, most, batch):
    try:
        given = effort(left, image_seconds, images, most).next(batch)
    except OutOfTime:
        assert image_seconds / most * batch > left
        return
    assert 1 <= given <= most
    assert given == 1 or image_seconds / most * given * images <= left * (1 + 1e-9)


HANGS = """
import sys, time
from kernel.system.deadline import Deadline, Watchdog
with Watchdog(Deadline(time.monotonic() + 0.3)):
    time.sleep(float(sys.argv[1]))
print("went on")
"""


@pytest.mark.parametrize(("seconds", "code", "said"), [("1000", 1, ""), ("0", 0, "went on")])
def test_what_hangs_is_ended_and_what_does_not_goes_on(seconds, code, said):
    done = subprocess.run([sys.executable, "-c", HANGS, seconds], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (code, said)
    assert ("the last submission.csv stands" in done.stderr) is bool(code)
