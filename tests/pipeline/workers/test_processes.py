"""Real worker processes, two on this CPU, and what becomes of their items when one dies, hangs or gives up."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kernel.banks.word_banks import Phrases, features_file, join_parts, read_features, read_phrases
from kernel.config import RECIPES
from kernel.errors import UserError
from kernel.models.clip import ClipEncoder
from kernel.pipeline.folder import results
from kernel.pipeline.images import list_images
from kernel.pipeline.job import Job
from kernel.pipeline.preparation import open_run
from kernel.pipeline.stages.load import StageWork, load_stage
from kernel.pipeline.workers.processes import WorkerProcess
from kernel.system.deadline import Deadline
from kernel.system.devices import Device
from kernel.system.work import Ends, Outcome
from tests import warm
from tests.conftest import ROOT
from tests.engines import HERE, TWO
from tests.processes import alive, children

pytestmark = pytest.mark.usefixtures("warm_processes")


@pytest.fixture
def job(image_folder, weights, tmp_path) -> Job:
    """Six pictures in six shards."""
    recipe = replace(RECIPES["baseline"], shard_images=1, modifiers={"mediums": 1})
    identity = {stage: {"test": 1} for stage in ("clip", "captions", "cosines", "estimates")}
    folder, _ = open_run(tmp_path / "run", list_images(image_folder), 1, identity)
    return Job(recipe, weights, folder, None, [0.0] * 384)


@pytest.fixture
def fault(tmp_path, monkeypatch):
    """Puts code into every worker process that runs before each shard, where `first()` and `first(shard)` are True but
    once, in whatever process."""

    def put(code: str) -> None:
        folder = tmp_path / "site"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SITE.format(code=code, marker=str(tmp_path / "marker")))
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return put


SITE = """
import errno, os, signal, sys, time
def first(of=None):
    try:
        os.close(os.open({marker!r} + str(of), os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False
def disturb(shard):
{code}
if "kernel.pipeline.workers.worker" in " ".join(sys.orig_argv):
    from kernel.pipeline.stages.clip import ClipStage
    make = ClipStage.make
    def disturbed(self, item, *more):
        disturb(item)
        yield from make(self, item, *more)
    ClipStage.make = disturbed
"""


def run(job: Job, items, ends: Ends = Ends(), stage: str = "clip"):  # noqa: B008 - frozen
    outcome = Outcome()
    return outcome, list(TWO.work(StageWork(job, stage), dict.fromkeys(items, 1), ends, outcome))


def expected(weights, cpu, image_folder) -> np.ndarray:
    from PIL import Image

    from kernel.models.clip import ClipEncoder

    clip = ClipEncoder.load(weights, cpu)
    return clip.encode_images([Image.open(path).convert("RGB") for path in sorted(image_folder.iterdir())])


def test_two_workers_make_every_shard(job, weights, cpu, image_folder):
    outcome, seen = run(job, range(6))
    assert (outcome.left, outcome.reasons, outcome.out_of_time) == ([], [], False)
    assert sum(seen) == 6
    assert outcome.host_bytes > 100e6 and outcome.device_bytes is None
    np.testing.assert_allclose(results.read_clip(job.folder)[0], expected(weights, cpu, image_folder), atol=1e-5)


def test_two_workers_share_the_parts_of_word_lists(job, weights, cpu, monkeypatch):
    mediums = read_phrases(weights.folder / "word_banks" / "mediums.txt")
    flavors = read_phrases(weights.folder / "word_banks" / "flavors.txt")
    sha256, folder = weights.sha256("clip"), job.features_folders[-1]
    outcome, seen = run(replace(job, words=(mediums, flavors)), range(2), stage="words")
    assert (outcome.left, sum(seen)) == ([], len(mediums.phrases) + len(flavors.phrases))
    for words in (mediums, flavors):
        assert join_parts(words, sha256, folder)
        found = read_features(words, features_file(words, sha256, [folder]))
        np.testing.assert_allclose(found, ClipEncoder.load(weights, cpu).encode_texts(words.phrases, 8), atol=1e-5)


def test_who_reads_the_progress_fails_by_himself_and_ends_the_workers(job):
    others = set(children(os.getpid()))
    with closing(TWO.work(StageWork(job, "clip"), dict.fromkeys(range(6), 1), Ends(), Outcome())) as working:
        with pytest.raises(BrokenPipeError):
            for _ in working:
                raise BrokenPipeError
    while any(alive(own) for own in set(children(os.getpid())) - others):
        time.sleep(0.05)  # waits for an event, not for a time


class Counting:
    """A stage in this process."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def make(self, item, share):
        yield share.images
        self.made.append(item)


@pytest.mark.parametrize("error", [BrokenPipeError(), UnicodeEncodeError("ascii", "ö", 0, 1, "no"), RuntimeError("x")])
def test_here_too_who_reads_the_progress_fails_by_himself(job, error):
    stage, outcome = Counting(), Outcome()
    working = HERE.work(StageWork(job, "clip", lambda: stage), {0: 2, 1: 3}, Ends(), outcome)
    with pytest.raises(type(error)), closing(working):
        for _ in working:
            raise error
    assert outcome.reasons == [] and stage.made == []


def test_a_stage_that_somebody_else_holds_can_be_used_again(job):
    stage = Counting()
    for _ in range(2):
        working = HERE.work(StageWork(job, "clip", lambda: stage), {0: 2, 1: 3}, Ends(), outcome := Outcome())
        assert list(working) == [5, 3] and outcome.left == []
    assert stage.made == [0, 1, 0, 1]


def test_a_stage_that_nobody_else_holds_is_gone_when_its_work_is_done(job):
    held: list[weakref.ref] = []

    def load():
        stage = Counting()
        held.append(weakref.ref(stage))
        return stage

    for _ in HERE.work(StageWork(job, "clip", load), {0: 2}, Ends(), outcome := Outcome()):
        pass
    assert held[0]() is None and outcome.left == []


def test_an_unknown_stage_is_refused_with_the_valid_ones(job, cpu):
    valid = "words, clip, encoders ENCODER, captions CAPTIONER, cosines, matching, estimates, descriptions"
    for name in ("clips", "captions", "estimate", "clip blip"):
        with pytest.raises(UserError, match=f"unknown stage .*Valid: {valid}"):
            load_stage(name, job, cpu)


def test_what_a_killed_worker_had_in_hand_is_made_by_the_other(job, weights, cpu, image_folder, fault):
    fault("    if shard == 2 and first(): os.kill(os.getpid(), signal.SIGKILL)")
    outcome, _ = run(job, range(6))
    assert outcome.left == []
    assert outcome.reasons == ["the worker on cpu ended (killed by SIGKILL; out of memory does that)"]
    np.testing.assert_allclose(results.read_clip(job.folder)[0], expected(weights, cpu, image_folder), atol=1e-5)


def test_when_the_last_worker_died_others_are_started_for_the_rest(job, fault):
    fault("    if shard < 2 and first(shard): os._exit(3)")
    outcome, _ = run(job, range(6))
    assert outcome.left == [] and outcome.reasons == ["the worker on cpu ended (exit code 3)"] * 2
    assert job.folder.made(results.CLIP) == list(range(6))


def test_a_shard_that_kills_every_worker_is_left_and_told(job, fault):
    fault("    if shard == 5: os._exit(3)")
    outcome, _ = run(job, range(6))
    assert outcome.left == [5] and len(outcome.reasons) == 2
    assert job.folder.made(results.CLIP) == [0, 1, 2, 3, 4]


def test_a_worker_that_gives_up_leaves_its_shards_to_the_other(job, fault):
    fault("    if first(): raise RuntimeError('device-side assert')")
    outcome, _ = run(job, range(6))
    assert (outcome.left, outcome.reasons) == ([], ["RuntimeError: device-side assert"])


def test_a_full_disk_ends_all(job, fault):
    fault("    if shard == 3: raise OSError(errno.ENOSPC, 'No space left on device')")
    with pytest.raises(OSError, match="No space left on device"):
        run(job, range(6))


def test_a_worker_that_hangs_is_ended_at_its_time_and_what_is_made_stays(job, fault):
    fault("    if shard >= 4: time.sleep(1000)")
    hanging = Waiting(lambda: len(job.folder.made(results.CLIP)) == 4)
    outcome, _ = run(job, range(6), Ends(Deadline(), hanging))
    assert sorted(outcome.left) == [4, 5] and outcome.out_of_time
    assert outcome.reasons == ["the worker on cpu hung and was ended"] * 2
    assert job.folder.made(results.CLIP) == [0, 1, 2, 3]


class Waiting(Deadline):
    """Passes when something has happened, not at a time."""

    def __init__(self, happened) -> None:
        super().__init__()
        object.__setattr__(self, "happened", happened)

    def left(self) -> float:
        return 0.0 if self.happened() else 1.0


def test_without_time_nothing_is_begun(job):
    outcome, _ = run(job, range(6), Ends(Deadline(time.monotonic()), Deadline()))
    assert sorted(outcome.left) == list(range(6)) and outcome.out_of_time and outcome.reasons == []


def test_workers_end_with_their_parent(image_folder, weights_folder, tmp_path):
    """Their parent is killed while they load; nobody tells them, and none is left."""
    command = [sys.executable, "-m", "kernel", "run", str(image_folder), "--weights", str(weights_folder),
               "--out", str(tmp_path / "run"), "--device", "cpu,cpu"]  # fmt: skip
    parent = warm.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while parent.poll() is None and len(children(parent.pid)) < 2:
        time.sleep(0.05)  # waits for an event, not for a time
    workers = children(parent.pid)
    assert len(workers) == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    for _ in range(600):
        if not any(alive(worker) for worker in workers):
            break
        time.sleep(0.1)
    assert not any(alive(worker) for worker in workers)


@pytest.mark.parametrize(("visible", "expected"), [(None, "1"), ("", "1"), ("4,7", "7")])
def test_a_gpus_worker_sees_no_other_gpu(job, monkeypatch, visible, expected):
    started = []

    class Popen:
        stdin = io.StringIO()

        def __init__(self, command, env, **options):
            started.append(env)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    worker = WorkerProcess(StageWork(job, "clip"), Device("cuda:1", "Tesla T4", 15), 2)
    assert started[0]["CUDA_VISIBLE_DEVICES"] == expected
    told = json.loads(worker.process.stdin.getvalue())["device"]
    assert Device(**told) == Device("cuda:0", "Tesla T4", 15)


def test_a_job_is_the_same_in_another_process(job):
    words = (Phrases("mediums", ["a woodcut", "größe"], {"blank": 1}),)
    job = replace(job, words=words, features=Path("features"), clip="clip_ko", language="Korean")
    again = Job.from_json(job.as_json())
    assert (again.words, again.features_folders) == (words, job.features_folders)
    assert (again.recipe, again.weights, again.bank, again.fallback) == (job.recipe, job.weights, None, job.fallback)
    assert (again.clip, again.language) == ("clip_ko", "Korean")
    assert vars(again.folder) == vars(job.folder)
