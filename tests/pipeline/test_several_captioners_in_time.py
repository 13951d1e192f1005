"""Several captioners in one recipe under a deadline: who gets what of the time, by a clock on which captions take what
is told here."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kernel.config import RECIPES, Paths
from kernel.models.captioners.captioner import Captioner
from kernel.pipeline import preparation
from kernel.pipeline.run import run
from kernel.pipeline.stages.load import StageWork
from kernel.pipeline.submission import check_submission
from kernel.system.deadline import Deadline

BOTH = replace(RECIPES["baseline"], num_beams=2, captions_per_image=2, shard_images=2, captioner="blip2,blip")
HOURS = 10_000.0  # seconds
ANSWER = 100.0  # so that five of these are kept for the last one
FIRST = "the time was over before blip2 had captioned every image"
SECOND = "the time was over before blip had captioned every image"


class Clock:
    """The machine's, on which more passes at once than it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed, self.monkeypatch = 0.0, monkeypatch
        self.loaded: list[str] = []
        for name in ("monotonic", "perf_counter"):
            monkeypatch.setattr(time, name, self.ahead(getattr(time, name)))
        load = StageWork.load
        monkeypatch.setattr(StageWork, "load", lambda work, *own: self.loaded.append(work.stage) or load(work, *own))
        self.slowed("kernel.pipeline.run.write_submission", lambda *own: ANSWER)

    def ahead(self, now: Callable[[], float]) -> Callable[[], float]:
        return lambda: now() + self.passed

    def slowed(self, what: str, seconds: Callable[..., float]) -> None:
        module, _, name = what.rpartition(".")
        really = getattr(__import__(module, fromlist=[name]), name)

        def slow(*given):
            self.passed += seconds(*given)
            return really(*given)

        self.monkeypatch.setattr(what, slow)

    def captions(self, **seconds: Callable[[], float]) -> None:
        """What a batch takes of each captioner with two beams; with one it takes half."""
        really = Captioner.captions

        def captions(captioner, images, recipe, *more):
            self.passed += seconds[captioner.kind.name]() * recipe.num_beams / 2
            return really(captioner, images, recipe, *more)

        self.monkeypatch.setattr(Captioner, "captions", captions)

    def planned(self, seconds: dict[str, float]) -> None:
        """The plan of the run: of its captioners these seconds and no others."""
        really = preparation.plan_run

        def plan_run(*given):
            found = really(*given)
            stages = {name: own for name, own in found.stages.items() if not name.startswith("captions")}
            stages |= {name: {"seconds_estimated": own, "bytes_estimated": 0} for name, own in seconds.items()}
            return replace(found, stages=stages)

        self.monkeypatch.setattr(preparation, "plan_run", plan_run)

    def captioners(self) -> list[str]:
        """In the order in which they were loaded, and what scores captions."""
        return [name for name in self.loaded if name.startswith(("captions", "matching"))]


@pytest.fixture
def where(image_folder, weights_folder, tmp_path) -> Paths:
    return Paths(image_folder, weights_folder, tmp_path / "run")


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def counts(content: dict) -> dict[str, int]:
    return {name: count for name, count in content["counts"].items() if count and name != "images"}


def shard(where: Paths, name: str, number: int) -> Path:
    return where.run / "captions" / f"{number:05d}.{name}.json"


def test_what_has_no_time_left_is_not_loaded(where, clock):
    deadline = Deadline(time.monotonic() + HOURS)
    clock.planned({"captions blip2": 100, "captions blip": 100})
    clock.captions(blip2=lambda: deadline.left() - 2 * ANSWER, blip=lambda: 10)  # far into what is kept for the answer
    content = run(replace(BOTH, caption_weighting="itm"), where, "cpu", deadline=deadline)
    assert clock.captioners() == ["captions blip2"]
    assert content["captioners"] == {"blip2": 2} and {FIRST, SECOND} <= set(content["problems"])
    check_submission(where.run / "submission.csv", list("abcdef"))


def test_what_the_second_made_before_is_no_time_that_is_kept_for_it(where, clock):
    clock.captions(blip2=lambda: 0, blip=lambda: 0)
    run(BOTH, where, "cpu")
    for name, number in (("blip2", 0), ("blip2", 1), ("blip2", 2), ("blip", 2)):
        shard(where, name, number).unlink()
    clock.planned({"captions blip2": 6000, "captions blip": 9000})  # a third of it is to be made
    clock.captions(blip2=lambda: 2000, blip=lambda: 10)
    content = run(BOTH, where, "cpu", deadline=Deadline(time.monotonic() + HOURS))
    assert content["captioners"] == {"blip2": 6, "blip": 6} and counts(content) == {}


def test_what_the_second_does_not_need_of_its_time_goes_back_to_the_first(where, clock):
    clock.planned({"captions blip2": 9000, "captions blip": 8000})
    clock.captions(blip2=lambda: 3000, blip=lambda: 10)
    content = run(BOTH, where, "cpu", deadline=Deadline(time.monotonic() + HOURS))
    assert clock.captioners() == ["captions blip2", "captions blip", "captions blip2"]
    assert content["captioners"] == {"blip2": 6, "blip": 6}
    assert counts(content) == {"fewer_captions": 2, "degraded_rows": 2} and FIRST not in content["problems"]


def test_the_shard_that_the_first_broke_off_is_what_it_goes_on_with(where, clock):
    clock.planned({"captions blip2": 9000, "captions blip": 8000})
    slow = iter([3000, 3000])
    clock.captions(blip2=lambda: next(slow, 100), blip=lambda: 10)
    alone = replace(BOTH, shard_images=6, caption_batch=2)
    content = run(alone, where, "cpu", deadline=Deadline(time.monotonic() + HOURS))
    assert clock.captioners() == ["captions blip2", "captions blip", "captions blip2"]
    assert content["captioners"] == {"blip2": 6, "blip": 6} and FIRST not in content["problems"]


def test_weighing_takes_none_of_the_captioners_its_part(where, clock):
    """Half of what is left beside weighing, however long the second is planned: two batches of six pictures."""
    clock.planned({"captions blip2": 9000, "captions blip": 20_000})
    clock.captions(blip2=lambda: 2300, blip=lambda: 10)
    content = run(replace(BOTH, caption_weighting="clip"), where, "cpu", deadline=Deadline(time.monotonic() + HOURS))
    assert content["captioners"]["blip2"] == 6 and clock.captioners() == ["captions blip2", "captions blip"]


def test_what_goes_back_is_not_spent_on_loading_alone(where, clock):
    deadline = Deadline(time.monotonic() + HOURS)
    clock.planned({"captions blip2": 9000, "captions blip": 8000})
    calls: list[float] = []

    def until_little_is_left() -> float:
        calls.append(deadline.left() - 5 * ANSWER - 300 if len(calls) == 2 else 10)
        return calls[-1]

    clock.captions(blip2=lambda: 3000, blip=until_little_is_left)
    content = run(BOTH, where, "cpu", deadline=deadline)
    assert clock.captioners() == ["captions blip2", "captions blip"]
    assert content["captioners"] == {"blip2": 4, "blip": 6} and FIRST in content["problems"]


def test_without_a_plan_each_has_an_equal_part(where, clock):
    clock.planned({})
    clock.captions(blip2=lambda: 3000, blip=lambda: 300)
    content = run(BOTH, where, "cpu", deadline=Deadline(time.monotonic() + HOURS))
    assert content["captioners"] == {"blip2": 6, "blip": 6}
