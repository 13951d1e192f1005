"""Plans of the real models on real GPUs, counted without weights."""

import shlex
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel.config import Recipe, recipe_named
from kernel.errors import UserError
from kernel.pipeline.planning.gpus import GB, gpu_named
from kernel.pipeline.planning.plan import plan, with_fewer_beams


def planned(gpu="T4x2", images=16000, recipe="baseline", changes=(), **more):
    return plan(recipe_named(recipe, changes), gpu_named(gpu), images, **more)


def stage(found, name):
    return next(stage for stage in found.stages if stage.name == name)


def test_the_baseline_fits_two_t4_at_the_recipes_batches():
    found = planned()
    assert found.fits and found.cures == []
    assert [stage.name for stage in found.stages] == [
        "read weights", "clip", "word banks", "captions", "sentences", "submission"
    ]  # fmt: skip
    assert (stage(found, "clip").batch, stage(found, "captions").batch) == (64, 16)
    assert found.captioner == "blip2-flan-t5-xl"
    assert found.seconds == sum(stage.seconds for stage in found.stages)


def test_a_t4s_seconds_an_image_are_those_that_others_estimated():
    one = planned("T4")
    assert 0.021 < stage(one, "clip").seconds / 16000 < 0.036
    # EVA ViT 21-35 ms, T5's encoder 6, decoding 44-74
    assert 0.071 < stage(one, "captions").seconds / 16000 < 0.115
    assert 4 * 60 < stage(one, "word banks").seconds < 6 * 60


def test_two_gpus_halve_what_is_shared_out_and_nothing_else():
    one, two = planned("T4"), planned("T4x2")
    for name in ("clip", "captions"):
        assert stage(two, name).seconds == pytest.approx(stage(one, name).seconds / 2)
        assert stage(two, name).memory_bytes == stage(one, name).memory_bytes
    assert stage(two, "word banks").seconds == stage(one, "word banks").seconds


def test_two_workers_may_load_blip2_at_the_same_time():
    host = planned().host_bytes
    assert max(host.values()) == host["models loading at the same time by 2 workers"] == 2 * (3 * GB + 9_101_850_624)
    assert max(host.values()) < 30 * GB


def test_flan_t5_xxl_fits_neither_one_t4_nor_both():
    found = planned(changes=["captioner=blip2-flan-t5-xxl"])
    assert not found.fits
    assert any(problem.startswith("captions: 28.85 GB") for problem in found.problems)
    assert any(note.startswith("split over 2 T4: ") and "not even that would fit" in note for note in found.notes)
    assert "smaller captioner: --set captioner=blip2 (blip2-flan-t5-xl)" in found.cures


def test_flan_t5_xxl_fits_an_h100_whose_host_can_load_it():
    changes = ["captioner=blip2-flan-t5-xxl"]
    assert [problem[:5] for problem in planned("H100", changes=changes).problems] == ["host:"]
    assert planned("H100", changes=changes, host_memory=64 * GB).fits


@pytest.mark.parametrize("name", ["blip-image-captioning-base", "blip", "blip2-opt-2.7b", "blip2"])
def test_every_smaller_captioner_fits_a_t4(name):
    assert planned("T4", changes=[f"captioner={name}"]).fits


def test_a_cpu_holds_the_models_but_not_the_time():
    found = planned("cpu")
    assert [problem.split(":")[0] for problem in found.problems] == ["time"]
    assert stage(found, "captions").weights_bytes == 4 * 3_942_446_592
    assert found.cures[0].startswith("dtype: ")


def test_too_little_time_names_cures_that_each_make_it_fit():
    recipe, gpu, minutes = Recipe(), gpu_named("T4"), 36 * 60
    found = plan(recipe, gpu, 16000, minutes)
    assert [problem.split(":")[0] for problem in found.problems] == ["time"]
    kinds = [cure.split(":")[0] for cure in found.cures]
    assert kinds == ["dtype", "smaller captioner", "fewer beams", "shards", "shards"]
    beams = [setting for setting in found.cures[2].split() if "=" in setting]
    assert plan(recipe_named("baseline", beams), gpu, 16000, minutes).fits
    assert found.cures[3] == "shards: over 2 T4 instead of 1" and plan(recipe, gpu_named("T4x2"), 16000, minutes).fits
    assert found.cures[4] == "shards: 2 runs of 8,000 images each" and plan(recipe, gpu, 8000, minutes).fits


def test_fewer_beams_carry_no_more_captions_than_beams():
    tried = [(recipe.num_beams, recipe.captions_per_image) for recipe in with_fewer_beams(Recipe(captions_per_image=2))]
    assert tried == [(4, 2), (3, 2), (2, 2), (1, 1)]
    assert list(with_fewer_beams(Recipe(caption_decoding="sampling"))) == []


def test_stages_follow_the_recipe():
    changes = ['modifiers={"mediums": 0}', "caption_weighting=clip", "caption_decoding=sampling"]
    found = planned(recipe="text", changes=changes, bank_prompts=2_000_000)
    names = [stage.name for stage in found.stages]
    assert names == ["read weights", "clip", "captions", "caption cosines", "sentences", "neighbours", "submission"]
    assert found.bank and found.bank["prompts"] == 2_000_000
    assert round(found.bank["operations_per_prompt"] / 1e9) == 47


def test_captions_that_are_matched_with_their_image_take_a_model_and_time_more():
    found, plain = planned(changes=["caption_weighting=itm"]), planned()
    (stage,) = [stage for stage in found.stages if stage.name == "image-text matching"]
    names = [stage.name for stage in found.stages]
    assert names.index("captions") < names.index(stage.name) < names.index("sentences")
    assert stage.model == "blip2-itm-vit-g" and stage.memory_bytes <= found.usable_bytes
    # 1,172 M parameters in half precision, but for 162 M of the Q-Former
    assert 2 * 1_172e6 + 2 * 161e6 < stage.weights_bytes < 2 * 1_173e6 + 2 * 163e6
    # fewer GFLOPs than two images of the ViT, more than one
    assert 1.0 < stage.operations / 8000 / 534e9 < 2.0
    assert found.seconds > plain.seconds + stage.seconds
    assert "image-text matching" not in [stage.name for stage in plain.stages]


def test_captions_that_are_compared_with_one_another_are_embedded_once_more():
    found, plain = planned(changes=["caption_weighting=consensus"]), planned()
    texts = [next(own.operations for own in plan.stages if own.name == "sentences") for plan in (plain, found)]
    assert texts[1] == 2 * texts[0]


def test_a_recipe_without_captions_loads_no_captioner():
    found = planned(changes=['estimates={"modifiers": 1}'])
    assert found.captioner is None
    assert [stage.name for stage in found.stages] == ["read weights", "clip", "word banks", "sentences", "submission"]


def test_of_several_captioners_each_is_a_stage_and_their_captions_count_together():
    found, plain = planned(changes=["captioner=blip2,coca"]), planned()
    coca = planned(changes=["captioner=coca"])
    assert found.captioner == f"{plain.captioner}, {coca.captioner}"
    first, second = (stage(found, f"captions {name}") for name in (plain.captioner, coca.captioner))
    assert replace(first, name="captions") == stage(plain, "captions")
    assert replace(second, name="captions") == stage(coca, "captions")
    names = [own.name for own in found.stages]
    assert "captions" not in names and names.index(first.name) + 1 == names.index(second.name)
    assert stage(found, "sentences").operations == 2 * stage(plain, "sentences").operations
    # each file is read once for its hash and once by each of two workers, and one model is loaded at a time
    read = stage(found, "read weights").bytes_read - stage(plain, "read weights").bytes_read
    assert read == 3 * (second.weights_bytes) and found.host_bytes == plain.host_bytes
    weighed = planned(changes=["captioner=blip2,coca", "caption_weighting=itm"])
    alone = planned(changes=["caption_weighting=itm"])
    assert stage(weighed, "image-text matching").operations > stage(alone, "image-text matching").operations
    assert found.seconds == sum(own.seconds for own in found.stages)


def test_one_captioner_is_the_cure_where_several_do_not_fit():
    several = ["captioner=blip2-flan-t5-xxl,blip"]
    found = planned(changes=several)
    assert "one captioner: --set captioner=blip" in found.cures
    several.append('captioner_shares={"blip2-flan-t5-xxl": 1, "blip": 1}')
    found = planned(changes=several)
    (cure,) = (cure for cure in found.cures if cure.startswith("one captioner: "))
    cured = [word for word in shlex.split(cure.removeprefix("one captioner: ")) if word != "--set"]
    assert cured == ["captioner=blip", "captioner_shares={}"] and planned(changes=[*several, *cured]).fits
    assert any(problem.startswith("captions blip2-flan-t5-xxl: 28.85 GB") for problem in found.problems)


def test_a_bank_is_planned_only_where_one_is_asked_or_named():
    assert planned().bank is None
    assert planned(bank_prompts=1000).bank["prompts"] == 1000
    assumed = planned(recipe="text")
    assert assumed.bank["prompts"] == 1_000_000 and any("--bank-prompts" in note for note in assumed.notes)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"images": 0}, "images 0: expected more than 0"),
        ({"deadline_seconds": 0}, "deadline 0: expected more than 0"),
        ({"host_memory": -1}, "host memory -1: expected more than 0"),
        ({"recipe": "text", "bank_prompts": 99}, "a bank of 99 prompts for 100 neighbours"),
        ({"changes": ["captioner=blip2-opt"]}, "did you mean 'blip2-opt-2.7b'"),
        ({"changes": ["captioner=blip,blip2-opt"]}, "captioner 'blip2-opt' is none .*did you mean 'blip2-opt-2.7b'"),
        ({"changes": ["captioner=blip,auto"]}, "captioner 'auto' is none whose size is known"),
        ({"changes": ["captioner=blip,blip"]}, "names 'blip' more than once"),
    ],
)
def test_nonsense_gets_one_line(more, says):
    with pytest.raises(UserError, match=says) as refused:
        planned(**more)
    assert "\n" not in str(refused.value)


def test_json_calls_itself_an_estimate_and_holds_every_stage():
    content = planned().as_json()
    assert content["estimate"] is True
    assert [stage["name"] for stage in content["stages"]] == [stage.name for stage in planned().stages]
    assert content["stages"][1]["memory_bytes"] == planned().stages[1].memory_bytes
    assert content["fits"] is True and content["assumed"]["half-precision peak reached"] == 0.3


@settings(max_examples=60, deadline=None)
@given(
    memory=st.integers(2, 100),
    captioner=st.sampled_from(["blip", "blip2"]),
    num_beams=st.integers(1, 12),
    asked=st.integers(1, 300),
)
def test_the_planned_batch_fits_and_one_beyond_the_largest_does_not(memory, captioner, num_beams, asked):
    recipe = Recipe(captioner=captioner, num_beams=num_beams, captions_per_image=1, caption_batch=asked)
    found = plan(recipe, gpu_named(f"{memory}GB:65TFLOPS:320GB/s"), 1000, 1e9, host_memory=10**12, with_cures=False)
    for stage in found.stages:
        if not stage.bytes_per_item:
            continue
        assert stage.memory_at(stage.fits_up_to + 1) > found.usable_bytes
        if stage.fits_up_to:
            assert stage.batch <= stage.fits_up_to
            assert stage.memory_at(stage.fits_up_to) <= found.usable_bytes
        else:
            assert not found.fits and stage.batch == 1


@settings(max_examples=40, deadline=None)
@given(num_beams=st.integers(1, 30), images=st.integers(1, 10**6))
def test_memory_and_time_grow_with_beams_and_images(num_beams, images):
    def seconds_and_bytes(recipe, images):
        found = plan(recipe, gpu_named("H100"), images, 1e12, host_memory=10**12, with_cures=False)
        return found.seconds, stage(found, "captions").memory_bytes

    recipe = Recipe(num_beams=num_beams, captions_per_image=1)
    seconds, used = seconds_and_bytes(recipe, images)
    more_seconds, more_used = seconds_and_bytes(replace(recipe, num_beams=num_beams + 1), images)
    assert more_used >= used and more_seconds >= seconds
    later, same = seconds_and_bytes(recipe, images + 1)
    assert later > seconds and same >= used
    assert same == used or images < recipe.caption_batch
