"""Plans of trainings, beside the published figures that they are scaled from."""

import json

import pytest
import timm

from kernel.__main__ import main
from kernel.config import TrainingSettings
from kernel.errors import UserError
from kernel.pipeline.planning.gpus import gpu_named
from kernel.training.planning.costs import tower_costs, tower_of
from kernel.training.planning.plan import GPUS, plan_training
from kernel.training.planning.table import training_table
from kernel.training.tower.lora import add_adapters

PIXELS = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}


@pytest.fixture(scope="module")
def tower():
    return tower_of(None, None, TrainingSettings())


def planned(tower, gpu="T4x2", pairs=400_000, **settings):
    found = plan_training(tower, [gpu_named(gpu)], pairs, TrainingSettings(**settings))
    return {own.tier: own for own in found.tiers}


def test_the_default_tower_is_the_published_vit_l(tower):
    # timm's own figures: 303.2 million parameters, 81 GMACs; the head is as `train` makes it
    assert tower.parameters == pytest.approx(303.2e6 + 1024 * 2048 + 2048 * 384, rel=0.002)
    assert tower.operations == pytest.approx(162e9, rel=0.01)
    assert tower.tiers["full"].activation_bytes == pytest.approx(2 * tower.tiers["blocks"].activation_bytes, rel=0.02)


def test_on_two_t4_the_speeds_are_those_that_they_are_scaled_from(tower):
    found = planned(tower)
    speeds = {tier: own.pictures_a_second for tier, own in found.items()}
    assert speeds == pytest.approx({"head": 360 * 0.277, "blocks": 67, "lora": 64, "full": 45}, rel=0.02)
    # 67 minutes of features on one of them, 1.2 hours in which both processes fit the head, then 5.0, 5.2 and 7.4
    hours = {tier: own.hours for tier, own in found.items()}
    assert hours == pytest.approx({"head": 2.3, "blocks": 7.3, "lora": 7.5, "full": 9.7}, abs=0.1)


def test_a_larger_tower_takes_longer_by_its_operations(tower, weights_folder):
    small = tower_of(None, weights_folder, TrainingSettings())
    ratio = planned(small)["full"].pictures_a_second / planned(tower)["full"].pictures_a_second
    assert ratio == pytest.approx(tower.operations / small.operations, rel=1e-6)


def test_a_batch_is_parted_as_often_as_memory_asks(tower):
    one, two = planned(tower, "T4"), planned(tower, "T4x2")
    for own in (*one.values(), *two.values()):
        assert own.fits and own.memory_bytes <= own.usable_bytes
    assert (one["full"].batch, one["full"].accumulate) == (32, 8)
    assert two["full"].batch * two["full"].accumulate == 128
    assert planned(tower, "H100")["full"].accumulate == 1


def test_what_does_not_fit_in_single_pictures_is_told(tower):
    found = plan_training(tower, [gpu_named("4GB:65TFLOPS:300GB/s")], 1000)
    full = next(own for own in found.tiers if own.tier == "full")
    assert (full.batch, full.fits) == (1, False)
    assert "does not fit its memory" in training_table(found)


def test_sessions_and_weeks_are_counted(tower):
    assert planned(tower, "T4")["full"].sessions == 2
    found = planned(tower, "T4", pairs=1_000_000)["full"]
    assert (found.sessions, found.fits_week) == (4, False)


def test_settings_change_the_plan(tower):
    assert planned(tower, epochs=1)["full"].hours < planned(tower)["full"].hours
    assert planned(tower, recompute=True)["full"].pictures_a_second < planned(tower)["full"].pictures_a_second
    assert planned(tower, accumulate=32)["full"].accumulate == 32
    with pytest.raises(UserError, match="a batch of 3 pictures cannot be shared out to L4 x 4: some would have none"):
        planned(tower, "L4x4", batch=3)


def test_of_a_batch_that_cannot_be_shared_out_evenly_all_wait_for_who_has_the_most(tower):
    even, uneven = planned(tower, "L4x4", batch=248)["full"], planned(tower, "L4x4", batch=250)["full"]
    assert even.batch * even.accumulate == 62
    assert uneven.batch * uneven.accumulate >= 63 > uneven.batch * (uneven.accumulate - 1)
    # 63 pictures in the time of 62.5
    assert uneven.pictures_a_second == pytest.approx(even.pictures_a_second * 62.5 / 63)


def test_every_assumption_is_named_in_the_table_and_in_the_json(tower):
    found = plan_training(tower, [gpu_named(name) for name in GPUS])
    told = json.loads(json.dumps(found.as_json()))
    assert told["estimate"] is True and len(told["tiers"]) == 4 * len(GPUS)
    text = training_table(found)
    assert all(words in text for words in told["assumed"]) and len(told["assumed"]) == 14
    assert text.startswith("Estimate, not measured: ") and max(map(len, text.splitlines()[3:])) <= 120


def test_the_command_reads_the_shapes_of_the_weights_folder(weights_folder, capsys):
    main(["plan", "--train", "--weights", str(weights_folder), "--gpu", "T4x2", "--pairs", "1000", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["tower"]["size"], told["pairs"], len(told["tiers"])) == (80, 1000, 4)


def test_the_command_reads_a_folder_of_timms(tmp_path, capsys):
    config = {"architecture": "test_vit2", "pretrained_cfg": PIXELS}
    (tmp_path / "config.json").write_text(json.dumps(config))
    main(["plan", "--train", "--tower", str(tmp_path), "--set", "epochs=1", "--gpu", "T4"])
    assert capsys.readouterr().out.startswith("Estimate, not measured: test_vit2 at 64 px")


def test_a_run_is_planned_for_two_t4_where_no_gpu_is_named(capsys):
    main(["plan", "--images", "100"])
    assert "100 images on T4 x 2" in capsys.readouterr().out


@pytest.mark.parametrize("architecture", ["test_vit2", "test_efficientnet"])
def test_what_lora_trains_is_counted_as_peft_makes_it(architecture):
    settings = TrainingSettings(lora_rank=4)
    planned = tower_costs(architecture, 64, lambda: timm.create_model(architecture, num_classes=0), settings)
    tower = timm.create_model(architecture, num_classes=0)
    add_adapters(tower, settings.lora_rank, seed=0)
    adapters = sum(own.numel() for own in tower.parameters() if own.requires_grad)
    assert planned.tiers["lora"].parameters == planned.head + adapters
