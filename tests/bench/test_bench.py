"""The bench itself, on tiny models: every contender does its job, and the summary says what was measured."""

import json
import subprocess
from functools import partial

import numpy as np
import pytest
from PIL import Image

from kernel.models.captioners.blip2 import BLIP2
from kernel.models.weights_folder import open_weights
from kernel.pipeline.folder import results
from kernel.pipeline.folder.run_folder import RunFolder
from kernel.pipeline.images import list_images
from kernel.pipeline.planning.models import CAPTIONERS
from tests import warm
from tests.bench import __main__ as bench
from tests.bench import parts, tried
from tests.bench.blip2_material import FEW_LAYERS, prepare_blip2
from tests.bench.contenders import floor
from tests.bench.docs import measured
from tests.bench.jobs import JOBS
from tests.bench.material import prepare
from tests.bench.near_duplicates import first_prompts, kept_by_every_pair, minutes_per_million, near_duplicates, rows_of
from tests.bench.stopwatch import Stopwatch
from tests.bench.summary import AIMS, REACH, chart, missed, ratios, table

# seconds a picture; measured, in small, by test_describing.py
FAST, BEST = {"ours": 0.1, "clip_interrogator": 0.7}, {"ours": 1.0, "clip_interrogator": 9.0}


@pytest.fixture(scope="module")
def material(tmp_path_factory, weights_folder):
    return prepare(tmp_path_factory.mktemp("bench"), weights_folder, 3, small=True)


@pytest.fixture(scope="module")
def of_blip2(material):
    return prepare_blip2(material.folder / "blip2", material, small=True)


@pytest.fixture(scope="module")
def found(material, of_blip2, weights_folder):
    """The content of bench.json, of tiny models and few of everything."""
    once: dict[tuple, dict] = {}
    jobs = {}
    for job in JOBS.values():
        own, captioner = of_blip2 if job.name == "blip2" else material, job.recipe.captioner
        for name in job.contenders:
            # once each, to spare time: the floor and ours of the first of BLIP's jobs stand for the second too
            if (captioner, name) not in once:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(subprocess, "Popen", warm.Popen)
                    once[captioner, name] = bench.medians([bench.contend(own, name, job, 3)])
        jobs[job.name] = {
            "images": 3,
            "contenders": {name: once[captioner, name] for name in job.contenders},
            "captions": {"identical": 1, "compared": 2} if job.name == "deck" else bench.same_captions(own, job, 3),
            "largest_model_bytes": bench.largest_model_bytes(own),
        }
    found = {"machine": "a test's", "date": "", "rounds": 1, "jobs": jobs, "help_cpu_seconds": 0.1}
    found["long"] = jobs["classic"]["contenders"]["ours"]
    found["took"] = {}
    found["parts"] = parts.measured(material.pictures, small=True, clock=partial(bench.clocked, found["took"]))
    prompts = bench.few_drawn()
    found["near_duplicates"] = parts.medians(near_duplicates(rows_of(prompts, weights_folder)))
    found["describe"] = {
        mode: {"images": dict.fromkeys(seconds, 1), "seconds": seconds, "identical": 1, "compared": 1}
        for mode, seconds in (("fast", FAST), ("best", BEST), ("best_true_shape", BEST))
    }
    return {**found, "ratios": ratios(found)}


def test_every_contender_times_its_stages_and_the_same_pictures(found):
    for job in found["jobs"].values():
        for name, own in job["contenders"].items():
            assert own["images"] == 3
            assert {"clip", "captions", "sentences"} <= set(own["stages"])
            assert 0 < sum(own["stages"].values()) <= own["seconds_an_image"] * 1.001 or name == "ours"
            assert own["start_seconds"] > 0 and own["wall_seconds"] > own["start_seconds"]


@pytest.mark.usefixtures("found")
def test_ours_and_clip_interrogator_say_the_same_of_every_picture(material):
    """Else their seconds would not be of the same job."""
    said = json.loads((material.folder / "classic-clip_interrogator.json").read_text())
    ours = RunFolder(material.folder / "classic-ours", list_images(material.pictures), 256)
    captions, _ = results.read_captions(ours)
    assert len(said) == 3
    for prompt, own, (medium, artist, *others) in zip(said, captions, results.read_modifiers(ours), strict=True):
        whole = ", ".join([own[0], f"{medium} {artist}", *others])
        # theirs ends where CLIP's 77 tokens do
        assert whole.startswith(prompt) and prompt.startswith(f"{own[0]}, {medium} {artist}")


def test_ours_and_the_floor_say_the_same_captions_of_every_picture(found):
    same = {name: job["captions"] for name, job in found["jobs"].items()}
    assert same["classic"] == {"identical": 3, "compared": 3}
    assert same["blip2"] == {"identical": 3 * 5, "compared": 3 * 5}


@pytest.mark.usefixtures("found")
def test_captions_that_differ_are_told(of_blip2):
    said = of_blip2.folder / "blip2-floor.json"
    captions = json.loads(said.read_text())
    said.write_text(json.dumps(["another", *captions[1:]]))
    assert bench.same_captions(of_blip2, JOBS["blip2"], 3) == {"identical": 14, "compared": 15}
    said.write_text(json.dumps(captions))


def test_the_blip2_of_the_bench_has_the_widths_and_the_vocabulary_of_flan_t5_xl():
    """Every matrix of it is one of the published model's, by its name and shape."""
    own, published = (
        {name: tuple(parameter.shape) for name, parameter in BLIP2.meta_model(config, half=False).named_parameters()}
        for config in (FEW_LAYERS.captioner.config, CAPTIONERS["blip2-flan-t5-xl"].config)
    )
    assert own.items() <= published.items()
    assert sum(name.endswith("self_attn.qkv.weight") for name in own) == 3
    assert sum(name.endswith("EncDecAttention.q.weight") for name in own) == 2


def test_the_json_holds_every_ratio_that_is_asked_for(found):
    assert set(found["ratios"]) == {*REACH, *AIMS} and not REACH.keys() & AIMS
    assert json.loads(json.dumps(found)) == found


def test_without_real_prompts_near_duplicates_are_told_as_not_measured(found, tmp_path, capsys):
    assert bench.real_prompts(tmp_path / "none.txt") == bench.real_prompts(None) == []
    assert f"not measured, as {tmp_path / 'none.txt'} names no file of real prompts" in capsys.readouterr().err
    without = {name: own for name, own in found.items() if name != "near_duplicates"}
    without["ratios"] = ratios(without)
    assert "| `near_duplicates_recall` | not measured | at least 0.99 |" in table(without)
    assert {"near_duplicates_recall", "near_duplicates_minutes_per_million"}.isdisjoint(missed(without))
    assert "near_duplicates_recall" in missed({**found, "ratios": {**found["ratios"], "near_duplicates_recall": 0.98}})


def test_real_prompts_are_the_first_clean_ones_of_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red fish\n\na  red fish\na blue hill\na cat\n")
    assert first_prompts(tmp_path / "prompts.txt", 2) == ["a red fish", "a blue hill"]


def test_what_comparing_every_pair_keeps_is_first_come_first_kept():
    angles = np.radians([0, 20, 40, 90, 0])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert kept_by_every_pair(rows, 0.9).tolist() == [True, False, True, True, False]


def test_minutes_of_a_million_are_of_its_rows_and_of_each_pair_once():
    assert minutes_per_million(row=60e-6, pair=60e-12) == pytest.approx(1 + 0.5)


def test_the_bench_that_the_pages_show_reached_every_bound():
    assert missed(measured("bench.json")) == []


def test_what_each_part_took_is_kept_and_the_table_tells_the_sum(found):
    assert found["took"].keys() == found["parts"].keys() and min(found["took"].values()) > 0
    took = {"classic": 600.0, "rank": 150.0, "help": 90.0}
    assert "a test's, in 14 minutes; medians" in table({**found, "took": took})


def test_who_did_fewer_pictures_of_a_job_is_told(found):
    contenders = found["jobs"]["deck"]["contenders"]
    fewer = {**contenders, "seed": {**contenders["seed"], "images": 2}}
    jobs = {**found["jobs"], "deck": {**found["jobs"]["deck"], "contenders": fewer}}
    text = table({**found, "jobs": jobs})
    assert "Job `deck`, 3 pictures (seed deck's way 2), seconds" in text and "Job `classic`, 3 pictures, sec" in text


def test_the_floor_s_seconds_are_those_of_its_best_batch(monkeypatch):
    clock = iter([0.0, 1.0, 6.0, 6.0, 8.0])
    monkeypatch.setattr("tests.bench.stopwatch.time.monotonic", lambda: next(clock))
    watch, passed = Stopwatch(next(clock)), []
    floor.at_best_batch(watch, "clip", passed.append, lambda batch: [batch] * 2)
    assert watch.seconds == {"clip": 2.0} and passed == [4, 4, 16, 16]


@pytest.mark.slow
def test_what_was_tried_runs_both_ways(material):
    weights, paths = open_weights(material.weights), sorted(material.pictures.iterdir())
    pictures = [Image.open(path).convert("RGB") for path in paths]
    for group in (tried.decoding(paths), tried.captioning(weights, pictures), tried.embedding(weights)):
        assert all(tried.ratio(way, rounds=1) > 0 for way in group)


def test_a_ratio_to_the_floor_is_of_its_own_jobs(found):
    jobs = {name: {**job, "contenders": {**job["contenders"]}} for name, job in found["jobs"].items()}
    for name, ours in (("classic", 2.0), ("deck", 3.0), ("blip2", 5.0)):
        for who, seconds in (("floor", 1.0), ("ours", ours)):
            jobs[name]["contenders"][who] = {**jobs[name]["contenders"][who], "seconds_an_image": seconds}
    values = ratios({**found, "jobs": jobs})
    assert (values["total_to_floor"], values["blip2_total_to_floor"]) == (3.0, 5.0)


def test_the_start_is_compared_on_job_classic_and_what_is_no_stage_s_on_the_long_one(found):
    contenders = {**found["jobs"]["classic"]["contenders"]}
    for who, seconds in (("ours", 6.0), ("clip_interrogator", 8.0)):
        contenders[who] = {**contenders[who], "start_seconds": seconds}
    jobs = {**found["jobs"], "classic": {**found["jobs"]["classic"], "contenders": contenders}}
    long = {**found["long"], "seconds_an_image": 2.0, "stages": {"clip": 0.5, "captions": 1.0}}
    values = ratios({**found, "jobs": jobs, "long": long})
    assert (values["start_to_clip_interrogator"], values["between_stages_to_total"]) == (0.75, 0.25)


def test_a_ratio_beyond_its_bound_is_missed():
    reached = {name: bound for name, (bound, _) in (REACH | AIMS).items()}
    assert missed({"ratios": reached}) == []
    for name, (bound, kind) in REACH.items():
        assert missed({"ratios": {**reached, name: bound * (1.01 if kind == "most" else 0.99)}}) == [name]


def test_the_table_and_the_chart_hold_what_was_measured(found, tmp_path):
    text = table(found)
    assert all(f"`{name}` | {value:.3g} |" in text for name, value in found["ratios"].items())
    assert "Captions that this package says as the floor: 1 of 2." in text
    chart(found, tmp_path / "bench.svg")
    assert "clip-interrogator" in (tmp_path / "bench.svg").read_text()
