import time

import pytest

from kernel.pipeline.record import Pace, Record
from kernel.system.deadline import Deadline


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_stages_seconds_are_known_by_its_first_batches(clock):
    """The first batch takes 10 s, for it also warms up; then 16 images take 2 s: 68 more images take 8.5 s."""
    pace = Pace(images=100, workers=1)
    told = []
    for seconds, images in ((10, 16), (2, 16), (2, 16), (2, 16)):
        clock[0] += seconds
        told.append(pace.batch(images))
    assert told == [False, False, True, False]
    assert pace.seconds == pytest.approx(14 + 52 * 2 / 16)


def test_of_several_workers_each_ones_first_batches_count(clock):
    pace = Pace(images=100, workers=2)
    for _ in range(5):
        clock[0] += 1
        assert not pace.batch(10)
    clock[0] += 1
    assert pace.batch(10) and pace.seconds == pytest.approx(6 + 40 / 10)


def test_a_stage_with_nothing_left_to_do_has_no_pace(clock):
    pace = Pace(images=0, workers=1)
    assert [pace.batch(5) for _ in range(4)] == [False] * 4 and pace.seconds is None


class Left(Deadline):
    def left(self) -> float:
        return 3600.0


def test_a_run_says_beforehand_whether_it_fits():
    record = Record.__new__(Record)
    record.planned = {"clip": {"seconds_estimated": 1200.0}, "captions": {"seconds_estimated": 1800.0}}
    fits = "planned (an estimate): clip 0h20m, captions 0h30m; 0h50m in all"
    assert record.forecast(Deadline()) == fits
    assert record.forecast(Left()) == f"{fits} of 1h00m left"
    record.planned["captions"]["seconds_estimated"] = 9000.0
    assert record.forecast(Left()).endswith(
        "2h50m in all, 1h00m are left: captions will have fewer beams, or fewer images captions"
    )


def test_the_most_that_any_process_took_for_a_stage_is_kept():
    record = Record.__new__(Record)
    record.memory = {}
    for host, device in ((700, None), (900, 50), (800, 40), (100, None)):
        record.took("clip", host, device)
    record.took("captions", 10, None)
    assert record.memory == {"clip": {"host": 900, "device": 50}, "captions": {"host": 10, "device": None}}
