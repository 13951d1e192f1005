"""A search in banks of 10 and 56 million prompts on Kaggle, worked by hand, and what they cost to build."""

import pytest

from kernel.config import Recipe, recipe_named
from kernel.pipeline.planning.bank_costs import bank_cost, neighbours_stage, room_note
from kernel.pipeline.planning.gpus import GB, gpu_named
from kernel.pipeline.planning.model_costs import Clip, Weighed, Work
from kernel.pipeline.planning.plan import plan
from kernel.pipeline.planning.stage_costs import Case
from kernel.pipeline.planning.table import plan_table

T4, CPU = gpu_named("T4"), gpu_named("cpu")
SENTENCES = Weighed(10, {"float32": 100}, mapped_bytes=3)
CLIP = Clip("c", Weighed(1, {"float16": 2 * GB}), Work(10**9, 0, 10**6), Work(10**8, 0, 10**5), 1024)
MILLION = 1_000_000


def searched(prompts: int, images: int = 16_000, gpu=T4):
    return neighbours_stage(Case(Recipe(neighbours=100), gpu, CLIP, SENTENCES, images, GB), prompts)


def test_neighbours_hold_all_images_and_one_block_of_the_bank():
    stage = searched(MILLION, 2000)
    block = 32_768 * 1024 * (2 + 4)  # in float16 and in float32
    assert stage.fixed_bytes == 2000 * 1024 * 4 + block + 1024 * 32_768 * 4 + 2000 * 100 * 12
    assert stage.operations == 2 * 2000 * MILLION * 1024
    assert stage.mapped_bytes == 3


# at 4.05 TFLOPS, 224 GB/s of the GPU's own memory, 6 GB/s on the way to it and 200 MB/s from the disk
@pytest.mark.parametrize(
    ("millions", "products", "best", "copied", "features", "embeddings"),
    [(10, 80.91, 8.57, 3.41, 102.4, 38.4), (56, 453.09, 48.0, 19.11, 573.44, 215.04)],
)
def test_a_large_bank_passes_once_and_its_neighbours_rows_follow(
    millions, products, best, copied, features, embeddings
):
    stage = searched(millions * MILLION)
    assert stage.bytes_read == millions * MILLION * (1024 + 384) * 2  # 1.6 million rows lie all over the second file
    assert stage.seconds == pytest.approx(products + best + copied + features + embeddings, abs=0.1)
    assert stage.bound_by == "disk"


def test_the_memory_of_a_search_is_the_same_for_every_bank():
    assert searched(MILLION).memory_bytes == searched(10 * MILLION).memory_bytes == searched(56 * MILLION).memory_bytes


def test_a_few_images_read_what_lies_around_their_neighbours_rows_alone():
    assert searched(56 * MILLION, images=3).bytes_read == 56 * MILLION * 2048 + 3 * 100 * 131_072


def test_on_a_cpu_nothing_is_copied_to_a_device():
    stage = searched(MILLION, gpu=CPU)
    computing = 2 * 16_000 * MILLION * 1024 / 0.064e12 + 12 * 16_000 * MILLION / 14e9
    assert stage.seconds == pytest.approx(computing + MILLION * (2048 + 768) / 200e6)
    assert stage.bound_by == "device"


def test_a_run_on_kaggle_with_56_million_prompts_fits_and_says_where_they_lie():
    found = plan(recipe_named("text"), gpu_named("T4x2"), 16_000, bank_prompts=56 * MILLION)
    assert found.fits
    assert "note: the bank takes 163 GB, Kaggle's working folder holds 20: it has to come as a dataset" in plan_table(
        found
    )


@pytest.mark.parametrize(
    ("millions", "says"),
    [
        (6, None),
        (10, "the bank takes 29 GB, Kaggle's working folder holds 20: it has to come as a dataset, which holds 200"),
        (100, "the bank takes 292 GB, Kaggle's working folder holds 20 and a dataset 200: it has no room there"),
    ],
)
def test_a_bank_that_kaggle_has_no_room_for_is_told(millions, says):
    assert room_note(millions * MILLION) == says  # 2,916 bytes a prompt


def test_a_bank_costs_its_prompts_times_the_text_tower():
    cost = bank_cost(T4, CLIP, 1000)
    assert (cost["operations"], cost["operations_per_prompt"]) == (10**11, 10**8)
    assert cost["seconds"] == pytest.approx(10**11 / 19.5e12)
    assert cost["bytes"] == 1000 * (1024 + 384) * 2
