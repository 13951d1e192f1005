from dataclasses import replace

import pytest

from kernel.config import RECIPES
from kernel.pipeline.planning.gpus import KNOWN
from kernel.pipeline.planning.run_plan import gpu_of, plan_run
from kernel.system.devices import Device

GB = 10**9
BASELINE = RECIPES["baseline"]


@pytest.mark.parametrize(
    ("title", "name"), [("Tesla T4", "T4"), ("NVIDIA L4", "L4"), ("NVIDIA H100 80GB HBM3", "H100")]
)
def test_a_gpu_has_its_published_speed_and_the_memory_that_its_driver_tells(title, name):
    gpu, notes = gpu_of([Device("cuda:0", title, 14 * GB), Device("cuda:1", title, 15 * GB)])
    assert gpu == replace(KNOWN[name], memory=14 * GB, count=2) and notes == []


def test_an_unknown_gpu_is_planned_as_a_t4_and_that_is_said():
    gpu, notes = gpu_of([Device("cuda:0", "NVIDIA L40S", 48 * GB)])
    assert (gpu.half_peak, gpu.memory) == (KNOWN["T4"].half_peak, 48 * GB)
    assert notes == ["the speeds of NVIDIA L40S are not known, the plan takes a T4's"]


def test_workers_on_one_cpu_share_its_memory():
    gpu, _ = gpu_of([Device("cpu", memory=24 * GB)] * 2)
    assert gpu.is_cpu and gpu.memory == 12 * GB


def test_a_run_is_planned_by_stage_with_the_weights_that_it_has(weights):
    planned = plan_run(BASELINE, weights, None, [Device("cpu", memory=24 * GB)], 1000, shipped=False)
    assert list(planned.stages) == ["words", "clip", "captions", "estimates", "submission"]
    assert planned.recipe == BASELINE and planned.notes == []
    clip = planned.stages["clip"]
    assert clip["seconds_estimated"] > 0 and 0.6 * GB < clip["bytes_estimated"] < 1.5 * GB


def test_batches_start_where_they_fit(weights):
    """The libraries take two thirds of a GB; what is left holds some images, not 64."""
    asked = replace(BASELINE, clip_batch=5000, caption_batch=5000)
    planned = plan_run(asked, weights, None, [Device("cpu", memory=int(1.2 * GB))], 10_000, shipped=True)
    assert 1 <= planned.recipe.clip_batch < 5000 and 1 <= planned.recipe.caption_batch < 5000
    tight = plan_run(asked, weights, None, [Device("cpu", memory=int(0.3 * GB))], 10_000, shipped=True)
    assert (tight.recipe.clip_batch, tight.recipe.caption_batch) == (1, 1)


def test_models_that_cannot_be_counted_are_run_without_a_plan(own_copy):
    broken = own_copy("clip")
    (broken.model_folder("clip") / "open_clip_config.json").write_text(
        '{"model_cfg": {"embed_dim": 8, "vision_cfg": {"head_width": 0}, "text_cfg": {}}}'
    )
    planned = plan_run(BASELINE, broken, None, [Device("cpu", memory=24 * GB)], 10, shipped=True)
    assert (planned.recipe, planned.stages) == (BASELINE, {})
    assert "make no models to count" in planned.notes[0]
