"""Stages worked by hand on costs of round numbers, and properties over any."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.config import Recipe
from kernel.pipeline.planning.gpus import GB, gpu_named
from kernel.pipeline.planning.model_costs import Captioning, Clip, Decoding, Weighed, Work
from kernel.pipeline.planning.stage_costs import (
    Case,
    cache_traffic,
    captioning_bytes,
    captions_stage,
    clip_stage,
    compute_seconds,
    cosines_stage,
    decoding_of,
    host_bytes,
    largest_batch,
    phrases_of,
    reading_stage,
    sentences_stage,
    split_note,
    usable_bytes,
    words_stage,
)

T4 = gpu_named("T4")
SENTENCES = Weighed(10, {"float32": 100})
CLIP = Clip("c", Weighed(1, {"float16": 2 * GB}), Work(10**9, 0, 10**6), Work(10**8, 0, 10**5), 1024)
# each step 1,000 operations, from the second on 10 more each; the cache grows by 40 bytes from 100
CAPTIONER = Captioning(
    "k",
    Weighed(1, {"float16": 9 * GB}, largest_block=GB, read_per_token=10**9),
    Work(10**9, 10**8, 5000),
    ((Work(500, 50, 30), 100), (Work(1000, 100, 20), 140), (Work(1010, 110, 20), 180)),
    vocabulary=10,
    layers=2,
)


def test_decoding_sums_steps_that_grow_by_the_same_amount():
    # 500 + (1000 + 1010 + 1020), and 50 + (100 + 110 + 120), for each of 3 rows
    assert CAPTIONER.decode(Decoding(3, 4)) == Work(3 * 3530, 3 * 380, 3 * 30)
    assert CAPTIONER.row_cache_bytes(Decoding(3, 4)) == 3 * (100 + 3 * 40)
    assert CAPTIONER.decode(Decoding(1, 1)) == Work(500, 50, 30)


def test_an_image_takes_one_layer_s_cache_twice_while_beams_change_places_and_none_when_sampled():
    scores = 3 * 10 * 4 * 4  # rows, tokens, float32, copies
    small = replace(CAPTIONER, encode=Work(activation_bytes=1))
    assert captioning_bytes(small, Decoding(3, 4)) == 90 + 660 + 660 // 2 + scores  # of two layers
    assert captioning_bytes(small, Decoding(3, 4, reordered=False)) == 90 + 660 + scores
    assert captioning_bytes(CAPTIONER, Decoding(3, 4)) == 5000  # more while it is encoded


def test_what_all_rows_of_an_image_look_at_lies_there_once_and_is_read_once_a_step_whatever_its_beams():
    once = replace(CAPTIONER, encode=Work(activation_bytes=1), image_bytes=1000, image_bytes_read=4000)
    plain = replace(once, image_bytes=0, image_bytes_read=0)
    for decoding in (Decoding(1, 4), Decoding(3, 4), Decoding(3, 4, reordered=False)):
        assert captioning_bytes(once, decoding) == captioning_bytes(plain, decoding) + 1000
        assert cache_traffic(once, decoding) == cache_traffic(plain, decoding) + 4000
    assert cache_traffic(plain, Decoding(3, 4)) == 3 * cache_traffic(plain, Decoding(3, 4, reordered=False)) == 3 * 660


def test_beams_and_samples_are_read_from_the_recipe():
    assert decoding_of(Recipe(num_beams=4, captions_per_image=2)) == Decoding(4, 19)
    sampled = Recipe(caption_decoding="sampling", captions_per_image=8, max_length=1, min_length=1)
    assert decoding_of(sampled) == Decoding(8, 1, reordered=False)


def test_seconds_come_from_both_speeds():
    # 65 TFLOPS x 0.30 and 8.1 TFLOPS x 0.50
    assert compute_seconds(T4, Work(19_500_000_000_000, 4_050_000_000_000), 3) == pytest.approx(6)


def test_usable_memory_leaves_out_what_is_lost_and_cudas_own():
    assert usable_bytes(T4) == int(15_835_660_288 * 0.95 - 0.5 * GB)


def test_a_clip_stage_is_bound_by_the_slower_of_device_and_host():
    slow_host = clip_stage(Case(Recipe(), T4, CLIP, SENTENCES, 1000, 10 * GB))
    # a core needs 17 ms an image, 4 cores decode beside the device's 0.05 ms
    assert (slow_host.seconds, slow_host.bound_by) == (pytest.approx(1000 * 0.017 / 4), "host")
    heavy = replace(CLIP, image=Work(10**12, 0, 10**6))
    slow_device = clip_stage(Case(Recipe(), T4, heavy, SENTENCES, 1000, 10 * GB))
    assert (slow_device.seconds, slow_device.bound_by) == (pytest.approx(1000 / 19.5), "device")
    assert slow_device.memory_bytes == 2 * GB + 100 + 64 * 10**6


def test_captions_read_the_decoder_once_a_step_and_batch_and_three_caches_an_image():
    stage = captions_stage(Case(Recipe(caption_batch=10), T4, CLIP, SENTENCES, 95, 14 * GB), CAPTIONER)
    cache = 5 * (100 + 18 * 40)
    assert stage.bytes_read == 10 * 19 * 10**9 + 95 * 19 * 3 * cache
    assert stage.operations == 95 * (1_100_000_000 + CAPTIONER.decode(Decoding(5, 19)).operations)
    assert (stage.batch, stage.model) == (10, "k")


def test_a_small_batch_of_captions_takes_longer():
    def seconds(batch):
        return captions_stage(Case(Recipe(caption_batch=batch), T4, CLIP, SENTENCES, 64, 14 * GB), CAPTIONER).seconds

    assert seconds(1) > seconds(4) > seconds(16)


def test_starting_kernels_bounds_the_decoding_of_a_fast_device():
    deep = replace(CAPTIONER, layers=1000)
    stage = captions_stage(Case(Recipe(caption_batch=64), gpu_named("H100"), CLIP, SENTENCES, 64, 60 * GB), deep)
    assert stage.seconds == pytest.approx(19 * 1000 * 0.001 + 64 * 0.017 / 4)
    assert stage.bound_by == "host"


def test_a_batch_is_at_most_the_images_and_phrases_there_are():
    few = Recipe(clip_batch=64, caption_batch=64, text_batch=256, modifiers={"mediums": 1, "movements": 1})
    assert clip_stage(Case(few, T4, CLIP, SENTENCES, 3, 10 * GB)).batch == 3
    assert captions_stage(Case(few, T4, CLIP, SENTENCES, 3, 14 * GB), CAPTIONER).batch == 3
    words = words_stage(Case(few, T4, CLIP, SENTENCES, 3, 10 * GB), False, {"mediums": 30, "movements": 20})
    assert words.batch == 30  # lists are encoded one after the other
    assert cosines_stage(Case(replace(few, captions_per_image=4), T4, CLIP, SENTENCES, 3, 10 * GB)).batch == 12


def test_on_a_cpu_the_words_features_lie_beside_the_model_and_the_longest_list_s_once_more():
    recipe, lists = Recipe(modifiers={"mediums": 1, "flavors": 3}), {"mediums": 100, "flavors": 1000}
    on_gpu = words_stage(Case(recipe, T4, CLIP, SENTENCES, 10, 10 * GB), False, lists)
    on_cpu = words_stage(Case(recipe, gpu_named("cpu"), CLIP, SENTENCES, 10, 10 * GB), False, lists)
    assert on_cpu.fixed_bytes - on_gpu.fixed_bytes == (100 + 1000 + 1000) * 1024 * 4


def test_stages_say_what_of_their_weights_stays_mapped():
    clip = replace(CLIP, weights=replace(CLIP.weights, mapped_bytes=7))
    captioner = replace(CAPTIONER, weights=replace(CAPTIONER.weights, mapped_bytes=50))
    sentences = replace(SENTENCES, mapped_bytes=3)
    cpu = gpu_named("cpu")
    assert clip_stage(Case(Recipe(), cpu, clip, sentences, 10, 10 * GB)).mapped_bytes == 10
    assert words_stage(Case(Recipe(), cpu, clip, sentences, 10, 10 * GB), False).mapped_bytes == 10
    assert cosines_stage(Case(Recipe(), cpu, clip, sentences, 10, 10 * GB)).mapped_bytes == 10
    assert captions_stage(Case(Recipe(), cpu, CLIP, sentences, 10, 14 * GB), captioner).mapped_bytes == 53
    assert sentences_stage(Case(Recipe(), cpu, CLIP, sentences, 100, GB), Work(0, 10, 10)).mapped_bytes == 3


def test_words_are_encoded_once_and_not_at_all_where_their_features_are_shipped():
    recipe = Recipe()
    computed = words_stage(Case(recipe, T4, CLIP, SENTENCES, 1000, 10 * GB), shipped=False)
    shipped = words_stage(Case(recipe, T4, CLIP, SENTENCES, 1000, 10 * GB), shipped=True)
    encoding = sum(phrases_of(recipe)) * 10**8
    assert computed.operations - shipped.operations == encoding
    assert computed.seconds - shipped.seconds == pytest.approx(encoding / 19.5e12)


def test_phrases_are_those_of_the_lists_that_the_recipe_asks():
    assert phrases_of(Recipe()) == [95, 200, 100_952]
    assert phrases_of(Recipe(modifiers={"mediums": 2, "flavors": 0})) == [95]
    assert phrases_of(Recipe(modifiers={"words.txt": 1})) == [95]


def test_cosines_of_captions_pass_the_text_tower_once_a_caption():
    stage = cosines_stage(Case(Recipe(captions_per_image=4), T4, CLIP, SENTENCES, 1000, 10 * GB))
    assert stage.operations == 4000 * 10**8


@pytest.mark.parametrize(
    ("estimates", "texts"), [({"prompts": 1.0}, 5), ({"prompts": 0.5, "captions": 0.5}, 10), ({"modifiers": 1.0}, 1)]
)
def test_sentences_are_as_many_as_the_estimates_say(estimates, texts):
    stage = sentences_stage(Case(Recipe(estimates=estimates), T4, CLIP, SENTENCES, 100, GB), Work(0, 10, 10))
    assert stage.operations == 100 * texts * 10


def test_weights_are_read_once_for_their_hash_and_once_by_each_worker():
    stage = reading_stage(CLIP, [CAPTIONER], SENTENCES, gpu_named("T4x2"))
    assert stage.bytes_read == 3 * (11 * GB + 100)


def test_of_a_bank_the_prompts_are_read_twice_for_their_hash():
    alone, asked = (reading_stage(CLIP, [], SENTENCES, T4, prompts) for prompts in (0, 1_000_000))
    assert asked.bytes_read - alone.bytes_read == 2 * 100 * 1_000_000
    assert asked.seconds - alone.seconds == pytest.approx(1)  # at 200 MB/s


def test_the_host_holds_a_model_for_each_worker_that_loads_at_the_same_time():
    two = host_bytes(Case(Recipe(modifiers={}), gpu_named("T4x2"), CLIP, SENTENCES, 1000, GB), [CAPTIONER])
    assert two["models loading at the same time by 2 workers"] == 2 * (3 + 9) * GB
    assert two["models loading one after the other"] == (2 * 3 + 9) * GB
    assert two["words ranked"] == 6 * GB + 4 * 1000 * 1024
    assert host_bytes(Case(Recipe(), gpu_named("cpu"), CLIP, SENTENCES, 1000, GB), [CAPTIONER]) == {}


def test_a_split_captioner_says_what_each_device_takes():
    stage = captions_stage(Case(Recipe(), T4, CLIP, SENTENCES, 10, GB), CAPTIONER)
    # half of 9 GB, half a block of 1 GB, and what stays resident
    assert "about 5.0 GB of weights on each" in split_note(gpu_named("T4x2"), CAPTIONER, stage, 6 * GB)
    assert "not even that would fit" in split_note(gpu_named("T4x2"), CAPTIONER, stage, 5 * GB)


@given(
    usable=st.integers(0, 10**12),
    resident=st.integers(0, 10**12),
    per_item=st.integers(1, 10**9),
)
def test_the_largest_batch_fits_and_one_more_does_not(usable, resident, per_item):
    batch = largest_batch(usable, resident, per_item)
    assert batch == 0 or resident + batch * per_item <= usable
    assert resident + (batch + 1) * per_item > usable


@given(beams=st.integers(1, 20), steps=st.integers(1, 100))
def test_memory_and_work_grow_with_beams_and_length(beams, steps):
    now, wider, longer = Decoding(beams, steps), Decoding(beams + 1, steps), Decoding(beams, steps + 1)
    small = replace(CAPTIONER, encode=Work(activation_bytes=1))
    for more in (wider, longer):
        assert captioning_bytes(small, more) > captioning_bytes(small, now)
        assert CAPTIONER.decode(more).operations > CAPTIONER.decode(now).operations


@given(batch=st.integers(1, 10**4))
def test_memory_grows_with_the_batch(batch):
    stage = clip_stage(Case(Recipe(), T4, CLIP, SENTENCES, 10, 10 * GB))
    assert stage.memory_at(batch + 1) - stage.memory_at(batch) == stage.bytes_per_item > 0
