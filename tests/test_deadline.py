import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.deadline import NEVER, Deadline, Effort, OutOfTime
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


def test_a_deadline_counts_from_the_given_start():
    assert 3600 - Deadline.after(3600, time.time() - 1e5).left() == pytest.approx(1e5, abs=60)


def test_a_clock_that_was_set_back_gives_no_more_time_than_the_process_has_had():
    """The start then lies in the future; what this process has used already still counts."""
    assert Deadline.after(3600, time.time() + 5000).left() <= 3600


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
from kernel.deadline import Deadline, Watchdog
with Watchdog(Deadline(time.monotonic() + 0.3)):
    time.sleep(float(sys.argv[1]))
print("went on")
"""


@pytest.mark.parametrize(("seconds", "code", "said"), [("1000", 1, ""), ("0", 0, "went on")])
def test_what_hangs_is_ended_and_what_does_not_goes_on(seconds, code, said):
    done = subprocess.run([sys.executable, "-c", HANGS, seconds], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (code, said)
    assert ("the last submission.csv stands" in done.stderr) is bool(code)
