"""Two worker processes that share one GPU: no run starts them so (find_devices refuses a GPU named twice), but the
dispatch may: nothing of one gets into the other's work."""

from dataclasses import replace

import pytest

from kernel.config import RECIPES
from kernel.models.clip import ClipEncoder
from kernel.pipeline.folder import results
from kernel.pipeline.images import list_images
from kernel.pipeline.job import Job
from kernel.pipeline.preparation import open_run
from kernel.pipeline.stages.load import StageWork
from kernel.pipeline.workers.processes import Processes
from kernel.system.devices import find_devices
from kernel.system.work import Ends, Outcome
from tests.gpu.rounding import COSINE


@pytest.fixture
def job(image_folder, weights, tmp_path) -> Job:
    """Six pictures in six shards."""
    recipe = replace(RECIPES["baseline"], shard_images=1, modifiers={"mediums": 1})
    identity = {stage: {"test": 1} for stage in ("clip", "captions", "cosines", "estimates")}
    folder, _ = open_run(tmp_path / "run", list_images(image_folder), 1, identity)
    return Job(recipe, weights, folder, None, [0.0] * 384)


def test_two_workers_of_one_gpu_make_what_one_cpu_makes(job, weights, cuda, cpu, drawn):
    outcome = Outcome()
    assert sum(Processes([cuda, cuda]).work(StageWork(job, "clip"), dict.fromkeys(range(6), 1), Ends(), outcome)) == 6
    assert (outcome.left, outcome.reasons, outcome.out_of_time) == ([], [], False)
    weighed = sum(own.nbytes for own in ClipEncoder.load(weights, cuda).model.parameters())
    assert outcome.device_bytes is not None and outcome.device_bytes >= weighed
    expected = ClipEncoder.load(weights, cpu).encode_images([picture for picture, _ in drawn[:6]])
    assert (results.read_clip(job.folder)[0] * expected).sum(axis=1).min() >= COSINE


def test_two_workers_of_one_gpu_caption_every_image(job, cuda):
    outcome = Outcome()
    assert (
        sum(Processes([cuda, cuda]).work(StageWork(job, "captions blip2"), dict.fromkeys(range(6), 1), Ends(), outcome))
        == 6
    )
    assert (outcome.left, outcome.reasons) == ([], [])
    captions, _ = results.read_captions(job.folder)
    assert [len(own) for own in captions] == [job.recipe.captions_per_image] * 6


def test_a_gpu_is_known_by_its_driver_s_name_and_memory(cuda):
    (found,) = find_devices(cuda.name)
    assert found.name == cuda.name and found.title != found.name
    assert found.memory is not None and found.memory > 10**9
