"""A training over many machines on paper: one machine's plan shared out, and what crosses the network, by hand."""

import json

import pytest

from kernel.__main__ import main
from kernel.config import TrainingSettings
from kernel.errors import UserError
from kernel.pipeline.planning.gpus import GB, gpu_named
from kernel.pipeline.planning.machines import machines_named
from kernel.pipeline.planning.model_costs import sentence_costs
from kernel.training.planning.costs import tower_of
from kernel.training.planning.machines import plan_training_on
from kernel.training.planning.plan import plan_training
from kernel.training.planning.table import machines_table

PAIRS = 10_600_000


@pytest.fixture(scope="module")
def tower():
    return tower_of(None, None, TrainingSettings())


def planned(tower, machines="8xL4", pairs=PAIRS, price=None, host_memory=30 * GB, **settings):
    return plan_training_on(machines_named(machines), tower, pairs, TrainingSettings(**settings), price, host_memory)


def by_tier(plan):
    return {own.tier: own for own in plan.tiers}


def test_one_machine_of_one_gpu_is_planned_as_without_machines(tower):
    alone = {own.tier: own for own in plan_training(tower, [gpu_named("T4")], 400_000).tiers}
    for tier, own in by_tier(planned(tower, "1xT4", 400_000)).items():
        # but for the prompts' rows, and the features, which go to the disk and back
        features = 2 * 400_000 * 1024 * 4 / 1e9
        assert own.seconds == pytest.approx(alone[tier].hours * 3600 + own.prompts_seconds + features)
        assert (own.batch, own.accumulate, own.memory_bytes) == (
            alone[tier].batch,
            alone[tier].accumulate,
            alone[tier].memory_bytes,
        )
        assert (own.network_bytes, own.exchange_seconds, own.step_bytes) == (0, 0, 0)


def test_features_are_made_on_all_devices_and_read_by_all(tower):
    own = by_tier(planned(tower))["head"]
    seen = 360 * 0.277 * 121 / 65 * 162.02e9 / tower.operations
    rows = PAIRS * 1024 * 4
    assert tower.width == 1024
    assert own.features_seconds == pytest.approx(PAIRS / (8 * seen) + 9 * rows / 1e9)
    assert own.network_bytes == PAIRS * 36_000 + 9 * rows
    assert own.steps_seconds == 0


def test_the_prompts_rows_are_one_device_s(tower):
    _, sentence = sentence_costs(48)
    for machines in ("1xL4", "8xL4", "4xL4x2"):
        own = by_tier(planned(tower, machines))["head"]
        assert own.prompts_seconds == pytest.approx(PAIRS * (sentence.operations / 15.15e12 + 130e-6))
        assert own.seconds == pytest.approx(own.prompts_seconds + own.features_seconds + own.head_seconds)


def test_a_set_without_a_split_compares_all_its_prompts_on_one_host(tower):
    plan = planned(tower)
    assert plan.split_seconds == pytest.approx(768 * PAIRS**2 / 2 / 0.064e12)
    assert plan.notes[0].endswith("is split before, at most 187.3 hours of one host")


def test_a_disk_too_slow_for_the_pictures_bounds_the_features(tower):
    own = by_tier(planned(tower, "64xH100"))["head"]
    assert own.features_seconds == pytest.approx((PAIRS * 36_000 + 65 * PAIRS * 1024 * 4) / 1e9)


def test_every_process_fits_the_head_on_its_host(tower):
    head = 6 * tower.head * PAIRS * 20 / 0.064e12
    assert by_tier(planned(tower))["head"].head_seconds == pytest.approx(head)
    assert by_tier(planned(tower, "4xT4x2"))["head"].head_seconds == pytest.approx(2 * head)


def test_steps_are_shared_out_and_gradients_cross_the_network(tower):
    plan = planned(tower)
    assert plan.steps == 3 * 41_407  # of 256 pairs, the last one of an epoch of 64
    one = {own.tier: own.pictures_a_second for own in plan_training(tower, [gpu_named("L4")], PAIRS).tiers}
    for tier, own in by_tier(plan).items():
        if tier == "head":
            continue
        # 7/4 of what is trained, in float32, at 1.25 GB/s
        exchange = plan.steps * 7 / 4 * own.trained * 4 / 1.25e9
        assert own.exchange_seconds == pytest.approx(exchange)
        assert own.steps_seconds == pytest.approx(3 * PAIRS / (8 * one[tier]) + exchange)
        assert own.step_bytes == 8 * 7 / 4 * own.trained * 4
        features = by_tier(plan)["head"].network_bytes
        assert own.network_bytes == pytest.approx(features + 3 * PAIRS * 36_000 + plan.steps * own.step_bytes)


def test_a_larger_batch_exchanges_gradients_less_often_which_the_plan_says(tower):
    plan, larger = planned(tower), planned(tower, batch=2560)
    says = "blocks and full: gradients take longer than pictures; a larger --set batch exchanges them less often"
    assert plan.notes[1:] == [says] and larger.notes[1:] == []
    assert by_tier(larger)["full"].exchange_seconds == pytest.approx(
        by_tier(plan)["full"].exchange_seconds / 10, rel=1e-4
    )


def test_a_device_takes_its_share_of_the_batch(tower):
    full = by_tier(planned(tower))["full"]
    assert full.batch * full.accumulate * 8 == 256
    with pytest.raises(UserError, match="a batch of 5 pictures cannot be shared out to L4 x 6: some would have none"):
        planned(tower, "3xL4x2", batch=5)


def test_of_a_batch_that_cannot_be_shared_out_evenly_all_wait_for_who_has_the_most(tower):
    uneven, even = by_tier(planned(tower, "3xL4x2"))["full"], by_tier(planned(tower, "3xL4x2", batch=252))["full"]
    assert uneven.batch * uneven.accumulate >= 43 > uneven.batch * (uneven.accumulate - 1)
    assert even.batch * even.accumulate == 42
    # of 256 pictures on six devices the most are 43
    assert uneven.pictures_a_second == pytest.approx(even.pictures_a_second * (256 / 6) / 43)
    assert uneven.steps_seconds - uneven.exchange_seconds == pytest.approx(3 * PAIRS / uneven.pictures_a_second)


def test_a_host_holds_the_features_of_all_its_processes(tower):
    pair = 3 * (1024 + 384) * 4 + 8 * (1 + 1024 + 384)
    assert planned(tower).host_bytes == 3 * GB + PAIRS * pair
    assert planned(tower, "4xT4x2").host_bytes == 2 * (3 * GB + PAIRS * pair)
    assert planned(tower).problems == ["host: 301.6 GB while its processes fit the head, it has 30 GB (--host-memory)"]
    assert planned(tower, host_memory=400 * GB).problems == []


def test_the_disk_holds_pictures_features_and_checkpoints(tower):
    full = by_tier(planned(tower))["full"]
    assert full.disk_bytes == PAIRS * (36_000 + 4096) + 5 * tower.parameters * 4


def test_the_table_and_the_json_name_every_tier_and_assumption(tower):
    plan = planned(tower, price=0.8)
    table, told = machines_table(plan), json.loads(json.dumps(plan.as_json()))
    assert table.startswith("Estimate, not measured: ") and "; on 8 machines of L4 (" in table
    assert all(words in table for words in told["assumed"]) and len(told["assumed"]) == 21
    for own, read in zip(plan.tiers, told["tiers"], strict=True):
        assert f"\n{own.tier}: " in table and f"costs {own.cost:,.2f} at 0.8 a machine and hour" in table
        assert own.cost == pytest.approx(read["seconds"] / 3600 * 8 * 0.8)


def test_the_command_plans_a_training_on_machines(weights_folder, capsys):
    weights = ["--weights", str(weights_folder), "--set", "epochs=2"]
    assert main(["plan", "--train", *weights, "--pairs", "10000", "--machines", "4xT4x2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["pairs"], told["machines"]["count"], told["settings"]["epochs"]) == (10_000, 4, 2)
    assert [own["tier"] for own in told["tiers"]] == ["head", "blocks", "lora", "full"]
