"""Building a bank on paper: parts worked by hand on costs of round numbers, and 56 million prompts by the real ones."""

import json

import pytest

from kernel.__main__ import main
from kernel.banks.cost import NANOSECONDS_A_PAIR
from kernel.pipeline.planning.bank_plan import plan_bank
from kernel.pipeline.planning.bank_table import bank_table
from kernel.pipeline.planning.gpus import GB
from kernel.pipeline.planning.machines import machines_named
from kernel.pipeline.planning.model_costs import Clip, Weighed, Work

SENTENCES = (Weighed(10, {"float32": 100}), Work(0, 10**9, 10**6))
CLIP = Clip("c", Weighed(1, {"float16": 2 * GB}), Work(10**9, 0, 10**6), Work(10**8, 0, 10**5), 1024)
PROMPTS = 2**20  # 128 shards, 4 groups of 262,144
MANY = 56_000_000


def planned(machines="2xT4", prompts=PROMPTS, **more):
    return plan_bank(prompts, machines_named(machines), clip=CLIP, sentences=SENTENCES, **more)


def part(plan, name):
    return next(part for part in plan.parts if part.name == name)


def test_the_parts_follow_the_build():
    names = [own.name for own in planned().parts]
    assert names == ["cleaning", "MiniLM", "near duplicates", "CLIP's texts", "head and files"]
    assert [own.workers for own in planned().parts] == [0, 2, 2, 2, 0]


def test_a_model_s_work_is_shared_out_to_all_devices_with_the_tokenizing_of_their_cores():
    plan = planned()
    # at 4.05 and 19.5 TFLOPS, 130 and 175 microseconds a prompt
    assert part(plan, "MiniLM").computing_seconds == pytest.approx(PROMPTS * (10**9 / 4.05e12 + 130e-6) / 2)
    assert part(plan, "CLIP's texts").computing_seconds == pytest.approx(PROMPTS * (10**8 / 19.5e12 + 175e-6) / 2)
    assert part(plan, "CLIP's texts").operations == PROMPTS * 10**8


def test_near_duplicates_are_half_the_square_of_the_prompts():
    own = part(planned(), "near duplicates")
    pairs, within = PROMPTS**2 / 2, 4 * 262_144**2 / 2
    assert own.operations == 768 * pairs
    # four groups: both devices compare the last three with those before them, one each with itself; seven starts
    pair = 768 / 4.05e12 + 10 / 224e9
    assert own.computing_seconds == pytest.approx(((pairs - within) / 2 + within) * pair + 7 * 10)
    # 1 + 2 + 3 groups that are before others, and each group by both devices and by the one that ends it
    assert own.read_bytes == (6 + 4 * 3) * 262_144 * 768


def test_a_core_compares_as_fast_as_was_measured():
    alone = part(planned("cpu", 1_000_000), "near duplicates")
    fastest, slowest = NANOSECONDS_A_PAIR
    assert alone.operations == 2 * 64 * 1_000_000**2 / 2  # of 384 numbers that bound a cosine
    assert fastest < alone.computing_seconds / (1_000_000**2 / 2) * 1e9 < slowest


def test_what_is_moved_is_counted_and_takes_its_time():
    plan = planned()
    texts, rows = PROMPTS * 200, PROMPTS * (1024 + 384) * 2
    moved = {own.name: (own.read_bytes, own.written_bytes) for own in plan.parts}
    assert moved == {
        "cleaning": (2 * texts, texts),
        "MiniLM": (texts + 2 * 100, PROMPTS * 768),
        "near duplicates": (18 * 262_144 * 768, 0),
        "CLIP's texts": (texts + 2 * 2 * GB, PROMPTS * 2048),
        "head and files": (4 * rows + texts + PROMPTS * 100, rows + PROMPTS * 100),
    }
    whole = sum(read + written for read, written in moved.values())
    assert plan.network_bytes == whole and planned("T4x2").network_bytes == 0
    assert sum(own.moving_seconds for own in plan.parts) == pytest.approx(whole / 1e9)


def test_the_head_is_fitted_by_one_host_in_float64():
    own = part(planned(), "head and files")
    assert own.computing_seconds == pytest.approx(PROMPTS * 2 * (1 + 1024 + 384) ** 2 / 0.032e12)
    assert own.computing_seconds == part(planned("8xT4"), "head and files").computing_seconds


def test_memory_of_devices_hosts_and_disk():
    plan = planned("2xT4x2")
    sizes = [own.memory_bytes for own in plan.parts]
    rows = 262_144 * 768 + 2 * 8192 * 384 * 4
    assert sizes == [0, 100 + 256 * 10**6, rows + 8192 * 8192 * 5, 2 * GB + 256 * 10**5, 0]
    assert plan.host_bytes == {
        "every machine while CLIP is loaded": 2 * (3 + 2) * GB,
        "the first machine while it cleans": 700_000_000 + 100 * PROMPTS,
    }
    assert planned("2xcpu").host_bytes["every machine while CLIP is loaded"] == 0  # a device's memory is the host's
    assert plan.disk_bytes == {"the bank": 2916 * PROMPTS, "its parts until it is built": 3016 * PROMPTS}


def test_more_devices_than_shards_do_not_help():
    assert [own.workers for own in planned("64xT4", 16_384).parts] == [0, 2, 1, 2, 0]


def test_what_does_not_fit_is_told():
    plan = planned("1x2GB:65TFLOPS:320GB/s", 300_000_000, host_memory=4 * GB)
    assert not plan.fits and [problem.split(":")[0] for problem in plan.problems] == ["CLIP's texts", "host", "host"]
    assert plan.notes[0].endswith("a dataset 200: it has no room there")


def test_56_million_prompts_on_eight_l4():
    plan = plan_bank(MANY, machines_named("8xL4"), 0.8)
    hours = {own.name: own.computing_seconds / 3600 for own in plan.parts}
    # comparisons: 1.568e15 of 768 operations at 15.15 TFLOPS and of 10 bytes at 210 GB/s, 7.34e12 of them by one alone,
    # and 427 starts; texts: 47.09 GFLOPs at 36.3
    pair = 768 / 15.15e12 + 10 / 210e9
    near = (((1.568e15 - 7.34e12) / 8 + 7.34e12) * pair + 4270) / 3600
    texts = MANY * (47.09e9 / 36.3e12 + 175e-6) / 8 / 3600
    assert (hours["near duplicates"], hours["CLIP's texts"]) == pytest.approx((near, texts), rel=1e-3)
    assert plan.cost == pytest.approx(plan.seconds / 3600 * 8 * 0.8)
    assert plan.disk_bytes["the bank"] == pytest.approx(163.3e9, rel=1e-3)


def test_the_table_and_the_json_name_every_part_and_assumption():
    plan = planned(price=0.8)
    table, told = bank_table(plan), json.loads(json.dumps(plan.as_json()))
    assert table.startswith("Estimate, not measured: a bank of 1,048,576 prompts on 2 machines of T4 (")
    assert all(own.name in table for own in plan.parts) and all(words in table for words in told["assumed"])
    assert f"costs {plan.cost:,.2f} at 0.8 a machine and hour" in table
    assert told["estimate"] is True and told["machines"]["gpu"]["name"] == "T4"
    assert [own["seconds"] for own in told["parts"]] == [own.seconds for own in plan.parts]


def test_the_command_plans_the_building_of_a_bank(capsys):
    assert main(["plan", "--bank-prompts", "1000000", "--machines", "4xT4x2", "--price", "0.5", "--json"]) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["prompts"], told["machines"]["count"], told["price"]) == (1_000_000, 4, 0.5)
    assert captured.out.count("\n") == 1


def test_without_a_price_nothing_costs(capsys):
    assert main(["plan", "--bank-prompts", "1000", "--machines", "2xT4"]) == 0
    assert "costs" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--machines", "8xL4"], "a run needs one machine. Give --bank-prompts N"),
        (["--machines", "8xL4", "--gpu", "T4", "--bank-prompts", "9"], "Give one of the two"),
        (["--price", "2", "--bank-prompts", "9"], "Give --machines NxGPU too"),
        (["--machines", "8xL40", "--train"], "--machines 8xL40: unknown (did you mean 'L4'?)"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(arguments, says, capsys):
    assert main(["plan", *arguments]) == 1
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.count("\n") == 1 and captured.out == ""


@pytest.mark.parametrize("price", ["0", "-1", "nan", "inf", "cheap"])
def test_a_price_is_above_0(price):
    with pytest.raises(SystemExit) as stopped:
        main(["plan", "--train", "--machines", "2xT4", "--price", price])
    assert stopped.value.code == 2
